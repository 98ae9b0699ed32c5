"""What `Gallery.verify` finds: every kind of damage, in rows and in files."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from sfsc.gallery import Gallery
from sfsc.gallery.lance_reading import Key, results, taken
from sfsc.gallery.problems import Finding, rows_per_part, summarise
from sfsc.gallery.store import Problem
from sfsc.gallery.uniqueness import Hashes, counts
from tests.gallery.damage import DAMAGES, spoil

DIM = 16


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def add(gallery: Gallery, start: int, count: int, form: str = "float32") -> None:
    names = [str(row) for row in range(start, start + count)]
    gallery.add(
        embeddings(count, start),
        names,
        paths=names,
        width=0.5,
        fingerprint="f",
        form=form,
        attributes={"n": names},
    )


@pytest.fixture(autouse=True)
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read fragments in this process, because another takes seconds to start."""

    def read(directory: Path, keys: list[Key], readable: set[Key]) -> Iterator[None]:
        left = [*keys]
        yield from taken(results(directory, [*left]), left, readable)

    monkeypatch.setattr("sfsc.gallery.lance_check.read_apart", read)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    for start, form in ((0, "float32"), (100, "float16"), (200, "int8")):
        add(gallery, start, 100, form)
    gallery.delete(["7", "107"])
    return gallery


def table_of(tmp_path: Path) -> Path:
    return tmp_path / "gallery" / "gallery.lance"


def kinds(gallery: Gallery) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {one.what: (one.count, one.first) for one in gallery.verify().findings}


def test_a_sound_gallery_of_all_forms_is_sound(gallery: Gallery, tmp_path: Path) -> None:
    assert gallery.verify() == (298, ())
    assert Gallery.open(tmp_path / "none", create=True).verify() == (0, ())


def write(tmp_path: Path, id_: str, **values: str) -> None:
    """Change columns of a row behind the gallery's back, with values as SQL."""
    lance.dataset(table_of(tmp_path)).update(values, where=f"id = '{id_}'")


@pytest.mark.parametrize(
    ("id_", "column", "value", "what"),
    [
        ("3", "embedding", np.zeros(DIM, np.float32), "rows whose embedding is all zeros"),
        ("3", "embedding", np.full(DIM, np.nan, np.float32), "rows whose embedding contains NaN or infinity"),
        ("3", "embedding", np.full(DIM, np.inf, np.float32), "rows whose embedding contains NaN or infinity"),
        ("3", "embedding", np.full(DIM, 1e30, np.float32), "rows whose embedding is not normalised"),
        ("3", "embedding", np.ones(DIM - 1, np.float32), "rows whose embedding has another size"),
        ("103", "embedding", np.zeros(DIM, np.float16), "rows whose embedding is all zeros"),
        (
            "103",
            "embedding",
            np.full(DIM, np.nan, np.float16),
            "rows whose embedding contains NaN or infinity",
        ),
        ("203", "embedding", np.zeros(DIM, np.int8), "rows whose embedding is all zeros"),
        ("203", "embedding", np.ones(DIM, np.int8), "rows whose embedding is not normalised"),
        ("203", "embedding", np.ones(DIM + 1, np.int8), "rows whose embedding has another size"),
        ("3", "width", 0.0, "rows whose width is not between 0 and 1"),
        ("3", "width", np.nan, "rows whose width is not between 0 and 1"),
        ("3", "form", "int4", "rows with an unknown numeric form"),
        ("3", "fingerprint", "g", "rows of another family"),
    ],
)
def test_every_damage_of_a_row_is_named(
    gallery: Gallery, tmp_path: Path, id_: str, column: str, value: Any, what: str
) -> None:
    dataset = lance.dataset(table_of(tmp_path))
    row = dataset.to_table(filter=f"id = '{id_}'")
    stored = pa.array(
        [value.tobytes() if isinstance(value, np.ndarray) else value], row.schema.field(column).type
    )
    changed = row.set_column(row.schema.get_field_index(column), row.schema.field(column), stored)
    dataset.merge_insert("id").when_matched_update_all().execute(changed)
    assert kinds(gallery) == {what: (1, (id_,))}
    gallery.delete([id_])
    assert kinds(gallery) == {}, "the remedy helps"


