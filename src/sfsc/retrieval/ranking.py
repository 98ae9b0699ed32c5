"""Ranking a gallery for each query, and evaluating the ranking by mAP, CMC and mINP.

The same rule applies to every data set. With cameras, gallery items that show the identity of the query and
come from its camera are dropped (Zheng et al., Market-1501, ICCV 2015). Without cameras, only the query item
itself is dropped, which is recognised by its path. The other items are ranked by the dot product of
embeddings, which is the cosine because embeddings are L2-normalised. Equal scores keep the order of the
gallery. Scores are computed in blocks, so the full query x gallery matrix is never in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from sfsc.errors import SfscError
from sfsc.retrieval.labels import Labelled, Pairs, Relation, check_embeddings
from sfsc.retrieval.metrics import Retrieval, retrieval_of

BLOCK = (512, 16384)  # queries x gallery items that are scored at once, 32 MB


def evaluate_ranking(
    query_embeddings: np.ndarray, gallery_embeddings: np.ndarray, query: Labelled, gallery: Labelled
) -> Retrieval:
    """Compute the retrieval accuracy of queries against a gallery.

    Args:
        query_embeddings: (Q, dim) float32, L2-normalised.
        gallery_embeddings: (G, dim) float32, L2-normalised.
        query: the labels of the queries.
        gallery: the labels of the gallery items.

    Raises:
        SfscError: the embeddings do not fit their labels or each other, or are not finite, only one of query
            and gallery has cameras, or no query has a positive.
    """
    return retrieval_of(positive_ranks(query_embeddings, gallery_embeddings, query, gallery))


def positive_ranks(
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    query: Labelled,
    gallery: Labelled,
    *,
    block: tuple[int, int] = BLOCK,
) -> list[np.ndarray]:
    """Compute the ranks of the positives of each query, with embeddings and labels as in `evaluate_ranking`.

    Args:
        block: the numbers of queries and gallery items that are scored at once.

    Returns:
        For each query the ascending ranks of its positives, (P,) int64, counted from 1; P can be 0.

    Raises:
        SfscError: as for `evaluate_ranking`, but queries can be without positives.
    """
    queries, items = checked(query_embeddings, gallery_embeddings, query, gallery)
    relation = Relation(query, gallery)
    ranks: list[np.ndarray] = []
    spans = spans_of(len(items), block[1])
    for rows in spans_of(len(queries), block[0]):
        score = items.scored(queries[rows])
        ranks += _block_ranks(score, spans, *relation.pairs(rows), rows.stop - rows.start)
    return ranks


def top_hits(
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    query: Labelled,
    gallery: Labelled,
    k: int,
    *,
    block: tuple[int, int] = BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the first k items of the ranking of each query. The other arguments are as in `positive_ranks`.

    Args:
        k: the number of items for each query.

    Returns:
        Gallery indices, (Q, k) int64, and scores, (Q, k) float32. Both are filled with -1 if a ranking has
        fewer than k items.

    Raises:
        SfscError: as for `positive_ranks`.
    """
    queries, items = checked(query_embeddings, gallery_embeddings, query, gallery)
    relation = Relation(query, gallery)
    indices = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for rows in spans_of(len(queries), block[0]):
        dropped, score = relation.pairs(rows)[1], items.scored(queries[rows])
        for columns in spans_of(len(items), block[1]):
            found = score(columns)
            found[dropped.within(columns).local] = -np.inf
            indices[rows], scores[rows] = _merge(indices[rows], scores[rows], found, columns.start)
    indices[scores == -np.inf] = -1
    scores[scores == -np.inf] = -1
    return indices, scores


def checked(
    query_embeddings: np.ndarray, gallery_embeddings: np.ndarray, query: Labelled, gallery: Labelled
) -> tuple[np.ndarray, _Items]:
    """Return the query embeddings and the gallery's items; raise `SfscError` as `evaluate_ranking` does."""
    queries = check_embeddings(query_embeddings, query, "query embeddings")
    items = check_embeddings(gallery_embeddings, gallery, "gallery embeddings")
    if queries.shape[1] != items.shape[1]:
        raise SfscError(
            f"query embeddings have {queries.shape[1]} dimensions, gallery embeddings {items.shape[1]}: "
            "embed both with one family"
        )
    return queries, _Items(items)


