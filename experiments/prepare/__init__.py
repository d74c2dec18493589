"""What is made before a training: downloads, banks, pyramids, lists of duplicates."""
