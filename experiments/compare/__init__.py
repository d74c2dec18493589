"""`glimpse compare`, `contest` and `tune`: agents of several kinds on the same game."""
