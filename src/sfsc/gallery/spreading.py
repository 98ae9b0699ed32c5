"""An order of rows in which the first ones are spread over all of them."""

from __future__ import annotations

import numpy as np

PART = 10_000  # rows that are ordered together; the time grows with the square of it


def spread_ranks(rows: np.ndarray, done: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rank rows so that each is the farthest from those before it (Gonzalez, Clustering, 1985).

    Sener and Savarese (ICLR 2018) choose the images to label in this way. Rows beyond 10,000 are divided at
    random into parts of at most this size, which are ranked on their own and take turns.

    Args:
        rows: (n, dim) float32 of length 1.
        done: (m, dim) float32 of length 1, rows that come before all others.
        seed: the seed of the parts.

    Returns:
        (n,) int64 from 0; rows of different parts can be equal.
    """
    ranks, random = np.zeros(len(rows), np.int64), np.random.default_rng(seed)
    parts = -(-len(rows) // PART)
    shuffled, before = random.permutation(len(rows)), random.permutation(len(done))
    for part in range(parts):
        chosen = shuffled[part::parts]
        order = _farthest_first(rows[chosen], done[before[part::parts]])
        ranks[chosen[order]] = np.arange(len(chosen))
    return ranks


def _farthest_first(rows: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Return the places of rows in the order in which each is the farthest from those before it."""
    nearest = np.full(len(rows), -1.0, np.float32)  # the greatest cosine with a row before
    for row in done:
        np.maximum(nearest, rows @ row, out=nearest)
    order = np.empty(len(rows), np.int64)
    for rank in range(len(rows)):
        order[rank] = place = int(nearest.argmin())
        np.maximum(nearest, rows @ rows[place], out=nearest)
        nearest[place] = np.inf
    return order
