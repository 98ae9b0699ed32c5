"""Scores of drawn pairs, and labels whose pairs are easily listed."""

from __future__ import annotations

import numpy as np

from sfsc.decisions.pair import Pair
from sfsc.decisions.score_map import ScoreMap
from sfsc.decisions.scores import BINS, Scores, bins_of
from sfsc.decisions.thresholds import Thresholds

FINGERPRINT = "0123456789abcdef"


def drawn(matching: np.ndarray, others: np.ndarray, queries: int = 100) -> Scores:
    """Scores of these cosines; the matching pairs are spread evenly over the queries."""
    return Scores(
        matching.astype(np.float32),
        np.arange(len(matching)) % queries,
        np.bincount(bins_of(others), minlength=BINS + 1),
        np.full(queries, 0.5, np.float32),
        np.full(queries, 0.2, np.float32),
    )


def gaussian(seed: int, matches: int = 20_000, others: int = 1_000_000) -> Scores:
    """Two normal distributions with a deviation of 0.1: the likelihood ratio is exp(40 s - 10)."""
    rng = np.random.default_rng(seed)
    return drawn(rng.normal(0.45, 0.1, matches), rng.normal(0.05, 0.1, others))


def example_map(shift: float = 0.0) -> ScoreMap:
    """A small map of 10 matches, one to a query, among a hundred rows."""
    cosines = (0.0 + shift, 0.5 + shift, 0.9 + shift)
    return ScoreMap(
        cosines, (-5.0, 0.0, 8.0), (1.0, 0.1, 0.01), (-0.5, 0.3 + shift, 0.6 + shift), 10, 3000, 10, 100
    )


def example(fingerprint: str = FINGERPRINT) -> Thresholds:
    pairs = [Pair(q, g, form, 8) for q in (0.5, 1.0) for g in (0.5, 1.0) for form in ("float32", "int8")]
    maps = {pair: example_map(0.01 * place) for place, pair in enumerate(pairs)}
    return Thresholds(fingerprint, "validation:csv:x.csv", 200, 50, maps)
