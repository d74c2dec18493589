"""`glimpse compare`, `train-agent` and `tune`: agents of several kinds on the same game."""
