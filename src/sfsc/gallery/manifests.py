"""Whether a Lance table on disk is still the one that was read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_NAMED_FROM_ABOVE = 2**63  # names beyond it count down, so that listings begin with the newest version
_TRIES = 10


class Manifest(NamedTuple):
    """The newest manifest of a table: its file and all its bytes.

    It names every file of the table, and these names are random. So two manifests are equal exactly if the
    tables are, whatever became of the directory meanwhile and whatever clocks say.
    """

    path: Path
    content: bytes


class ManifestWatch:
    """Finds the newest manifest of the table in a directory; cheap while nothing has changed.

    Lance writes a manifest for every version into `_versions`, named by its number, or by how far that is
    below 2^64.
    """

    def __init__(self, table: Path) -> None:
        self._versions = table / "_versions"
        self._last: Path | None = None

    def newest(self) -> Manifest | None:
        """Return the newest manifest, or None if the table has no manifest.

        Raises:
            OSError: it cannot be read.
        """
        for _ in range(_TRIES):  # it may be replaced and removed between two calls
            if self._last is None or _following(self._last).exists():
                self._last = self._find()
            if self._last is None:
                return None
            try:
                return Manifest(self._last, self._last.read_bytes())
            except FileNotFoundError:
                self._last = None
        raise OSError(f"the manifests in {self._versions} change faster than they can be read")

    def _find(self) -> Path | None:
        found = [path for path in self._versions.glob("*.manifest") if path.stem.isdecimal()]
        return max(found, key=_number, default=None)


def _number(manifest: Path) -> int:
    name = int(manifest.stem)
    return name if name < _NAMED_FROM_ABOVE else 2**64 - 1 - name


def _following(manifest: Path) -> Path:
    """The path of the next version's manifest."""
    name = int(manifest.stem)
    if name < _NAMED_FROM_ABOVE:
        return manifest.with_name(f"{name + 1}.manifest")
    return manifest.with_name(f"{name - 1:020}.manifest")
