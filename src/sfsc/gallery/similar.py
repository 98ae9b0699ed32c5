"""All pairs of similar rows: compared with each other if they are few, by inverted lists if they are many."""

from __future__ import annotations

import math
from collections.abc import Iterator

import faiss
import numpy as np

from sfsc.errors import SfscError
from sfsc.progress import track

EXACT = 20_000  # rows of which every pair is compared
BLOCK = 1024  # rows that are compared at once
TRAINING_ROWS_PER_LIST = 40
GOAL = 0.98  # the share of the similar rows of a sample that the number of probed lists is chosen for
SAMPLE = 500
LEAST_PROBES = 4
ROUNDED = 0.002  # how far scores of float16 codes can be below the scores of the rows
MOST_PAIRS = 10_000_000

Pairs = tuple[np.ndarray, np.ndarray]  # (P, 2) int64 rows, the smaller number first, and (P,) float32 scores


def similar_pairs(rows: np.ndarray, kinds: np.ndarray, least: np.ndarray) -> Pairs:
    """Find the pairs of rows whose score reaches the limit of their kinds.

    Of more than `EXACT` rows, only those in neighbouring lists are compared, whose number is chosen so that
    98% of the similar rows of a sample are found; the time grows like n^1.5.

    Args:
        rows: (n, dim) float32 of length 1.
        kinds: (n,) int64, the kind of each row.
        least: (m, m) float64, symmetric: the smallest score of a similar pair of two kinds.

    Returns:
        The pairs, in no particular order.

    Raises:
        SfscError: there are too many pairs.
    """
    limit = float(least.min())
    found, total = [], 0
    searched = _by_comparison(rows, limit) if len(rows) <= EXACT else _by_lists(rows, limit)
    for pairs, scores in searched:
        reached = scores >= least[kinds[pairs[:, 0]], kinds[pairs[:, 1]]]
        found.append((pairs[reached], scores[reached]))
        total += int(reached.sum())
        if total > MOST_PAIRS:
            raise SfscError(
                f"more than {MOST_PAIRS:,} pairs of rows are at least this similar: ask for more similarity"
            )
    empty = np.empty((0, 2), np.int64), np.empty(0, np.float32)
    every, values = zip(empty, *found, strict=True)
    return np.concatenate(every), np.concatenate(values)


def _by_comparison(rows: np.ndarray, limit: float) -> Iterator[Pairs]:
    for start in range(0, len(rows), BLOCK):
        scores = rows[start : start + BLOCK] @ rows[start:].T
        one, other = np.nonzero(np.triu(scores >= limit, 1))
        yield np.stack([one, other], 1) + start, scores[one, other]


def _by_lists(rows: np.ndarray, limit: float) -> Iterator[Pairs]:
    index = _index_of(rows)
    index.nprobe = _probes(index, rows, limit)
    for start in track(range(0, len(rows), BLOCK), "comparing rows", total=math.ceil(len(rows) / BLOCK)):
        one, other = _near(index, rows[start : start + BLOCK], limit)
        one += start
        once = one < other
        pairs = np.stack([one[once], other[once]], 1)
        scores = np.einsum("pd,pd->p", rows[pairs[:, 0]], rows[pairs[:, 1]])
        yield pairs[scores >= limit], scores[scores >= limit]


def _index_of(rows: np.ndarray) -> faiss.IndexIVFScalarQuantizer:
    """Return FAISS's lists of all rows, coded in float16."""
    count, dimension = 2 * math.isqrt(len(rows)), rows.shape[1]
    index = faiss.IndexIVFScalarQuantizer(
        *(faiss.IndexFlatIP(dimension), dimension, count),
        *(faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT),
    )
    chosen = np.random.default_rng(0).choice(len(rows), min(len(rows), TRAINING_ROWS_PER_LIST * count), False)
    index.train(rows[np.sort(chosen)])
    for start in range(0, len(rows), 1 << 14):
        index.add(rows[start : start + (1 << 14)])
    return index


def _probes(index: faiss.IndexIVFScalarQuantizer, rows: np.ndarray, limit: float) -> int:
    """Return the number of lists to probe, so that enough of the similar rows of a sample are found."""
    sample = rows[np.random.default_rng(1).choice(len(rows), min(SAMPLE, len(rows)), False)]
    wanted = sum(
        int((sample @ rows[start : start + (1 << 16)].T >= limit).sum())
        for start in range(0, len(rows), 1 << 16)
    )
    probes = min(LEAST_PROBES, index.nlist)
    while probes < index.nlist:
        index.nprobe = probes
        if len(_near(index, sample, limit + ROUNDED)[0]) >= GOAL * wanted:
            break
        probes *= 2
    return min(probes, index.nlist)


def _near(
    index: faiss.IndexIVFScalarQuantizer, queries: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of queries, and the rows in the probed lists that may reach the limit."""
    bounds, _, found = index.range_search(np.ascontiguousarray(queries), limit - ROUNDED)
    counts: np.ndarray = np.diff(bounds.astype(np.int64))
    places = np.repeat(np.arange(len(queries)), counts)
    return places, found
