"""Segments: rows that are compared in the form in which they are stored, and removed from copies."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from sfsc.dimensions import shorten
from sfsc.gallery.columns import Columns
from sfsc.gallery.conditions import Condition
from sfsc.gallery.forms import decode, encode
from sfsc.gallery.segment import BLOCK, CACHED, Segment

DIM = 8


def unit(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def segment(rows: np.ndarray) -> Segment:
    return Segment.of(rows, Columns({}, len(rows)))


@pytest.mark.parametrize("form", ["float32", "float16", "int8"])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("count", [1, 100, CACHED + 1, BLOCK + 5])
def test_the_nearest_rows_are_those_of_the_decoded_ones(form: str, queries: int, count: int) -> None:
    stored, asked = encode(unit(count), form), unit(queries, seed=1)
    rows = segment(stored)
    found = rows.nearest(asked, 5)
    cosine = asked @ decode(stored).T
    best = np.argsort(-cosine, axis=1)[:, :5]
    assert np.array_equal(np.sort(found, axis=1), np.sort(best, axis=1))
    np.testing.assert_allclose(
        rows.scores(asked, found), np.take_along_axis(cosine, found, axis=1), atol=1e-6
    )


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_one_thread_compares_as_all_do(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, query = segment(encode(unit(CACHED + 1), form)), unit(1, seed=1)[0]
    alone = rows._products(query, slice(None))
    monkeypatch.setattr("sfsc.gallery.segment.ALONE", 0)
    np.testing.assert_allclose(rows._products(query, slice(None)), alone, atol=1e-6)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_removed_rows_are_in_no_answer_and_the_segment_itself_is_as_it_was(count: int) -> None:
    rows = segment(unit(count))
    gone = np.random.default_rng(1).permutation(count)[: count // 2 + 1]
    left = rows.without(gone).without(gone[:1])
    assert (rows.living, left.living, left.dead) == (count, count - len(gone), len(gone))
    expected = np.setdiff1d(np.arange(count), gone)
    assert np.array_equal(np.sort(left.nearest(unit(2, seed=2), count)[0]), expected)
    assert np.array_equal(np.flatnonzero(left.mask()), expected)
    part = slice(count // 3, count - 1)
    assert np.array_equal(left.mask(part), left.mask()[part])
    scores = left.scores(unit(1), np.arange(-1, count)[None])[0]
    assert np.array_equal(np.flatnonzero(np.isfinite(scores)) - 1, expected)
    assert rows.nearest(unit(2), count).shape == (2, count)


def test_only_chosen_rows_are_compared() -> None:
    chosen = np.array([3, 50, 90_000])
    found = segment(unit(100_000)).nearest(unit(2, seed=1), 10, chosen)
    assert [sorted(rows) for rows in found.tolist()] == [[3, 50, 90_000]] * 2
    assert segment(unit(10)).nearest(unit(2), 3, np.empty(0, np.int64)).shape == (2, 0)


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_first_components_are_compared_with_their_own_length(form: str) -> None:
    stored = encode(unit(50), form)
    first = segment(stored).shortened(3)
    asked = shorten(unit(2, seed=1), 3)
    rows = np.tile(np.arange(50), (2, 1))
    np.testing.assert_allclose(first.scores(asked, rows), asked @ shorten(decode(stored), 3).T, atol=1e-6)


TABLE = {
    "text": pa.array(["a", None, "ä b", "", "c"]),
    "large": pa.array(["a", None, "ä b", "", "c"], pa.large_string()),
    "repeated": pa.array(["a", None, "a", "", "c"]).dictionary_encode(),
    "integer": pa.array([1, None, -3, 2**60, 0]),
    "number": pa.array([0.5, None, -1.0, 2.0, 0.0]),
    "boolean": pa.array([True, None, False, True, True]),
    "whole": pa.array([1.0] * 5),
    "sliced": pa.array(["x", "y", "a", None, "b", "c", "d"]).slice(2, 5),
    "numbers of a slice": pa.array([9, 9, 9, 1, None, 3, 4, 5]).slice(3, 5),
    "nothing": pa.nulls(5, pa.string()),
}


@pytest.mark.parametrize("name", TABLE)
def test_values_are_read_as_arrow_reads_them(name: str) -> None:
    rows = np.array([4, 1, 2, 0, 3, 1])
    [values, missing] = Columns(TABLE, 5).take([name, "of later rows"], rows)
    assert values == [TABLE[name].to_pylist()[row] for row in rows]
    assert missing == [None] * 6


@pytest.mark.parametrize("name", ["text", "repeated", "integer", "of later rows"])
@pytest.mark.parametrize("operator", ["=", "!="])
@pytest.mark.parametrize("with_none", [True, False])
def test_conditions_are_those_of_a_list(name: str, operator: str, with_none: bool) -> None:
    column = TABLE[name].to_pylist() if name in TABLE else [None] * 5
    value = 1 if name == "integer" else "a"
    values = (value, None) if with_none else (value,)
    mask = Columns(TABLE, 5).fulfilling([Condition(name, operator, values)])
    if operator == "=":
        assert mask.tolist() == [one in values for one in column]
    else:
        assert mask.tolist() == [one is not None and one not in values for one in column]
