"""Records of changes, and galleries that follow each other by them, or by the table where they cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfsc.gallery import Gallery
from sfsc.gallery.changes import KEPT, MOST, Change, Changes
from sfsc.gallery.index import Index
from sfsc.gallery.manifests import Manifest

DIM = 8
ROWS = pa.table({"id": ["a", "b"]})


def manifest(version: int, content: str) -> Manifest:
    return Manifest(Path("versions") / f"{version}.manifest", content.encode())


def test_a_change_counts_once_its_transaction_is_in_the_next_version(tmp_path: Path) -> None:
    changes, before = Changes(tmp_path), manifest(3, "before")
    changes.record(before, Change("uuid-1", ROWS, ("file",)))
    assert changes.between(before, manifest(4, "after by another")) is None
    assert changes.between(manifest(3, "another table"), manifest(4, "by uuid-1")) is None
    assert changes.between(before, manifest(5, "by uuid-1")) is None, "version 4 is unknown"
    assert changes.between(before, manifest(2, "by uuid-1")) is None
    assert changes.between(before, manifest(3, "restored")) is None
    for reader in (changes, Changes(tmp_path)):
        found = reader.between(before, manifest(4, "by uuid-1"))
        assert found is not None
        [change] = found
        assert (change.transaction, change.files) == ("uuid-1", ("file",))
        assert change.rows.equals(ROWS)
        assert reader.between(before, before) == []


def test_several_versions_are_followed_in_order(tmp_path: Path) -> None:
    versions = [manifest(number, f"by uuid-{number}") for number in range(1, KEPT + 3)]
    folder = tmp_path / "versions"
    folder.mkdir()
    versions = [Manifest(folder / version.path.name, version.content) for version in versions]
    changes = Changes(tmp_path)
    for before in versions[:-1]:
        changes.record(before, Change(f"uuid-{before.version + 1}", ROWS))
        before.path.write_bytes(before.content)
    found = Changes(tmp_path).between(versions[1], versions[-1])
    assert found is not None
    assert [change.transaction for change in found] == [f"uuid-{number}" for number in range(3, KEPT + 3)]
    assert Changes(tmp_path).between(versions[0], versions[-1]) is None, "the first one was replaced"
    versions[5].path.write_bytes(b"of another table")
    assert Changes(tmp_path).between(versions[1], versions[-1]) is None


def test_damaged_records_do_not_count(tmp_path: Path) -> None:
    before, after = manifest(1, "before"), manifest(2, "by uuid")
    Changes(tmp_path).record(before, Change("uuid", ROWS))
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = file.read_bytes()
    for cut in (0, 3, 10, len(content) - 1):
        file.write_bytes(content[:cut])
        assert Changes(tmp_path).between(before, after) is None
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert Changes(tmp_path).between(before, after) is None
    file.write_bytes(content)
    assert Changes(tmp_path).between(before, after)


def test_many_rows_are_not_recorded_and_what_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    many = pa.table({"id": ["x" * MOST, "b"]})
    Changes(tmp_path).record(manifest(1, ""), Change("uuid", many))
    assert not [*tmp_path.iterdir()]
    (tmp_path / ".changes").write_text("not a folder")
    Changes(tmp_path).record(manifest(1, ""), Change("uuid", ROWS))
    assert (tmp_path / ".changes").is_file()


def add(gallery: Gallery, ids: list[str], seed: int, **attributes: Any) -> None:
    rows = np.random.default_rng(seed).standard_normal((len(ids), DIM)).astype(np.float32)
    own = {name: [value] * len(ids) for name, value in attributes.items()}
    gallery.add(rows, ids, paths=ids, width=1.0, fingerprint="f", attributes=own)


def hits(gallery: Gallery) -> dict[str, tuple[float, Any]]:
    [found] = gallery.search(np.ones((1, DIM), np.float32), "f", top=1000)
    return {hit.id: (round(hit.score, 5), hit.attributes) for hit in found}


def agree(gallery: Gallery, path: Path) -> bool:
    """Whether a gallery that is open finds what a fresh one finds."""
    with Gallery.open(path) as fresh:
        return hits(gallery) == hits(fresh)


@pytest.fixture
def pair(tmp_path: Path) -> Any:
    """Return a gallery that is open twice, and was searched by the first."""
    path = tmp_path / "gallery"
    with Gallery.open(path, create=True) as first, Gallery.open(path, create=True) as second:
        add(second, [f"{number}" for number in range(40)], 0)
        hits(first)
        yield first, second


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows whenever an index compares all fragments of the table."""
    made: list[int] = []
    update: Callable[..., bool] = Index._update

    def counted(self: Index, *arguments: Any) -> bool:
        made.append(1)
        return update(self, *arguments)

    monkeypatch.setattr(Index, "_update", counted)
    return made


