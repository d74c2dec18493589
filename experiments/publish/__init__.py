"""Trained agents for others: a folder of weights, settings and a model card."""
