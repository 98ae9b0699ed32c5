"""How good decisions are: error rates with intervals, open-set identification, calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sfsc.decisions.fitting import quantiles
from sfsc.decisions.score_map import RULE, ScoreMap
from sfsc.decisions.scores import BINS, EDGES, Scores

RESAMPLES, CONFIDENCE = 1000, 0.95
CALIBRATION_BINS = 10


class Interval(NamedTuple):
    """A share, and the limits of its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Calibration(NamedTuple):
    """Predicted and observed probabilities, when matching and other pairs are equally frequent.

    Attributes:
        error: the expected calibration error: the mean distance of the two.
        predicted: the mean probability in each bin that has pairs.
        observed: the share of matching pairs in each of these bins.
    """

    error: float
    predicted: list[float]
    observed: list[float]


def false_non_match_rate(scores: Scores, fmr: float, seed: int = 0) -> Interval | None:
    """Return the share of matching pairs below the threshold of a false match rate (FNMR at FMR).

    The threshold is a quantile of the same non-matching pairs. The interval comes from drawing the identities
    of the queries again, because pairs of one identity are not independent; the threshold stays.

    Args:
        scores: the cosines of pairs.
        fmr: the false match rate.
        seed: the seed of the draws.

    Returns:
        The rate, or None if fewer than 30 non-matching pairs would reach the threshold.
    """
    if fmr * scores.non_matches < RULE or not scores.matches:
        return None
    missed = scores.matching < quantiles(scores.non_matching, np.array([fmr]))[0]
    _, place = np.unique(scores.identities, return_inverse=True)
    counts = np.bincount(place)
    misses = np.bincount(place, missed)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((drawn @ misses) / (drawn @ counts), [tail, 1 - tail])
    return Interval(float(missed.mean()), float(low), float(high))


def identification_rate(scores: Scores, far: float) -> float | None:
    """Return the rate of detection and identification in an open set (DIR at FAR).

    Every query is searched twice: in the gallery without its identity, and in the whole gallery. The
    threshold lets a share `far` of the first searches find anyone, which is a false alarm. The rate is the
    share of the second searches whose first hit is right and above the threshold (Grother, Micheals and
    Phillips, Face Recognition Vendor Test 2002 performance metrics, AVBPA 2003).

    Args:
        scores: the cosines of pairs; queries without a match are left out.
        far: the share of false alarms.

    Returns:
        The rate, or None if fewer than 30 searches would be false alarms.
    """
    known = np.isfinite(scores.best_matching)
    matching, other = scores.best_matching[known], scores.best_other[known]
    alarms = int(far * len(other))
    if alarms < RULE:
        return None
    threshold = -np.partition(-other, alarms)[alarms]
    return float(np.mean(matching > np.maximum(threshold, other)))


def calibration(scores: Scores, fitted: ScoreMap) -> Calibration:
    """Compare the probabilities of a map with what pairs show, in 10 bins of equal width.

    Matching and non-matching pairs weigh the same in total. At their natural odds nearly all pairs have a
    probability near 0, and the error would be small for every map.
    """
    centres = EDGES[:-1] + 1 / BINS
    cosines = np.concatenate([scores.matching, centres])
    right = np.concatenate([np.full(scores.matches, 0.5 / scores.matches), np.zeros(len(centres))])
    wrong = np.concatenate([np.zeros(scores.matches), scores.non_matching * (0.5 / scores.non_matches)])
    probability = 1 / (1 + np.exp(-fitted.log_ratio(cosines)))
    place = np.minimum(probability * CALIBRATION_BINS, CALIBRATION_BINS - 1).astype(np.int64)
    weight, predicted, observed = (
        np.bincount(place, values, CALIBRATION_BINS)
        for values in (right + wrong, (right + wrong) * probability, right)
    )
    filled = weight > 0
    shares = (predicted[filled] / weight[filled]).tolist(), (observed[filled] / weight[filled]).tolist()
    return Calibration(float(np.abs(predicted - observed).sum()), *shares)


def error_curve(scores: Scores, rates: np.ndarray) -> list[float]:
    """Return the false non-match rate at each of n false match rates."""
    thresholds = quantiles(scores.non_matching, rates)
    return (np.searchsorted(np.sort(scores.matching), thresholds) / scores.matches).tolist()


def densities(scores: Scores, bins: int) -> tuple[list[float], list[float]]:
    """Return the shares of matching and of other pairs in `bins` equal parts of [-1, 1], the last with 1."""
    edges = np.linspace(-1, 1, bins + 1)
    matching = np.histogram(np.clip(scores.matching, -1, 1), edges)[0] / scores.matches
    place = np.minimum(np.arange(BINS + 1) * bins // BINS, bins - 1)
    others = np.bincount(place, scores.non_matching, bins) / scores.non_matches
    return matching.tolist(), others.tolist()
