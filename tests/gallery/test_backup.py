"""Backups: consistent while others write, complete or recognised as incomplete, and restored whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from sfsc.errors import SfscError
from sfsc.gallery import Gallery, backup
from sfsc.gallery.backup import restore

DIM, ROWS = 16, 60
WRITER = """
import sys
import numpy as np
from sfsc.gallery import Gallery, upkeep
upkeep.KEPT_AT_FIRST, upkeep.MOST_SMALL = 0.0, 3
gallery = Gallery.open(sys.argv[1], create=True)
for batch in range(10**6):
    names = [f"{batch}-{row}" for row in range(20)]
    rows = np.random.default_rng(batch).standard_normal((20, 16)).astype(np.float32)
    gallery.add(rows, names, paths=names, width=0.5, fingerprint="f")
    print(batch, flush=True)
"""
CUT = """
import shutil, sys
from pathlib import Path
from sfsc.gallery import Gallery
from sfsc.gallery.backup import restore
from tests.cutting import cuts
what, source, out = sys.argv[1], *map(Path, sys.argv[2:])
def prepare():
    shutil.rmtree(out, ignore_errors=True)
def action():
    Gallery.open(source).backup(out) if what == "backup" else restore(source, out)
for number in cuts(prepare, action):
    if out.exists():
        shutil.copytree(out, f"{out}-{number}")
"""
FULL_DISK = """
import resource, signal, sys
from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.backup import restore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
what, source, out = sys.argv[1:]
gallery = Gallery.open(source) if what == "backup" else None
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
try:
    gallery.backup(out) if gallery else restore(source, out)
except SfscError as error:
    print(error)
