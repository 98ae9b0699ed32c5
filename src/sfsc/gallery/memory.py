"""Rows in memory: what answers searches of a gallery on one machine."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterable, Sequence
from copy import copy
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

APPROXIMATE_FROM = 20_000  # rows; fewer are searched exactly in less time than a list of them is chosen
TRAINING_ROWS_PER_LIST = 40
GOAL = 0.98  # recall@10, against the exact search, that the number of probed lists is chosen for
SAMPLE = 200
CODES = faiss.ScalarQuantizer.QT_6bit  # finds what 8 bits find; with 4, the goal may be out of reach
CANDIDATES = 4  # times as many as are wanted are compared exactly
BLOCK = 1 << 16  # rows compared at once: 32 MB at 128 dimensions
STALE = 0.1  # share of replaced rows from which on all rows are loaded again

# For each of Q queries the numbers of its rows and their scores, (Q, k) both; the score is -inf where a query
# has fewer than k.
Found = tuple[np.ndarray, np.ndarray]


class MemoryIndex:
    """Embeddings and columns of n rows, searched by the cosine; exactly, or by probing some of many lists.

    `attributes` are the columns that hits show beside those of every gallery.

    The lists hold six bits for each component and say which rows to compare; scores are always those of the
    rows themselves. Memory: 4 bytes for each component, three quarters of a byte more once an approximate
    search was asked for, and the columns.
    """

    def __init__(self, dimension: int, parts: Iterable[tuple[np.ndarray, pa.Table]]) -> None:
        """Take all rows in parts: (n, dimension) float32 of length 1, and their n values of each column."""
        self._flat = faiss.IndexFlatIP(dimension)
        tables = []
        for vectors, table in parts:
            self._flat.add(vectors)
            tables.append(table)
        self.columns = Columns.of(pa.concat_tables(tables))
        self.attributes: Sequence[str] = [name for name in self.columns.names if name not in COLUMNS]
        self.alive = np.ones(self._flat.ntotal, bool)
        self._living = len(self.alive)  # counted here: to count flags takes longer than to search
        self._lists: Any = None
        self._trained_rows = 0

    def __len__(self) -> int:
        return self._living

    @property
    def dimension(self) -> int:
        """Of the rows."""
        return int(self._flat.d)

    @property
    def vectors(self) -> np.ndarray:
        """(n, dimension) float32, where FAISS holds them: not to be kept beyond the next change."""
        rows, dimension = self._flat.ntotal, self._flat.d
        return faiss.rev_swig_ptr(self._flat.get_xb(), rows * dimension).reshape(rows, dimension)

    @property
    def stale(self) -> bool:
        """Return whether so many rows were replaced that all should be loaded again."""
        return len(self) < (1 - STALE) * len(self.alive)

    def extend(self, vectors: np.ndarray, table: pa.Table) -> None:
        """Add rows, as the constructor takes them; older rows have no value in a column that is new."""
        (self._flat if self._lists is None else self._lists).add(vectors)
        self.alive = np.concatenate([self.alive, np.ones(len(vectors), bool)])
        self._living += len(vectors)
        self.columns = self.columns.extended(table)

    def remove(self, rows: np.ndarray) -> None:
        """Take rows away, by their (k,) numbers in the order in which they came."""
        self._living -= int(self.alive[rows].sum())
        self.alive[rows] = False
        self.vectors[rows] = 0.0

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[Hit]]:
        """See `Store`; with conditions, the search is always exact."""
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
        """The rows with their first components alone, brought to length 1."""
        shorter = copy(self)
        shorter._flat = faiss.IndexFlatIP(dimension)
        shorter._flat.add(shorten(self.vectors, dimension))
        shorter._lists, shorter._trained_rows = None, 0
        return shorter

    def prepare(self) -> None:
        """Make the lists for approximate searches, if they are missing or were made for half as many rows."""
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
        coded = faiss.clone_index(coded)  # lists grew by doubling; of a copy, none has room to spare
        release_unused()
        self._lists = faiss.IndexRefine(coded, self._flat)
        self._lists.k_factor = CANDIDATES
        self._trained_rows = rows
        self._choose_probes(coded, vectors[generator.choice(np.flatnonzero(self.alive), SAMPLE)])

    def _choose_probes(self, coded: Any, queries: np.ndarray) -> None:
        """Probe as many lists as the goal needs for queries like the rows."""
        nearest = _best(self._exact(queries, 10, None), 10)[0]
        coded.nprobe = 4
        while coded.nprobe < coded.nlist:
            found = _best(self._approximate(queries, 10), 10)[0]
            if (nearest[:, :, None] == found[:, None]).any(2).mean() >= GOAL:
                return
            coded.nprobe = min(2 * coded.nprobe, coded.nlist)

    def _exact(self, queries: np.ndarray, top: int, chosen: np.ndarray | None, limit: int = 0) -> Found:
        """All rows, of those chosen, whose score is not below the `top`-th, and maybe more."""
        limit = limit or top + 1
        rows = self._nearest(queries, limit, chosen)
        scores = self._scores(queries, rows)
        found = rows, scores
        gone = np.any(np.isneginf(scores), axis=1)
        if gone.any():  # and took the places of others
            again = self._exact(queries[gone], top, np.flatnonzero(self.alive), limit)
            found = _replaced(found, gone, again)
        if rows.shape[1] == limit:
            ordered = np.sort(scores, axis=1)
            tied = ~gone & (ordered[:, 0] == ordered[:, -top])
            if tied.any():  # maybe with more rows
                found = _replaced(found, tied, self._exact(queries[tied], top, chosen, 4 * limit))
        return found

    def _nearest(self, queries: np.ndarray, limit: int, chosen: np.ndarray | None) -> np.ndarray:
        """For each query, `limit` rows of the greatest products, or all that were chosen."""
        if chosen is None:
            limit = min(limit, len(self.alive))
            if len(queries) > 1:
                return self._flat.search(queries, limit)[1]
            # For one query, FAISS takes one thread, and numpy all of them.
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
        """(Q, k) float32, -inf for a row that is gone or less than 0.

        Equal rows have equal scores, which products of blocks do not warrant.
        """
        vectors, scores = self.vectors, np.empty(rows.shape, np.float32)
        step = max(1, BLOCK // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores[part] = np.einsum("qkd,qd->qk", vectors[rows[part]], queries[part])
        scores[(rows < 0) | ~self.alive[rows]] = -np.inf
        return scores

    def _hits(self, found: Found, top: int) -> list[list[Hit]]:
        """The rows of every query; columns are read once for all of them."""
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
        """The user's attributes of each row."""
        own: list[dict[str, Any]] = [{} for _ in rows]
        for name in self.attributes:
            for attributes, value in zip(own, self.columns.take(name, rows), strict=True):
                attributes[name] = value
        return own


def release_unused() -> None:
    """Give back to the system what was freed: allocators keep it, a quarter of what is in use here."""
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _best(found: Found, limit: int) -> Found:
    """The first `limit` of each query's rows by their scores."""
    rows, scores = found
    order = np.argsort(-scores, axis=1, kind="stable")[:, :limit]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _replaced(found: Found, places: np.ndarray, others: Found) -> Found:
    """What was found, with others in these places of the queries."""
    width = max(found[0].shape[1], others[0].shape[1])
    (rows, scores), others = _widened(found, width), _widened(others, width)
    rows[places], scores[places] = others
    return rows, scores


def _widened(found: Found, width: int) -> Found:
    rows, scores = found
    more = ((0, 0), (0, width - rows.shape[1]))
    return np.pad(rows, more), np.pad(scores, more, constant_values=-np.inf)
