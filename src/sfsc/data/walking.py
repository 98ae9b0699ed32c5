"""Finding images in folders, by the same rules everywhere.

Hidden entries and those of operating systems are skipped. Links to folders are followed, and no folder is
used twice. Skipped entries are counted; entries that cannot be read are reported by name.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from sfsc.errors import SfscError
from sfsc.images.names import printable
from sfsc.images.reading import SUFFIXES, CorruptImage
from sfsc.progress import say

# Entries of Windows, macOS, Linux and network storage whose names do not begin with a dot.
SYSTEM_NAMES = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "recycler", "recycled", "system volume information"),
        *("__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("lost+found", "aquota.user", "aquota.group"),
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot"),
    }
)
HIDDEN = ("hidden or system entry", "hidden or system entries")
TAKEN = ("link to a folder that is already used", "links to folders that are already used")
SPECIAL = ("device, pipe or socket", "devices, pipes or sockets")
OTHER = ("file that is not an image", "files that are not images")
_NAMED = 3  # the maximum number of entries that a message names
UNPACKED = 2  # the maximum number of folders around a data set, which unpacking can create


@dataclass
class Walk:
    """The entries of a folder and its subfolders.

    Attributes:
        images: the paths of files with the suffix of an image, sorted by folder and name.
        unreadable: an error for each folder that cannot be opened and each broken link.
        passed: the number of skipped entries of each kind, by the singular and the plural of the kind.
        others: the number of other files by suffix.
    """

    images: list[str] = field(default_factory=list)
    unreadable: list[CorruptImage] = field(default_factory=list)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)


def is_system_entry(name: str) -> bool:
    """Return whether a name is that of a hidden file or folder, or of one of an operating system."""
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


def walk(root: Path) -> Walk:
    """Find the images in the folder `root` and below. The name of `root` itself does not matter."""
    found = Walk()
    taken: set[tuple[int, int]] = set()
    waiting = deque([str(root)])
    while waiting:
        folder = waiting.popleft()
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in taken:
                found.passed[TAKEN] += 1
                continue
            taken.add((status.st_dev, status.st_ino))
            entries = _entries(folder)
        except OSError as error:
            found.unreadable.append(_unreadable(folder, error))
            continue
        for entry in entries:
            _sort_in(entry, found, waiting)
    found.images.sort(key=lambda path: PurePath(path).parts)
    return found


def find_root(path: Path, entries: Iterable[str]) -> Path:
    """Return the folder that contains one of these entries: `path`, or a folder up to two levels below it.

    Return `path` if no folder contains one; raise `SfscError` if several folders do.
    """
    level = [path]
    for _ in range(1 + UNPACKED):
        found = [folder for folder in level if any(os.path.exists(folder / entry) for entry in entries)]
        if len(found) > 1:
            raise SfscError(f"{path} contains the data set more than once: name {found[0]} or {found[1]}")
        if found:
            return found[0]
        level = [folder for above in level for folder in subfolders(above)]
    return path


def subfolders(folder: Path) -> list[Path]:
    """Return the sorted folders in a folder, without hidden ones and those of operating systems.

    Raises:
        SfscError: the folder cannot be opened.
    """
    try:
        entries = _entries(str(folder))
    except OSError as error:
        raise SfscError(str(_unreadable(str(folder), error))) from error
    return [folder / e.name for e in entries if not is_system_entry(e.name) and _is_folder(e)]


def find_images(path: Path) -> list[str]:
    """Find the images in a folder and its subfolders.

    Args:
        path: the folder, or an image file, which is returned as the only image.

    Returns:
        The paths of the images, sorted by folder and name.

    Raises:
        SfscError: there are no images.
    """
    if os.path.isfile(path):
        return [str(path)]
    found = walk(path)
    if not found.images:
        raise no_images(path, found)
    return found.images


def no_images(path: Path, found: Walk) -> SfscError:
    """Return the error for a folder without images."""
    reason = next(iter(cannot_be_read([found])), f"expected {', '.join(sorted(SUFFIXES))}")
    return SfscError(f"{path} contains no images: {reason}")


def say_passed_over(where: str, walks: Iterable[Walk], more: Sequence[str] = ()) -> None:
    """Print one line on standard error about entries that walks skipped, with the remarks in `more`.

    Nothing is printed if there is nothing to report, or if the same line was printed before.
    """
    walks = list(walks)
    passed = sum((walked.passed for walked in walks), Counter[tuple[str, str]]())
    others = sum((walked.others for walked in walks), Counter[str]())
    kinds = [_counted(count, names) for names, count in passed.items()]
    if others:
        suffixes = ", ".join(suffix or "no suffix" for suffix, _ in others.most_common(_NAMED))
        kinds.append(f"{_counted(others.total(), OTHER)} ({suffixes})")
    said = [f"skipped {', '.join(kinds)}"] if kinds else []
    if said or more:
        say(printable(f"{where}: {'; '.join([*said, *more])}"))


def cannot_be_read(walks: Iterable[Walk]) -> list[str]:
    """Return a list with one sentence about entries that walks could not read, or an empty list."""
    errors = [error for walked in walks for error in walked.unreadable]
    named = [*map(str, errors[:_NAMED]), *(["..."] if len(errors) > _NAMED else [])]
    return [f"{len(errors)} cannot be read: {', '.join(named)}"] if errors else []


def _counted(count: int, names: tuple[str, str]) -> str:
    return f"{count} {names[count > 1]}"


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _sort_in(entry: os.DirEntry[str], found: Walk, waiting: deque[str]) -> None:
    """Add an entry of a folder to the walk.

    Links to folders wait until all folders found before them are done, so that a folder is found under its
    own path rather than under that of a link.
    """
    suffix = PurePath(entry.name).suffix.lower()
    try:
        if is_system_entry(entry.name):
            found.passed[HIDDEN] += 1
        elif entry.is_dir():
            (waiting.append if entry.is_symlink() else waiting.appendleft)(entry.path)
        elif entry.is_file():
            if suffix in SUFFIXES:
                found.images.append(entry.path)
            else:
                found.others[suffix] += 1
        elif entry.is_symlink():
            found.unreadable.append(CorruptImage(entry.path, "a broken link"))
        else:
            found.passed[SPECIAL] += 1
    except OSError as error:  # a link to itself
        found.unreadable.append(_unreadable(entry.path, error))


def _unreadable(path: str, error: OSError) -> CorruptImage:
    return CorruptImage(path, error.strerror or str(error))
