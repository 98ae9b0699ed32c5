"""The `Dataset` type: images with an identity, a camera and a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from sfsc.errors import SfscError

SPLITS = ("train", "query", "gallery", "test")


@dataclass(frozen=True)
class Split:
    """The images of one part of a data set.

    Attributes:
        paths: N image paths, which `decode` can read.
        identities: (N,) str.
        cameras: (N,) str, or None if the data set has no cameras.
    """

    paths: tuple[str, ...]
    identities: np.ndarray
    cameras: np.ndarray | None

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"Split({len(self)} images, {len(np.unique(self.identities))} identities)"

    def labels(self) -> np.ndarray:
        """Return the identities as numbers, (N,) int64: sorted and counted from 0."""
        return np.unique(self.identities, return_inverse=True)[1].astype(np.int64)

    def select(self, chosen: np.ndarray) -> Split:
        """Return the images selected by `chosen`, an (N,) bool mask or (n,) int positions."""
        cameras = None if self.cameras is None else self.cameras[chosen]
        paths = tuple(self.paths[i] for i in np.arange(len(self))[chosen])
        return Split(paths, self.identities[chosen], cameras)


@dataclass(frozen=True)
class Dataset:
    """All images of a data set, usually made by `open_dataset`.

    Attributes:
        source: the name that the user gave, for example "emoji:data/emoji".
        paths: N image paths, which `decode` can read.
        identities: (N,) str.
        cameras: (N,) str, or None if the data set has no cameras.
        splits: (N,) str: "train", "query", "gallery" or "test". A "test" image is both a query and a gallery
            image.
        image_size: the (height, width) in pixels that suits the images.
        mirrors: whether a mirrored image still shows the same identity.

    Raises:
        SfscError: there are no images, or a split has an unknown name.

    Example::

        dataset = sfsc.open_dataset("folder:photos")
        print(len(dataset.train), len(dataset.query), len(dataset.gallery))
    """

    source: str
    paths: tuple[str, ...]
    identities: np.ndarray
    cameras: np.ndarray | None
    splits: np.ndarray
    image_size: tuple[int, int]
    mirrors: bool

    def __repr__(self) -> str:
        return f"Dataset({self.source!r}, {len(self.paths)} images)"

    def __post_init__(self) -> None:
        if not self.paths:
            raise SfscError(f"{self.source} contains no images: check the path and the layout of its folders")
        unknown = sorted(set(self.splits.tolist()) - set(SPLITS))
        if unknown:
            raise SfscError(f"{self.source}: split {unknown[0]!r} is not one of {', '.join(SPLITS)}")

    @property
    def train(self) -> Split:
        """The training images; raises `SfscError` if they show fewer than two identities."""
        split = self._select("train")
        identities = np.unique(split.identities)
        if len(identities) < 2:
            raise SfscError(
                f"{self.source} has only one training identity, {identities[0]}: training needs at least two"
            )
        return split

    @property
    def query(self) -> Split:
        """The query images; raises `SfscError` if there are none."""
        return self._select("query", "test")

    @property
    def gallery(self) -> Split:
        """The gallery images; raises `SfscError` if there are none."""
        return self._select("gallery", "test")

    def part(self, split: str) -> Split:
        """Return the images of a split ("train", "query" or "gallery"), or all images if it is empty.

        Use this if you need images, no matter for what purpose they are labelled.
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
    """Return a share of the identities, rounded down, for testing.

    They are chosen by their hashes, so the choice is always the same.
    """
    ordered = sorted(set(identities), key=lambda identity: sha256(identity.encode()).digest())
    return set(ordered[: max(at_least, int(len(ordered) * share))])
