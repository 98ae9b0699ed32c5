"""Conversion of dense networks to switchable ones, whose nested sub-networks share one set of weights."""
