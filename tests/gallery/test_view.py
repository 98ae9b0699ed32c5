"""Views: exact and approximate searches of rows in one segment or several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sfsc.dimensions import shorten
from sfsc.gallery.columns import Columns
from sfsc.gallery.conditions import Condition
from sfsc.gallery.forms import decode, encode
from sfsc.gallery.lists import Lists, open_lists, write_lists
from sfsc.gallery.segment import Segment
from sfsc.gallery.store import Hit
from sfsc.gallery.view import Part, View

DIM = 16
ROWS = 21_000
BESIDE_TORCH_UTILS = """
import sys
import faiss.contrib.torch_utils
import numpy as np
from sfsc.gallery import Gallery
rows = np.random.default_rng(0).standard_normal((21_000, 8)).astype(np.float32)
names = [str(row) for row in range(len(rows))]
with Gallery.open(sys.argv[1], create=True) as gallery:
    gallery.add(rows, names, paths=names, width=1.0, fingerprint="f")
    for exact in (True, False):
        print(gallery.search(rows[7:8], "f", top=1, exact=exact)[0][0].id)
"""
Large = tuple[View, np.ndarray]


def unit(count: int, seed: int = 0, centres: int = 200) -> np.ndarray:
    """Clustered rows of length 1."""
    generator = np.random.default_rng(seed)
    middle = np.random.default_rng(99).standard_normal((centres, DIM))
    rows = middle[generator.integers(centres, size=count)] + 0.5 * generator.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def segment(rows: np.ndarray, names: list[str]) -> Segment:
    text = pa.array(["one value"] * len(names), pa.string())
    fixed = {"id": pa.array(names, pa.string()), "path": text, "identity": pa.nulls(len(names), pa.string())}
    fixed |= {"camera": text.dictionary_encode(), "width": pa.array([1.0] * len(names)), "form": text}
    columns = fixed | {"number": pa.array(range(len(names)), pa.int64())}
    return Segment.of(rows, Columns(columns, len(names)))


def numbered(rows: np.ndarray) -> Segment:
    return segment(rows, [str(row) for row in range(len(rows))])


def view(*parts: Part) -> View:
    return View(parts, ("number",))


def listed(rows: Segment, folder: Path) -> Part:
    folder.mkdir()
    probes = write_lists(folder, rows, lambda iterable, _: iterable)
    return Part(rows, open_lists(folder, len(rows), DIM, probes))


def names(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


@pytest.fixture(scope="module", params=["float32", "int8"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Large:
    """A view with lists, and its rows."""
    rows = encode(unit(ROWS), request.param)
    return view(listed(numbered(rows), tmp_path_factory.mktemp("large") / "lists")), decode(rows)


@pytest.fixture(scope="module")
def lists(large: Large) -> Lists:
    found = large[0].parts[0].lists
    assert found is not None
    return found


def nearest(queries: np.ndarray, rows: np.ndarray, top: int) -> list[list[str]]:
    return [[str(row) for row in np.argsort(-scores)[:top]] for scores in queries @ rows.T]


def shared(found: list[list[Hit]], best: list[list[str]]) -> float:
    """How many of the ten best were found, on average."""
    pairs = zip(found, best, strict=True)
    return float(np.mean([len({*names(hits)} & {*expected}) for hits, expected in pairs]))


def test_an_exact_search_finds_the_nearest(large: Large) -> None:
    queries, (rows, vectors) = unit(20, seed=1), large
    found = rows.search(queries, 10, [], exact=True)
    assert [names(hits) for hits in found] == nearest(queries, vectors, 10)
    assert [names(rows.search(query[None], 10, [], exact=True)[0]) for query in queries] == [
        names(hits) for hits in found
    ]


def test_an_approximate_search_finds_nearly_all_and_says_true_scores(large: Large) -> None:
    queries, (rows, vectors) = unit(200, seed=1), large
    found = rows.search(queries, 10, [], exact=False)
    assert shared(found, nearest(queries, vectors, 10)) >= 9.5
    for query, hits in zip(queries, found, strict=True):
        assert len(hits) == 10
        for hit in hits:
            assert hit.score == pytest.approx(vectors[int(hit.id)] @ query, abs=1e-5)


def test_programs_that_change_the_methods_of_faiss_can_search(tmp_path: Path) -> None:
    # pytorch-metric-learning imports this module of FAISS
    command = [sys.executable, "-c", BESIDE_TORCH_UTILS, str(tmp_path / "gallery")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["7", "7"], done.stderr


def test_conditions_are_fulfilled_exactly(large: Large) -> None:
    queries, (rows, vectors) = unit(5, seed=1), large
    everything = rows.search(queries, 10, [Condition("number", "<", (70_000,))], exact=True)
    assert [names(hits) for hits in everything] == nearest(queries, vectors, 10)
    for exact in (True, False):
        few = rows.search(queries, 10, [Condition("number", "=", (3, 4, 10**6))], exact)
        assert [{*names(hits)} for hits in few] == [{"3", "4"}] * 5
        none = rows.search(queries, 10, [Condition("number", "<", (0,))], exact)
        assert none == [[]] * 5


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_approximate_searches_with_conditions_find_nearly_all(large: Large, share: float) -> None:
    queries, (rows, vectors) = unit(200, seed=1), large
    first = int(share * ROWS)
    found = rows.search(queries, 10, [Condition("number", "<", (first,))], exact=False)
    assert all(int(name) < first for hits in found for name in names(hits))
    assert shared(found, nearest(queries, vectors[:first], 10)) >= 9.5


def test_where_lists_find_too_few_the_rows_are_all_compared(large: Large) -> None:
    query, (rows, vectors) = unit(1, seed=1), large
    found = rows.search(query, 3000, [], exact=False)
    assert len(found[0]) == 3000
    far = np.argsort(vectors @ query[0])[: ROWS // 2]
    part = rows.parts[0]
    left = view(Part(part.segment.without(np.setdiff1d(np.arange(ROWS), far)), part.lists))
    [hits] = left.search(query, 10, [], exact=False)
    assert len(hits) == 10
    assert {int(name) for name in names(hits)} <= {*far.tolist()}


@pytest.mark.parametrize("exact", [True, False])
def test_rows_of_all_segments_are_found_and_removed_ones_are_not(
    large: Large, lists: Lists, exact: bool
) -> None:
    queries, base = unit(3, seed=1), large[0].parts[0]
    first = [names(hits)[0] for hits in large[0].search(queries, 1, [], exact)]
    changed = Part(base.segment.without(np.array([*map(int, first)])), base.lists)
    opposite, new = segment(-queries, first), segment(queries[:1], ["new"])
    for other in (Part(opposite), Part(opposite, lists.of(opposite))):
        rows = view(changed, other, Part(new))
        found = rows.search(queries, 10, [], exact)
        assert names(found[0])[0] == "new"
        for hits, gone in zip(found, first, strict=True):
            assert gone not in names(hits)
            assert len({*names(hits)}) == 10
        back = rows.search(-queries, 1, [], exact)
        assert [names(hits)[0] for hits in back] == first
        assert names(rows.search(queries[:1], 1, [Condition("number", "=", (0,))], exact)[0]) == ["new"]


def test_rows_of_equal_scores_come_in_the_order_of_their_ids() -> None:
    rows = np.concatenate([np.repeat(unit(1), 40, axis=0), unit(60, seed=2)])
    whole = view(Part(numbered(rows)))
    assert names(whole.search(unit(1), 3, [], exact=True)[0]) == ["0", "1", "10"]
    ids = [str(row) for row in range(100)]
    halves = view(Part(segment(rows[30:], ids[30:])), Part(segment(rows[:30], ids[:30])))
    assert names(halves.search(unit(1), 5, [], exact=True)[0]) == ["0", "1", "10", "11", "12"]
    both = halves.search(np.concatenate([unit(1), unit(1, seed=9)]), 3, [], exact=True)
    assert names(both[0]) == ["0", "1", "10"]


def test_a_shortened_view_compares_first_components_of_the_rows_that_are_left() -> None:
    queries, rows = shorten(unit(5, seed=1), 4), unit(100)
    parts = Part(numbered(rows).without(np.array([0]))), Part(segment(-rows[:1], ["0"]))
    whole = view(*parts)
    cosine = queries @ shorten(np.concatenate([-rows[:1], rows[1:]]), 4).T
    expected = [[str(row) for row in np.argsort(-scores)[:10]] for scores in cosine]
    found = whole.shortened(4).search(queries, 10, [], exact=True)
    assert [names(hits) for hits in found] == expected
    assert len(whole.search(unit(1), 200, [], exact=True)[0]) == 100, "the whole rows are as they were"


def test_a_view_without_rows_answers_nothing() -> None:
    assert view().search(unit(2), 3, [], exact=True) == [[], []]
    assert view(Part(segment(unit(1)[:0], []))).search(unit(2), 3, [], exact=False) == [[], []]
