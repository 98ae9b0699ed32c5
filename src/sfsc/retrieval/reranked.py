"""The ranks of positives after re-ranking."""

from __future__ import annotations

import numpy as np

from sfsc.retrieval.labels import Labelled
from sfsc.retrieval.ranking import positive_ranks, top_hits
from sfsc.retrieval.reranking import Rule


def reranked_ranks(
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    query: Labelled,
    gallery: Labelled,
    rule: Rule,
    depth: int,
) -> list[np.ndarray]:
    """Compute the ranks of the positives of each query after re-ranking of its first items.

    Items that the protocol drops take no part. Items after the first `depth` keep their ranks. The query is
    re-ranked by itself: what is found does not depend on other queries.

    Args:
        query_embeddings: as for `positive_ranks`, as are all others that are not listed here.
        rule: one of `sfsc.retrieval.reranking.RULES`.
        depth: the number of items that are re-ranked; all if the gallery has fewer.

    Returns:
        As for `positive_ranks`.
    """
    ranks = positive_ranks(query_embeddings, gallery_embeddings, query, gallery)
    depth = min(depth, len(gallery_embeddings))
    indices, _ = top_hits(query_embeddings, gallery_embeddings, query, gallery, depth)
    found = []
    for embedding, places, positives in zip(query_embeddings, indices, ranks, strict=True):
        first = places[places >= 0]
        order = np.argsort(rule(embedding, gallery_embeddings[first]), kind="stable")
        inside = positives <= len(first)
        moved = np.flatnonzero(np.isin(order, positives[inside] - 1)) + 1
        found.append(np.concatenate([moved, positives[~inside]]))
    return found
