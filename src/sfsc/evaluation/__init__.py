"""Compatibility matrices of families, and comparisons of recipes."""
