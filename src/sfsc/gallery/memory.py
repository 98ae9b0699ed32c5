"""The rows of a gallery in memory, and their search."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from sfsc.dimensions import shorten
from sfsc.gallery.columns import Columns
from sfsc.gallery.conditions import Condition
from sfsc.gallery.store import COLUMNS, HIT_COLUMNS, Hit, ranked

INNER = faiss.METRIC_INNER_PRODUCT

APPROXIMATE_FROM = 20_000  # rows; with fewer, an exact search is faster than the choice of lists
TRAINING_ROWS_PER_LIST = 40
GOAL = 0.98  # the recall@10 against the exact search that the number of probed lists is chosen for
SAMPLE = 200
CODES = faiss.ScalarQuantizer.QT_6bit  # recall is that of 8 bits; 4 bits may not reach the goal
CANDIDATES = 4  # rows that are compared exactly, for each hit
BLOCK = 1 << 16  # rows compared at once: 32 MB at 128 dimensions
STALE = 0.1  # if more than this share of the rows was replaced, all rows are loaded again

# The numbers of the rows that were found for each of Q queries, and their scores: (Q, k) int64 and (Q, k)
# float32. The score is -inf where a query has fewer than k rows.
Found = tuple[np.ndarray, np.ndarray]


class MemoryIndex:
    """Embeddings and columns of n rows, searched by cosine similarity.

    An exact search compares every row. An approximate search probes some of many lists, which hold six bits
    per component, and compares the candidates that it finds there exactly.

    Memory: 4 bytes per component and the columns; three quarters of a byte more per component after the first
    approximate search.

    Attributes:
        columns: the columns of all rows, including those that were removed.
        attributes: the names of the user-defined columns that hits contain.
        alive: (n,) bool, False for rows that were removed.
    """

    def __init__(self, flat: Any, columns: Columns) -> None:
        """Index n rows.

        Args:
            flat: a FAISS flat index of the n embeddings, of length 1.
            columns: the n values of each column.
        """
        self._flat = flat
        self.columns = columns
        self.attributes: Sequence[str] = [name for name in columns.names if name not in COLUMNS]
        self.alive = np.ones(flat.ntotal, bool)
        self._living = flat.ntotal  # kept, because counting the flags takes longer than a search
        self._lists: Any = None
        self._trained_rows = 0

    @classmethod
    def of(cls, dimension: int, parts: Iterable[tuple[np.ndarray, pa.Table]]) -> MemoryIndex:
        """Index rows that are given in parts: (n, dimension) float32 of length 1, and a table of n rows."""
        flat, tables = faiss.IndexFlatIP(dimension), []
        for vectors, table in parts:
            flat.add(vectors)
            tables.append(table)
        return cls(flat, Columns.of(pa.concat_tables(tables)))

    def __len__(self) -> int:
        return self._living

    @property
    def dimension(self) -> int:
        """The dimension of the rows."""
        return int(self._flat.d)

    @property
    def vectors(self) -> np.ndarray:
        """(n, dimension) float32, a view of the memory of FAISS that is valid until the next change."""
        rows, dimension = self._flat.ntotal, self._flat.d
        return faiss.rev_swig_ptr(self._flat.get_xb(), rows * dimension).reshape(rows, dimension)

    @property
    def stale(self) -> bool:
        """Whether so many rows were replaced that all should be loaded again."""
        return len(self) < (1 - STALE) * len(self.alive)

    def extend(self, vectors: np.ndarray, table: pa.Table) -> None:
        """Add rows, given as for `of`; in a new column, older rows have None."""
        (self._flat if self._lists is None else self._lists).add(vectors)
        self.alive = np.concatenate([self.alive, np.ones(len(vectors), bool)])
        self._living += len(vectors)
        self.columns = self.columns.extended(table)

    def remove(self, rows: np.ndarray) -> None:
        """Remove rows by their numbers, (k,) int64, counted from 0 in the order in which they were added."""
        self._living -= int(self.alive[rows].sum())
        self.alive[rows] = False
        self.vectors[rows] = 0.0

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[Hit]]:
        """Search as `Store.search` does; with conditions, always exactly."""
        if not len(self):
            return [[] for _ in queries]
        if where:
            chosen = np.flatnonzero(self.columns.fulfilling(where) & self.alive)
            found = self._exact(queries, top, chosen)
        elif exact or len(self) < APPROXIMATE_FROM:
            found = self._exact(queries, top, None)
        else:
            found = self._approximate(queries, top)
        return self._hits(found, top)

    def shortened(self, dimension: int) -> MemoryIndex:
        """Return an index of the first components of the rows, normalised to length 1."""
        flat = faiss.IndexFlatIP(dimension)
        flat.add(shorten(self.vectors, dimension))
        shorter = MemoryIndex(flat, self.columns)
        shorter.attributes = self.attributes
        shorter.remove(np.flatnonzero(~self.alive))
        return shorter

    def prepare(self) -> None:
        """Make the lists for approximate searches, unless there are lists of more than half of the rows."""
        rows = len(self.alive)
        if len(self) < APPROXIMATE_FROM or rows < 2 * self._trained_rows:
            return
        vectors, dimension, lists = self.vectors, self._flat.d, 2 * math.isqrt(rows)
        coded: Any = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dimension), dimension, lists, CODES, INNER
        )
        generator = np.random.default_rng(0)
        chosen = generator.choice(rows, min(rows, TRAINING_ROWS_PER_LIST * lists), replace=False)
        coded.train(vectors[np.sort(chosen)])
        coded.add(vectors)
        coded = faiss.clone_index(coded)  # lists grow by doubling; those of a copy have no room to spare
        release_unused()
        self._lists = faiss.IndexRefine(coded, self._flat)
        self._lists.k_factor = CANDIDATES
        self._trained_rows = rows
        self._choose_probes(coded, vectors[generator.choice(np.flatnonzero(self.alive), SAMPLE)])

    def _choose_probes(self, coded: Any, queries: np.ndarray) -> None:
        """Set the number of probed lists to what the goal needs for queries like the rows."""
        nearest = _best(self._exact(queries, 10, None), 10)[0]
        coded.nprobe = 4
        while coded.nprobe < coded.nlist:
            found = _best(self._approximate(queries, 10), 10)[0]
            if (nearest[:, :, None] == found[:, None]).any(2).mean() >= GOAL:
                return
            coded.nprobe = min(2 * coded.nprobe, coded.nlist)

    def _exact(self, queries: np.ndarray, top: int, chosen: np.ndarray | None) -> Found:
        """Return, for each query, every row whose score is not below the `top`-th score, and maybe more.

        Only the rows `chosen`, (n,) int64, are compared, or all rows if it is None.
        """
        found: Found = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        pending, limit = np.arange(len(queries)), top + 1
        while len(pending):
            rows, scores = self._compared(queries[pending], limit, chosen)
            found = _replaced(found, pending, (rows, scores))
            if rows.shape[1] < limit:  # all rows were found
                break
            ordered = np.sort(scores, axis=1)
            lowest = ordered[:, 0]
            pending = pending[(lowest == ordered[:, -top]) & np.isfinite(lowest)]  # maybe more rows are equal
            limit *= 4
        return found

    def _compared(self, queries: np.ndarray, limit: int, chosen: np.ndarray | None) -> Found:
        """Return `limit` rows with the greatest scores for each query, or all rows that were chosen."""
        rows = self._nearest(queries, limit, chosen)
        found = rows, self._scores(queries, rows)
        removed = np.any(np.isneginf(found[1]), axis=1)
        if removed.any():  # removed rows took the places of others
            rows = self._nearest(queries[removed], limit, np.flatnonzero(self.alive))
            found = _replaced(found, np.flatnonzero(removed), (rows, self._scores(queries[removed], rows)))
        return found

    def _nearest(self, queries: np.ndarray, limit: int, chosen: np.ndarray | None) -> np.ndarray:
        """Return the `limit` rows with the greatest products for each query, or all rows that were chosen."""
        if chosen is None:
            limit = min(limit, len(self.alive))
            if len(queries) > 1:
                return self._flat.search(queries, limit)[1]
            # For one query, FAISS uses one thread, and numpy uses all.
            return np.argpartition(self.vectors @ queries[0], -limit)[None, -limit:]
        if not len(chosen):
            return np.empty((len(queries), 0), np.int64)
        vectors, parts = self.vectors, []
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            scores, places = faiss.knn(queries, vectors[block], min(limit, len(block)), INNER)
            parts.append((block[places], scores))
        rows, scores = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        return _best((rows, scores), limit)[0]

    def _approximate(self, queries: np.ndarray, top: int) -> Found:
        self.prepare()
        scores, rows = self._lists.search(queries, top)
        lacking = ((rows < 0) | ~self.alive[rows]).any(axis=1)
        if lacking.any():
            return _replaced((rows, scores), lacking, self._exact(queries[lacking], top, None))
        return rows, scores

    def _scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the scores of rows, (Q, k) float32; -inf for a removed row and for a number below 0.

        Equal rows have equal scores, which is not so for products of blocks.
        """
        vectors, scores = self.vectors, np.empty(rows.shape, np.float32)
        step = max(1, BLOCK // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores[part] = np.einsum("qkd,qd->qk", vectors[rows[part]], queries[part])
        scores[(rows < 0) | ~self.alive[rows]] = -np.inf
        return scores

    def _hits(self, found: Found, top: int) -> list[list[Hit]]:
        """Return the hits of every query; columns are read once for all queries."""
        rows, scores = found
        there = np.isfinite(scores)
        chosen = rows[there]
        fixed = (self.columns.take(name, chosen) for name in HIT_COLUMNS)
        hits = list(map(Hit._make, zip(*fixed, scores[there].tolist(), self._own(chosen), strict=True)))
        ends = there.sum(axis=1).cumsum().tolist()
        parts = [hits[start:end] for start, end in pairwise([0, *ends])]
        in_order = np.all(scores[:, 1:] < scores[:, :-1], axis=1)
        return [part[:top] if done else ranked(part, top) for part, done in zip(parts, in_order, strict=True)]

    def _own(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Return the user-defined columns of each row."""
        own: list[dict[str, Any]] = [{} for _ in rows]
        for name in self.attributes:
            for attributes, value in zip(own, self.columns.take(name, rows), strict=True):
                attributes[name] = value
        return own


def release_unused() -> None:
    """Return freed memory to the system; allocators keep a quarter of what is in use here."""
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _best(found: Found, limit: int) -> Found:
    """Return the `limit` rows of each query with the greatest scores, best first."""
    rows, scores = found
    order = np.argsort(-scores, axis=1, kind="stable")[:, :limit]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _replaced(found: Found, places: np.ndarray, others: Found) -> Found:
    """Return what was found, with the rows of some queries, by mask or positions, replaced by others."""
    width = max(found[0].shape[1], others[0].shape[1])
    (rows, scores), others = _widened(found, width), _widened(others, width)
    rows[places], scores[places] = others
    return rows, scores


def _widened(found: Found, width: int) -> Found:
    rows, scores = found
    more = ((0, 0), (0, width - rows.shape[1]))
    return np.pad(rows, more), np.pad(scores, more, constant_values=-np.inf)
