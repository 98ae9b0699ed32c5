"""Writing files so that a crash or a full disk leaves the old one whole."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sfsc.errors import SfscError
from sfsc.files.json_text import parse_json

try:
    import fcntl
except ImportError:  # not on Windows: there, what a killed process leaves behind stays
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished"
LEFT_BEHIND = f".*{'[0-9a-f]' * 8}{UNFINISHED}"  # a token of hexadecimal digits ends their names
MOST_BYTES = 64 << 20  # of a JSON file


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file to write; it takes the place of the one at `path` once the context ends without error.

    It is written under another name in the same folder, which is made if it is missing. It is synced to the
    disk before it takes its place, and the folder after that. It has the permissions of the file that it
    replaces, or those of any new file. What killed writers have left in the folder is removed.

    Raises:
        SfscError: the disk is full or not writable; what was at `path` is still there.
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
        _sync_folder(path.parent)
    except OSError as error:
        kept = "; the previous file is unchanged" if path.exists() else ""
        raise SfscError(
            f"cannot write {path}: {error.strerror or error}{kept}; free disk space there and run the "
            "command again"
        ) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`, durably and all at once; as `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_with(path: Path, data: bytes, others: Mapping[Path, bytes | None]) -> None:
    """Replace the file at `path` together with others that belong to what it holds; as `replacing`.

    All are written under other names first. Then the old ones of the others are removed, `path` is replaced,
    and last the others come; one that is None stays away. Where that is cut, `path` holds what it did or
    `data`, and each of the others belongs to it or is missing.
    """
    with ExitStack() as stack:
        for name, content in {**others, path: data}.items():  # they take their places in reverse order
            if content is not None:
                file = stack.enter_context(replacing(name))
                file.write(content)
                file.flush()
        for name in others:
            name.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; as `replacing`."""
    write_atomic(path, as_json(value))


def as_json(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2) + "\n").encode()


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """Return the value of a JSON file, as `parse_json` does.

    Raises:
        SfscError: it cannot be read, has more than `most` bytes, or is damaged.
    """
    try:
        return parse_json(read_bytes(path, most))
    except ValueError as error:
        raise SfscError(f"{path} is damaged: {error}") from None


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return what a file of text holds; SfscError where it cannot be read, or has more than `most` bytes."""
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
    """A new file in the folder of `path`, and its name; it is locked while its writer lives."""
    while True:
        unfinished = path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")
        file = unfinished.open("xb")
        if fcntl is None:
            break
        with suppress(OSError):  # a file system without locks: there, too, what is left behind stays
            fcntl.flock(file, fcntl.LOCK_EX)
        if unfinished.exists():  # else another writer has taken it for one that was left behind
            break
        file.close()
    with suppress(FileNotFoundError):
        unfinished.chmod(stat.S_IMODE(path.stat().st_mode))
    return file, unfinished


def _make_folder(folder: Path) -> None:
    """Make a folder that is missing, durably, and those above it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _remove_left_behind(folder: Path) -> None:
    """Remove what killed writers have left in a folder: the unfinished files that nobody has locked."""
    if fcntl is None:
        return
    for name in folder.glob(LEFT_BEHIND):
        with suppress(OSError), name.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            name.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system does that on request."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
