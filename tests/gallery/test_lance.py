"""The gallery in a directory: what is particular to Lance, damage, death and other processes."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.names import column_of
from sfsc.gallery.view import View
from tests.gallery.damage import DAMAGES, spoil

DIM = 16
WRITER = """
import sys
import numpy as np
from sfsc.gallery import Gallery
gallery = Gallery.open(sys.argv[1], create=True)
for batch in range(10**6):
    names = [f"{batch}-{row}" for row in range(50)]
    rows = np.random.default_rng(batch).standard_normal((50, 16)).astype(np.float32)
    gallery.add(rows, names, paths=names, width=0.5, fingerprint="f")
    print(batch, flush=True)
"""
RIVAL = """
import sys
import numpy as np
from sfsc.gallery import Gallery
gallery = Gallery.open(sys.argv[1], create=True)
for start in range(0, 80, 8):
    names = [str(row) for row in range(start, start + 8)]
    rows = np.random.default_rng(start).standard_normal((8, 16)).astype(np.float32)
    columns = {"turn": [start] * 8}
    gallery.add(rows, names, paths=names, width=0.5, fingerprint="f", attributes=columns)
"""
FULL_DISK = """
import resource, signal, sys
import numpy as np
from sfsc.errors import SfscError
from sfsc.gallery import Gallery
gallery = Gallery.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
names = [f"new {row}" for row in range(5000)]
try:
    gallery.add(np.ones((5000, 16), np.float32), names, paths=names, width=0.5, fingerprint="f")
except SfscError as error:
    print(error)
