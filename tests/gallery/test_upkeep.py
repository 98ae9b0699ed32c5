"""The upkeep of a gallery's table: what is merged, what stays as it is, and the segments of its indexes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from sfsc.gallery import Gallery, replacing, upkeep
from sfsc.gallery.forms import normalised

DIM = 8


def embeddings(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, DIM)).astype(np.float32)


def add(gallery: Gallery, ids: range) -> None:
    names = [str(number) for number in ids]
    gallery.add(embeddings(len(ids)), names, paths=names, width=0.5, fingerprint="f")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are many."""
    monkeypatch.setattr(upkeep, "LOOKED_UP_FROM", 200)
    monkeypatch.setattr(upkeep, "MOST_NEW", 100)
    monkeypatch.setattr(upkeep, "LARGE", 100)
    monkeypatch.setattr(upkeep, "WORN_FROM", 10)
    monkeypatch.setattr(upkeep, "SMALL", (8, 32))


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    add(gallery, range(1000))
    gallery.optimize()
    return gallery


def table(tmp_path: Path) -> Any:
    return lance.dataset(tmp_path / "gallery" / "gallery.lance")


def files(tmp_path: Path) -> list[str]:
    """The files of all fragments, which have random names."""
    return [file.path for part in table(tmp_path).get_fragments() for file in part.metadata.files]


def segments(tmp_path: Path) -> list[int]:
    """The rows that each segment of the index of ids covers."""
    rows = {part.fragment_id: part.physical_rows for part in table(tmp_path).get_fragments()}
    [index] = [index for index in table(tmp_path).describe_indices() if index.field_names == ["id"]]
    return [sum(rows.get(number, 0) for number in segment.fragment_ids) for segment in index.segments]


def test_new_rows_get_a_segment_of_their_own(gallery: Gallery, tmp_path: Path) -> None:
    assert segments(tmp_path) == [1000]
    add(gallery, range(1000, 1150))
    assert segments(tmp_path) == [1000, 150]


def test_small_segments_are_merged_and_large_ones_stay(gallery: Gallery, tmp_path: Path) -> None:
    for start in range(1000, 3000, 110):
        add(gallery, range(start, start + 110))
        found = segments(tmp_path)
        assert all(larger > upkeep.GROWTH * one for larger, one in pairwise(found))
    assert sum(segments(tmp_path)) > 1000


def test_ids_are_found_in_every_segment_and_beside_them(gallery: Gallery, tmp_path: Path) -> None:
    add(gallery, range(1000, 1150))
    add(gallery, range(1150, 1170))
    assert len(segments(tmp_path)) == 2
    chosen = [5, 999, 1000, 1149, 1150, 1169]
    for number in chosen:
        add(gallery, range(number, number + 1))
    assert len(gallery) == 1170
    assert gallery.delete([*map(str, chosen), "none"]) == len(chosen)
    assert not {*chosen} & {int(id_) for id_ in gallery.column("id")}
    assert len(gallery) == 1170 - len(chosen)


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_ids_are_found_by_the_index_as_by_reading_all(
    gallery: Gallery, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "SCAN_FROM", share)
    monkeypatch.setattr(replacing, "SCANNED", 300)
    add(gallery, range(900, 1100))
    assert sorted(int(id_) for id_ in gallery.column("id")) == [*range(1100)]
    new = {row["id"]: row["embedding"] for row in gallery.rows(embeddings=True)}
    found = np.stack([new[str(number)] for number in range(900, 1100)])
    np.testing.assert_allclose(found, normalised(embeddings(200)), atol=1e-6)


def test_single_changes_merge_small_fragments_and_no_large_ones(gallery: Gallery, tmp_path: Path) -> None:
    large = files(tmp_path)
    for number in range(60):
        add(gallery, range(5 * number, 5 * number + 1))
    assert large == files(tmp_path)[: len(large)]
    assert len(files(tmp_path)) < len(large) + 2 * upkeep.MOST_SMALL
    assert len(gallery) == 1000


def test_a_middle_sized_fragment_is_not_merged_with_a_few_new_rows(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        add(gallery, range(20))
        [before] = files(tmp_path)
        for number in range(20, 60):
            add(gallery, range(number, number + 1))
    assert before in files(tmp_path)


def test_rows_that_come_one_by_one_are_rewritten_a_few_times() -> None:
    fragments, rewritten, most = [0], 0, 0
    for _ in range(2_000):
        fragments.append(1)
        if size := upkeep.merged_below(fragments):
            merged = sum(rows for rows in fragments if rows < size)
            fragments = [*(rows for rows in fragments if rows >= size), merged]
            rewritten += merged
        most = max(most, sum(rows < upkeep.SMALL[-1] for rows in fragments))
    assert rewritten < 4 * 2_000
    assert most <= upkeep.MOST_SMALL * len(upkeep.SMALL)


def test_a_fragment_of_which_most_is_deleted_is_rewritten(gallery: Gallery, tmp_path: Path) -> None:
    before = files(tmp_path)
    gallery.delete(map(str, range(400)))
    assert files(tmp_path) == before
    gallery.delete(map(str, range(400, 600)))
    assert files(tmp_path) != before
    assert sum(part.num_deletions for part in table(tmp_path).get_fragments()) == 0
    assert len(gallery) == 400


@pytest.mark.parametrize(("deleted", "same"), [(50, True), (150, False)])
def test_optimize_rewrites_what_is_small_or_worn_alone(
    gallery: Gallery, tmp_path: Path, deleted: int, same: bool
) -> None:
    [before] = files(tmp_path)
    gallery.delete(map(str, range(deleted)))
    for number in range(3):
        add(gallery, range(1000 + number, 1001 + number))
    gallery.optimize()
    assert (before in files(tmp_path)) == same
    assert len(files(tmp_path)) <= 2
    assert sum(segments(tmp_path)) == sum(part.physical_rows for part in table(tmp_path).get_fragments())
    assert len(gallery) == 1003 - deleted


def test_a_row_replaces_all_rows_that_share_its_id(gallery: Gallery, tmp_path: Path) -> None:
    row = table(tmp_path).to_table(filter="id = '7'")
    lance.write_dataset(row, tmp_path / "gallery" / "gallery.lance", mode="append")
    assert gallery.info().duplicates == ("7",)
    add(gallery, range(7, 8))
    assert gallery.info().duplicates == ()
    assert len(gallery) == 1000


@pytest.mark.slow
def test_large_adds_to_a_gallery_with_an_index_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        for start in range(0, 300_000, 100_000):
            names = [f"{number:08d}" for number in range(start, start + 100_000)]
            rows = np.random.default_rng(start).standard_normal((100_000, 128)).astype(np.float32)
            gallery.add(rows, names, paths=names, width=0.5, fingerprint="f")
        assert len(gallery) == 300_000
