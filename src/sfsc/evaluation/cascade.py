"""A cascade: a query goes on to the next wider sub-model only where its first hit is not surely a match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sfsc.decisions.pair import Pair
from sfsc.decisions.thresholds import Thresholds
from sfsc.evaluation.decisions import FORM
from sfsc.retrieval.labels import Labelled
from sfsc.retrieval.metrics import Retrieval, retrieval_of
from sfsc.retrieval.ranking import positive_ranks, top_hits

LIMITS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99)  # probabilities from which a query stops


def evaluate_cascade(
    queries: Mapping[Any, np.ndarray],
    rows: np.ndarray,
    query: Labelled,
    gallery: Labelled,
    costs: Mapping[float, int],
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Measure the accuracy of a cascade against its mean cost, in the gallery of the full sub-model.

    A query is embedded at the first width and searched. While the probability that its first hit is a match
    is below a limit, it is embedded at the next width and searched again. Each embedding costs its
    multiply-adds, because sub-models share no intermediate results.

    Args:
        queries: (Q, dim) float32 L2-normalised embeddings for each width of the cascade.
        rows: (G, dim) float32 L2-normalised embeddings by the full sub-model.
        query: the labels of the queries.
        gallery: the labels of the gallery images.
        costs: the multiply-adds of each sub-model of the cascade by its width, in the order of the cascade.
        thresholds: the thresholds of the family.

    Returns:
        What `evaluation.json` contains under "cascade", see docs/evaluation.md.

    Raises:
        SfscError: there is no threshold for a width.
    """
    labels = query, gallery
    ranks = [positive_ranks(queries[width], rows, *labels) for width in costs]
    sure = np.stack([_probability(queries[width], rows, *labels, width, thresholds) for width in costs])
    spent = np.cumsum([*costs.values()])
    limits = []
    for limit in LIMITS:
        stops = sure >= limit
        stops[-1] = True
        place = stops.argmax(axis=0)  # of the width that answers each query
        found = retrieval_of([ranks[one][row] for row, one in enumerate(place)])
        shares = np.bincount(place, minlength=len(costs)) / len(place)
        cost = float(spent[place].mean())
        limits.append({"limit": limit, "multiply_adds": cost, "shares": shares.tolist(), **_accuracy(found)})
    alone = [
        {"width": width, "multiply_adds": cost, **_accuracy(retrieval_of(one))}
        for (width, cost), one in zip(costs.items(), ranks, strict=True)
    ]
    return {"widths": [*costs], "limits": limits, "alone": alone}


def _probability(
    queries: np.ndarray,
    rows: np.ndarray,
    query: Labelled,
    gallery: Labelled,
    width: float,
    thresholds: Thresholds,
) -> np.ndarray:
    """Return the probability that the first hit of each query is a match, (Q,) float64."""
    _, scores = top_hits(queries, rows, query, gallery, 1)
    return thresholds.of(Pair(width, 1.0, FORM, rows.shape[1])).probability(scores[:, 0], len(rows))


def _accuracy(found: Retrieval) -> dict[str, float]:
    return {"mAP": found.mean_ap, "rank-1": found.cmc[1]}
