"""The index of a gallery: files beside the table that are mapped, followed, renewed, and never trusted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfsc.gallery import Condition, Gallery
from sfsc.gallery.changes import Changes
from sfsc.gallery.index import FOLDER, Index
from sfsc.gallery.index_files import CURRENT, FORMAT, HEADER, current, make_current, write_index
from sfsc.gallery.store import StoreUnavailable

DIM, ROWS = 16, 600


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    centres = np.random.default_rng(99).standard_normal((20, DIM))
    generator = np.random.default_rng(seed)
    rows = centres[generator.integers(20, size=count)] + generator.standard_normal((count, DIM))
    return rows.astype(np.float32)


def add(gallery: Gallery, rows: np.ndarray, ids: list[str] | None = None, form: str = "float32") -> None:
    names = ids or [f"{row}" for row in range(len(rows))]
    cameras = [f"{row % 3}" for row in range(len(rows))]
    gallery.add(rows, names, paths=names, width=0.5, fingerprint="f", cameras=cameras, form=form)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Galleries of a few rows have an index."""
    monkeypatch.setattr("sfsc.gallery.index.INDEXED_FROM", 100)
    monkeypatch.setattr("sfsc.gallery.index.LEAST_STALE", 50)
    monkeypatch.setattr("sfsc.gallery.upkeep.LOOKED_UP_FROM", 100)


