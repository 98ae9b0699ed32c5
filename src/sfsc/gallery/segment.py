"""Segments: rows of a gallery in memory or mapped from files, compared with queries exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from zlib import crc32

import faiss
import numpy as np

from sfsc.gallery.columns import Columns
from sfsc.gallery.conditions import Condition

INNER = faiss.METRIC_INNER_PRODUCT
BLOCK = 1 << 16  # rows compared at once: 32 MB at 128 dimensions
PAGE = 4096  # bytes that are at least read from a file
CACHED = 1 << 10  # rows converted to float32 at once: 0.5 MB at 128 dimensions
# Up to so many components (16,384 rows of 128 dimensions) are compared by one thread, in parts that numpy
# does not divide among threads: on busy cores, waiting for another thread takes longer than the comparison.
ALONE, UNDIVIDED = 1 << 21, 1 << 15

# The numbers of the rows that were found for each of Q queries, and their scores: (Q, k) int64 and (Q, k)
# float32. The score is -inf where a query has fewer than k rows.
Found = tuple[np.ndarray, np.ndarray]


def _ignored(_: int) -> None:
    """Take notice of nothing."""


@dataclass(frozen=True)
class Segment:
    """n rows, numbered from 0. They never change, except that rows can be removed from a copy.

    Attributes:
        vectors: (n, dim) float32, float16 or int8, the embeddings in the form in which they are compared.
        lengths: (n,) float32, the lengths of the vectors; None if all have length 1.
        columns: the columns of the rows.
        present: (ceil(n / 8),) uint8, a bit for each row, the lowest first: 0 if the row was removed.
        living: the number of rows that were not removed.
        hashes: (n,) uint32, the hashes of the ids in ascending order, and the numbers of their rows, (n,)
            uint32; None if ids are compared one by one.
        touched: is called with the number of bytes before they are read, if the rows are mapped from files.
    """

    vectors: np.ndarray
    lengths: np.ndarray | None
    columns: Columns
    present: np.ndarray
    living: int
    hashes: tuple[np.ndarray, np.ndarray] | None = None
    touched: Callable[[int], None] = _ignored

    @classmethod
    def of(cls, vectors: np.ndarray, columns: Columns, lengths: np.ndarray | None = None) -> Segment:
        """Return a segment of all rows; `lengths` are computed if they are needed and not given."""
        if lengths is None and vectors.dtype != np.float32:
            lengths = lengths_of(vectors)
        return cls(vectors, lengths, columns, all_present(len(vectors)), len(vectors))

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def nbytes(self) -> int:
        """The number of bytes that the rows take, with their columns."""
        lengths = 0 if self.lengths is None else self.lengths.nbytes
        return self.vectors.nbytes + lengths + sum(a.nbytes for a in self.columns.arrays.values())

    @property
    def dead(self) -> int:
        """The number of rows that were removed."""
        return len(self) - self.living

    def without(self, rows: np.ndarray) -> Segment:
        """Return the segment after the removal of the rows at (k,) numbers."""
        present = self.present.copy()
        np.bitwise_and.at(present, rows >> 3, ~(1 << (rows & 7)).astype(np.uint8))
        return replace(self, present=present, living=int(np.bitwise_count(present).sum()))

    def shortened(self, dimension: int) -> Segment:
        """Return the segment of the first components of the rows."""
        first = self.vectors[:, :dimension]
        return replace(self, vectors=first, lengths=lengths_of(first))

    def is_present(self, rows: np.ndarray) -> np.ndarray:
        """Return whether the rows at numbers of any shape are there; False for numbers below 0."""
        return (self.present[rows >> 3] >> (rows & 7) & 1).astype(bool) & (rows >= 0)

    def with_ids(self, ids: Sequence[str]) -> np.ndarray:
        """Return the numbers of the rows that have one of these ids and were not removed: (k,) int64."""
        if self.hashes is None:
            rows = np.flatnonzero(self.columns.fulfilling([Condition("id", "=", tuple(ids))]))
        else:
            wanted = hashes_of(ids)
            first, end = (np.searchsorted(self.hashes[0], wanted, side) for side in ("left", "right"))
            spans = [self.hashes[1][a:b] for a, b in zip(first, end, strict=True)]
            rows = np.unique(np.concatenate(spans)).astype(np.int64)
            rows = rows[rows < len(self)]  # the numbers come from a file
            known = {*ids}
            rows = rows[[id_ in known for id_ in self.columns.take(["id"], rows)[0]]]
        return rows[self.is_present(rows)]

    def mask(self, rows: slice = slice(None)) -> np.ndarray:
        """Return (k,) bool: whether the rows of a range are there."""
        start, stop, _ = rows.indices(len(self))
        first = start // 8
        bits = np.unpackbits(self.present[first : -(-stop // 8)], bitorder="little")
        return bits[start - 8 * first : stop - 8 * first].view(bool)

    def decoded(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the embeddings of some rows: (..., dim) float32 of length 1."""
        vectors = np.asarray(self.vectors[rows], np.float32)
        if self.lengths is None:
            return vectors
        lengths = self.lengths[rows]
        return vectors / np.where(lengths > 0, lengths, 1)[..., None]

    def scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the scores of rows, (Q, k) float32; -inf for a removed row and for a number below 0.

        Equal rows have equal scores, which is not so for products of blocks.
        """
        self.touched(rows.size * PAGE)
        scores = np.empty(rows.shape, np.float32)
        step = max(1, BLOCK // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores[part] = np.einsum("qkd,qd->qk", self.decoded(rows[part]), queries[part])
        scores[~self.is_present(rows)] = -np.inf
        return scores

    def nearest(self, queries: np.ndarray, limit: int, chosen: np.ndarray | None = None) -> np.ndarray:
        """Return the numbers of the `limit` rows with the greatest products for each query, or of all rows.

        Args:
            queries: (Q, dim) float32.
            limit: the number of rows for each query.
            chosen: (k,) int64, the rows to compare, all of them there; by default all that are there.

        Returns:
            (Q, up to limit) int64, in no particular order.
        """
        count = len(self) if chosen is None else len(chosen)
        found = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        for start in range(0, count, BLOCK):
            block = slice(start, min(start + BLOCK, count))
            rows = self._there(block) if chosen is None else chosen[block]
            part = block if chosen is None and len(rows) == block.stop - start else rows
            size = self.vectors.strides[0]
            self.touched(len(rows) * (size if chosen is None else max(size, PAGE)))
            more = self._compared(queries, part, min(limit, len(rows)))
            found = best((np.hstack([found[0], rows[more[0]]]), np.hstack([found[1], more[1]])), limit)
        return found[0]

    def _compared(self, queries: np.ndarray, rows: slice | np.ndarray, limit: int) -> Found:
        """Return the places among `rows` of the `limit` ones with the greatest products, and the products."""
        if not limit:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        if len(queries) > 1:
            scores, places = faiss.knn(queries, np.ascontiguousarray(self.decoded(rows)), limit, INNER)
            return places, scores
        # For one query, FAISS uses one thread, and numpy uses all if there are many rows.
        products = self._products(queries[0], rows)
        places = np.argpartition(products, -limit)[-limit:]
        return places[None], products[None, places]

    def _products(self, query: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
        """Return the products of rows with one query: (k,) float32."""
        vectors = self.vectors[rows]
        alone = vectors.size <= ALONE
        if self.lengths is None and not alone:
            return vectors @ query
        products = np.empty(len(vectors), np.float32)
        size = max(1, UNDIVIDED // len(query)) if alone else CACHED
        for start in range(0, len(vectors), size):  # converted vectors stay in the cache of the processor
            part = slice(start, start + size)
            products[part] = vectors[part].astype(np.float32, copy=False) @ query
        if self.lengths is None:
            return products
        return products / np.where((lengths := self.lengths[rows]) > 0, lengths, 1)

    def _there(self, block: slice) -> np.ndarray:
        """Return the numbers of the rows of a block that were not removed."""
        if not self.dead:
            return np.arange(block.start, block.stop)
        return block.start + np.flatnonzero(self.mask(block))


def hashes_of(ids: Iterable[str]) -> np.ndarray:
    """Return a hash of each id: (n,) uint32, the same in every process."""
    return np.fromiter((crc32(id_.encode()) for id_ in ids), np.uint32)


def all_present(rows: int) -> np.ndarray:
    """Return the bits of n rows when none of them was removed."""
    return np.packbits(np.ones(rows, bool), bitorder="little")


def lengths_of(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths of (n, dim) vectors of any dtype: (n,) float32."""
    lengths = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        block = slice(start, start + BLOCK)
        lengths[block] = np.linalg.norm(vectors[block].astype(np.float32), axis=1)
    return lengths


def best(found: Found, limit: int) -> Found:
    """Return the `limit` rows of each query with the greatest scores, best first."""
    rows, scores = found
    order = np.argsort(-scores, axis=1, kind="stable")[:, :limit]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
