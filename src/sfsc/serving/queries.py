"""Searches that clients request at the same time, answered with few searches of the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfsc.serving.messages import Search

MOST_TOGETHER = 256  # queries that one search of the gallery answers


@dataclass(frozen=True)
class Query:
    """Embeddings to search with.

    Attributes:
        embeddings: (n, dim) float32.
        fingerprint: the fingerprint of the family that computed them.
        search: the settings of the search.
        width: the width of the sub-model that computed them, or None if it is unknown.
    """

    embeddings: np.ndarray
    fingerprint: str
    search: Search
    width: float | None = None

    def goes_with(self, other: Query) -> bool:
        """Return whether one search of the gallery can answer both, and is faster than two.

        Comparing every row takes about as long for each query of one search as for one alone.
        """
        return (
            bool(self.search.where or not self.search.exact)
            and self.fingerprint == other.fingerprint
            and self.embeddings.shape[1] == other.embeddings.shape[1]
            and self.search.wanted() == other.search.wanted()
        )


def choose_queries(waiting: Sequence[Query]) -> list[int]:
    """Return the positions of the queries to answer next: the oldest, and others that go with it."""
    places: list[int] = []
    left = MOST_TOGETHER
    for place, query in enumerate(waiting):
        if not places or (query.goes_with(waiting[0]) and len(query.embeddings) <= left):
            places.append(place)
            left -= len(query.embeddings)
    return places
