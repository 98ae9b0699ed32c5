"""Maps that are corrected by rows whose targets are known."""

from __future__ import annotations

import numpy as np
import pytest

from sfsc import SfscError
from sfsc.bridges import refitting
from sfsc.bridges.fitting import cosine
from sfsc.bridges.refitting import RefittedMap, refit
from sfsc.bridges.space_map import SpaceMap
from tests.bridges.spaces import OLD, embeddings, make_bridge, rotation, unit

TO = 12


@pytest.fixture(scope="module")
def base() -> SpaceMap:
    return make_bridge(noise=0.1).forward


def missed(rows: np.ndarray, noise: float = 0.1, seed: int = 5) -> np.ndarray:
    """Targets that a linear map misses by a smooth function of the row, and by noise."""
    random = np.random.default_rng(seed)
    bent = np.tanh(3 * rows @ random.standard_normal((OLD.dimension, TO)))
    noisy = random.standard_normal((len(rows), TO))
    return unit(rows @ rotation(OLD.dimension, TO) + 0.2 * bent + noise * noisy)


def test_other_rows_come_nearer_to_their_targets(base: SpaceMap) -> None:
    rows = embeddings(1500)
    targets = missed(rows)
    mapped, expected = refit(base, rows[:500], targets[:500])(rows[500:])
    before, after = (cosine(one, targets[500:]) for one in (base(rows[500:])[0], mapped))
    assert 1 - after.mean() < 0.7 * (1 - before.mean())
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-5)
    assert expected.mean() == pytest.approx(1 - after.mean(), rel=0.2)
    assert expected.dtype == mapped.dtype == np.float32


def test_noise_alone_moves_rows_little(base: SpaceMap) -> None:
    rows = embeddings(1500)
    targets = unit(base(rows)[0] + 0.2 * np.random.default_rng(1).standard_normal((1500, TO)))
    mapped, _ = refit(base, rows[:500], targets[:500])(rows[500:])
    before, after = (cosine(one, targets[500:]).mean() for one in (base(rows[500:])[0], mapped))
    assert after > before - 0.01


def test_corrections_are_those_of_a_gaussian_process(base: SpaceMap) -> None:
    """With all known rows as neighbours, as if solved row by row in float64."""
    known, rows = embeddings(25), embeddings(7, seed=9)
    fitted = refit(base, known, missed(known))

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(fitted.sharpness * (x.astype(np.float64) @ y.T.astype(np.float64) - 1)))

    inverse = np.linalg.inv(kernel(known, known) + refitting.NOISE * np.eye(25))
    wanted = unit(base(rows)[0] + kernel(rows, known) @ inverse @ fitted.differences)
    np.testing.assert_allclose(fitted(rows)[0], wanted, atol=1e-4)


def test_a_row_is_not_chosen_by_itself(base: SpaceMap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal rows count as neighbours of each other, but no row as its own."""
    rows = np.concatenate([embeddings(15), embeddings(15)])
    cosines, places = refitting._nearest_others(rows, np.arange(30))
    assert not (places == np.arange(30)[:, None]).any()
    assert places.shape == (30, 29)
    np.testing.assert_allclose(cosines[:, 0], 1, atol=1e-5)
    monkeypatch.setattr(refitting, "NEIGHBOURS", 4)
    assert refitting._nearest_others(rows, np.array([3, 20]))[1].shape == (2, 4)


def test_a_row_that_would_lose_its_direction_stays(base: SpaceMap, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = embeddings(1)
    mapped = base(rows)[0]
    monkeypatch.setattr(refitting, "NOISE", 0.0)
    opposed = RefittedMap(base, rows, -mapped, sharpness=5.0, error=np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(opposed(rows)[0], mapped, atol=1e-5)


def test_the_digest_tells_pairs_apart(base: SpaceMap) -> None:
    rows = embeddings(40)
    targets = missed(rows)
    first = refit(base, rows, targets)
    assert first.digest == refit(base, rows, targets).digest
    assert first.digest != refit(base, rows[:-1], targets[:-1]).digest


def test_few_pairs_are_refused_and_many_are_thinned(base: SpaceMap, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = embeddings(100)
    with pytest.raises(SfscError, match=r"19 rows .* too few .* at least 20 again first"):
        refit(base, rows[:19], missed(rows[:19]))
    monkeypatch.setattr(refitting, "MOST", 50)
    assert len(refit(base, rows, missed(rows)).rows) == 50