"""


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def add(gallery: Gallery, names: list[str], seed: int = 0) -> None:
    rows = embeddings(len(names), seed)
    gallery.add(rows, names, paths=names, width=0.5, fingerprint="f", attributes={"n": names})


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """A gallery with two files, a deletion and a new column."""
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    add(gallery, [str(row) for row in range(ROWS)])
    gallery.add(embeddings(2, 5), ["x", "0"], paths=["x", "y"], width=1, fingerprint="f", form="int8")
    gallery.delete(["5"])
    return gallery


@pytest.fixture
def copy(gallery: Gallery, tmp_path: Path) -> Path:
    """A complete backup."""
    gallery.backup(tmp_path / "backup")
    return tmp_path / "backup"


def rows_of(gallery: Gallery) -> dict[str, dict[str, Any]]:
    found = {row["id"]: row for row in gallery.rows(embeddings=True)}
    return {id_: {**row, "embedding": row["embedding"].tolist()} for id_, row in found.items()}


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_restored_gallery_has_the_same_rows_and_can_be_written_to(gallery: Gallery, tmp_path: Path) -> None:
    before = rows_of(gallery)
    assert gallery.backup(tmp_path / "b" / "backup") == ROWS
    add(gallery, ["late"])
    assert restore(tmp_path / "b" / "backup", tmp_path / "c" / "restored") == ROWS
    again = Gallery.open(tmp_path / "c" / "restored")
    assert rows_of(again) == before
    assert again.info().attributes == {"n": "text"}
    add(again, ["new"], seed=9)
    assert again.search(embeddings(1, 9), "f", top=1)[0][0].id == "new"
    gallery.optimize()
    assert len(gallery) == ROWS + 1
    assert "late" not in rows_of(again)


def test_a_gallery_is_restored_into_its_emptied_folder(gallery: Gallery, copy: Path, tmp_path: Path) -> None:
    gallery.search(embeddings(1), "f")
    before = rows_of(gallery)
    shutil.rmtree(tmp_path / "gallery" / "gallery.lance")
    assert restore(copy, tmp_path / "gallery") == ROWS
    assert rows_of(gallery) == before, "a gallery that was open sees it"
    assert not (tmp_path / "gallery" / ".restored").exists()


def test_what_exists_is_never_overwritten(gallery: Gallery, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cat.png").touch()
    before = rows_of(gallery)
    with pytest.raises(SfscError, match="backup already contains a backup: choose another folder"):
        gallery.backup(copy)
    for folder in (tmp_path / "gallery", tmp_path / "other"):
        with pytest.raises(SfscError, match=r"is not empty, but contains .*: choose another folder"):
            gallery.backup(folder)
        with pytest.raises(SfscError, match=r"is not empty, but contains .*: choose another folder"):
            restore(copy, folder)
    with pytest.raises(SfscError, match="is not a gallery"):
        Gallery.open(copy, create=True)
    with pytest.raises(SfscError, match=r"is not a backup: it contains no backup\.json"):
        restore(tmp_path / "gallery", tmp_path / "new")
    with pytest.raises(SfscError, match="is not a backup"):
        restore(tmp_path / "none", tmp_path / "new")
    with pytest.raises(SfscError, match="give the path of a folder as --to"):
        restore(copy, "milvus://localhost:19530/rows")
    with pytest.raises(SfscError, match="contains no rows to back up"):
        Gallery.open(tmp_path / "new", create=True).backup(tmp_path / "newer")
    assert rows_of(gallery) == before
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "newer").exists()


def test_milvus_has_backups_of_its_own(tmp_path: Path) -> None:
    with Gallery.open(f"milvus://{tmp_path}/gallery.db/rows", create=True) as gallery:
        add(gallery, ["a"])
        assert gallery.verify() == (1, ())
        with pytest.raises(SfscError, match=r"back it up with milvus-backup, or .* `sfsc gallery export`"):
            gallery.backup(tmp_path / "backup")


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "removed", "replaced"])
@pytest.mark.parametrize("part", ["data", "_versions", "_deletions"])
def test_a_damaged_backup_is_not_restored(copy: Path, tmp_path: Path, part: str, damage: str) -> None:
    file = next((copy / "gallery.backup" / part).iterdir())
    content = file.read_bytes()
    file.unlink()
    if damage == "replaced":
        os.mkfifo(file)
    elif damage != "removed":
        file.write_bytes({"truncated": content[:-9], "zeroed": bytes(len(content))}[damage])
    with pytest.raises(SfscError, match=str(copy)) as caught:
        restore(copy, tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert file.name in str(caught.value)
    with pytest.raises(SfscError, match="it is empty"):
        Gallery.open(tmp_path / "new")
    assert not (tmp_path / "new" / ".restored").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../x": [1, "00"]}},
        {"files": {"/etc/passwd": [1, "00"]}},
        {"files": {"data/../../x": [1, "00"]}},
        {"files": {"data/x": [-1, "00"]}},
        {"files": {"data/x": ["1", "00"]}},
        {"files": []},
        {"format": 2},
        {"format": "1"},
        {"rows": None},
        {"more": 1},
    ],
)
def test_a_hostile_list_is_one_line(copy: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    listed = json.loads((copy / "backup.json").read_text())
    if isinstance(change.get("files"), dict):
        change = {"files": listed["files"] | change["files"]}
    (copy / "backup.json").write_text(json.dumps(listed | change))
    with pytest.raises(SfscError, match=str(copy)) as caught:
        restore(copy, tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) in (
        ["backup", "gallery"],
        ["backup", "gallery", "new"],
    )


def test_rows_that_are_not_those_of_the_list_are_refused(copy: Path, tmp_path: Path) -> None:
    listed = json.loads((copy / "backup.json").read_text())
    (copy / "backup.json").write_text(json.dumps(listed | {"rows": 1}))
    with pytest.raises(SfscError, match=r"is damaged: backup.json was changed"):
        restore(copy, tmp_path / "new")


def test_a_damaged_gallery_is_not_backed_up(gallery: Gallery, tmp_path: Path) -> None:
    file = next((tmp_path / "gallery" / "gallery.lance" / "data").iterdir())
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(SfscError, match=rf"{file.name} is damaged: it has .* instead of"):
        gallery.backup(tmp_path / "backup")
    file.unlink()
    with pytest.raises(SfscError, match=file.name):
        gallery.backup(tmp_path / "backup")
    with pytest.raises(SfscError, match="is not a backup"):
        restore(tmp_path / "backup", tmp_path / "new")


def test_a_second_process_does_not_write_into_the_same_backup(gallery: Gallery, tmp_path: Path) -> None:
    with (
        backup._claimed(tmp_path / "backup"),
        pytest.raises(SfscError, match="another process writes a backup into"),
    ):
        Gallery.open(tmp_path / "gallery").backup(tmp_path / "backup")


def test_an_interrupted_backup_of_another_gallery_is_no_part_of_this_one(
    gallery: Gallery, copy: Path, tmp_path: Path
) -> None:
    """Its newest version has a larger number than the gallery that has taken the place of the first."""
    (copy / "backup.json").unlink()
    shutil.rmtree(tmp_path / "gallery" / "gallery.lance")
    add(Gallery.open(tmp_path / "gallery", create=True), ["a", "b"], seed=3)
    assert gallery.backup(copy) == 2
    assert restore(copy, tmp_path / "new") == 2
    assert rows_of(Gallery.open(tmp_path / "new")) == rows_of(gallery)


def test_writers_wait_for_a_copy_that_cannot_keep_up(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, version, tries = tmp_path / "gallery" / "gallery.lance", backup._version, []

    def replaced(folder: Path) -> Any:
        found = version(folder)
        if folder == table and len(tries) < backup.TRIES:
            tries.append(folder)
            add(gallery, [f"late {len(tries)}"])
            lance.dataset(table).optimize.compact_files()
            lance.dataset(table).cleanup_old_versions(retain_versions=1)
        return found

    monkeypatch.setattr(backup, "_version", replaced)
    assert gallery.backup(tmp_path / "backup") == ROWS + backup.TRIES


def test_files_that_vanish_are_followed_to_the_newest_version(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the copy, a writer replaces all files and removes the old ones."""
    table = tmp_path / "gallery" / "gallery.lance"
    copied, left = backup._copy, [2, 1]

    def disturbed(source: Path, *more: Any) -> Any:
        if source.parent.name == "data" and left:
            add(gallery, [f"late {left.pop()}"])
            lance.dataset(table).optimize.compact_files()
            lance.dataset(table).cleanup_old_versions(retain_versions=1)
        yield from copied(source, *more)

    monkeypatch.setattr(backup, "_copy", disturbed)
    assert gallery.backup(tmp_path / "backup") == ROWS + 2
    monkeypatch.undo()
    assert {path.name for path in (tmp_path / "backup" / "gallery.backup" / "data").iterdir()} == {
        path.name for path in (table / "data").iterdir()
    }, "no file of an older version is left"
    restore(tmp_path / "backup", tmp_path / "new")
    assert rows_of(Gallery.open(tmp_path / "new")) == rows_of(gallery)


