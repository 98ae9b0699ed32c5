"""Atomic replacement of files, and JSON that is checked against types."""