def test_small_changes_are_followed_without_the_table(pair: Any, compared: list[int], tmp_path: Path) -> None:
    first, second = pair
    for number in range(50):  # fragments are merged meanwhile, too
        add(second, [f"{number}", f"new {number}"], number + 1)
        if number % 3 == 0:
            assert second.delete([f"{number + 2}", "unknown"]) <= 1
        hits(first)
    assert not compared
    assert agree(first, tmp_path / "gallery")


def test_what_is_not_recorded_is_read_from_the_table(pair: Any, compared: list[int], tmp_path: Path) -> None:
    first, second = pair
    cases: list[Callable[[], object]] = [
        lambda: add(second, ["0", "1"], 1, colour="red"),  # another column
        lambda: second.delete(where=["width=1"]),
        lambda: add(second, [f"many {number}" for number in range(3000)], 2),
        second.optimize,
    ]
    for number, change in enumerate(cases):
        change()
        hits(first)
        assert len(compared) > number
        assert agree(first, tmp_path / "gallery")
        compared[number + 1 :] = []


def test_missing_and_damaged_records_are_not_missed(pair: Any, compared: list[int], tmp_path: Path) -> None:
    first, second = pair
    for number, content in enumerate((None, b"", b"damaged")):
        add(second, [f"{number}"], number + 5)
        for file in (tmp_path / "gallery" / ".changes").iterdir():
            file.unlink() if content is None else file.write_bytes(content)
        compared.clear()
        hits(first)
        assert compared
        assert agree(first, tmp_path / "gallery")
        assert second.delete([f"{number}"]) == 1
        assert agree(first, tmp_path / "gallery")


def test_a_column_falls_out_of_use_in_every_open_gallery(pair: Any, tmp_path: Path) -> None:
    first, second = pair
    add(second, ["red"], 1, colour="red")
    hits(first)
    second.delete(["red"])
    assert agree(first, tmp_path / "gallery")
    assert {*first.describe().attributes} == set()


def test_optimize_removes_the_records(pair: Any, tmp_path: Path) -> None:
    first, second = pair
    add(second, ["0"], 1)
    assert [*(tmp_path / "gallery" / ".changes").iterdir()]
    first.optimize()
    assert not (tmp_path / "gallery" / ".changes").exists()
    assert agree(second, tmp_path / "gallery")


@pytest.mark.parametrize("seed", range(6))
def test_several_changes_between_two_searches(pair: Any, tmp_path: Path, seed: int) -> None:
    """Among them, rows are added, replaced and deleted again, and all rows may be gone for a while."""
    first, second = pair
    random = np.random.default_rng(seed)
    there = {f"{number}" for number in range(40)}
    for _ in range(8):
        for _change in range(int(random.integers(1, 6))):
            ids = [f"{number}" for number in random.choice(40, int(random.integers(1, 5)), replace=False)]
            if random.random() < 0.5:
                add(second, ids, int(random.integers(1000)))
                there |= {*ids}
            else:
                gone = ids if random.random() < 0.7 or not there else sorted(there)
                assert second.delete(gone) == len(there & {*gone})
                there -= {*gone}
        assert hits(first).keys() == there
    assert agree(first, tmp_path / "gallery")
