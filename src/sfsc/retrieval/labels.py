"""Labels of embeddings: which pairs of a query and a gallery item match, and which pairs are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sfsc.errors import SfscError


class Labelled(Protocol):
    """The labels of N items, in the order of their embeddings. Every `Split` of a data set has them."""

    @property
    def identities(self) -> np.ndarray:
        """The identities, shape (N,). Items of the same identity match."""

    @property
    def cameras(self) -> np.ndarray | None:
        """The cameras, shape (N,), or None if they are unknown."""

    @property
    def paths(self) -> Sequence[str] | None:
        """The paths of the N images, or None if they have none."""


@dataclass(frozen=True)
class Labels:
    """Labels of N embeddings that do not come from a data set, with the attributes of `Labelled`."""

    identities: np.ndarray
    cameras: np.ndarray | None = None
    paths: tuple[str, ...] | None = None


def check_embeddings(embeddings: np.ndarray, labels: Labelled, name: str) -> np.ndarray:
    """Return the embeddings as (N, dim) float32; raise `SfscError` with their name if they are invalid."""
    count = len(labels.identities)
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise SfscError(f"{name} must have shape ({count}, dim) to fit their labels, not {embeddings.shape}")
    if not np.isfinite(embeddings).all():
        raise SfscError(
            f"{name} contain NaN or infinity: check the training of the sub-model that wrote them"
        )
    return np.ascontiguousarray(embeddings, dtype=np.float32)


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query (row) and a gallery item (column), sorted by row, then by column."""

    rows: np.ndarray
    columns: np.ndarray

    def chosen(self, mask: np.ndarray) -> Pairs:
        """Return the pairs that a mask over all pairs chooses."""
        return Pairs(self.rows[mask], self.columns[mask])

    def within(self, columns: slice) -> Window:
        """Return the pairs whose items are in a block of gallery columns."""
        inside = (self.columns >= columns.start) & (self.columns < columns.stop)
        return Window(inside, (self.rows[inside], self.columns[inside] - columns.start))


@dataclass(frozen=True)
class Window:
    """The pairs in a block of gallery columns: a mask over all pairs, and their positions in the block."""

    inside: np.ndarray
    local: tuple[np.ndarray, np.ndarray]


class Relation:
    """Finds the positives of each query, and the gallery items that are dropped from its ranking."""

    def __init__(self, query: Labelled, gallery: Labelled) -> None:
        wanted, held = codes_of(query.identities, gallery.identities)
        self.query_views, self.gallery_views = views_of(query, gallery)
        self.by_identity = np.argsort(held, kind="stable")
        self.first = np.searchsorted(held, wanted, "left", sorter=self.by_identity)
        self.end = np.searchsorted(held, wanted, "right", sorter=self.by_identity)

    def pairs(self, queries: slice) -> tuple[Pairs, Pairs]:
        """Return the positive and the dropped pairs of a range of queries; row 0 is the first of these."""
        first, sizes = self.first[queries], self.end[queries] - self.first[queries]
        rows = np.repeat(np.arange(len(sizes)), sizes)
        position = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        same_identity = Pairs(rows, self.by_identity[np.repeat(first, sizes) + position])
        dropped = self.query_views[queries][same_identity.rows] == self.gallery_views[same_identity.columns]
        return same_identity.chosen(~dropped), same_identity.chosen(dropped)


def views_of(query: Labelled, gallery: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Return integers for queries and gallery; pairs of one identity with equal integers are dropped."""
    if (query.cameras is None) != (gallery.cameras is None):
        raise SfscError("cameras are known of only one of query and gallery: give both or neither")
    if query.cameras is not None and gallery.cameras is not None:
        return codes_of(query.cameras, gallery.cameras)
    if query.paths is not None and gallery.paths is not None:
        return codes_of(np.array(query.paths), np.array(gallery.paths))
    return np.zeros(len(query.identities), np.int64), np.ones(len(gallery.identities), np.int64)


def codes_of(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of queries and gallery as integers that are equal where the labels are."""
    codes = np.unique(np.concatenate([query, gallery]), return_inverse=True)[1]
    return codes[: len(query)], codes[len(query) :]