"""


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def add(gallery: Gallery, rows: np.ndarray, ids: list[str] | None = None, **changes: object) -> int:
    names = ids or [f"{row}" for row in range(len(rows))]
    arguments = {"paths": [f"{name}.png" for name in names], "width": 0.5, "fingerprint": "f"}
    return gallery.add(rows, names, **{**arguments, **changes})


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    add(gallery, embeddings(300))
    return gallery


def test_a_reader_sees_what_another_process_added(gallery: Gallery, tmp_path: Path) -> None:
    reader = Gallery.open(tmp_path / "gallery")
    add(gallery, embeddings(1, seed=4), ["late"])
    assert reader.search(embeddings(1, seed=4), "f", top=1)[0][0].id == "late"
    assert len(reader) == 301


def test_first_components_are_taken_anew_only_where_rows_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    shortened = View.shortened

    def count(view: View, dimension: int) -> View:
        made.append(dimension)
        return shortened(view, dimension)

    monkeypatch.setattr(View, "shortened", count)
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    add(gallery, embeddings(30), dimensions=(4, 8, DIM))
    for dimension in (4, 8, 4, 8, DIM):
        assert gallery.search(embeddings(1)[:, :dimension], "f", top=1)[0][0].id == "0"
    assert made == [4, 8]
    writer = Gallery.open(tmp_path / "gallery")
    add(writer, -embeddings(1), ["0"])
    assert gallery.search(embeddings(1)[:, :4], "f", top=1)[0][0].id != "0"
    assert made == [4, 8, 4]


def test_a_reader_sees_what_another_process_replaced_and_deleted(gallery: Gallery, tmp_path: Path) -> None:
    reader, old = Gallery.open(tmp_path / "gallery"), embeddings(300)
    assert [hits[0].id for hits in reader.search(old[:3], "f", top=1)] == ["0", "1", "2"]
    add(gallery, embeddings(1, seed=4), ["0"])
    gallery.delete(["1"])
    add(gallery, embeddings(1, seed=5), ["other"])
    found = [hits[0].id for hits in reader.search(old[:3], "f", top=1)]
    assert found[0] != "0"
    assert found[1] != "1"
    assert found[2] == "2"
    fresh = np.concatenate([embeddings(1, seed=4), embeddings(1, seed=5)])
    assert [hits[0].id for hits in reader.search(fresh, "f", top=1)] == ["0", "other"]


def test_a_clock_that_goes_back_hides_nothing(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Gallery.open(tmp_path / "gallery")
    reader.search(embeddings(1), "f")
    monkeypatch.setattr("time.time", lambda: 1000.0)
    for writer in (gallery, Gallery.open(tmp_path / "gallery")):
        add(writer, embeddings(1, seed=4), ["7"])
        assert reader.search(embeddings(1, seed=4), "f", top=1)[0][0].id == "7"
        add(writer, embeddings(1, seed=5), ["7"])
        assert reader.search(embeddings(1, seed=4), "f", top=1)[0][0].score < 0.99


def test_a_gallery_of_the_first_format_is_refused(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string())], metadata={"fingerprint": "f"})
    lance.write_dataset(schema.empty_table(), tmp_path / "gallery.lance")
    with pytest.raises(SfscError, match="was written by an older sfsc: index again"):
        Gallery.open(tmp_path)


def old_gallery(directory: Path, **attributes: pa.Array) -> Any:
    """A table as the second format has it: three rows, and columns that are called as attributes are."""
    texts = {name: pa.array(["a", "b", "c"]) for name in ("id", "path", "identity", "camera")}
    columns = {
        **texts,
        "width": pa.array([0.5] * 3),
        "form": pa.array(["float32"] * 3),
        "fingerprint": pa.array(["f"] * 3),
        "time": pa.array([1.0, 2.0, 3.0]),
        **attributes,
    }
    rows = unit(embeddings(3))
    columns["embedding"] = pa.array([row.tobytes() for row in rows], pa.large_binary())
    metadata = {"gallery": json.dumps({"dimension": DIM, "fingerprint": "f", "format": 2, "dimensions": []})}
    table = pa.table(columns).replace_schema_metadata(metadata)
    return lance.write_dataset(table, directory / "gallery.lance")


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_gallery_of_the_second_format_is_read_and_written(tmp_path: Path) -> None:
    old_gallery(tmp_path, price=pa.array([1.5, None, 2.5]), action=pa.array([7, 8, 9]))
    gallery = Gallery.open(tmp_path)
    assert gallery.info().attributes == {"price": "number", "action": "integer"}
    assert [row["id"] for row in gallery.rows(["price>=2", "action=9"])] == ["c"]
    [[hit]] = gallery.search(embeddings(3)[1:2], "f", top=1)
    assert (hit.id, hit.attributes) == ("b", {"price": None, "action": 8})
    add(gallery, embeddings(1, seed=4), ["d"], attributes={"action": [0.5], "Action": ["x"]})
    kinds = {"price": "number", "action": "number", "Action": "text"}
    for now in (gallery, Gallery.open(tmp_path)):
        assert now.info().attributes == kinds
        assert sorted((row["id"], row["action"]) for row in now.rows()) == [
            *(("a", 7.0), ("b", 8.0), ("c", 9.0), ("d", 0.5))
        ]


@pytest.mark.parametrize("name", ["_rowid", "_rowaddr", "_rowoffset", "_row_created_at_version", "__action"])
def test_a_gallery_that_a_column_has_broken_is_healed(tmp_path: Path, name: str) -> None:
    old_gallery(tmp_path, price=pa.array([1, 2, 3])).add_columns(pa.schema([(name, pa.string())]))
    gallery = Gallery.open(tmp_path)
    assert gallery.info().attributes == {"price": "integer"}
    assert gallery.search(embeddings(3)[1:2], "f", top=1)[0][0].id == "b"
    add(gallery, embeddings(1, seed=4), ["d"], attributes={name: ["x"]})
    assert Gallery.open(tmp_path).search(embeddings(1, seed=4), "f", top=1)[0][0].attributes[name] == "x"


def test_what_an_add_leaves_behind_when_it_is_killed_is_no_column(gallery: Gallery, tmp_path: Path) -> None:
    table = tmp_path / "gallery" / "gallery.lance"
    lance.dataset(table).add_columns(pa.schema([(column_of("price"), pa.int64())]))
    assert gallery.info().attributes == {}
    assert gallery.search(embeddings(1), "f", top=1)[0][0].attributes == {}
    add(gallery, embeddings(1), ["0"], attributes={"price": ["cheap"]})
    assert gallery.info().attributes == {"price": "text"}


def test_an_add_that_fails_adds_no_column(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(lance.LanceDataset, "commit", fail)
    with pytest.raises(SfscError, match=r"cannot be written .*: free disk space"):
        add(gallery, embeddings(1), ["0"], attributes={"price": [1]})
    assert gallery.info().attributes == {}
    assert len(gallery) == 300


def test_doubles_are_named_and_healed(gallery: Gallery, tmp_path: Path) -> None:
    dataset = lance.dataset(tmp_path / "gallery" / "gallery.lance")
    again = dataset.to_table(filter="id IN ('3', '7')")
    newer = pa.array([2e9] * 2)
    dataset.insert(again.set_column(again.schema.get_field_index("time"), "time", newer))
    assert len(gallery) == 302
    assert gallery.info().duplicates == ("3", "7")
    gallery.optimize()
    assert gallery.info().duplicates == ()
    assert sorted(row["id"] for row in gallery.rows()) == sorted(map(str, range(300)))
    assert {row["id"] for row in gallery.rows(["time>=2000000000"])} == {"3", "7"}
    assert gallery.search(embeddings(300)[3:4], "f", top=2)[0][0].id == "3"


@pytest.mark.parametrize("processes", [False, True])
def test_two_writers_store_every_id_once(tmp_path: Path, processes: bool) -> None:
    Gallery.open(tmp_path, create=True)
    if processes:
        command = [sys.executable, "-c", RIVAL, str(tmp_path)]
        writers = [subprocess.Popen(command) for _ in range(2)]
        assert [writer.wait() for writer in writers] == [0, 0]
    else:
        threads = [threading.Thread(target=write_all, args=(tmp_path,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    gallery = Gallery.open(tmp_path)
    assert sorted(row["id"] for row in gallery.rows()) == sorted(str(row) for row in range(80))
    assert gallery.info().attributes == {"turn": "integer"}


def write_all(path: Path) -> None:
    gallery = Gallery.open(path, create=True)
    for start in range(0, 80, 8):
        names = [str(row) for row in range(start, start + 8)]
        add(gallery, embeddings(8, seed=start), names, attributes={"turn": [start] * 8})


@pytest.mark.parametrize("changes", [1, 20])
def test_a_gallery_that_is_replaced_while_it_is_open_is_answered_from(
    gallery: Gallery, tmp_path: Path, changes: int
) -> None:
    """By one of fewer versions, and by one of more."""
    path = tmp_path / "gallery"
    gallery.search(embeddings(1), "f")
    with Gallery.open(tmp_path / "new", create=True) as new:
        for _ in range(changes):
            new.add(embeddings(2)[:, :8], ["x", "y"], paths=["x", "y"], width=1.0, fingerprint="g")
    path.rename(tmp_path / "old")
    with pytest.raises(SfscError, match="is not a gallery: it is empty"):
        gallery.search(embeddings(1), "f")
    (tmp_path / "new").rename(path)
    assert {hit.id for hit in gallery.search(embeddings(1)[:, :8], "g")[0]} == {"x", "y"}
    with pytest.raises(SfscError, match="belongs to the family g"):
        gallery.search(embeddings(1), "f")
    assert gallery.info().rows == 2


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "lost+found", "notes.txt"])
def test_other_files_beside_the_table_do_not_matter(gallery: Gallery, tmp_path: Path, name: str) -> None:
    (tmp_path / "gallery" / name).mkdir()
    assert len(Gallery.open(tmp_path / "gallery")) == 300


def test_many_small_adds_are_compacted(tmp_path: Path) -> None:
    gallery = Gallery.open(tmp_path, create=True)
    for batch in range(70):
        add(gallery, embeddings(2, seed=batch), [f"{batch}-0", f"{batch}-1"])
    assert len(Gallery.open(tmp_path)) == 140
    assert gallery.search(embeddings(2, seed=3)[1:], "f", top=1)[0][0].id == "3-1"


def test_a_missing_directory_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(SfscError, match=f"gallery {tmp_path / 'none'} does not exist"):
        Gallery.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_is_no_gallery_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(SfscError, match=f"{tmp_path} is not a gallery"):
        Gallery.open(tmp_path)
    (tmp_path / "cat.png").touch()
    for path in (tmp_path, tmp_path / "cat.png"):
        with pytest.raises(SfscError, match=f"{path} is not a gallery"):
            Gallery.open(path, create=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cat.png"]


def test_a_table_of_another_program_is_refused(tmp_path: Path) -> None:
    lance.write_dataset(pa.table({"id": ["a"]}), tmp_path / "gallery.lance")
    with pytest.raises(SfscError, match="is not a gallery: another program wrote its table"):
        Gallery.open(tmp_path, create=True)


DEEP = "[" * 100_000
GOOD = {"dimension": DIM, "fingerprint": "f", "format": 3, "dimensions": []}


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "null",
        "[]",
        DEEP,
        '{"a":' * 50_000,
        json.dumps(GOOD | {"format": "3"}),
        json.dumps(GOOD | {"format": 5}),
        json.dumps(GOOD | {"dimension": -1}),
        json.dumps(GOOD | {"dimension": 10**30}),
        json.dumps(GOOD | {"dimension": "16"}),
        json.dumps(GOOD | {"dimension": True}),
        json.dumps(GOOD | {"dimensions": 5}),
        json.dumps(GOOD | {"dimensions": ["x"]}),
        json.dumps(GOOD | {"fingerprint": 5}),
        json.dumps(GOOD | {"fingerprint": "\ud800"}),
        json.dumps({"dimension": DIM}),
    ],
)
def test_a_hostile_description_is_one_line(tmp_path: Path, metadata: str) -> None:
    dataset = old_gallery(tmp_path)
    dataset.update_schema_metadata({"gallery": metadata})
    with pytest.raises(SfscError) as caught:
        Gallery.open(tmp_path).search(embeddings(1), "f")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "embedding"), [("int4", b"\0" * 64), ("float32", b"\0" * 63), ("int8", b"")]
)
def test_hostile_rows_are_one_line(tmp_path: Path, form: str, embedding: bytes) -> None:
    dataset = old_gallery(tmp_path)
    table = dataset.to_table()
    for name, value in (
        ("form", pa.array([form] * 3)),
        ("embedding", pa.array([embedding] * 3, "large_binary")),
    ):
        table = table.set_column(table.schema.get_field_index(name), name, value)
    lance.write_dataset(table, tmp_path / "gallery.lance", mode="overwrite")
    gallery = Gallery.open(tmp_path)
    with pytest.raises(SfscError, match="cannot be read"):
        gallery.search(embeddings(1), "f")
    with pytest.raises(SfscError, match="cannot be read"):
        list(gallery.rows(embeddings=True))


@pytest.mark.parametrize("part", ["_versions", "data"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_named_in_one_line(
    gallery: Gallery, tmp_path: Path, part: str, damage: str
) -> None:
    for file in (tmp_path / "gallery" / "gallery.lance" / part).iterdir():
        spoil(file, damage)
    with pytest.raises(SfscError, match=str(tmp_path / "gallery")) as caught:
        Gallery.open(tmp_path / "gallery").search(embeddings(1), "f")
    assert "\n" not in str(caught.value)


def test_a_creation_that_was_cut_short_is_taken_up(tmp_path: Path) -> None:
    add(Gallery.open(tmp_path, create=True), embeddings(3))
    for part in ("_versions", "data"):
        shutil.rmtree(tmp_path / "gallery.lance" / part)
    with pytest.raises(SfscError, match="it is empty"):
        Gallery.open(tmp_path)
    gallery = Gallery.open(tmp_path, create=True)
    assert (add(gallery, embeddings(5)), len(gallery)) == (5, 5)


def test_acknowledged_rows_outlive_a_killed_writer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "gallery")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 12:
                writer.send_signal(signal.SIGKILL)
                break
        done = 12 + len(writer.stdout.read().split())
    gallery = Gallery.open(tmp_path / "gallery")
    assert len(gallery) in (50 * (done + 1), 50 * (done + 2))
    for batch in range(done + 1):
        rows = np.random.default_rng(batch).standard_normal((50, DIM)).astype(np.float32)
        found = [hits[0].id for hits in gallery.search(rows, "f", top=1)]
        assert found == [f"{batch}-{row}" for row in range(50)]
    stored = len(gallery)
    add(gallery, embeddings(1, seed=5), ["0-0"])
    assert len(gallery) == stored


def test_a_full_disk_loses_nothing_stored(gallery: Gallery, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "gallery")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"gallery {tmp_path / 'gallery'} cannot be written")
    assert said.count("\n") == 1
    assert len(Gallery.open(tmp_path / "gallery")) == 300
    assert gallery.search(embeddings(300)[7:8], "f", top=1)[0][0].id == "7"


def test_without_lance_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    for module in ("lance", "lance_table"):
        monkeypatch.delitem(sys.modules, f"sfsc.gallery.{module}", raising=False)
    with pytest.raises(SfscError, match=r"sfsc\[gallery\]"):
        Gallery.open(tmp_path, create=True)


def test_old_versions_are_kept_for_as_long_as_was_said(gallery: Gallery, tmp_path: Path) -> None:
    def versions() -> int:
        return len(lance.dataset(tmp_path / "gallery" / "gallery.lance").versions())

    add(gallery, embeddings(1), ["0"])
    gallery.optimize()
    assert versions() > 2, "for a minute at first"
    gallery.optimize(keep=0)
    assert versions() == 1
    add(gallery, embeddings(1), ["0"])
    Gallery.open(tmp_path / "gallery").optimize()
    assert versions() <= 2, "other writers do as well"
    gallery.optimize(keep=3600)
    add(gallery, embeddings(1), ["0"])
    gallery.optimize()
    assert versions() > 2


def test_many_single_changes_leave_a_small_folder(gallery: Gallery, tmp_path: Path) -> None:
    def size() -> int:
        return sum(file.stat().st_size for file in (tmp_path / "gallery").rglob("*") if file.is_file())

    gallery.optimize(keep=0)
    fresh = size()
    for number in range(300):
        add(gallery, embeddings(1, seed=number), [str(number)])
    assert size() < 20 * fresh, "a version takes as much as a few rows, and the last 256 of them are here"
    gallery.optimize()
    assert size() < 1.5 * fresh
    assert len(gallery) == 300
