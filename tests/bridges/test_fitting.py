"""Maps between spaces against plain numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import spearmanr

from sfsc.bridges import fitting
from sfsc.bridges.fitting import cosine, fit, found_first, orthogonal, relaxed
from sfsc.bridges.residual import add_residual
from sfsc.bridges.space_map import SpaceMap
from sfsc.errors import SfscError
from tests.bridges.spaces import embeddings, rotation, unit


@pytest.mark.parametrize(("size", "to"), [(8, 8), (8, 12)])
@pytest.mark.parametrize("kind", ["orthogonal", "relaxed", "residual"])
def test_a_rotated_copy_of_a_space_is_recovered(size: int, to: int, kind: str) -> None:
    rows = embeddings(200, size)
    targets = unit(rows @ rotation(size, to))
    found = fit(rows, targets, kind)
    unseen = embeddings(50, size, seed=5)
    mapped, errors = found.map(unseen)
    np.testing.assert_allclose(cosine(mapped, unseen @ rotation(size, to)), 1, atol=1e-3)
    assert errors.max() < 0.01
    back, _ = fit(targets, rows, kind).map(mapped)
    np.testing.assert_allclose(cosine(back, unseen), 1, atol=1e-3)


def test_the_rotation_is_that_of_scipy() -> None:
    rows, targets = embeddings(100), embeddings(100, seed=1)
    expected, _ = orthogonal_procrustes(rows - rows.mean(0), targets - targets.mean(0))
    found = orthogonal(rows, targets)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-5)
    np.testing.assert_allclose(found.raw(rows).mean(0), targets.mean(0), atol=1e-6)


def test_the_ridge_leads_from_least_squares_to_the_scaled_rotation() -> None:
    rows, targets = embeddings(100), embeddings(100, 12, seed=1)
    x, y = rows - rows.mean(0), targets - targets.mean(0)
    expected = np.linalg.lstsq(x.astype(float), y.astype(float), rcond=None)[0]
    np.testing.assert_allclose(relaxed(rows, targets, 0).matrix, expected, atol=1e-5)
    turned = orthogonal(rows, targets).matrix
    scale = float((x @ turned * y).sum() / ((x @ turned) ** 2).sum())
    np.testing.assert_allclose(relaxed(rows, targets, 1e6).matrix, scale * turned, atol=1e-4)


def test_a_residual_network_computes_what_its_arrays_say() -> None:
    rows = embeddings(300)
    targets = unit(np.abs(rows @ rotation(8, 8)) - 0.1)
    linear = relaxed(rows, targets, 1e-3)
    found = add_residual(linear, rows, targets, seed=0)
    expected = rows @ found.matrix + found.shift
    expected += np.maximum(rows @ found.inner + found.bias, 0) @ found.outer
    np.testing.assert_allclose(found(rows)[0], unit(expected), atol=1e-5)
    assert cosine(found.raw(rows), targets).mean() > cosine(linear.raw(rows), targets).mean() + 0.05


def test_the_best_kind_on_held_out_pairs_is_chosen() -> None:
    rows = embeddings(600)
    assert fit(rows, unit(np.abs(rows @ rotation(8, 8)) - 0.1)).kind == "residual"
    stretched = unit(rows * np.linspace(0.2, 2, 8))
    found = fit(rows, stretched)
    assert found.cosines["relaxed"] > found.cosines["orthogonal"]


def test_the_share_that_is_found_is_that_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = embeddings(60)
    rows = 3 * unit(targets + 0.8 * embeddings(60, seed=1))
    first = [
        max(range(60), key=lambda other: float(row @ targets[other])) == place
        for place, row in enumerate(rows)
    ]
    assert found_first(rows, targets) == np.mean(first)
    assert 0.2 < np.mean(first) < 0.9
    monkeypatch.setattr(fitting, "MOST_COMPARED", 20)
    assert found_first(targets, targets) == 1


def test_the_kind_that_finds_most_is_chosen_before_the_one_with_the_greatest_cosine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A map into the middle of all targets has great cosines, and finds nothing."""
    rows = unit(embeddings(200) + 6 * np.eye(8)[0])
    noisy, middle = unit(rows + 0.4 * embeddings(200, seed=3)), rows.mean(axis=0, keepdims=True)
    kinds = {
        "orthogonal": SpaceMap.linear(np.zeros((8, 8)), middle[0]),
        "relaxed": SpaceMap.linear(np.eye(8), np.zeros(8)),
    }
    monkeypatch.setattr(fitting, "fits_of_kinds", lambda *_: {k: lambda *_, m=m: m for k, m in kinds.items()})
    chosen = fit(noisy, rows)
    assert chosen.cosines["orthogonal"] > chosen.cosines["relaxed"]
    assert chosen.found["orthogonal"] < chosen.found["relaxed"]
    assert chosen.kind == "relaxed"


def test_the_expected_error_is_greater_where_errors_are_greater() -> None:
    rows = embeddings(1000)
    noise = np.random.default_rng(3).standard_normal(rows.shape) * np.exp(2 * rows[:, :1]) * 0.2
    targets = unit(rows @ rotation(8, 8) + noise)
    found = fit(rows[:800], targets[:800], "relaxed")
    mapped, errors = found.map(rows[800:])
    real = 1 - cosine(mapped, targets[800:])
    assert errors.dtype == np.float32
    assert spearmanr(errors, real).statistic > 0.4
    assert errors.mean() == pytest.approx(real.mean(), rel=0.3)


def test_the_same_seed_gives_the_same_map() -> None:
    rows, targets = embeddings(100), embeddings(100, seed=1)
    one, other = (fit(rows, targets, "residual").map.arrays() for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_mistakes_are_refused() -> None:
    with pytest.raises(
        SfscError, match=r"23 images are too few .* from 8 to 12 dimensions: give at least 24"
    ):
        fit(embeddings(23), embeddings(23, 12))
    with pytest.raises(SfscError, match="unknown kind of map 'cubic'; choose one of orthogonal, relaxed"):
        fit(embeddings(40), embeddings(40), "cubic")
    nowhere = SpaceMap.linear(np.zeros((8, 8)), np.zeros(8))
    with pytest.raises(SfscError, match="maps a row to no direction"):
        nowhere(embeddings(1))