@pytest.mark.slow
def test_backups_beside_a_writer_are_consistent(tmp_path: Path) -> None:
    """The writer compacts and removes old files all the time; every backup has its first k adds."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "gallery")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as writer:
        assert writer.stdout is not None
        for number in range(6):
            done = int(writer.stdout.readline())
            rows = Gallery.open(tmp_path / "gallery").backup(tmp_path / f"backup {number}")
            assert rows % 20 == 0
            assert rows >= 20 * (done + 1)
            assert restore(tmp_path / f"backup {number}", tmp_path / f"new {number}") == rows
            names = {row["id"] for row in Gallery.open(tmp_path / f"new {number}").rows()}
            assert names == {f"{batch}-{row}" for batch in range(rows // 20) for row in range(20)}
        writer.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_a_backup_that_is_killed_anywhere_is_incomplete_and_continues(
    gallery: Gallery, tmp_path: Path
) -> None:
    run(CUT, "backup", tmp_path / "gallery", tmp_path / "backup")
    cut = sorted(tmp_path.glob("backup-*"))
    assert len(cut) > 10
    for folder in cut:
        complete = (folder / "backup.json").exists()
        if not complete:
            with pytest.raises(SfscError, match=r"is incomplete|is not a backup"):
                restore(folder, tmp_path / "new")
            assert gallery.backup(folder) == ROWS
        assert not [*folder.rglob("*.unfinished")]
        assert restore(folder, tmp_path / f"new {folder.name}") == ROWS
        assert rows_of(Gallery.open(tmp_path / f"new {folder.name}")) == rows_of(gallery)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_restore_that_is_killed_anywhere_leaves_no_gallery_and_is_repeated(
    gallery: Gallery, copy: Path, tmp_path: Path
) -> None:
    run(CUT, "restore", copy, tmp_path / "new")
    cut = sorted(tmp_path.glob("new-*"))
    assert len(cut) > 10
    for folder in cut:
        if (folder / "gallery.lance").exists():
            assert rows_of(Gallery.open(folder)) == rows_of(gallery)
            continue
        with pytest.raises(SfscError, match="it is empty"):
            Gallery.open(folder)
        assert restore(copy, folder) == ROWS
        assert rows_of(Gallery.open(folder)) == rows_of(gallery)
        assert not (folder / ".restored").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_full_disk_is_one_line(gallery: Gallery, copy: Path, tmp_path: Path, what: str) -> None:
    source = tmp_path / "gallery" if what == "backup" else copy
    said = run(FULL_DISK, what, source, tmp_path / "new")
    assert said.startswith(f"cannot write {tmp_path / 'new'}")
    assert said.count("\n") == 1
    assert "free disk space" in said
    if what == "backup":
        assert gallery.backup(tmp_path / "new") == ROWS
    else:
        assert restore(copy, tmp_path / "new") == ROWS
