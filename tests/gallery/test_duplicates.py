"""Duplicates in a gallery: found, written, and all but one of each group deleted."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from sfsc.decisions.pair import Pair
from sfsc.decisions.score_map import ScoreMap
from sfsc.decisions.thresholds import Thresholds
from sfsc.errors import SfscError
from sfsc.gallery import Gallery, similar
from sfsc.gallery.duplicates import find_duplicates, surplus
from sfsc.gallery.similar import similar_pairs
from sfsc.images.reading import write_png
from sfsc.report.duplicates import write_duplicates
from tests.retrieval.retrieval_cases import unit

DIM = 32
FAMILY = "family"


def scattered(rows: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((rows, DIM)))


def near(rows: np.ndarray, noise: float = 0.01, seed: int = 1) -> np.ndarray:
    return unit(rows + noise * np.random.default_rng(seed).standard_normal(rows.shape))


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """40 rows by 1.0; then near copies of rows 3 and 7 by 0.25, and two equal copies of row 3 by 1.0."""
    opened = Gallery.open(tmp_path / "gallery", create=True)
    rows = scattered(40)
    add(opened, rows, [f"a{place:02}" for place in range(40)], 1.0)
    add(opened, near(rows[[3, 7]]), ["b03", "b07"], 0.25)
    add(opened, rows[[3, 3]], ["c03", "d03"], 1.0)
    return opened


def add(gallery: Gallery, rows: np.ndarray, ids: list[str], width: float) -> None:
    gallery.add(rows, ids, paths=[f"/x/{id_}.png" for id_ in ids], width=width, fingerprint=FAMILY)


def test_groups_are_found_with_their_smallest_scores(gallery: Gallery) -> None:
    groups = find_duplicates(gallery, 0.98)
    assert [[row.id for row in group] for group in groups] == [["a03", "b03", "c03", "d03"], ["a07", "b07"]]
    rows = {row["id"]: row["embedding"] for row in gallery.rows(embeddings=True)}
    for group in groups:
        for row in group:
            smallest = min(float(rows[row.id] @ rows[other.id]) for other in group)
            assert row.score == pytest.approx(smallest, abs=1e-5)
    assert [[row.id for row in group] for group in find_duplicates(gallery, 1.0)] == [["a03", "c03", "d03"]]


def test_all_but_one_of_each_group_are_surplus(gallery: Gallery) -> None:
    groups = find_duplicates(gallery, 0.98)
    assert {*surplus(groups, "first")} == {"b03", "c03", "d03", "b07"}
    add(gallery, near(scattered(40)[[7]], seed=2), ["b07"], 0.5)
    add(gallery, near(scattered(40)[[7]]), ["a07"], 0.25)
    assert {*surplus(find_duplicates(gallery, 0.98), "widest")} == {"b03", "c03", "d03", "a07"}
    with pytest.raises(SfscError, match="one of first, widest, not 'best'"):
        surplus(groups, "best")


def test_an_empty_gallery_has_no_duplicates(tmp_path: Path) -> None:
    assert find_duplicates(Gallery.open(tmp_path / "empty", create=True), 0.9) == []


def thresholds(limit: float, fingerprint: str = FAMILY) -> Thresholds:
    """Two rows by 0.25 or 1 match for sure from a cosine of `limit`, but never two narrow ones."""

    def known(least: float) -> ScoreMap:
        return ScoreMap((least - 0.01, least), (-20.0, 20.0), (1.0, 0.001), (-1.0, least), 40, 400, 40, 11)

    pairs = [Pair(q, g, "float32", DIM) for q in (0.25, 1.0) for g in (0.25, 1.0)]
    maps = {pair: known(1.02 if pair[:2] == (0.25, 0.25) else limit) for pair in pairs}
    return Thresholds(fingerprint, "data", 100, 20, maps)


def test_probabilities_depend_on_the_pair_of_widths(gallery: Gallery) -> None:
    add(gallery, near(scattered(40)[[7]], seed=5), ["e07"], 0.25)  # two narrow rows: similar, but no match
    by_score = find_duplicates(gallery, 0.98)
    by_probability = find_duplicates(gallery, min_probability=0.99, thresholds=thresholds(0.98))
    assert {row.id for row in by_score[1]} == {"a07", "b07", "e07"}
    assert {row.id for row in by_probability[0]} == {"a03", "b03", "c03", "d03"}
    assert len(by_probability[1]) == 2
    assert {row.width for row in by_probability[1]} == {0.25, 1.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give either a smallest score or"),
        ({"min_score": 0.9, "min_probability": 0.9}, "give either a smallest score or"),
        ({"min_score": 1.5}, r"within \(0, 1\], not 1.5"),
        ({"min_probability": 0.9}, "needs the thresholds"),
        ({"min_probability": 0.9, "thresholds": thresholds(0.9, "other")}, "are of the family other"),
        ({"min_probability": 0.9, "thresholds": thresholds(1.5)}, "no cosine in a gallery of 44 rows"),
    ],
)
def test_impossible_limits_are_refused(gallery: Gallery, values: dict[str, object], message: str) -> None:
    with pytest.raises(SfscError, match=message):
        find_duplicates(gallery, **values)  # type: ignore[arg-type]


def test_lists_find_nearly_all_pairs_that_comparison_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = scattered(3000)
    rows = np.concatenate([rows, near(rows[:1000], 0.03)])
    kinds, least = np.zeros(len(rows), np.int64), np.array([[0.95]])
    pairs, scores = similar_pairs(rows, kinds, least)
    assert 900 < len(pairs) < 1100
    np.testing.assert_allclose(scores, np.einsum("pd,pd->p", *(rows[pairs[:, n]] for n in (0, 1))), atol=1e-5)
    monkeypatch.setattr(similar, "EXACT", 100)
    listed = {*map(tuple, similar_pairs(rows, kinds, least)[0].tolist())}
    every = {*map(tuple, pairs.tolist())}
    assert listed <= every
    assert len(listed) >= 0.95 * len(every)


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "MOST_PAIRS", 100)
    with pytest.raises(SfscError, match="more than 100 pairs"):
        similar_pairs(near(np.ones((50, DIM))), np.zeros(50, np.int64), np.array([[0.9]]))


def test_groups_are_written_as_a_table_and_as_a_page(gallery: Gallery, tmp_path: Path) -> None:
    write_png(tmp_path / "seen.png", np.zeros((8, 8, 3), np.uint8))
    rows = near(scattered(40)[[9]])
    gallery.add(rows, ["<b>"], paths=[str(tmp_path / "seen.png")], width=1.0, fingerprint=FAMILY)
    groups = find_duplicates(gallery, 0.98)
    write_duplicates(groups, tmp_path / "groups.csv", "g", "alike")
    with (tmp_path / "groups.csv").open(newline="") as file:
        written = [*csv.DictReader(file)]
    assert [row["id"] for row in written] == [row.id for group in groups for row in group]
    assert {row["group"] for row in written} == {"1", "2", "3"}
    write_duplicates(groups, tmp_path / "groups.html", "g", "alike")
    page = (tmp_path / "groups.html").read_text()
    assert page.count("<img") == sum(map(len, groups))
    assert "3 groups in g" in page and "&lt;b&gt;" in page and "http" not in page.partition("<body>")[2]
    with pytest.raises(SfscError, match=r"written as \.csv"):
        write_duplicates(groups, tmp_path / "groups.txt", "g", "alike")
