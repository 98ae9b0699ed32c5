"""What a dataset is: images with identity, camera and split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from sfsc.errors import SfscError

SPLITS = ("train", "query", "gallery", "test")


@dataclass(frozen=True)
class Split:
    """The images of one part of a dataset.

    `paths`: N image paths, as `decode` reads them. `identities`: (N,) str. `cameras`: (N,) str, or None
    if the dataset knows none.
    """

    paths: tuple[str, ...]
    identities: np.ndarray
    cameras: np.ndarray | None

    def __len__(self) -> int:
        return len(self.paths)

    def labels(self) -> np.ndarray:
        """(N,) int64: the identities of this split, sorted and numbered from 0."""
        return np.unique(self.identities, return_inverse=True)[1].astype(np.int64)

    def select(self, chosen: np.ndarray) -> Split:
        """The images that `chosen` names: (N,) bool, or (n,) int positions."""
        cameras = None if self.cameras is None else self.cameras[chosen]
        paths = tuple(self.paths[i] for i in np.arange(len(self))[chosen])
        return Split(paths, self.identities[chosen], cameras)


@dataclass(frozen=True)
class Dataset:
    """All images of a dataset.

    `source` is what the user wrote ("emoji:data/emoji"). `identities`, `cameras` and `splits` are (N,) str;
    a split is "train", "query", "gallery" or "test", the last for images that are query and gallery both.
    `image_size` is the (height, width) that suits the images. `mirrors` says whether a mirrored image still
    shows the same identity. Raises SfscError for an unknown split name and for no images at all.
    """

    source: str
    paths: tuple[str, ...]
    identities: np.ndarray
    cameras: np.ndarray | None
    splits: np.ndarray
    image_size: tuple[int, int]
    mirrors: bool

    def __post_init__(self) -> None:
        if not self.paths:
            raise SfscError(f"{self.source} holds no images: check the path and the layout of its folders")
        unknown = sorted(set(self.splits.tolist()) - set(SPLITS))
        if unknown:
            raise SfscError(f"{self.source}: split {unknown[0]!r} is none of {', '.join(SPLITS)}")

    @property
    def train(self) -> Split:
        """The images to learn from; SfscError if they show fewer than two identities."""
        split = self._select("train")
        identities = np.unique(split.identities)
        if len(identities) < 2:
            raise SfscError(
                f"{self.source} has one identity for training, {identities[0]}: training needs at least two"
            )
        return split

    @property
    def query(self) -> Split:
        """The images to search with; SfscError if there is none."""
        return self._select("query", "test")

    @property
    def gallery(self) -> Split:
        """The images to search in; SfscError if there is none."""
        return self._select("gallery", "test")

    def part(self, split: str) -> Split:
        """The images of a split ("train", "query" or "gallery"); all where the data set has none of it.

        For those who want images alone, whatever they are labelled for.
        """
        inside = np.isin(self.splits, [split] if split == "train" else [split, "test"])
        whole = Split(self.paths, self.identities, self.cameras)
        return whole.select(inside) if inside.any() else whole

    def _select(self, *names: str) -> Split:
        inside = np.isin(self.splits, names)
        if not inside.any():
            wanted = " or ".join(names)
            raise SfscError(f"{self.source} has no {names[0]} images: mark some with the split {wanted}")
        return Split(self.paths, self.identities, self.cameras).select(inside)


def held_out(identities: Iterable[str], share: float = 1 / 2, at_least: int = 0) -> set[str]:
    """A share of the identities, rounded down, for testing: always the same, chosen by their hashes."""
    ordered = sorted(set(identities), key=lambda identity: sha256(identity.encode()).digest())
    return set(ordered[: max(at_least, int(len(ordered) * share))])
