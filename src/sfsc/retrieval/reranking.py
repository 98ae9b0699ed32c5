"""Re-ranking the first hits of a query by their neighbours among each other, without a full matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sfsc.errors import SfscError

DEPTH = 100  # the hits of each query that are re-ranked

# Maps a query, (dim,), and its K hits, (K, dim), to K distances: float32, smaller for better hits.
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]


def k_reciprocal(
    query: np.ndarray, hits: np.ndarray, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """Compute the distances of k-reciprocal re-ranking (Zhong et al., CVPR 2017) among a query and its hits.

    Two items are k-reciprocal neighbours if each is among the k nearest of the other. Items are compared by
    the Jaccard distance of their k1-reciprocal neighbours (eq. 3 to 10), which is added to the original
    distance (eq. 12). As in the authors' program, the original distance is the squared Euclidean distance
    between embeddings, divided by the greatest one of the item. Neighbours are looked for among the query and
    its hits alone: with K hits the memory is 20 K^2 bytes, whatever the size of the gallery.

    Args:
        query: (dim,) float32 of length 1, by any sub-model of the family.
        hits: (K, dim) float32 of length 1, the stored embeddings of the hits.
        k1: the number of neighbours that are reciprocal.
        k2: the number of neighbours over which the neighbourhoods are averaged (local query expansion).
        weight: the share of the original distance, lambda in the paper.

    Returns:
        (K,) float32 distances to the query.
    """
    items = np.concatenate([query[None], hits]).astype(np.float32)
    distances = np.maximum(2 - 2 * items @ items.T, 0)
    distances /= np.maximum(distances.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    np.fill_diagonal(distances, -1)  # an item is the nearest of itself, also among equal ones
    order = np.argsort(distances, axis=1, kind="stable")
    np.fill_diagonal(distances, 0)
    sets = _encoded(distances, _expanded(order, k1))
    if k2 > 1:
        sets = _nearest(order, k2).astype(np.float32) @ sets / min(k2, len(items))
    shared = np.minimum(sets[0], sets).sum(axis=1)
    jaccard = 1 - shared / (2 - shared)
    return ((1 - weight) * jaccard + weight * distances[0])[1:].astype(np.float32)


def expansion(query: np.ndarray, hits: np.ndarray, neighbours: int = 5, power: float = 3.0) -> np.ndarray:
    """Compute the distances of the hits to the expanded query (alpha-QE, Radenovic et al., TPAMI 2019).

    The expanded query is the mean of the query and of its first hits, each weighted by its cosine to the
    query to a power (alpha in the paper). With a power of 0 it is average query expansion (Chum et al., ICCV
    2007).

    Args:
        query: (dim,) float32 of length 1, by any sub-model of the family.
        hits: (K, dim) float32 of length 1, the stored embeddings of the hits, best first.
        neighbours: the number of hits that expand the query.
        power: the power of the weights.

    Returns:
        (K,) float32 distances, 1 - cosine.
    """
    near = hits[:neighbours]
    weights = np.maximum(near @ query, 0) ** power
    expanded = query + weights @ near
    return np.asarray(1 - hits @ (expanded / np.linalg.norm(expanded)), np.float32)


RULES: dict[str, Rule] = {"k-reciprocal": k_reciprocal, "expansion": expansion}


def rule_of(name: str, depth: int = DEPTH) -> Rule:
    """Return the rule with a name.

    Raises:
        SfscError: there is no such rule, or fewer than two hits would be re-ranked.
    """
    if name not in RULES:
        raise SfscError(f"re-ranking {name!r} is not one of {', '.join(RULES)}")
    if depth < 2:
        raise SfscError(f"re-ranking needs at least 2 hits to compare with each other, not {depth}")
    return RULES[name]


def _nearest(order: np.ndarray, count: int) -> np.ndarray:
    """Return where the `count` nearest of each item are, itself among them: (N, N) bool."""
    found = np.zeros(order.shape, bool)
    np.put_along_axis(found, order[:, :count], True, axis=1)
    return found


def _reciprocal(order: np.ndarray, count: int) -> np.ndarray:
    """Return the `count`-reciprocal neighbours of each item, itself among them: (N, N) bool."""
    found = _nearest(order, count + 1)
    return found & found.T


def _expanded(order: np.ndarray, k1: int) -> np.ndarray:
    """Return the k1-reciprocal neighbours of each item, expanded by those of them (eq. 5): (N, N) bool.

    The neighbours of a neighbour are added if more than two thirds of them are neighbours already.
    """
    near, half = _reciprocal(order, k1), _reciprocal(order, round(k1 / 2))
    numbers = half.astype(np.float32)
    shared = near.astype(np.float32) @ numbers.T
    adds = near & (3 * shared > 2 * numbers.sum(axis=1))
    return near | (adds.astype(np.float32) @ numbers > 0)


def _encoded(distances: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Return the sets as vectors, weighted by distance and of sum 1 (eq. 7): (N, N) float32."""
    weights = np.where(sets, np.exp(-distances), 0).astype(np.float32)
    return weights / weights.sum(axis=1, keepdims=True)