def spans_of(total: int, size: int) -> list[slice]:
    """Return consecutive slices of at most `size` that cover `total` places."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


class _Items:
    """Gallery embeddings, scored block by block.

    BLAS can round the same dot product differently in different columns. An embedding that occurs several
    times is therefore scored only once, so that its scores are equal.
    """

    def __init__(self, embeddings: np.ndarray) -> None:
        self._embeddings = embeddings
        self._repeated, self._group = _repeated(embeddings)

    def __len__(self) -> int:
        return len(self._embeddings)

    def scored(self, queries: np.ndarray) -> Callable[[slice], np.ndarray]:
        """Return a function that scores queries, (Q, dim), against a slice of n items: (Q, n) float32."""
        shared = queries @ self._repeated.T

        def score(columns: slice) -> np.ndarray:
            scores = queries @ self._embeddings[columns].T
            group = self._group[columns]
            tied = np.flatnonzero(group >= 0)
            scores[:, tied] = shared[:, group[tied]]
            return scores

        return score


def _repeated(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the R rows that occur several times, (R, dim), and the index in these of all N rows, or -1."""
    _, first, counts = np.unique(embeddings[:, 0], return_inverse=True, return_counts=True)
    alike = np.flatnonzero(counts[first] > 1)  # only these few rows are compared completely
    rows, place, counts = np.unique(embeddings[alike], axis=0, return_inverse=True, return_counts=True)
    number = np.where(counts > 1, np.cumsum(counts > 1) - 1, -1)
    group = np.full(len(embeddings), -1)
    group[alike] = number[place.ravel()]
    return rows[counts > 1], group


def _block_ranks(
    score: Callable[[slice], np.ndarray],
    spans: Sequence[slice],
    positives: Pairs,
    dropped: Pairs,
    queries: int,
) -> list[np.ndarray]:
    """Return the ranks of the positives for a block of queries, in two passes over the gallery."""
    own = np.empty(len(positives.rows), np.float32)
    for columns in spans:
        window = positives.within(columns)
        own[window.inside] = score(columns)[window.local]
    bounds = np.searchsorted(positives.rows, np.arange(queries + 1))
    parts = [slice(start, end) for start, end in itertools.pairwise(bounds)]
    ahead = np.zeros(len(own), np.int64)
    for columns in spans:
        window = positives.within(columns)
        scores = score(columns)
        scores[dropped.within(columns).local] = -np.inf
        scores[window.local] = own[window.inside]
        for row, part in enumerate(parts):
            ahead[part] += _ahead(scores[row], own[part], positives.columns[part] - columns.start)
    return [np.sort(ahead[part] + 1) for part in parts]


def _ahead(scores: np.ndarray, own: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return how many of `scores` rank before the items with scores `own` at `places`, in or out of range."""
    ascending = np.sort(scores)
    first, end = np.searchsorted(ascending, own, "left"), np.searchsorted(ascending, own, "right")
    ahead = len(scores) - end
    itself = (places >= 0) & (places < len(scores))
    for tied in np.flatnonzero(end - first > itself):
        ahead[tied] += np.count_nonzero(scores[: max(places[tied], 0)] == own[tied])
    return ahead


def _merge(
    indices: np.ndarray, scores: np.ndarray, found: np.ndarray, offset: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the best k items so far with a new block, whose items all come later in the gallery."""
    everything = np.concatenate([scores, found], axis=1)
    order = np.argsort(-everything, axis=1, kind="stable")[:, : scores.shape[1]]
    places = np.broadcast_to(np.arange(offset, offset + found.shape[1]), found.shape)
    candidates = np.concatenate([indices, places], axis=1)
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(everything, order, axis=1)
