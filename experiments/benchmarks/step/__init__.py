"""The training step of `glimpse benchmark agent`: its work, its products, its parts."""