def test_repeated_ids_are_named(gallery: Gallery, tmp_path: Path) -> None:
    dataset = lance.dataset(table_of(tmp_path))
    dataset.insert(dataset.to_table(filter="id IN ('5', '205')"))
    assert kinds(gallery) == {"ids that several rows share": (2, ("205", "5"))}
    gallery.optimize()
    assert kinds(gallery) == {}


@pytest.mark.parametrize("part", ["data", "_deletions"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_named_and_all_others_checked(
    gallery: Gallery, tmp_path: Path, part: str, damage: str
) -> None:
    file = min((table_of(tmp_path) / part).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    spoil(file, damage)
    found = gallery.verify().findings
    assert [one.what for one in found] == ["files that are missing or damaged"]
    assert f"gallery.lance/{part}/{file.name}" in found[0].first
    assert "sfsc gallery restore" in found[0].remedy


@pytest.mark.slow
def test_a_process_that_dies_at_a_file_has_found_a_damaged_file(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lance aborts at some files; here, the first process ends so after its first file."""
    monkeypatch.undo()
    started: list[Any] = []
    popen = subprocess.Popen

    def start(command: list[str], **more: Any) -> Any:
        started.append(command)
        dying = [
            sys.executable,
            "-c",
            "import os, sys; sys.stdin.read(); print('read', flush=True); os.abort()",
        ]
        return popen(dying if len(started) == 1 else command, **more)

    monkeypatch.setattr("sfsc.gallery.lance_reading.subprocess.Popen", start)
    [finding] = gallery.verify().findings
    files = sorted((table_of(tmp_path) / "data").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(started) == 2
    assert finding.what == "files that are missing or damaged"
    assert f"gallery.lance/data/{files[1].name}" in finding.first
    assert not {f"gallery.lance/data/{files[place].name}" for place in (0, 2)} & {*finding.first}


@pytest.mark.slow
def test_another_process_reads_the_same(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert gallery.verify() == (298, ())
    min((table_of(tmp_path) / "data").iterdir()).write_bytes(b"")
    assert [one.what for one in gallery.verify().findings] == ["files that are missing or damaged"]


def test_a_writer_does_not_look_like_damage(gallery: Gallery, tmp_path: Path) -> None:
    writer, done = Gallery.open(tmp_path / "gallery"), threading.Event()

    def keep_writing() -> None:
        for start in range(1000, 1400, 10):
            add(writer, start, 10)
            lance.dataset(table_of(tmp_path)).optimize.compact_files()
            lance.dataset(table_of(tmp_path)).cleanup_old_versions(retain_versions=4)
        done.set()

    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        while not done.is_set():
            assert gallery.verify().findings == ()
    finally:
        thread.join()
    assert gallery.verify() == (698, ())


def test_findings_count_all_and_name_the_first() -> None:
    problems = [Problem("rows", str(number), "look") for number in range(9)]
    assert summarise(iter(problems)) == (Finding("rows", 9, ("0", "1", "2", "3", "4"), "look"),)


def test_hashes_find_ids_that_repeat() -> None:
    hashes = Hashes()
    for part in (["a", "b"], [], ["c", "a"]):
        hashes.add(part)
    assert counts([["a", "b"], ["c", "a"]], hashes.repeated()) == {"a": 2}
    assert not Hashes().repeated()


def test_parts_are_bounded() -> None:
    assert rows_per_part(1) == 10_000
    assert all(rows_per_part(dim) * dim * 4 <= 1 << 24 for dim in (128, 512, 4096, 65_536))
