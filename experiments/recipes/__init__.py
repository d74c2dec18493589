"""Recipes of the field, each one file, written as anybody's policy from outside would be."""
