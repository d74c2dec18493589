"""Attention agents: observations in, actions out. Sees spaces and tensors only."""
