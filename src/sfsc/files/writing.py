"""Writing files so that a crash or a full disk leaves the old file intact."""

from __future__ import annotations

import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sfsc.errors import SfscError
from sfsc.files.json_text import parse_json

if sys.platform != "win32":  # on Windows, files that a killed process leaves behind are not removed
    import fcntl

UNFINISHED = ".unfinished"
LEFT_BEHIND = f".*{'[0-9a-f]' * 8}{UNFINISHED}"  # names end with a token of hexadecimal digits
MOST_BYTES = 64 << 20  # of a JSON file


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file to write, which replaces the file at `path` when the context ends without an error.

    The file is written under another name in the same folder, which is created if it is missing. The file is
    synced to the disk before it is renamed, and the folder afterwards. The new file has the permissions of
    the file that it replaces, or those of a new file. Files that killed writers left in the folder are
    removed.

    Raises:
        SfscError: the disk is full or not writable; the file at `path` is unchanged.
    """
    try:
        _make_folder(path.parent)
        _remove_left_behind(path.parent)
        file, unfinished = _create_beside(path)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        kept = "; the previous file is unchanged" if path.exists() else ""
        raise SfscError(
            f"cannot write {path}: {error.strerror or error}{kept}; free disk space there and run the "
            "command again"
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the contents of the file at `path` durably and atomically, as `replacing` does."""
    with replacing(path) as file:
        file.write(data)


def write_with(path: Path, data: bytes, others: Mapping[Path, bytes | None]) -> None:
    """Replace the file at `path` together with other files that belong to it, as `replacing` does.

    All files are written under other names first. Then the old versions of the other files are removed,
    `path` is replaced, and the other files are renamed last; a file whose contents are None is only removed.
    If this is interrupted, `path` has its old or its new contents, and each of the other files belongs to
    them or is missing.
    """
    with ExitStack() as stack:
        for name, content in {**others, path: data}.items():  # they are renamed in reverse order
            if content is not None:
                file = stack.enter_context(replacing(name))
                file.write(content)
                file.flush()
        for name in others:
            name.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, as `replacing` does."""
    write_atomic(path, as_json(value))


def as_json(value: Any) -> bytes:
    """Return the bytes that `write_json` writes."""
    return (json.dumps(value, indent=2) + "\n").encode()


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """Read a JSON file with `parse_json`.

    Raises:
        SfscError: the file cannot be read, has more than `most` bytes, or is damaged.
    """
    try:
        return parse_json(read_bytes(path, most))
    except ValueError as error:
        raise SfscError(f"{path} is damaged: {error}") from None


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file; raise `SfscError` if it cannot be read or has more than `most` bytes."""
    try:
        with path.open("rb") as file:
            too_long = os.fstat(file.fileno()).st_size > most
            data = b"" if too_long else file.read(most + 1)
    except OSError as error:
        raise SfscError(f"cannot read {path}: {error.strerror}") from None
    if too_long or len(data) > most:
        raise SfscError(f"{path} is damaged: it has more than {most:,} bytes")
    return data


def _create_beside(path: Path) -> tuple[BinaryIO, Path]:
    """Create a file in the folder of `path`, locked while its writer lives; return it and its name."""
    while True:
        unfinished = path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")
        file = unfinished.open("xb")
        if sys.platform == "win32":
            break
        with suppress(OSError):  # on a file system without locks, leftover files are not removed either
            fcntl.flock(file, fcntl.LOCK_EX)
        if unfinished.exists():  # otherwise another writer has removed it as a leftover file
            break
        file.close()
    with suppress(FileNotFoundError):
        unfinished.chmod(stat.S_IMODE(path.stat().st_mode))
    return file, unfinished


def _make_folder(folder: Path) -> None:
    """Create a missing folder and its parents durably."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _remove_left_behind(folder: Path) -> None:
    """Remove the files that killed writers left in a folder: unfinished files without a lock."""
    if sys.platform == "win32":
        return
    for name in folder.glob(LEFT_BEHIND):
        with suppress(OSError), name.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            name.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable if the file system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
