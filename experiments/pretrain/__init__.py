"""`glimpse pretrain` and `glimpse probe`: train an encoder, and measure its features."""
