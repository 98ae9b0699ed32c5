"""Backups of a gallery: a consistent copy that is made while others write, and its restoration.

A backup is a folder with the files of one version of the gallery's table and, written last, `backup.json`,
which lists them with their digests. Without it, the backup is incomplete.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sfsc.data.walking import is_system_entry
from sfsc.errors import SfscError, one_line
from sfsc.files.schema import conform
from sfsc.files.writing import read_json, replacing, sync_folder, write_json
from sfsc.gallery.lance_reading import DAMAGE, files_of
from sfsc.gallery.lance_table import LOCK, TABLE, LanceTable
from sfsc.gallery.milvus_address import is_milvus
from sfsc.interruption import going_on
from sfsc.progress import track

LIST, FILES = "backup.json", "gallery.backup"
RESTORED = ".restored"  # in the folder of a gallery: files that are being restored
FORMAT = 1
MANIFESTS = "_versions/"
TRIES = 5  # before writers must wait
CHUNK = 1 << 24
NAME = re.compile(r"(?:[A-Za-z0-9_-]+/)+[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Backup:
    """The contents of `backup.json`: the size in bytes and the SHA-256 digest of each file, by its name."""

    format: int
    rows: int
    files: Mapping[str, tuple[int, str]]


def backup_table(table: LanceTable, out: Path) -> int:
    """Copy the current version of a table into a new folder; see `Gallery.backup`.

    Writers can remove the files of a version at any time. If one is missing, the copy continues with the
    newest version, which shares most files with the previous one. After some tries, writers wait for it.
    """
    copies = out / FILES
    with _claimed(out), going_on("run the same command again to continue"):
        done: dict[str, tuple[int, str]] = {}
        for waiting in range(TRIES + 1):
            with table.writing() if waiting == TRIES else nullcontext():
                try:
                    sizes, rows = _version(table.directory / TABLE)
                    _copy_all(table.directory / TABLE, copies, sizes, done)
                    done = {name: done[name] for name in sizes}
                    _remove_others(copies, done)
                    if _version(copies)[0].keys() == sizes.keys():
                        break
                except (FileNotFoundError, *DAMAGE):
                    if waiting == TRIES:
                        raise
        else:
            raise SfscError(f"gallery {table.directory} was replaced meanwhile: run the same command again")
        write_json(out / LIST, asdict(Backup(FORMAT, rows, done)))
    return rows


def restore(backup: str | Path, to: str | Path) -> int:
    """Restore a gallery from a backup that `Gallery.backup` made.

    The gallery appears in its folder when all files have been copied and compared with their digests. If the
    process is killed before, there is no gallery, and the same call starts again.

    Args:
        backup: the folder of a complete backup.
        to: the folder of the new gallery, missing or empty.

    Returns:
        The number of rows.

    Raises:
        SfscError: the backup is incomplete or damaged, the folder contains a gallery or other files, or the
            disk is full.

    Example::

        from sfsc.gallery.backup import restore

        restore("backups/monday", "galleries/photos")
    """
    backup, folder = Path(backup), Path(to)
    if is_milvus(str(to)):
        raise SfscError(f"{to}: a backup is restored into a folder: give the path of a folder as --to")
    found = read_list(backup)
    if others := _entries(folder, LOCK):
        raise SfscError(f"{folder} is not empty, but contains {others[0]}: choose another folder")
    table = LanceTable(folder)
    with table.reported("written"), table.writing() as snapshot:
        if snapshot is not None:
            raise SfscError(f"gallery {folder} exists: choose another folder")
        _restore_into(folder, backup, found)
    return found.rows


def _restore_into(folder: Path, backup: Path, found: Backup) -> None:
    """Copy all files of a backup, and move them into a gallery's folder when they are complete."""
    unfinished = folder / RESTORED
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        done: dict[str, tuple[int, str]] = {}
        sizes: dict[str, int | None] = {name: size for name, (size, _) in found.files.items()}
        with _damage_named(backup), going_on("run the same command again"):
            _copy_all(backup / FILES, unfinished / TABLE, sizes, done)
            odd = next((name for name in done if done[name] != found.files[name]), None)
            if odd is None and _rows(unfinished) != found.rows:
                odd = LIST
        if odd is not None:
            raise SfscError(f"{backup} is damaged: {odd} was changed after the backup: use another backup")
        (unfinished / TABLE).rename(folder / TABLE)
        sync_folder(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _damage_named(backup: Path) -> Iterator[None]:
    """Convert errors of files in a backup into one line."""
    try:
        yield
    except DAMAGE as error:
        name = getattr(error, "filename", None) or one_line(str(error), 200)
        raise SfscError(f"{backup} is damaged: {name} cannot be read: use another backup") from error


def _rows(folder: Path) -> int:
    snapshot = LanceTable(folder).snapshot()
    return 0 if snapshot is None else int(snapshot.dataset.count_rows())


def _version(table: Path) -> tuple[dict[str, int | None], int]:
    """Return the files of a table's newest version with their sizes, if known, and its number of rows."""
    import lance  # it takes a second, which searches need not

    dataset = lance.dataset(table)
    listed = dataset.tracked_files(min_version=dataset.version).read_all().to_pylist()
    files = [file for file in listed if file["version"] == dataset.version]
    if dataset.base_paths() or not all(NAME.fullmatch(file["path"]) for file in files):
        raise SfscError(f"{table} has files outside its folder, so it cannot be copied")
    known = {name: size for one in dataset.get_fragments() for name, size in files_of(one).items()}
    return {file["path"]: known.get(file["path"]) for file in files}, int(dataset.count_rows())


def _copy_all(
    source: Path, target: Path, sizes: Mapping[str, int | None], done: dict[str, tuple[int, str]]
) -> None:
    """Copy files that are not `done` yet, and add their sizes and digests; complete copies are kept.

    Names of files other than manifests are never used again, so that a file with the same name is the same.
    """
    left = [name for name in sizes if name not in done or name.startswith(MANIFESTS)]
    chunks = sum(math.ceil(_length(source / name, sizes[name]) / CHUNK) for name in left)
    steps = (step for name in left for step in _copy(source / name, target / name, name, done))
    for _ in track(steps, "copying", chunks):
        pass


def _length(file: Path, expected: int | None) -> int:
    """Return the size of a file in bytes; raise `SfscError` if it has another one than expected."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SfscError(f"{file} is not a file: remove it, or use another copy")
    if expected is not None and status.st_size != expected:
        raise SfscError(f"{file} is damaged: it has {status.st_size:,} instead of {expected:,} bytes")
    return status.st_size


def _copy(source: Path, target: Path, name: str, done: dict[str, tuple[int, str]]) -> Iterator[None]:
    """Copy a file durably in chunks, or only read it if there is a copy; note its size and digest."""
    there = target.exists() and not name.startswith(MANIFESTS)
    digest, size = hashlib.sha256(), 0
    with (target if there else source).open("rb") as file, _written(None if there else target) as copy:
        while chunk := _read(file, source):
            digest.update(chunk)
            size += len(chunk)
            if copy is not None:
                copy.write(chunk)
            yield
    done[name] = size, digest.hexdigest()


def _written(target: Path | None) -> Any:
    return nullcontext() if target is None else replacing(target)


def _read(file: Any, name: Path) -> bytes:
    try:
        return file.read(CHUNK)
    except OSError as error:
        raise SfscError(f"cannot read {name}: {error.strerror}") from error


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Create the folder of a backup, and lock out other backups into it."""
    if (out / LIST).exists():
        raise SfscError(f"{out} already contains a backup: choose another folder")
    if others := [name for name in _entries(out, LOCK) if name != FILES]:
        raise SfscError(f"{out} is not empty, but contains {others[0]}: choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / LOCK, timeout=0):
            yield
    except Timeout:
        raise SfscError(f"another process writes a backup into {out}: choose another folder") from None
    except PermissionError as error:
        raise SfscError(f"cannot write {out}: {error.strerror}: check the permissions") from error


def _entries(folder: Path, *ours: str) -> list[str]:
    """Return the entries of a folder that is to be filled, without those that do not matter."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        return [folder.name]
    names = (entry.name for entry in folder.iterdir())
    return sorted(name for name in names if name not in ours and not is_system_entry(name))


def _remove_others(copies: Path, names: Iterable[str]) -> None:
    """Remove the files of versions that were not copied to the end."""
    kept = {copies / name for name in names}
    for path in copies.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()


def read_list(backup: Path) -> Backup:
    """Read the list of a backup's files.

    Raises:
        SfscError: the backup is incomplete, or the list is damaged.
    """
    if not (backup / LIST).exists():
        incomplete = (backup / FILES).is_dir()
        reason = "is incomplete: run `sfsc gallery backup` again" if incomplete else "is not a backup"
        raise SfscError(f"{backup} {reason}" + ("" if incomplete else f": it contains no {LIST}"))
    try:
        found: Backup = conform(read_json(backup / LIST), Backup, LIST)
        if found.format > FORMAT:
            raise SfscError(f"{backup} was written by a newer sfsc: upgrade sfsc to restore it")
        if odd := next((name for name in found.files if not NAME.fullmatch(name)), None):
            raise ValueError(f"{one_line(odd, 100)} is not the name of a file")
    except ValueError as error:
        raise SfscError(f"{backup / LIST} is damaged: {error}: use another backup") from None
    return found
