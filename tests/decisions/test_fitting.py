"""Fitting maps: against scikit-learn, against distributions that are known, and with too few pairs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from sfsc.decisions.fitting import fit_map, isotonic, quantiles
from sfsc.decisions.scores import BINS, bins_of
from sfsc.errors import SfscError
from tests.decisions.pairs import drawn, gaussian


@pytest.mark.parametrize("seed", range(20))
def test_pooling_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=200).round(1) + np.linspace(0, rng.normal(), 200)
    weights = rng.uniform(0.1, 5, 200)
    blocks = isotonic(values, weights)
    means = np.bincount(blocks, values * weights) / np.bincount(blocks, weights)
    expected = IsotonicRegression().fit_transform(np.arange(200), values, sample_weight=weights)
    np.testing.assert_allclose(means[blocks], expected, atol=1e-12)
    assert (np.diff(means) > 0).all()


def test_the_likelihood_ratio_of_known_distributions_is_found() -> None:
    fitted = fit_map(gaussian(0), 10_000)
    cosines = np.linspace(0.15, 0.43, 29)  # where both distributions have many pairs
    np.testing.assert_allclose(fitted.log_ratio(cosines), 40 * cosines - 10, atol=0.6)
    assert len(fitted.cosines) <= 80


def test_probabilities_are_the_shares_of_matches_in_a_search_of_any_size() -> None:
    """Of fresh pairs at their natural odds, those with probability p match with frequency p."""
    fitted = fit_map(gaussian(0), 10_000)  # 200 matching rows for each of 100 queries
    fresh = gaussian(1)
    rng = np.random.default_rng(2)
    for rows in (2_000, 10_000, 100_000):
        odds = 200 / (rows - 200)
        others = rng.normal(0.05, 0.1, int(fresh.matches / odds))
        scores = np.concatenate([fresh.matching, others])
        right = np.concatenate([np.ones(fresh.matches), np.zeros(len(others))])
        probability = fitted.probability(scores, rows)
        for low in np.arange(0.1, 0.9, 0.2):
            inside = (probability >= low) & (probability < low + 0.2)
            assert right[inside].mean() == pytest.approx(probability[inside].mean(), abs=0.05)


def test_maps_never_fall() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        fitted = fit_map(drawn(rng.uniform(-1, 1, 40), rng.uniform(-1, 1, 70), 10), 50)
        probabilities = fitted.probability(np.linspace(-1, 1, 1001))
        assert (np.diff(probabilities) >= 0).all()
        assert (probabilities > 0).all()
        assert (probabilities < 1).all()
        thresholds = [fitted.threshold(rate) for rate in np.geomspace(fitted.smallest_rate, 1, 20)]
        assert (np.diff(thresholds) <= 0).all()


def test_a_threshold_is_the_smallest_cosine_with_its_rate() -> None:
    scores = np.random.default_rng(0).normal(0, 0.1, 300_000)
    fitted = fit_map(drawn(np.full(100, 0.9), scores), 1000)
    for rate in (0.1, 1e-2, 1e-3, 1e-4):
        share = np.mean(scores >= fitted.threshold(rate))
        assert share == pytest.approx(rate, rel=0.02 if rate > 1e-4 else 0.1)
    assert fitted.smallest_rate == pytest.approx(1e-4)


def test_quantiles_of_equal_cosines_lie_above_them() -> None:
    """Identical images of other identities have the cosine 1: no threshold up to 1 excludes them."""
    counts = np.bincount(bins_of(np.array([0.0] * 90 + [1.0] * 10)), minlength=BINS + 1)
    inside, beyond = quantiles(counts, np.array([0.1, 0.05]))
    assert 0 < inside <= 1
    assert beyond > 1


def test_a_rate_that_the_pairs_do_not_support_is_refused() -> None:
    fitted = fit_map(gaussian(0), 10_000)
    assert fitted.threshold(fitted.smallest_rate) > fitted.threshold(1e-3)
    message = (
        "a false match rate of 1e-06 needs 30,000,000 non-matching pairs, and the thresholds were fitted on "
        "1,000,000: the smallest rate that they support is 3e-05"
    )
    with pytest.raises(SfscError, match=message):
        fitted.threshold(1e-6)
    for rate in (0, -1, 1.5, float("nan")):
        with pytest.raises(SfscError, match="greater than 0 and at most 1"):
            fitted.threshold(rate)


def test_too_few_pairs_are_refused() -> None:
    for matches, others in ((10, 1000), (1000, 59)):
        with pytest.raises(SfscError, match=rf"{matches:,} matching and {others:,} non-m.* are too"):
            fit_map(drawn(np.full(matches, 0.9), np.zeros(others)), 100)
