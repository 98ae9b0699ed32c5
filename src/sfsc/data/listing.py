"""Listing the images of a data set briefly, to find later changes: one row per identity and split."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import TypedDict

from sfsc.data.dataset import Dataset
from sfsc.errors import SfscError
from sfsc.files.schema import conform
from sfsc.files.writing import read_json, write_atomic
from sfsc.images.reading import MEMBER

TRAIN, TESTS = ("train",), ("query", "gallery", "test")
UNLABELLED = "unlabelled"  # the split of training images that are not of the data set
NAMED = 3  # the maximum number of changes that a message names
DIGEST = 8  # bytes
MOST_BYTES = 1 << 30  # of a file; sufficient for about ten million identities


@dataclass(frozen=True)
class Entry:
    """The images of one identity in one split.

    Attributes:
        images: the number of images.
        names: a digest of the names of their files, in order.
        read: the number of images that could be read, or 0 if reading was not attempted.
        contents: a digest of the bytes of those images, or "" if reading was not attempted.
    """

    images: int
    names: str
    read: int = 0
    contents: str = ""

    def same_names(self, other: Entry) -> bool:
        """Return whether the other entry has the same files, or as many files as this one could read."""
        whole = (self.images, self.names) == (other.images, other.names)
        return whole or (self.read < self.images and other.images == self.read)

    def same_contents(self, other: Entry) -> bool:
        """Return whether the same images could be read, in the same order."""
        return (self.read, self.contents) == (other.read, other.contents)


class _Stored(TypedDict):
    """The contents of a file: the split, the identity and the fields of each entry."""

    rows: list[tuple[str, str, int, str, int, str]]


@dataclass(frozen=True)
class Listing:
    """The entries of a data set by split and identity."""

    entries: Mapping[tuple[str, str], Entry]

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        contents: Mapping[str, bytes] | None = None,
        unlabelled: Sequence[str] = (),
    ) -> Listing:
        """List a data set.

        Args:
            dataset: the data set; its images are not read.
            contents: the digest of each training image that could be read, by path.
            unlabelled: the paths of training images without labels, which are one entry.
        """
        paths: dict[tuple[str, str], list[str]] = {}
        for path, identity, split in zip(
            dataset.paths, dataset.identities.tolist(), dataset.splits.tolist(), strict=True
        ):
            paths.setdefault((split, identity), []).append(path)
        if unlabelled:
            paths[UNLABELLED, "images without labels"] = [*unlabelled]
        return cls({key: _entry(paths[key], contents or {}) for key in sorted(paths)})

    @classmethod
    def read(cls, path: Path) -> Listing:
        """Read a file that `write` wrote; raise `SfscError` if it is damaged."""
        try:
            stored = conform(read_json(path, MOST_BYTES), _Stored)
        except ValueError:
            raise SfscError(f"{path} is damaged: restore it, or remove it to continue without it") from None
        return cls({(split, identity): Entry(*rest) for split, identity, *rest in stored["rows"]})

    def write(self, path: Path) -> None:
        """Write the listing atomically as JSON, with one line per entry."""
        columns = ["split", "identity", *(field.name for field in fields(Entry))]
        rows = ",\n".join(json.dumps([*key, *astuple(entry)]) for key, entry in self.entries.items())
        write_atomic(path, f'{{"columns": {json.dumps(columns)}, "rows": [\n{rows}\n]}}\n'.encode())

    def digest(self, splits: Collection[str]) -> str:
        """Return a digest of the identities and file names in some splits, as 16 hexadecimal digits."""
        rows = [(*key, entry.images, entry.names) for key, entry in self._of(splits).items()]
        return _hexadecimal(repr(rows).encode())

    def identities(self, splits: Collection[str]) -> set[str]:
        """Return the identities in some splits."""
        return {identity for _, identity in self._of(splits)}

    def changes(
        self, now: Listing, splits: Collection[str], same: Callable[[Entry, Entry], bool] = Entry.same_names
    ) -> str:
        """Describe the changes in a later listing of the same data set; return "" if there are none.

        Args:
            now: the later listing.
            splits: the splits to compare.
            same: returns whether an earlier and a later entry of an identity count as equal.
        """
        before, after = self._of(splits), now._of(splits)
        gone = {key: before[key] for key in before if key not in after}
        added = {key: after[key] for key in after if key not in before}
        renamed = _renamed(gone, added)
        other = [key for key in before if key in after and not same(before[key], after[key])]
        kinds = {
            "renamed": [f"{old[1]} to {new[1]}" for old, new in renamed.items()],
            "added": [key[1] for key in added if key not in renamed.values()],
            "gone": [key[1] for key in gone if key not in renamed],
            "other images": [f"{key[1]}{_counts(before[key], after[key])}" for key in other],
        }
        return "; ".join(f"{kind}: {first_names(names)}" for kind, names in kinds.items() if names)

    def _of(self, splits: Collection[str]) -> dict[tuple[str, str], Entry]:
        return {key: entry for key, entry in self.entries.items() if key[0] in splits}


def image_digest(data: bytes) -> bytes:
    """Return a digest of the bytes of an image file."""
    return blake2b(data, digest_size=DIGEST).digest()


def first_names(names: Collection[str]) -> str:
    """Return a text with the first `NAMED` distinct names and the number of the others."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - NAMED} more" if len(distinct) > NAMED else ""
    return ", ".join(distinct[:NAMED]) + more


def _entry(paths: Sequence[str], contents: Mapping[str, bytes]) -> Entry:
    read = [contents[path] for path in paths if path in contents]
    names = b"\0".join(os.fsencode(_name(path)) for path in paths)
    return Entry(len(paths), _hexadecimal(names), len(read), _hexadecimal(b"".join(read)) if read else "")


def _name(path: str) -> str:
    """Return the name of a file or of a member of an archive, without folders, because they may be moved."""
    return path.rpartition(MEMBER)[2].rpartition("/")[2]


def _hexadecimal(data: bytes) -> str:
    return image_digest(data).hex()


def _counts(before: Entry, after: Entry) -> str:
    """Return a text with both numbers of images if they differ, else ""."""
    counts = (before.read, after.read) if after.read else (before.images, after.images)
    return "" if counts[0] == counts[1] else f" ({counts[0]}, now {counts[1]})"


def _renamed(
    gone: Mapping[tuple[str, str], Entry], added: Mapping[tuple[str, str], Entry]
) -> dict[tuple[str, str], tuple[str, str]]:
    """Return {gone key: added key} for renamed identities, recognised by the names of their files."""

    def only(entries: Mapping[tuple[str, str], Entry]) -> dict[tuple[str, int, str], tuple[str, str]]:
        signs = {key: (key[0], entry.images, entry.names) for key, entry in entries.items()}
        counts = Counter(signs.values())
        return {sign: key for key, sign in signs.items() if counts[sign] == 1}

    new = only(added)
    return {key: new[sign] for sign, key in only(gone).items() if sign in new}
