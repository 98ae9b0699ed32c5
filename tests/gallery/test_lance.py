"""The gallery in a directory: what is particular to LanceDB, damage, death and other processes."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.memory import MemoryIndex

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
    shortened = MemoryIndex.shortened

    def count(index: MemoryIndex, dimension: int) -> MemoryIndex:
        made.append(dimension)
        return shortened(index, dimension)

    monkeypatch.setattr(MemoryIndex, "shortened", count)
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
    lancedb.connect(tmp_path).create_table("gallery", schema=schema)
    with pytest.raises(SfscError, match="was written by an older sfsc: index again"):
        Gallery.open(tmp_path)


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
    lancedb.connect(tmp_path).create_table("gallery", [{"id": "a"}])
    with pytest.raises(SfscError, match="is not a gallery: its table is of another program"):
        Gallery.open(tmp_path, create=True)


@pytest.mark.parametrize("part", ["_versions", "data"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "zeroed", "removed"])
def test_a_damaged_table_is_named_in_one_line(
    gallery: Gallery, tmp_path: Path, part: str, damage: str
) -> None:
    for file in (tmp_path / "gallery" / "gallery.lance" / part).iterdir():
        content = file.read_bytes()
        if damage == "removed":
            file.unlink()
        else:
            left = {"truncated": content[: len(content) // 2], "emptied": b"", "zeroed": bytes(len(content))}
            file.write_bytes(left[damage])
    with pytest.raises(SfscError, match=str(tmp_path / "gallery")) as caught:
        Gallery.open(tmp_path / "gallery").search(embeddings(1), "f")
    assert "\n" not in str(caught.value)


def test_a_creation_that_was_cut_short_is_taken_up(tmp_path: Path) -> None:
    add(Gallery.open(tmp_path, create=True), embeddings(3))
    for part in ("_versions", "data"):
        shutil.rmtree(tmp_path / "gallery.lance" / part)
    with pytest.raises(SfscError, match="nothing was ever stored"):
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


def test_without_lancedb_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    monkeypatch.delitem(sys.modules, "sfsc.gallery.lance", raising=False)
    with pytest.raises(SfscError, match=r"sfsc\[gallery\]"):
        Gallery.open(tmp_path, create=True)
