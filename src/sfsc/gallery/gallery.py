"""The gallery: embeddings of one family with what they show, kept on disk and searched by cosine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sfsc.errors import SfscError
from sfsc.gallery.lance import LanceStore


@dataclass(frozen=True)
class Hit:
    """A row of the gallery that answers a query: `score` is the cosine, `width` the sub-model of the row."""

    id: str
    path: str
    identity: str | None
    camera: str | None
    width: float
    score: float


@dataclass(frozen=True)
class GalleryInfo:
    """What a gallery holds; `dimension` and `fingerprint` are None until the first row is added."""

    rows: int
    dimension: int | None
    fingerprint: str | None
    rows_by_width: dict[float, int]


class Store(Protocol):
    """Where the rows are: columns id, path, identity, camera, width, fingerprint, and the embedding.

    Every method raises `SfscError`, naming the store, where it cannot be read or written.
    """

    def family(self) -> tuple[int, str] | None:
        """The dimension and the fingerprint the store was made for; None before `create`."""

    def create(self, dimension: int, fingerprint: str) -> None:
        """Make the empty store of a family."""

    def upsert(self, embeddings: np.ndarray, columns: dict[str, list[Any]]) -> None:
        """Write (N, dimension) float32 rows all at once, each in the place of the row of the same id."""

    def search(self, embeddings: np.ndarray, top: int) -> list[list[dict[str, Any]]]:
        """For each of (Q, dimension) float32 the `top` rows of the greatest cosine, as fields of a `Hit`."""

    def widths(self) -> list[float]:
        """The width of every row."""

    def count(self) -> int:
        """The number of rows."""


class Gallery:
    """Rows of one family, which any of its sub-models may have embedded; made by `Gallery.open`.

    One process may search while another adds: a search sees all rows of a finished `add`. An `add` is
    stored as a whole or not at all, and stays stored when it has returned, whatever happens to the process.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path
        self._store = store

    @classmethod
    def open(cls, path: str | Path, *, create: bool = False) -> Gallery:
        """The gallery in the directory `path`, which with `create` may be missing or empty.

        Raises `SfscError` for a directory without a gallery, a damaged one, and a missing `gallery` extra.
        """
        path = Path(path)
        return cls(path, LanceStore(path, create=create))

    def add(
        self,
        embeddings: np.ndarray,
        ids: Sequence[str],
        *,
        paths: Sequence[str],
        identities: Sequence[str] | np.ndarray | None = None,
        cameras: Sequence[str] | np.ndarray | None = None,
        width: float,
        fingerprint: str,
    ) -> int:
        """Store N rows, each in the place of the row of the same id if there is one; returns N.

        `embeddings`: (N, dim) float32, finite and not zero, of the sub-model at `width` of the family with
        this `fingerprint`. Raises `SfscError`, with nothing stored, for embeddings of another shape or
        family than the gallery's, an id given twice, columns of unequal lengths, or a full disk.
        """
        rows = self._checked(embeddings)
        columns: dict[str, list[Any]] = {
            "id": _texts(ids),
            "path": _texts(paths),
            "identity": [None] * len(rows) if identities is None else _texts(identities),
            "camera": [None] * len(rows) if cameras is None else _texts(cameras),
            "width": [float(width)] * len(rows),
            "fingerprint": [fingerprint] * len(rows),
        }
        self._check_columns(columns, len(rows))
        if not len(rows):
            return 0
        if self._store.family() is None:
            self._store.create(rows.shape[1], fingerprint)
        self.check_family(rows.shape[1], fingerprint)
        self._store.upsert(rows, columns)
        return len(rows)

    def search(self, embeddings: np.ndarray, fingerprint: str, top: int = 10) -> list[list[Hit]]:
        """For each query the `top` rows of the greatest cosine, exactly; equal scores in order of their ids.

        `embeddings`: (Q, dim) float32, finite and not zero, of any sub-model of the family with this
        `fingerprint`. A list is shorter where the gallery has fewer rows. Raises `SfscError` for queries of
        another shape or family than the gallery's, and for a damaged gallery.
        """
        queries = self._checked(embeddings)
        if top < 1:
            raise SfscError(f"top must be at least 1, not {top}")
        if self._store.family() is None or not len(queries):
            return [[] for _ in queries]
        self.check_family(queries.shape[1], fingerprint)
        return [[Hit(**fields) for fields in hits] for hits in self._store.search(queries, top)]

    def info(self) -> GalleryInfo:
        """What the gallery holds now."""
        widths = sorted(Counter(self._store.widths()).items())
        dimension, fingerprint = self._store.family() or (None, None)
        return GalleryInfo(sum(rows for _, rows in widths), dimension, fingerprint, dict(widths))

    def __len__(self) -> int:
        return self._store.count()

    def _checked(self, embeddings: np.ndarray) -> np.ndarray:
        if embeddings.ndim != 2:
            raise SfscError(f"gallery {self._path}: embeddings must be (N, dim), not {embeddings.shape}")
        if not np.isfinite(embeddings).all() or not embeddings.any(axis=1).all():
            raise SfscError(
                f"gallery {self._path}: embeddings hold NaN, infinity or a row of zeros: "
                "check the sub-model and the images"
            )
        return np.ascontiguousarray(embeddings, dtype=np.float32)

    def _check_columns(self, columns: dict[str, list[Any]], rows: int) -> None:
        for name, values in columns.items():
            if len(values) != rows:
                raise SfscError(f"gallery {self._path}: {rows} embeddings, but {len(values)} of {name}")
        twice = [name for name, times in Counter(columns["id"]).items() if times > 1]
        if twice:
            raise SfscError(f"gallery {self._path}: id {twice[0]!r} is given twice: every row needs its own")

    def check_family(self, dimension: int, fingerprint: str) -> None:
        """Raise `SfscError` unless the gallery is empty or of this family and dimension.

        A family and what calibration made of it have one space: their fingerprints are equal up to the dot.
        """
        family = self._store.family()
        if family is not None and family[1].partition(".")[0] != fingerprint.partition(".")[0]:
            raise SfscError(
                f"gallery {self._path} belongs to the family {family[1]}, these embeddings to {fingerprint}: "
                "use a sub-model of that family, or another gallery"
            )
        if family is not None and family[0] != dimension:
            raise SfscError(f"gallery {self._path} has {family[0]} dimensions, these embeddings {dimension}")


def _texts(values: Sequence[str] | np.ndarray) -> list[str]:
    return [str(value) for value in values]
