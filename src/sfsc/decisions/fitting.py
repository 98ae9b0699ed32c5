"""Fitting a `ScoreMap` to the cosines of pairs whose identities are known."""

from __future__ import annotations

import numpy as np

from sfsc.decisions.score_map import RULE, ScoreMap
from sfsc.decisions.scores import EDGES, Scores, bins_of, counts_above
from sfsc.errors import SfscError

GROUPS = 40  # of the matching cosines, and of the others, before the regression
FEWEST = 10  # cosines in the first and in the last group
PER_DECADE = 8  # thresholds for each factor of 10 in the false match rate


def fit_map(scores: Scores, gallery: int) -> ScoreMap:
    """Fit the map and the thresholds of one pair of sub-models.

    The cosines are divided into groups at quantiles of the matching and of the other pairs, which weigh the
    same in total. Isotonic regression of the share of matches in each group (pool-adjacent-violators) gives
    the likelihood ratios that are best for every proper score (Brümmer and du Preez, The PAV algorithm
    optimizes binary proper scoring rules, 2013). Half a pair is added to each count, so that no ratio is
    infinite. Thresholds are quantiles of the non-matching cosines, interpolated within their bins.

    Args:
        scores: the cosines of pairs of identities that training has not seen.
        gallery: the number of gallery images that each query was compared with.

    Raises:
        SfscError: there are too few matching or non-matching pairs.
    """
    if scores.matches <= FEWEST or scores.non_matches < 2 * RULE:
        raise SfscError(
            f"{scores.matches:,} matching and {scores.non_matches:,} non-matching pairs are too few to fit a "
            f"threshold, which needs {FEWEST + 1} and {2 * RULE}: name a data set with more images of "
            "several identities with --dataset"
        )
    cosines, log_ratios = _ratios(scores)
    rates = _rates(RULE / scores.non_matches)
    return ScoreMap(
        cosines=tuple(cosines.round(6).tolist()),
        log_ratios=tuple(log_ratios.round(5).tolist()),
        rates=tuple(rates.tolist()),
        thresholds=tuple(quantiles(scores.non_matching, rates).round(7).tolist()),
        matches=scores.matches,
        non_matches=scores.non_matches,
        queries=scores.queries,
        gallery=gallery,
    )


def quantiles(counts: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Return, for each rate, the smallest cosine that at most this share of the counted scores reaches.

    Args:
        counts: (BINS + 1,) int64, the scores in each bin, which are taken to lie evenly in it.
        rates: (n,) float64, each in (0, 1].
    """
    above = counts_above(counts)
    wanted = rates * above[0]
    # The first edge that few enough scores reach.
    first = np.minimum(np.searchsorted(-above, -wanted), len(EDGES) - 1)
    before = np.maximum(first - 1, 0)
    step = np.maximum(above[before] - above[first], 1)
    return EDGES[first] - (EDGES[first] - EDGES[before]) * np.clip((wanted - above[first]) / step, 0, 1)


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the number of the block of each of n values, (n,) int64, by pool-adjacent-violators.

    The weighted means of the blocks increase; they are the non-decreasing sequence that is nearest to the
    values in the weighted mean of squares.

    Args:
        values: (n,) float64.
        weights: (n,) float64, positive.
    """
    blocks: list[tuple[float, float, int]] = []  # the mean, the weight and the size of each
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append((value, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (one, a, m), (other, b, n) = blocks.pop(-2), blocks.pop()
            blocks.append(((a * one + b * other) / (a + b), a + b, m + n))
    return np.repeat(np.arange(len(blocks)), [size for *_, size in blocks])


def _ratios(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return increasing cosines and the logarithm of the likelihood ratio at each of them."""
    matching = np.bincount(bins_of(scores.matching), minlength=len(scores.non_matching))
    counts = np.stack([matching, scores.non_matching]).astype(np.float64)
    starts = np.unique(np.concatenate([_quantile_bins(row) for row in counts]))
    totals, sums = (np.add.reduceat(rows, starts, axis=1) for rows in (counts, counts * EDGES[:-1]))
    filled = totals.any(axis=0)
    totals, sums = totals[:, filled], sums[:, filled]
    shares = totals / counts.sum(axis=1, keepdims=True)
    weights = shares.sum(axis=0)
    blocks = isotonic(shares[0] / weights, weights)
    (m, n), sums = (np.stack([np.bincount(blocks, row) for row in rows]) for rows in (totals, sums))
    ratios = np.log((m + 0.5) / (scores.matches + 1)) - np.log((n + 0.5) / (scores.non_matches + 1))
    means = sums / np.where(np.stack([m, n]) > 0, np.stack([m, n]), np.nan)
    return np.nanmean(means, axis=0), np.maximum.accumulate(ratios)


def _quantile_bins(counts: np.ndarray) -> np.ndarray:
    """Return the bins at which groups start: quantiles of the counted scores, ever closer in both tails."""
    reach = np.log(counts.sum() / FEWEST)
    levels = 1 / (1 + np.exp(np.linspace(reach, -reach, GROUPS)))
    return np.append(0, np.searchsorted(np.cumsum(counts), levels * counts.sum()))


def _rates(smallest: float) -> np.ndarray:
    """Return decreasing rates, evenly spaced in their logarithms: from 1 to the smallest."""
    decades = -np.log10(smallest)
    return np.logspace(0, -decades, 2 + int(decades * PER_DECADE))
