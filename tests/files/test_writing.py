"""Files are replaced as a whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from sfsc.errors import SfscError
from sfsc.files.writing import read_json, replacing, write_atomic, write_json, write_with
from tests.cutting import cuts
from tests.files.json_values import JSON

KILLED = """
import os, signal, sys
from pathlib import Path
from sfsc.files.writing import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from sfsc.errors import SfscError
from sfsc.files.writing import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), b"new" * 1000)
except SfscError as error:
    print(error)
"""


def fail(number: int) -> Callable[..., None]:
    def raising(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return raising


def test_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "file"
    for data in (b"first, and longer", b"second", b""):
        write_atomic(path, data)
        assert path.read_bytes() == data
        assert [file.name for file in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_of_any_and_an_old_one_keeps_its(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "new", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == mode
    (tmp_path / "new").chmod(0o640)
    write_atomic(tmp_path / "new", b"y")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_writer_leaves_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "fi[l]e"
    command = [sys.executable, "-c", KILLED, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert left.name.endswith(".unfinished")
    with replacing(path) as living:
        assert not left.exists()
        living.write(b"slow")
        write_atomic(path, b"quick")
        write_atomic(tmp_path / "other", b"other")
        assert path.read_bytes() == b"quick"
    assert path.read_bytes() == b"slow"
    assert {file.name for file in tmp_path.iterdir()} == {"fi[l]e", "other"}


def test_a_writer_removes_what_killed_writers_of_any_file_have_left(tmp_path: Path) -> None:
    for number in cuts(lambda: None, lambda: write_atomic(tmp_path / "one", b"one")):
        assert not (tmp_path / "one").exists(), number
        mine = tmp_path / ".novel.unfinished"
        mine.touch()
        (tmp_path / ".one.0123abcd.unfinished").touch()  # as earlier versions call theirs
        write_atomic(tmp_path / "other", b"other")
        assert {*tmp_path.iterdir()} == {tmp_path / "other", mine}
        (tmp_path / "other").unlink()


def test_files_that_belong_together_never_contradict_each_other(tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("main", "first", "second", "gone")]

    def write(content: bytes) -> None:
        main, first, second, gone = names
        write_with(
            main, content, {first: content, second: content, gone: b"old" if content == b"old" else None}
        )

    seen = set()
    for number in cuts(lambda: write(b"old"), lambda: write(b"new")):
        main, *others = (name.read_bytes() if name.exists() else None for name in names)
        assert main in (b"old", b"new"), number
        assert {*others} <= {main, None}, number
        seen.add((main, *others))
    assert {main for main, *_ in seen} == {b"old", b"new"}
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == dict.fromkeys(
        ("main", "first", "second"), b"new"
    )


def test_a_disk_without_room_for_all_leaves_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main, other = tmp_path / "main", tmp_path / "other"
    write_with(main, b"old", {other: b"old"})
    tokens = iter("ab")
    with monkeypatch.context() as patched:
        patched.setattr("secrets.token_hex", lambda _: next(tokens))
        (tmp_path / ".b.unfinished").mkdir()  # the second one cannot be made
        with pytest.raises(SfscError, match=f"cannot write {main}: .*; the previous file is unchanged"):
            write_with(main, b"new", {other: b"new"})
    assert (main.read_bytes(), other.read_bytes()) == (b"old", b"old")


def test_folders_that_are_made_are_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    write_atomic(tmp_path / "a" / "b" / "file", b"x")
    folders = [path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert [inode for inode in synced if inode in folders] == folders


def test_file_and_folder_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    write_atomic(tmp_path / "file", b"x")
    assert synced == [False, True]


@pytest.mark.parametrize(
    ("where", "number", "reason"),
    [
        ("os.fsync", errno.ENOSPC, "No space left on device"),
        ("pathlib.Path.replace", errno.EIO, "Input/output error"),
        ("pathlib.Path.open", errno.EROFS, "Read-only file system"),
    ],
)
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failure_at_any_step_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int, reason: str, old: bytes | None
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    monkeypatch.setattr(where, fail(number))
    with pytest.raises(SfscError) as caught:
        write_atomic(path, b"new")
    monkeypatch.undo()
    message = str(caught.value)
    assert f"cannot write {path}: {reason}" in message
    assert "\n" not in message
    assert ("the previous file is unchanged" in message) == (old is not None)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({"file": old} if old else {})


def test_an_interruption_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"old"}


def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert f"cannot write {path}: File too large; the previous file is unchanged" in done.stdout
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"old"}


def test_data_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda handle: (steps.append("sync"), sync(handle))[1])
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda path, target: (steps.append("replace"), replace(path, target))[1]
    )
    write_atomic(tmp_path / "file", b"data")
    assert steps[:2] == ["sync", "replace"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(SfscError, match=r"cannot write .*file/inner: "):
        write_atomic(tmp_path / "file" / "inner", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


@settings(max_examples=25, deadline=None)
@given(value=JSON)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert json.loads(path.read_text()) == value


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(SfscError, match=r"value\.json is damaged: it is not JSON"):
        read_json(path)
    path.unlink()
    with pytest.raises(SfscError, match=r"cannot read .*value\.json: No such file"):
        read_json(path)
