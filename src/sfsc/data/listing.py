"""What images a data set has, in brief: a row for each identity of each split."""

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
NAMED = 3  # of what has changed, so many are named
DIGEST = 8  # bytes
MOST_BYTES = 1 << 30  # of a file: some ten million identities


@dataclass(frozen=True)
class Entry:
    """The images of one identity in one split.

    `images` is how many there are, `names` a digest of the names of their files, in order. `read` is how many
    of them could be read, `contents` a digest of the bytes of these; 0 and empty where nobody looked.
    """

    images: int
    names: str
    read: int = 0
    contents: str = ""

    def same_names(self, other: Entry) -> bool:
        """Whether the other has the same files, or those alone that could be read here."""
        whole = (self.images, self.names) == (other.images, other.names)
        return whole or (self.read < self.images and other.images == self.read)

    def same_contents(self, other: Entry) -> bool:
        """Whether the same images, in the same order, could be read."""
        return (self.read, self.contents) == (other.read, other.contents)


class _Stored(TypedDict):
    """What a file holds: of each entry its split, its identity and its fields."""

    rows: list[tuple[str, str, int, str, int, str]]


@dataclass(frozen=True)
class Listing:
    """The entries of a data set by split and identity."""

    entries: Mapping[tuple[str, str], Entry]

    @classmethod
    def of(cls, dataset: Dataset, contents: Mapping[str, bytes] | None = None) -> Listing:
        """List a data set.

        Args:
            dataset: any; nothing is read.
            contents: by path, digests of the training images that could be read.
        """
        paths: dict[tuple[str, str], list[str]] = {}
        for path, identity, split in zip(
            dataset.paths, dataset.identities.tolist(), dataset.splits.tolist(), strict=True
        ):
            paths.setdefault((split, identity), []).append(path)
        return cls({key: _entry(paths[key], contents or {}) for key in sorted(paths)})

    @classmethod
    def read(cls, path: Path) -> Listing:
        """Read what `write` wrote; SfscError where it is damaged."""
        try:
            stored = conform(read_json(path, MOST_BYTES), _Stored)
        except ValueError:
            raise SfscError(f"{path} is damaged: restore it, or remove it to continue without it") from None
        return cls({(split, identity): Entry(*rest) for split, identity, *rest in stored["rows"]})

    def write(self, path: Path) -> None:
        """Write it as JSON, a line for each entry, atomically."""
        columns = ["split", "identity", *(field.name for field in fields(Entry))]
        rows = ",\n".join(json.dumps([*key, *astuple(entry)]) for key, entry in self.entries.items())
        write_atomic(path, f'{{"columns": {json.dumps(columns)}, "rows": [\n{rows}\n]}}\n'.encode())

    def digest(self, splits: Collection[str]) -> str:
        """16 hexadecimal digits of the identities and names of files in some splits."""
        rows = [(*key, entry.images, entry.names) for key, entry in self._of(splits).items()]
        return _hexadecimal(repr(rows).encode())

    def identities(self, splits: Collection[str]) -> set[str]:
        """The identities in some splits."""
        return {identity for _, identity in self._of(splits)}

    def changes(
        self, now: Listing, splits: Collection[str], same: Callable[[Entry, Entry], bool] = Entry.same_names
    ) -> str:
        """What is otherwise in another listing of the same data set, in words; empty where nothing is.

        Args:
            now: the later one.
            splits: that are compared.
            same: whether an identity's entries, before and now, count as equal.
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
    """What identifies the bytes of an image file."""
    return blake2b(data, digest_size=DIGEST).digest()


def first_names(names: Collection[str]) -> str:
    """The first few of some names, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - NAMED} more" if len(distinct) > NAMED else ""
    return ", ".join(distinct[:NAMED]) + more


def _entry(paths: Sequence[str], contents: Mapping[str, bytes]) -> Entry:
    read = [contents[path] for path in paths if path in contents]
    names = b"\0".join(os.fsencode(_name(path)) for path in paths)
    return Entry(len(paths), _hexadecimal(names), len(read), _hexadecimal(b"".join(read)) if read else "")


def _name(path: str) -> str:
    """The name of an image's file, or of a member of an archive: folders may be moved."""
    return path.rpartition(MEMBER)[2].rpartition("/")[2]


def _hexadecimal(data: bytes) -> str:
    return image_digest(data).hex()


def _counts(before: Entry, after: Entry) -> str:
    """How many images there were and are, where that has changed."""
    counts = (before.read, after.read) if after.read else (before.images, after.images)
    return "" if counts[0] == counts[1] else f" ({counts[0]}, now {counts[1]})"


def _renamed(
    gone: Mapping[tuple[str, str], Entry], added: Mapping[tuple[str, str], Entry]
) -> dict[tuple[str, str], tuple[str, str]]:
    """Those that are gone by those that took their places, where the names of their files tell."""

    def only(entries: Mapping[tuple[str, str], Entry]) -> dict[tuple[str, int, str], tuple[str, str]]:
        signs = {key: (key[0], entry.images, entry.names) for key, entry in entries.items()}
        counts = Counter(signs.values())
        return {sign: key for key, sign in signs.items() if counts[sign] == 1}

    new = only(added)
    return {key: new[sign] for sign, key in only(gone).items() if sign in new}
