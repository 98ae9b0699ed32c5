"""One version of a gallery's rows, and their search by cosine similarity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, starmap
from typing import Any

import numpy as np

from sfsc.gallery.conditions import Condition
from sfsc.gallery.lists import Lists
from sfsc.gallery.segment import PAGE, Found, Segment
from sfsc.gallery.store import HIT_COLUMNS, Hit, ranked

# With conditions, at most this many rows, or this share of the rows, are all compared: so few are found
# faster without lists.
FEW_ROWS, FEW_SHARE = 20_000, 0.02


@dataclass(frozen=True)
class Part:
    """A segment of a view, with the lists for approximate searches if it has any."""

    segment: Segment
    lists: Lists | None = None

    def search(self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool) -> Found:
        """Return rows for each query: the `top` best of them, or nearly so, and maybe more."""
        segment = self.segment
        if where:
            segment.touched(segment.columns.size_of(condition.column for condition in where))
        mask = segment.columns.fulfilling(where) & segment.mask() if where else None
        count = segment.living if mask is None else int(np.count_nonzero(mask))
        if not count:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        few = mask is not None and count <= max(FEW_ROWS, FEW_SHARE * len(segment))
        if exact or self.lists is None or few:
            return _exact(segment, queries, top, None if mask is None else np.flatnonzero(mask))
        chosen: np.ndarray | None
        if mask is not None:
            chosen = np.packbits(mask, bitorder="little")
        else:
            chosen = segment.present if segment.dead else None
        segment.touched(len(queries) * self.lists.probed * len(segment) // count)
        rows = self.lists.candidates(queries, top, chosen, count / len(segment))
        scores = segment.scores(queries, rows)
        lacking = np.isfinite(scores).sum(axis=1) < min(top, count)
        if lacking.any():
            places = None if mask is None else np.flatnonzero(mask)
            return _replaced((rows, scores), lacking, _exact(segment, queries[lacking], top, places))
        return rows, scores


@dataclass(frozen=True)
class View:
    """The rows of one version of a gallery. It never changes, so any number of threads can search it.

    Attributes:
        parts: the segments with their lists.
        attributes: the names of the user-defined columns that hits contain.
    """

    parts: tuple[Part, ...]
    attributes: tuple[str, ...]

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[Hit]]:
        """Search as `Store.search` does."""
        found = [part.search(queries, top, where, exact) for part in self.parts]
        hits: list[list[Hit]] = [[] for _ in queries]
        if not found:
            return hits
        least = _least(np.hstack([scores for _, scores in found]), top)
        for part, (rows, scores) in zip(self.parts, found, strict=True):
            there = np.isfinite(scores) & (scores >= least)
            made = iter(self._hits(part.segment, rows[there], scores[there]))
            for own, count in zip(hits, there.sum(axis=1).tolist(), strict=True):
                own.extend(islice(made, count))
        return [ranked(own, top) for own in hits]

    def rows(
        self, ids: Sequence[str], columns: Sequence[str], embeddings: bool
    ) -> Iterator[tuple[dict[str, list[Any]], np.ndarray | None]]:
        """Yield the rows with these ids as `Store.rows` does."""
        for part in self.parts:
            if len(rows := part.segment.with_ids(ids)):
                values = part.segment.columns.take(columns, rows)
                vectors = part.segment.decoded(rows) if embeddings else None
                yield dict(zip(columns, values, strict=True)), vectors

    def shortened(self, dimension: int) -> View:
        """Return the view of the first components of the rows, which is always searched exactly."""
        parts = tuple(Part(part.segment.shortened(dimension)) for part in self.parts)
        return replace(self, parts=parts)

    def _hits(self, segment: Segment, rows: np.ndarray, scores: np.ndarray) -> list[Hit]:
        if not len(rows):
            return []
        segment.touched(2 * PAGE * len(rows) * (len(HIT_COLUMNS) + len(self.attributes)))
        values = segment.columns.take([*HIT_COLUMNS, *self.attributes], rows)
        fixed, own = values[: len(HIT_COLUMNS)], values[len(HIT_COLUMNS) :]
        attributes = [dict(zip(self.attributes, row, strict=True)) for row in zip(*own, strict=True)]
        attributes = attributes or [{} for _ in rows]
        return list(starmap(Hit, zip(*fixed, scores.tolist(), attributes, strict=True)))


def _exact(segment: Segment, queries: np.ndarray, top: int, chosen: np.ndarray | None) -> Found:
    """Return, for each query, every row whose score is not below the `top`-th score, and maybe more.

    Only the rows `chosen`, (n,) int64, are compared, or all rows if it is None.
    """
    found: Found = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    pending, limit = np.arange(len(queries)), top + 1
    while len(pending):
        rows = segment.nearest(queries[pending], limit, chosen)
        scores = segment.scores(queries[pending], rows)
        every = len(pending) == len(queries)
        found = (rows, scores) if every else _replaced(found, pending, (rows, scores))
        if rows.shape[1] < limit:  # all rows were found
            break
        ordered = np.sort(scores, axis=1)
        pending = pending[ordered[:, 0] == ordered[:, -top]]  # maybe more rows are equal
        limit *= 4
    return found


def _least(scores: np.ndarray, top: int) -> np.ndarray:
    """Return the `top`-th greatest score of each query: (Q, 1); -inf if there are fewer scores."""
    if scores.shape[1] <= top:
        return np.full((len(scores), 1), -np.inf, np.float32)
    return -np.partition(-scores, top - 1, axis=1)[:, top - 1 : top]


def _replaced(found: Found, places: np.ndarray, others: Found) -> Found:
    """Return what was found, with the rows of some queries, by mask or positions, replaced by others."""
    width = max(found[0].shape[1], others[0].shape[1])
    (rows, scores), others = _widened(found, width), _widened(others, width)
    rows[places], scores[places] = others
    return rows, scores


def _widened(found: Found, width: int) -> Found:
    rows, scores = found
    if rows.shape[1] == width:
        return found
    more = ((0, 0), (0, width - rows.shape[1]))
    return np.pad(rows, more), np.pad(scores, more, constant_values=-np.inf)
