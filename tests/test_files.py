"""Files are replaced as a whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfsc.errors import SfscError
from sfsc.files import read_json, write_atomic, write_json

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from sfsc.errors import SfscError
from sfsc.files import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), b"new" * 1000)
except SfscError as error:
    print(error)
"""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


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
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("where", "number", "reason"),
    [
        ("os.fsync", errno.ENOSPC, "No space left on device"),
        ("os.fdopen", errno.EMFILE, "Too many open files"),
        ("pathlib.Path.chmod", errno.EPERM, "Operation not permitted"),
        ("pathlib.Path.replace", errno.EIO, "Input/output error"),
        ("tempfile.mkstemp", errno.EROFS, "Read-only file system"),
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
    assert ("the previous file is unharmed" in message) == (old is not None)
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
    assert f"cannot write {path}: File too large; the previous file is unharmed" in done.stdout
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
