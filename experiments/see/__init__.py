"""Seeing what agents did: one HTML page, tables of scanpaths, episodes for other libraries."""
