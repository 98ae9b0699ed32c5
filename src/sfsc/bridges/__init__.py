"""Bridges: maps between the space of an old model and the space of a family, fitted without labels."""