@pytest.fixture(params=["float32", "int8"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        add(gallery, embeddings(ROWS), form=request.param)
        gallery.refresh()
    return tmp_path / "gallery"


@pytest.fixture
def no_build(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if rows are read from the table into an index again."""

    def fail(*_: object) -> None:
        raise AssertionError("the index was made again")

    monkeypatch.setattr("sfsc.gallery.index.write_index", fail)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the indexes that are made."""
    made = []

    def count(*arguments: Any) -> Path:
        made.append(write_index(*arguments))
        return made[-1]

    monkeypatch.setattr("sfsc.gallery.index.write_index", count)
    return made


def store_of(gallery: Gallery) -> Any:
    """What stores the gallery, whose parts are private."""
    return gallery._store


def first(gallery: Gallery, query: np.ndarray, exact: bool = True) -> str:
    return gallery.search(query, "f", top=1, exact=exact)[0][0].id


def test_a_fresh_process_answers_from_the_files_alone(path: Path) -> None:
    """Importing Lance takes longer than everything else."""
    code = (
        "import sys, numpy\n"
        "from sfsc.gallery import Gallery, index\n"
        "query = numpy.load(sys.argv[2])\n"
        "with Gallery.open(sys.argv[1]) as gallery:\n"
        "    print(*(hit.id for hit in gallery.search(query, 'f', exact=sys.argv[3] == 'exact')[0]))\n"
        "assert 'lance' not in sys.modules and 'pandas' not in sys.modules and 'torch' not in sys.modules"
    )
    query = path.parent / "query.npy"
    np.save(query, embeddings(1, seed=5))
    for how in ("exact", "approximate"):
        told = subprocess.run(
            [sys.executable, "-c", code, path, query, how], check=True, capture_output=True, text=True
        )
        with Gallery.open(path) as gallery:
            assert told.stdout.split() == [hit.id for hit in gallery.search(embeddings(1, seed=5), "f")[0]]


@pytest.mark.usefixtures("no_build")
@pytest.mark.parametrize("exact", [True, False])
def test_changes_are_seen_without_making_the_index_again(path: Path, exact: bool) -> None:
    reader, writer = Gallery.open(path), Gallery.open(path)
    old, new = embeddings(ROWS), embeddings(3, seed=5)
    assert first(reader, old[7:8], exact) == "7"
    add(writer, new[:1], ["7"])
    assert first(reader, old[7:8], exact) != "7"
    assert first(reader, new[:1], exact) == "7"
    writer.delete(["8"])
    assert first(reader, old[8:9], exact) != "8"
    for number in range(70):  # they are compacted meanwhile
        add(writer, embeddings(1, seed=100 + number), [f"new {number}"])
        assert first(reader, embeddings(1, seed=100 + number), exact) == f"new {number}"
    assert len(reader) == ROWS - 1 + 70
    assert len(store_of(reader)._index._members) == 2, "few rows in memory are one segment"
    fresh = Gallery.open(path)
    for gallery in (reader, writer, fresh):
        assert first(gallery, new[:1], exact) == "7"
        assert {hit.id for hit in gallery.search(old[:1], "f", top=1000, exact=exact)[0]} == {
            *(str(row) for row in range(ROWS) if row != 8),
            *(f"new {number}" for number in range(70)),
        }


def test_the_index_is_made_again_when_much_has_changed(path: Path, builds: list[Path]) -> None:
    gallery = Gallery.open(path)
    first(gallery, embeddings(1))
    add(gallery, embeddings(40, seed=1), [f"few {row}" for row in range(40)])
    gallery.refresh()
    assert builds == []
    add(gallery, embeddings(40, seed=2), [f"more {row}" for row in range(40)])
    gallery.refresh()
    assert len(builds) == 1
    assert current(path / FOLDER) == builds[0]
    assert [entry for entry in (path / FOLDER).iterdir() if entry.is_dir()] == builds
    add(gallery, embeddings(2 * ROWS, seed=3), [f"many {row}" for row in range(2 * ROWS)])
    reader = Gallery.open(path)
    assert first(reader, embeddings(2 * ROWS, seed=3)[5:6]) == "many 5"
    assert len(builds) == 2, "so many are not read into memory"
    assert first(gallery, embeddings(2 * ROWS, seed=3)[5:6]) == "many 5"
    assert len(builds) == 2, "a process uses what another one made"


def test_a_maintained_index_is_renewed_beside_the_searches(path: Path, builds: list[Path]) -> None:
    with Gallery.open(path, maintain=True) as gallery:
        first(gallery, embeddings(1))
        for number in range(4):
            add(gallery, embeddings(40, seed=number), [f"{number} {row}" for row in range(40)])
        until = time.monotonic() + 60
        while not builds and time.monotonic() < until:
            time.sleep(0.01)
    assert builds
    with Gallery.open(path) as gallery:
        assert first(gallery, embeddings(40, seed=3)[5:6]) == "3 5"


def test_closing_a_gallery_ends_the_renewal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def write(_: Path, __: object, track: Callable[..., Iterator[int]]) -> None:
        begun.set()
        for _ in track(iter(int, 1), "for ever"):
            time.sleep(0.001)

    monkeypatch.setattr("sfsc.gallery.index.write_index", write)
    gallery = Gallery.open(path, maintain=True)
    first(gallery, embeddings(1))
    add(gallery, embeddings(90, seed=1), [f"new {row}" for row in range(90)])
    assert begun.wait(60)
    gallery.close()
    assert threading.active_count() == 1 or all(t.name != "gallery index" for t in threading.enumerate())


def damage_nothing(_: Path) -> None:
    """Do nothing."""


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        os.truncate(folder / name, max(0, (folder / name).stat().st_size - 8))

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        size = (folder / name).stat().st_size
        (folder / name).write_bytes((content * size)[:size])

    return damage


def describe(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        header = json.loads((folder / HEADER).read_text())
        (folder / HEADER).write_text(json.dumps(header | changes))

    return damage


FILES = ("vectors", "offsets", "hashes", "column-0", "column-3", "centroids", "ranges", "counts", "lists")
OTHER = {"dimension": 4, "fingerprint": "f", "attributes": {}, "format": 3}
DAMAGES = {
    "nothing": damage_nothing,
    **{f"{name} cut": cut(name) for name in (*FILES, HEADER)},
    **{f"no {name}": remove(name) for name in (*FILES, HEADER)},
    **{f"{name} of zeros": overwrite(name, b"\0") for name in ("column-0", "counts", HEADER)},
    **{f"{name} of ones": overwrite(name, b"\xff") for name in ("column-0", "column-3", "ranges", "counts")},
    "another format": describe(format=99),
    "the format before": describe(format=FORMAT - 1),
    "no probes": describe(probes=0),
    "too many probes": describe(probes=10**9),
    "a form that is none": describe(form="int4"),
    "negative rows": describe(fragments=[[["a"], None, -5]]),
    "other fragments": describe(manifest="0", fragments=[[["a.lance"], None, ROWS]]),
    "no fragments": describe(fragments=[]),
    "wrong types": describe(fragments=3, sizes="x"),
    "no description": describe(description={}),
    "another dimension": describe(manifest="0", description=OTHER),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("exact", [True, False])
def test_a_damaged_index_never_answers_wrongly(path: Path, name: str, exact: bool) -> None:
    folder = current(path / FOLDER)
    assert folder is not None
    DAMAGES[name](folder)
    queries = embeddings(ROWS)[:20]
    for _ in range(2):
        with Gallery.open(path) as gallery:
            found = gallery.search(queries, "f", top=1, exact=exact)
            assert [hits[0].id for hits in found] == [str(row) for row in range(20)]
    assert (current(path / FOLDER) == folder) == (name == "nothing"), "a damaged index is made again"


@pytest.mark.parametrize("byte", [b"\0", b"\x7f", b"\x80", b"\xff"])
def test_lists_of_rows_that_do_not_exist_are_no_answer(path: Path, byte: bytes) -> None:
    folder = current(path / FOLDER)
    assert folder is not None
    overwrite("lists", byte)(folder)
    with Gallery.open(path) as gallery:
        found = gallery.search(embeddings(20), "f", exact=False)
        assert {hit.id for hits in found for hit in hits} <= {str(row) for row in range(ROWS)}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../../elsewhere", b"a" * 500, b"missing"])
def test_a_damaged_pointer_is_replaced(path: Path, content: bytes) -> None:
    (path / FOLDER / CURRENT).write_bytes(content)
    with Gallery.open(path) as gallery:
        assert first(gallery, embeddings(ROWS)[7:8], exact=False) == "7"
    assert current(path / FOLDER) is not None


def test_the_index_of_another_gallery_is_not_used(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with Gallery.open(other, create=True) as gallery:
        add(gallery, embeddings(ROWS, seed=1))
        gallery.refresh()
    shutil.rmtree(path / FOLDER)
    shutil.copytree(other / FOLDER, path / FOLDER)
    for exact in (True, False):
        with Gallery.open(path) as gallery:
            assert first(gallery, embeddings(ROWS)[7:8], exact) == "7"


@pytest.mark.usefixtures("no_build")
def test_a_moved_or_copied_gallery_keeps_its_index(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "copy")
    path.rename(tmp_path / "moved")
    for place in ("copy", "moved"):
        with Gallery.open(tmp_path / place) as gallery:
            assert first(gallery, embeddings(ROWS)[7:8], exact=False) == "7"


def test_an_older_version_in_its_place_is_answered_from(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "copy")
    gallery = Gallery.open(path)
    first(gallery, embeddings(1))
    add(gallery, embeddings(200, seed=1))
    gallery.refresh()
    assert first(gallery, embeddings(ROWS)[7:8]) != "7"
    shutil.rmtree(path)
    (tmp_path / "copy").rename(path)
    for exact in (True, False):
        assert first(gallery, embeddings(ROWS)[7:8], exact) == "7"
        assert first(Gallery.open(path), embeddings(ROWS)[7:8], exact) == "7"


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")]
)
def test_where_nothing_can_be_written_the_index_is_kept_elsewhere(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    shutil.rmtree(path / FOLDER)

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    gallery = Gallery.open(path)
    for exact in (True, False):
        assert first(gallery, embeddings(ROWS)[7:8], exact) == "7"
    assert not (path / FOLDER).exists()


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(path / FOLDER)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sfsc.gallery.index_files.write_lists", full)
    with pytest.raises(StoreUnavailable, match=r"cannot be indexed \(.*No space left.*\): free disk space"):
        first(Gallery.open(path), embeddings(1))
    assert [*(path / FOLDER).iterdir()] == []
    monkeypatch.undo()
    assert first(Gallery.open(path), embeddings(ROWS)[7:8]) == "7"


def test_a_killed_build_leaves_the_old_index(path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from sfsc.gallery import Gallery, index, index_files, upkeep\n"
        "index.INDEXED_FROM = upkeep.LOOKED_UP_FROM = 100\n"
        "def kill(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(index if sys.argv[2] == 'make_current' else index_files, sys.argv[2], kill)\n"
        "Gallery.open(sys.argv[1]).optimize()"
    )
    old = current(path / FOLDER)
    for step in ("write_lists", "write_column", "_synced_size", "make_current"):
        done = subprocess.run([sys.executable, "-c", code, path, step], capture_output=True, check=False)
        assert done.returncode == -9
        assert current(path / FOLDER) == old
        with Gallery.open(path) as gallery:
            assert first(gallery, embeddings(ROWS)[7:8], exact=False) == "7"
    with Gallery.open(path) as gallery:
        gallery.optimize()
    assert [entry for entry in (path / FOLDER).iterdir() if entry.is_dir()] == [current(path / FOLDER)]


def test_readers_do_not_wait_for_a_writer(path: Path) -> None:
    gallery = Gallery.open(path)
    first(gallery, embeddings(1))
    done = threading.Event()

    def search() -> None:
        first(gallery, embeddings(1))
        done.set()

    with store_of(gallery)._table.writing():
        thread = threading.Thread(target=search)
        thread.start()
        assert done.wait(60)
        thread.join()


def test_old_files_are_used_until_they_are_released(path: Path) -> None:
    """A search that has begun goes on while another process replaces the index."""
    gallery = Gallery.open(path)
    view = store_of(gallery)._view()
    with Gallery.open(path) as other:
        other.optimize()
    queries = embeddings(ROWS)[:5] / np.linalg.norm(embeddings(ROWS)[:5], axis=1, keepdims=True)
    for exact in (True, False):
        assert [hits[0].id for hits in view.search(queries, 1, [], exact)] == [*"01234"]


def test_a_pointer_names_a_folder_of_its_directory_alone(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_text("../x")
    assert current(tmp_path) is None
    (tmp_path / "abc").mkdir()
    make_current(tmp_path / "abc")
    assert current(tmp_path) == tmp_path / "abc"


def test_rows_are_found_by_id_through_an_index_of_the_column(path: Path) -> None:
    with Gallery.open(path) as gallery:
        dataset = store_of(gallery)._snapshot().dataset
        assert "ScalarIndexQuery" in dataset.scanner(filter="id = '7'").explain_plan()
        assert [row["id"] for row in gallery.rows(["id=7"])] == ["7"]
        add(gallery, embeddings(3, seed=1), ["7", "7 new", "8"])
        assert len(gallery) == ROWS + 1
        assert gallery.delete(["7", "7 new", "9"]) == 3
        assert gallery.info().duplicates == ()


def test_rows_are_found_by_id_in_the_index_as_in_the_table(path: Path) -> None:
    with Gallery.open(path) as used, Gallery.open(path) as unused:
        first(used, embeddings(1))
        add(used, embeddings(3, seed=1), ["7", "new", "8"], form="int8")
        used.delete(["9"])
        for ids in (["7"], ["new"], ["9"], ["missing"], ["1", "7", "9", "new", "1", "é"]):
            condition = [Condition("id", "=", tuple(ids))]
            found = [
                sorted(gallery.rows(condition, embeddings=True), key=lambda row: row["id"])
                for gallery in (used, unused)
            ]
            vectors = [[row.pop("embedding") for row in rows] for rows in found]
            assert found[0] == found[1]
            np.testing.assert_allclose(*vectors, atol=1e-6)


def test_ids_of_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sfsc.gallery.segment.crc32", len)
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        add(gallery, embeddings(ROWS))
        gallery.refresh()
        first(gallery, embeddings(1))
        for id_ in ("3", "33", "333"):
            assert [row["id"] for row in gallery.rows([f"id={id_}"])] == [id_]


def test_few_rows_have_no_index(tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        add(gallery, embeddings(99))
        gallery.optimize()
        assert first(gallery, embeddings(99)[7:8]) == "7"
        assert not (tmp_path / "gallery" / FOLDER).exists()
        assert not Index(tmp_path / "gallery", Changes(tmp_path / "gallery")).stale


def change(name: str, place: int = 0) -> Callable[[Path], None]:
    """Change one byte of a file."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 1
        (folder / name).write_bytes(content)

    return damage


WRONG = {
    "vectors": (change("vectors", 2), "rows that differ in the index"),
    "ids": (change("column-0", -900), "rows that differ in the index"),
    "lists": (overwrite("lists", b"\0"), "indexes whose lists lack rows"),
    "cut": (cut("lists"), "indexes that cannot be used"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_index_that_differs_from_the_rows_is_named_and_made_again(path: Path, name: str) -> None:
    with Gallery.open(path) as gallery:
        add(gallery, embeddings(3, seed=1), ["7", "new", "newer"])
        gallery.delete(["8"])
        assert gallery.verify().findings == ()
    folder = current(path / FOLDER)
    assert folder is not None
    damage, what = WRONG[name]
    damage(folder)
    with Gallery.open(path) as gallery:
        [finding] = gallery.verify().findings
        assert (finding.what, finding.remedy) == (what, "`sfsc gallery optimize` makes the index again")
        gallery.optimize()
        assert gallery.verify().findings == ()


def test_rows_in_memory_that_were_replaced_are_released(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfsc.gallery.index.LISTED_FROM", 10)
    with Gallery.open(path) as gallery:
        first(gallery, embeddings(1))
        for number in range(60):
            add(gallery, embeddings(20, seed=number), [f"new {row}" for row in range(20)])
        members = store_of(gallery)._index._members
        assert sum(len(member.part.segment) for member in members) <= ROWS + 60
        assert first(gallery, embeddings(20, seed=59)[3:4], exact=False) == "new 3"


def test_a_version_that_comes_back_is_not_taken_for_what_is_in_memory(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "copy")
    gallery = Gallery.open(path)
    first(gallery, embeddings(1))
    gallery.delete(where=["width>0"])
    add(gallery, embeddings(30, seed=1), [f"new {row}" for row in range(30)])
    assert first(gallery, embeddings(30, seed=1)[3:4]) == "new 3"
    shutil.rmtree(path)
    (tmp_path / "copy").rename(path)
    for exact in (True, False):
        assert first(gallery, embeddings(ROWS)[7:8], exact) == "7"
        assert len(gallery.search(embeddings(1), "f", top=1000, exact=exact)[0]) == ROWS
