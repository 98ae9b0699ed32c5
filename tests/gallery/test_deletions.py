"""The files of deleted rows, in both formats of Lance."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from sfsc.gallery.deletions import deleted_positions, identity_of, places_of

ROWS = 100_000


def fragment_without(table: Path, rows: np.ndarray) -> lance.LanceFragment:
    dataset = lance.write_dataset(pa.table({"row": np.arange(ROWS)}), table)
    dataset.delete(f"row IN ({', '.join(map(str, rows))})")
    [fragment] = dataset.get_fragments()
    return fragment


@pytest.mark.parametrize(("count", "kind"), [(1, "array"), (50, "array"), (20_000, "bitmap")])
def test_positions_are_those_of_the_deleted_rows(tmp_path: Path, count: int, kind: str) -> None:
    rows = np.sort(np.random.default_rng(count).choice(ROWS, count, replace=False))
    fragment = fragment_without(tmp_path / "table", rows)
    assert fragment.metadata.deletion_file.file_type == kind
    assert deleted_positions(fragment, tmp_path / "table").tolist() == rows.tolist()


def test_a_fragment_without_deletions_has_no_positions(tmp_path: Path) -> None:
    [fragment] = lance.write_dataset(pa.table({"row": [1]}), tmp_path / "table").get_fragments()
    assert identity_of(fragment) is None
    assert not len(deleted_positions(fragment, tmp_path / "table"))


def test_a_list_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    fragment = fragment_without(tmp_path / "table", np.arange(0, 40_000, 2))
    file = tmp_path / "table" / fragment.deletion_file()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="deserialize"):
        deleted_positions(fragment, tmp_path / "table")


def test_places_are_those_of_the_positions_that_are_there() -> None:
    offsets = np.array([2, 3, 5, 9], np.uint32)
    assert places_of(np.array([0, 3, 4, 9, 10], np.uint32), offsets).tolist() == [1, 3]
