"""Detecting whether a Lance table on disk has changed since it was read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

_NAMED_FROM_ABOVE = 2**63  # larger names count down, so that listings begin with the newest version
_TRIES = 10


@dataclass(frozen=True)
class Manifest:
    """The newest manifest of a table: its path and content.

    A manifest names every file of the table, and these names are random. Two manifests are therefore equal
    if and only if the tables are equal, even if the directory was replaced or a clock was changed.
    """

    path: Path
    content: bytes

    @property
    def version(self) -> int:
        """The number of the version."""
        return _number(self.path)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the content, which identifies a version of a table."""
        return hashlib.sha256(self.content).hexdigest()

    def following(self) -> Manifest:
        """Return the manifest of the next version.

        Raises:
            OSError: there is none, or it cannot be read.
        """
        path = _following(self.path)
        return Manifest(path, path.read_bytes())


class ManifestWatch:
    """Finds the newest manifest of the table in a directory, in little time if nothing has changed.

    Lance writes a manifest into `_versions` for every version. Its name is the number of the version, or
    2^64 - 1 minus this number.
    """

    def __init__(self, table: Path) -> None:
        self._versions = table / "_versions"
        self._last: Path | None = None
        self._read: tuple[tuple[int, ...], Manifest] | None = None

    def newest(self) -> Manifest | None:
        """Return the newest manifest, or None if the table has no manifest.

        Raises:
            OSError: the manifest cannot be read.
        """
        for _ in range(_TRIES):  # a manifest may be replaced and removed between two calls
            while self._last is not None and (following := _following(self._last)).exists():
                self._last = following
            self._last = self._last or self._find()
            if self._last is None:
                return None
            try:
                return self._manifest(self._last)
            except FileNotFoundError:
                self._last = None
        raise OSError(f"the manifests in {self._versions} change faster than they can be read")

    def _manifest(self, path: Path) -> Manifest:
        """Return a manifest, read again only if it is another file, or was changed."""
        stat = path.stat()
        seen = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        if self._read is None or self._read[0] != seen or self._read[1].path != path:
            self._read = seen, Manifest(path, path.read_bytes())
        return self._read[1]

    def _find(self) -> Path | None:
        found = [path for path in self._versions.glob("*.manifest") if path.stem.isdecimal()]
        return max(found, key=_number, default=None)


def _number(manifest: Path) -> int:
    name = int(manifest.stem)
    return name if name < _NAMED_FROM_ABOVE else 2**64 - 1 - name


@lru_cache  # every search asks for it
def _following(manifest: Path) -> Path:
    """Return the path of the next version's manifest."""
    name = int(manifest.stem)
    if name < _NAMED_FROM_ABOVE:
        return manifest.with_name(f"{name + 1}.manifest")
    return manifest.with_name(f"{name - 1:020}.manifest")
