"""Rows in memory: what answers searches of a gallery on one machine."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfsc.gallery.conditions import Condition

APPROXIMATE_FROM = 20_000  # rows; fewer are searched exactly in less time than a list of them is chosen
TRAINING_ROWS_PER_LIST = 40
GOAL = 0.98  # recall@10, against the exact search, that the number of probed lists is chosen for
SAMPLE = 200
CANDIDATES = 4  # times as many as are wanted are compared exactly
BLOCK = 1 << 16
STALE = 0.1  # share of rows that were replaced, from which on all are loaded anew

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


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
        self._lists: Any = None
        self._trained_rows = 0

    def __len__(self) -> int:
        return int(self.alive.sum())

    @property
    def stale(self) -> bool:
        """Whether so many rows were replaced that all should be loaded anew."""
        return len(self) < (1 - STALE) * len(self.alive)

    def extend(self, vectors: np.ndarray, columns: pa.Table) -> None:
        """Add rows; older ones of the same ids are gone."""
        replaced = pc.is_in(self.columns["id"], value_set=columns["id"].combine_chunks())
        gone = np.flatnonzero(replaced.to_numpy(zero_copy_only=False))
        self.alive[gone] = False
        self.vectors[gone] = 0.0
        self.vectors = np.concatenate([self.vectors, vectors])
        self.alive = np.concatenate([self.alive, np.ones(len(vectors), bool)])
        self.columns = pa.concat_tables([self.columns, columns])
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

    def prepare(self) -> None:
        """Make the lists for approximate searches, if they are missing or were made for half as many rows."""
        rows = len(self.alive)
        if len(self) < APPROXIMATE_FROM or rows < 2 * self._trained_rows:
            return
        dimension, lists = self.vectors.shape[1], 2 * math.isqrt(rows)
        self._lists = faiss.IndexIVFScalarQuantizer(
            *(faiss.IndexFlatIP(dimension), dimension, lists),
            *(faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT),
        )
        generator = np.random.default_rng(0)
        chosen = generator.choice(rows, min(rows, TRAINING_ROWS_PER_LIST * lists), replace=False)
        self._lists.train(self.vectors[np.sort(chosen)])
        self._lists.add(self.vectors)
        self._trained_rows = rows
        self._choose_probes(self.vectors[generator.choice(np.flatnonzero(self.alive), SAMPLE)])

    def _choose_probes(self, queries: np.ndarray) -> None:
        """Probe as many lists as the goal needs for queries like the rows."""
        nearest = [set(rows.tolist()) for rows, _ in self._exact(queries, 10, None)]
        self._lists.nprobe = 4
        while self._lists.nprobe < self._lists.nlist:
            found = self._approximate(queries, 10)
            hits = [
                len(best & {*rows[np.argsort(-scores)[:10]].tolist()}) / 10
                for best, (rows, scores) in zip(nearest, found, strict=True)
            ]
            if np.mean(hits) >= GOAL:
                return
            self._lists.nprobe = min(2 * self._lists.nprobe, self._lists.nlist)

    def _exact(
        self, queries: np.ndarray, top: int, chosen: np.ndarray | None, limit: int = 0
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query the rows, of those chosen, whose score is not below the `top`-th, and the scores."""
        limit = limit or top + 1
        found = self._nearest(queries, limit, chosen)
        result = []
        for number, rows in enumerate(found):
            kept = rows[self.alive[rows]]
            if chosen is None and len(kept) < min(limit, len(self)):  # rows that are gone took places
                result += self._exact(queries[number : number + 1], top, np.flatnonzero(self.alive), limit)
                continue
            scores = self._scores(queries[number], kept)
            ordered = np.sort(scores)[::-1]
            if len(kept) >= limit and ordered[-1] == ordered[top - 1]:  # more may tie with the last
                result += self._exact(queries[number : number + 1], top, chosen, 4 * limit)
                continue
            result.append((kept, scores))
        return result

    def _nearest(self, queries: np.ndarray, limit: int, chosen: np.ndarray | None) -> list[np.ndarray]:
        """For each query, `limit` rows of the greatest products, or all that were chosen."""
        if chosen is None:
            return list(faiss.knn(queries, self.vectors, min(limit, len(self.vectors)), INNER)[1])
        if not len(chosen):
            return [chosen for _ in queries]
        parts = []
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            scores, places = faiss.knn(queries, self.vectors[block], min(limit, len(block)), INNER)
            parts.append((scores, block[places]))
        scores, rows = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        order = np.argsort(-scores, axis=1)[:, :limit]
        return list(np.take_along_axis(rows, order, axis=1))

    def _approximate(self, queries: np.ndarray, top: int) -> list[tuple[np.ndarray, np.ndarray]]:
        self.prepare()
        candidates = self._lists.search(queries, min(CANDIDATES * top, len(self.vectors)))[1]
        found = []
        for query, rows in zip(queries, candidates, strict=True):
            kept = rows[(rows >= 0) & self.alive[rows]]
            scores = self._scores(query, kept)
            best = np.argsort(-scores, kind="stable")[: top + 1]
            found.append((kept[best], scores[best]))
        return found

    def _scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) float32; equal rows have equal scores, which products of blocks do not warrant."""
        return np.einsum("nd,d->n", self.vectors[rows], query)

    def _fulfilling(self, where: Sequence[Condition]) -> np.ndarray:
        masks = (_mask(self.columns[condition.column], condition) for condition in where)
        return reduce(operator.and_, masks)

    def _described(self, found: list[tuple[np.ndarray, np.ndarray]]) -> list[list[dict[str, Any]]]:
        """The rows of every query, with their columns and scores; columns are read once for all of them."""
        numbers = np.concatenate([rows for rows, _ in found])
        scores = np.concatenate([scores for _, scores in found]).tolist()
        described = iter(self.columns.take(pa.array(numbers)).to_pylist())
        pairs = ({**row, "score": score} for row, score in zip(described, scores, strict=True))
        return [[next(pairs) for _ in rows] for rows, _ in found]


INNER = faiss.METRIC_INNER_PRODUCT


def _mask(column: pa.ChunkedArray, condition: Condition) -> np.ndarray:
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    if condition.operator == "=":
        mask = pc.is_in(plain, value_set=pa.array(condition.values, plain.type))
    else:
        mask = COMPARISONS[condition.operator](plain, pa.scalar(condition.values[0], plain.type))
    return pc.fill_null(mask, False).to_numpy()
