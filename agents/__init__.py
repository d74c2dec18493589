"""Attention agents: observations in, actions out. Sees spaces and tensors only."""

__distribution__ = "glimpse-env"
