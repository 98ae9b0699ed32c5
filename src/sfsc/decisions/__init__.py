"""Decisions: what a cosine means, as the probability of a match and as thresholds of known error rates."""
