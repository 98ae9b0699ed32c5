"""The quality of decisions: against plain loops, scikit-learn and distributions that are known."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from sfsc.decisions.fitting import fit_map
from sfsc.decisions.quality import (
    CALIBRATION_BINS,
    calibration,
    densities,
    error_curve,
    false_non_match_rate,
    identification_rate,
)
from sfsc.decisions.scores import count_scores
from tests.decisions.pairs import drawn, gaussian
from tests.retrieval.retrieval_cases import random_case


def test_missed_matches_of_known_distributions() -> None:
    """At FMR 1e-3 the threshold lies 3.09 deviations above 0.05, which is 0.91 below 0.45."""
    found = false_non_match_rate(gaussian(0), 1e-3)
    assert found is not None
    assert found.value == pytest.approx((1 + erf(-0.9098 / sqrt(2))) / 2, rel=0.05)
    assert found.low < found.value < found.high
    assert false_non_match_rate(gaussian(0), 1e-5) is None, "only 10 of a million pairs reach it"


def test_the_interval_is_over_identities_not_over_pairs() -> None:
    """If all pairs of an identity are missed or none, more pairs say no more."""
    widths = []
    for pairs in (10, 1000):
        missed = np.repeat(np.arange(100) % 4 == 0, pairs)
        scores = drawn(np.where(missed, 0.0, 0.9), np.linspace(-0.5, 0.5, 10_000))
        together = np.repeat(np.arange(100), pairs)
        found = false_non_match_rate(type(scores)(**(vars(scores) | {"identities": together})), 0.01)
        assert found is not None
        assert found.value == 0.25
        widths.append(found.high - found.low)
    assert widths[0] == pytest.approx(widths[1])
    assert widths[0] == pytest.approx(2 * 1.96 * sqrt(0.25 * 0.75 / 100), rel=0.15)


def test_identification_in_an_open_set_is_that_of_searches_one_by_one() -> None:
    case = random_case(4, queries=400, gallery=200)
    found = count_scores(*case)
    scores = case.query_embeddings @ case.gallery_embeddings.T
    same = case.query.identities[:, None] == case.gallery.identities
    assert case.query.cameras is not None
    assert case.gallery.cameras is not None
    match = same & (case.query.cameras[:, None] != case.gallery.cameras)
    asked = np.flatnonzero(match.any(1))
    alarms = np.array([scores[row][~same[row]].max() for row in asked])
    for share in (0.1, 0.3):
        limits = sorted(alarms)
        threshold = next(t for t in limits if np.mean(alarms > t) <= share)
        right = 0
        for row in asked:
            order = [i for i in np.argsort(-scores[row]) if match[row, i] or not same[row, i]]
            right += bool(match[row, order[0]] and scores[row, order[0]] > threshold)
        assert identification_rate(found, share) == pytest.approx(right / len(asked))
    assert identification_rate(found, 0.01) is None


def test_calibration_agrees_with_scikit_learn() -> None:
    fitted, fresh = fit_map(gaussian(0), 1000), gaussian(1, 50_000, 50_000)
    rng = np.random.default_rng(1)  # draws the same pairs
    cosines = np.concatenate([rng.normal(0.45, 0.1, 50_000), rng.normal(0.05, 0.1, 50_000)])
    probability = 1 / (1 + np.exp(-fitted.log_ratio(cosines)))
    right = np.arange(100_000) < 50_000
    observed, predicted = calibration_curve(right, probability, n_bins=CALIBRATION_BINS)
    found = calibration(fresh, fitted)
    assert found.predicted == pytest.approx(predicted, abs=0.01)
    assert found.observed == pytest.approx(observed, abs=0.01)
    place = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    error = sum(
        np.mean(place == bin_) * abs(right[place == bin_].mean() - probability[place == bin_].mean())
        for bin_ in np.unique(place)
    )
    assert found.error == pytest.approx(error, abs=0.002)
    assert found.error < 0.02


def test_a_map_of_other_scores_is_found_out() -> None:
    shifted = drawn(gaussian(0).matching + 0.15, np.random.default_rng(0).normal(0.2, 0.1, 100_000))
    fitted = fit_map(gaussian(0), 1000)
    assert calibration(shifted, fitted).error > 5 * calibration(gaussian(1), fitted).error


def test_curves_and_distributions_are_shares() -> None:
    scores = gaussian(0)
    curve = error_curve(scores, np.array([1e-4, 1e-2, 1.0]))
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] == 0
    for shares in densities(scores, 50):
        assert sum(shares) == pytest.approx(1)
        assert len(shares) == 50
