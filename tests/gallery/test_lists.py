"""The lists for approximate searches: the rows that they offer for exact comparison contain the best ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfsc.gallery.columns import Columns
from sfsc.gallery.lists import open_lists, write_lists
from sfsc.gallery.segment import Segment

ROWS, DIM, QUERIES = 4000, 32, 300


def drawn(count: int, kind: str, seed: int) -> np.ndarray:
    """Rows of length 1: in all directions, without negative components, or with rare large components."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, DIM))
    if kind == "none is negative":
        rows = np.maximum(rows - 0.7, 0) + 1e-6
    elif kind == "rarely large":
        rows = generator.standard_t(3, (count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("top", [1, 3, 10])
@pytest.mark.parametrize("kind", ["all directions", "none is negative", "rarely large"])
def test_four_bits_find_the_best_rows_for_exact_comparison(tmp_path: Path, kind: str, top: int) -> None:
    rows, queries = drawn(ROWS, kind, 0), drawn(QUERIES, kind, 1)
    write_lists(tmp_path, Segment.of(rows, Columns({}, ROWS)), lambda numbers, _: numbers)
    count = len(np.fromfile(tmp_path / "counts", np.int64))
    found = open_lists(tmp_path, ROWS, DIM, count).candidates(queries, top, None, 1.0)
    best = np.argsort(-queries @ rows.T, axis=1)[:, :top]
    assert (best[:, :, None] == found[:, None]).any(2).mean() >= 0.995
