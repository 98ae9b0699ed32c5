"""Rows in memory: exact and approximate searches, rows that come and go."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from sfsc.dimensions import shorten
from sfsc.gallery.conditions import Condition
from sfsc.gallery.memory import APPROXIMATE_FROM, MemoryIndex
from sfsc.gallery.store import Hit

DIM = 16
ROWS = APPROXIMATE_FROM + 1000


def unit(count: int, seed: int = 0, centres: int = 200) -> np.ndarray:
    """Clustered rows of length 1."""
    generator = np.random.default_rng(seed)
    middle = np.random.default_rng(99).standard_normal((centres, DIM))
    rows = middle[generator.integers(centres, size=count)] + 0.5 * generator.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def table(names: list[str]) -> pa.Table:
    text = pa.array(["one value"] * len(names), pa.string())
    fixed = {"id": pa.array(names, pa.string()), "path": text, "identity": pa.nulls(len(names), pa.string())}
    fixed |= {"camera": text.dictionary_encode(), "width": pa.array([1.0] * len(names)), "form": text}
    return pa.table(fixed | {"number": pa.array(range(len(names)), pa.int64())})


def make(count: int = ROWS) -> MemoryIndex:
    return MemoryIndex.of(DIM, [(unit(count), table([str(row) for row in range(count)]))])


def names(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


@pytest.fixture(scope="module")
def large() -> MemoryIndex:
    return make()


def nearest(queries: np.ndarray, rows: np.ndarray, top: int) -> list[list[str]]:
    return [[str(row) for row in np.argsort(-scores)[:top]] for scores in queries @ rows.T]


def shared(found: list[list[Hit]], best: list[list[str]]) -> float:
    """How many of the ten best were found, on average."""
    pairs = zip(found, best, strict=True)
    return float(np.mean([len({*names(hits)} & {*expected}) for hits, expected in pairs]))


def test_an_exact_search_finds_the_nearest(large: MemoryIndex) -> None:
    queries = unit(20, seed=1)
    found = large.search(queries, 10, [], exact=True)
    assert [names(hits) for hits in found] == nearest(queries, unit(ROWS), 10)


def test_an_approximate_search_finds_nearly_all_and_says_true_scores(large: MemoryIndex) -> None:
    queries, rows = unit(200, seed=1), unit(ROWS)
    found = large.search(queries, 10, [], exact=False)
    best = nearest(queries, rows, 10)
    recall = np.mean([len({*names(hits)} & {*expected}) for hits, expected in zip(found, best, strict=True)])
    assert 9.5 <= recall <= 10
    for query, hits in zip(queries, found, strict=True):
        assert len(hits) >= 10
        for hit in hits[:10]:
            assert hit.score == pytest.approx(rows[int(hit.id)] @ query, abs=1e-5)


def test_few_rows_are_always_searched_exactly() -> None:
    index, queries = make(500), unit(5, seed=1)
    found = index.search(queries, 10, [], exact=False)
    assert [names(hits) for hits in found] == nearest(queries, unit(500), 10)


def test_conditions_are_fulfilled_exactly(large: MemoryIndex) -> None:
    queries = unit(5, seed=1)
    found = large.search(queries, 10, [Condition("number", "<", (70_000,))], exact=False)
    assert [names(hits) for hits in found] == nearest(queries, unit(ROWS), 10)
    few = large.search(queries, 10, [Condition("number", "=", (3, 4, 10**6))], exact=False)
    assert [{*names(hits)} for hits in few] == [{"3", "4"}] * 5


@pytest.mark.parametrize("exact", [True, False])
def test_rows_that_were_replaced_are_gone_and_new_ones_found(exact: bool) -> None:
    index, queries = make(), unit(3, seed=1)
    index.search(queries, 10, [], exact)
    first = [names(hits)[0] for hits in index.search(queries, 1, [], exact)]
    index.remove(np.array([*map(int, first)]))
    index.extend(-queries, table(first))
    index.extend(queries[:1], table(["new"]))
    found = index.search(queries, 10, [], exact)
    assert names(found[0])[0] == "new"
    for hits, gone in zip(found, first, strict=True):
        assert gone not in names(hits)
    back = index.search(-queries, 1, [], exact)
    assert [names(hits)[0] for hits in back] == first
    assert len(index) == ROWS + 1


def test_all_rows_replaced_but_some_are_still_found() -> None:
    index = make(100)
    index.extend(-unit(100)[:95], table([f"new {row}" for row in range(95)]))
    assert not index.stale
    index.remove(np.arange(95))
    index.extend(unit(95), table([str(row) for row in range(95)]))
    assert index.stale
    opposite = index.search(-unit(100)[96:97], 195, [], exact=True)[0]
    assert len({hit.id for hit in opposite}) == len(opposite) == 195


def test_rows_of_equal_scores_come_in_the_order_of_their_ids() -> None:
    rows = np.concatenate([np.repeat(unit(1), 40, axis=0), unit(60, seed=2)])
    index = MemoryIndex.of(DIM, [(rows, table([str(row) for row in range(100)]))])
    assert names(index.search(unit(1), 3, [], exact=True)[0]) == ["0", "1", "10"]


def test_lists_are_made_anew_when_there_are_twice_as_many_rows(large: MemoryIndex) -> None:
    index = make()
    queries = unit(100, seed=1)
    index.search(queries, 10, [], exact=False)
    more = unit(ROWS, seed=3)
    index.extend(more, table([f"more {row}" for row in range(ROWS)]))
    found = index.search(queries, 10, [], exact=False)
    both = np.concatenate([unit(ROWS), more])
    labels = [*map(str, range(ROWS)), *(f"more {row}" for row in range(ROWS))]
    best = [{labels[row] for row in np.argsort(-scores)[:10]} for scores in queries @ both.T]
    assert (
        np.mean([len({*names(hits)} & expected) for hits, expected in zip(found, best, strict=True)]) >= 9.5
    )


def test_a_shortened_index_compares_first_components_of_the_rows_that_are_left() -> None:
    index, queries = make(100), shorten(unit(5, seed=1), 4)
    index.remove(np.array([0]))
    index.extend(-unit(1), table(["0"]))
    short = index.shortened(4)
    rows = np.concatenate([unit(100)[1:], -unit(1)])
    cosine = queries @ shorten(rows, 4).T
    labels = [*map(str, range(1, 100)), "0"]
    found = short.search(queries, 10, [], exact=True)
    assert len(short) == 100
    assert [names(hits) for hits in found] == [
        [labels[row] for row in np.argsort(-scores)[:10]] for scores in cosine
    ]
    assert len(index.search(unit(1), 200, [], exact=True)[0]) == 100, "the whole rows are as they were"


def test_an_empty_index_answers_nothing() -> None:
    assert MemoryIndex.of(DIM, [(unit(1)[:0], table([]))]).search(unit(2), 3, [], exact=True) == [[], []]


def test_lists_are_freed_once() -> None:
    """In another process: freed twice, they would take this one with them."""
    code = (
        "import numpy, pyarrow; from sfsc.gallery.memory import APPROXIMATE_FROM as rows, MemoryIndex\n"
        "vectors = numpy.random.default_rng(0).standard_normal((rows, 8)).astype('f')\n"
        "table = pyarrow.table({'id': list(map(str, range(rows)))})\n"
        "for _ in range(3):\n"
        "    MemoryIndex.of(8, [(vectors, table)]).prepare()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
