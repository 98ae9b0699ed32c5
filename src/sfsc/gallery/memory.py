"""Rows in memory: what answers searches of a gallery on one machine."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import islice
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfsc.dimensions import shorten
from sfsc.gallery.conditions import Condition

INNER = faiss.METRIC_INNER_PRODUCT

APPROXIMATE_FROM = 20_000  # rows; fewer are searched exactly in less time than a list of them is chosen
TRAINING_ROWS_PER_LIST = 40
GOAL = 0.98  # recall@10, against the exact search, that the number of probed lists is chosen for
SAMPLE = 200
CANDIDATES = 4  # times as many as are wanted are compared exactly
BLOCK = 1 << 16  # rows compared at once: 32 MB at 128 dimensions
STALE = 0.1  # share of rows that were replaced, from which on all are loaded anew

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}

# For each of Q queries the numbers of its rows and their scores, (Q, k) both; the score is -inf where a query
# has fewer than k.
Found = tuple[np.ndarray, np.ndarray]


class MemoryIndex:
    """Embeddings and columns of n rows, searched by the cosine; exactly, or by probing some of many lists.

    The lists hold a byte for each component and say which rows to compare; scores are always those of the
    rows themselves. Memory: 4 bytes for each component, one more once an approximate search was asked for,
    and the columns.
    """

    def __init__(self, vectors: np.ndarray, columns: pa.Table) -> None:
        """Take (n, dim) float32 rows of length 1, which are not copied, and their n values of each column."""
        self.vectors = vectors
        self.columns = columns.combine_chunks()
        self.alive = np.ones(len(vectors), bool)
        self._living = len(vectors)  # counted here: counting flags takes longer than a search for one query
        self._lists: Any = None
        self._trained_rows = 0

    def __len__(self) -> int:
        return self._living

    @property
    def stale(self) -> bool:
        """Whether so many rows were replaced that all should be loaded anew."""
        return len(self) < (1 - STALE) * len(self.alive)

    def extend(self, vectors: np.ndarray, columns: pa.Table) -> None:
        """Add rows; older ones of the same ids are gone."""
        replaced = pc.is_in(self.columns["id"], value_set=columns["id"].combine_chunks())
        gone = np.flatnonzero(replaced.to_numpy(zero_copy_only=False))
        self._living += len(vectors) - int(self.alive[gone].sum())
        self.alive[gone] = False
        self.vectors[gone] = 0.0
        self.vectors = np.concatenate([self.vectors, vectors])
        self.alive = np.concatenate([self.alive, np.ones(len(vectors), bool)])
        # Of a table in pieces, rows are taken a hundred times more slowly.
        self.columns = pa.concat_tables([self.columns, columns]).combine_chunks()
        if self._lists is not None:
            self._lists.add(vectors)

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[dict[str, Any]]]:
        """See `Store`; with conditions, the search is always exact."""
        if not len(self):
            return [[] for _ in queries]
        if where:
            chosen = np.flatnonzero(self._fulfilling(where) & self.alive)
            found = self._exact(queries, top, chosen)
        elif exact or len(self) < APPROXIMATE_FROM:
            found = self._exact(queries, top, None)
        else:
            found = self._approximate(queries, top)
        return self._described(found)

    def shortened(self, dimension: int) -> MemoryIndex:
        """The rows with their first components alone, brought to length 1."""
        rows = np.flatnonzero(self.alive)
        return MemoryIndex(
            shorten(self.vectors[rows, :dimension], dimension), self.columns.take(pa.array(rows))
        )

    def prepare(self) -> None:
        """Make the lists for approximate searches, if they are missing or were made for half as many rows."""
        rows = len(self.alive)
        if len(self) < APPROXIMATE_FROM or rows < 2 * self._trained_rows:
            return
        dimension, lists = self.vectors.shape[1], 2 * math.isqrt(rows)
        self._lists = faiss.IndexIVFScalarQuantizer(
            *(faiss.IndexFlatIP(dimension), dimension, lists),
            *(faiss.ScalarQuantizer.QT_8bit, INNER),
        )
        generator = np.random.default_rng(0)
        chosen = generator.choice(rows, min(rows, TRAINING_ROWS_PER_LIST * lists), replace=False)
        self._lists.train(self.vectors[np.sort(chosen)])
        self._lists.add(self.vectors)
        self._trained_rows = rows
        self._choose_probes(self.vectors[generator.choice(np.flatnonzero(self.alive), SAMPLE)])

    def _choose_probes(self, queries: np.ndarray) -> None:
        """Probe as many lists as the goal needs for queries like the rows."""
        nearest = _best(self._exact(queries, 10, None), 10)[0]
        self._lists.nprobe = 4
        while self._lists.nprobe < self._lists.nlist:
            found = _best(self._approximate(queries, 10), 10)[0]
            if (nearest[:, :, None] == found[:, None]).any(2).mean() >= GOAL:
                return
            self._lists.nprobe = min(2 * self._lists.nprobe, self._lists.nlist)

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
            return faiss.knn(queries, self.vectors, min(limit, len(self.vectors)), INNER)[1]
        if not len(chosen):
            return np.empty((len(queries), 0), np.int64)
        parts = []
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            scores, places = faiss.knn(queries, self.vectors[block], min(limit, len(block)), INNER)
            parts.append((block[places], scores))
        rows, scores = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        return _best((rows, scores), limit)[0]

    def _approximate(self, queries: np.ndarray, top: int) -> Found:
        self.prepare()
        rows = self._lists.search(queries, min(CANDIDATES * top, len(self.vectors)))[1]
        return _best((rows, self._scores(queries, rows)), top + 1)

    def _scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(Q, k) float32, -inf for a row that is gone or less than 0.

        Equal rows have equal scores, which products of blocks do not warrant.
        """
        scores = np.empty(rows.shape, np.float32)
        step = max(1, BLOCK // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores[part] = np.einsum("qkd,qd->qk", self.vectors[rows[part]], queries[part])
        scores[(rows < 0) | ~self.alive[rows]] = -np.inf
        return scores

    def _fulfilling(self, where: Sequence[Condition]) -> np.ndarray:
        masks = (_mask(self.columns[condition.column], condition) for condition in where)
        return reduce(operator.and_, masks)

    def _described(self, found: Found) -> list[list[dict[str, Any]]]:
        """The rows of every query, with their columns and scores; columns are read once for all of them."""
        rows, scores = found
        there = np.isfinite(scores)
        columns = self.columns.take(pa.array(rows[there]))
        values = [_plain(column).to_pylist() for column in columns.columns]
        names = (*columns.column_names, "score")
        described = (
            dict(zip(names, row, strict=True)) for row in zip(*values, scores[there].tolist(), strict=True)
        )
        return [list(islice(described, count)) for count in there.sum(axis=1).tolist()]


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


def _mask(column: pa.ChunkedArray, condition: Condition) -> np.ndarray:
    plain = _plain(column)
    if condition.operator == "=":
        mask = pc.is_in(plain, value_set=pa.array(condition.values, plain.type))
    else:
        mask = COMPARISONS[condition.operator](plain, pa.scalar(condition.values[0], plain.type))
    return pc.fill_null(mask, False).to_numpy()


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
