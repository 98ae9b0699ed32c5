"""The order in which the first rows are spread over all of them."""

from __future__ import annotations

import numpy as np
import pytest

from sfsc.gallery import spreading
from sfsc.gallery.spreading import spread_ranks
from tests.bridges.spaces import embeddings

NONE = np.empty((0, 8), np.float32)


def test_each_row_is_the_farthest_from_those_before() -> None:
    rows, done = embeddings(40), embeddings(5, seed=1)
    order = np.argsort(spread_ranks(rows, done))
    for place in range(40):
        before = np.concatenate([done, rows[order[:place]]])
        nearest = (rows[order[place:]] @ before.T).max(axis=1)
        assert nearest[0] <= nearest.min() + 1e-6


def test_the_first_rows_show_every_group() -> None:
    centres = np.eye(8, dtype=np.float32)
    rows = centres[np.arange(400) % 8 * (np.arange(400) % 50 < 8)]  # seven small groups and a large one
    rows = rows + 0.01 * embeddings(400)
    order = np.argsort(spread_ranks(rows, NONE))
    assert {*rows[order[:8]].argmax(axis=1)} == {*range(8)}
    order = np.argsort(spread_ranks(rows, centres[:7]), kind="stable")
    assert rows[order[0]].argmax() == 7, "the group that no row was done of"


def test_parts_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "PART", 10)
    ranks = spread_ranks(embeddings(35), embeddings(3, seed=1))
    assert np.bincount(ranks).tolist() == [4] * 8 + [3]
    assert np.array_equal(ranks, spread_ranks(embeddings(35), embeddings(3, seed=1)))
    assert len(spread_ranks(NONE, NONE)) == 0
