"""Counting the cosines of matching and of non-matching pairs, in memory that does not grow with the pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfsc.retrieval.labels import Labelled, check_embeddings, codes_of, views_of

BINS = 1 << 16  # of the cosines in [-1, 1): they are 3e-5 wide; one more bin counts the cosines of 1
EDGES = np.arange(BINS + 2) * (2 / BINS) - 1  # bin b counts cosines from EDGES[b] up to EDGES[b + 1]
BLOCK = 1 << 22  # scores at once: 16 MB


@dataclass(frozen=True, eq=False)
class Scores:
    """The cosines between Q queries and G gallery images, of M matching pairs and of all others.

    Pairs that a ranking leaves out, such as two images of one identity by one camera, are not counted.

    Attributes:
        matching: (M,) float32, the cosine of each matching pair.
        identities: (M,) int64, a number for the identity of each matching pair.
        non_matching: (BINS + 1,) int64, how many non-matching pairs have a cosine in each bin of `EDGES`.
        best_matching: (Q,) float32, the greatest cosine of each query with a match; -inf without one.
        best_other: (Q,) float32, the greatest cosine of each query with another identity; -inf without one.
    """

    matching: np.ndarray
    identities: np.ndarray
    non_matching: np.ndarray
    best_matching: np.ndarray
    best_other: np.ndarray

    @property
    def matches(self) -> int:
        """The number of matching pairs, M."""
        return len(self.matching)

    @property
    def non_matches(self) -> int:
        """The number of non-matching pairs."""
        return int(self.non_matching.sum())

    @property
    def queries(self) -> int:
        """The number of queries that have a match."""
        return int(np.isfinite(self.best_matching).sum())

    def false_match_rate(self, threshold: float) -> float:
        """Return the share of non-matching pairs whose cosine is at least a threshold, to within a bin."""
        return float(np.interp(threshold, EDGES, counts_above(self.non_matching)) / self.non_matches)


def counts_above(counts: np.ndarray) -> np.ndarray:
    """Return how many scores are at or above each of `EDGES`: (BINS + 2,) int64, for counts in the bins."""
    return np.append(np.cumsum(counts[::-1])[::-1], 0)


def bins_of(scores: np.ndarray) -> np.ndarray:
    """Return the bin of each cosine: int64, of the same shape."""
    return np.clip((scores + 1) * (BINS / 2), 0, BINS).astype(np.int64)


def count_scores(
    query_embeddings: np.ndarray, gallery_embeddings: np.ndarray, query: Labelled, gallery: Labelled
) -> Scores:
    """Count the cosines of all pairs of a query and a gallery image.

    Which pairs match, and which are left out, follows the protocol of `evaluate_ranking`.

    Args:
        query_embeddings: (Q, dim) float32, L2-normalised.
        gallery_embeddings: (G, dim) float32, L2-normalised.
        query: the labels of the queries.
        gallery: the labels of the gallery images.

    Raises:
        SfscError: the embeddings do not fit their labels, or only one of query and gallery has cameras.
    """
    queries = check_embeddings(query_embeddings, query, "query embeddings")
    items = check_embeddings(gallery_embeddings, gallery, "gallery embeddings")
    wanted, held = codes_of(query.identities, gallery.identities)
    views = views_of(query, gallery)
    matching, identities = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
    non_matching = np.zeros(BINS + 1, np.int64)
    best = np.full((2, len(queries)), -np.inf, np.float32)
    step = max(1, BLOCK // max(1, len(items)))
    for rows in (slice(start, start + step) for start in range(0, len(queries), step)):
        scores = queries[rows] @ items.T
        same = np.nonzero(wanted[rows, None] == held)
        own = scores[same]
        non_matching += np.bincount(bins_of(scores).ravel(), minlength=BINS + 1)
        non_matching -= np.bincount(bins_of(own), minlength=BINS + 1)
        scores[same] = -np.inf
        best[1, rows] = scores.max(axis=1, initial=-np.inf)
        counted = views[0][rows][same[0]] != views[1][same[1]]
        query_rows, own = same[0][counted], own[counted]
        np.maximum.at(best[0, rows], query_rows, own)
        matching.append(own)
        identities.append(wanted[rows][query_rows])
    return Scores(np.concatenate(matching), np.concatenate(identities), non_matching, *best)
