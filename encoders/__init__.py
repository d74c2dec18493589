"""Frozen visual encoders: patches in, features out. Imports no sibling package."""

__distribution__ = "glimpse-env"
