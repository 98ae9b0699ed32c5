"""What the report of an evaluation shows besides accuracies: cosines, a projection and ranked lists."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from sfsc.data.dataset import Split
from sfsc.retrieval.metrics import average_precision
from sfsc.retrieval.ranking import positive_ranks, top_hits

RANKED_LISTS = 12
RANKED_HITS = 10
SHOWN_IDENTITIES, SHOWN_IMAGES = 8, 8


def same_image_cosines(vectors: dict[float, np.ndarray]) -> np.ndarray:
    """Return the mean cosines between the embeddings of one image by two of m sub-models, (m, m) float64.

    Args:
        vectors: (N, dim) float32 L2-normalised embeddings of the same images for each width.
    """
    stacked = np.stack([vectors[width] for width in sorted(vectors)]).astype(np.float64)
    return np.einsum("ind,jnd->ij", stacked, stacked) / stacked.shape[1]


def projection(vectors: dict[float, np.ndarray], gallery: Split) -> dict[str, Any]:
    """Project images of a few frequent identities onto two principal components of the full sub-model."""
    identities, counts = np.unique(gallery.identities, return_counts=True)
    chosen = identities[np.argsort(-counts, kind="stable")[:SHOWN_IDENTITIES]]
    rows = np.concatenate([np.flatnonzero(gallery.identities == name)[:SHOWN_IMAGES] for name in chosen])
    full = vectors[1.0][rows].astype(np.float64)
    axes = np.linalg.svd(full - full.mean(0), full_matrices=False)[2][:2]
    widths = sorted(vectors)
    points = [((vectors[width][rows] - full.mean(0)) @ axes.T).round(4).tolist() for width in widths]
    return {"widths": widths, "identities": gallery.identities[rows].tolist(), "points": points}


def ranked_lists(
    query_width: float,
    queries: dict[float, np.ndarray],
    galleries: dict[float, np.ndarray],
    query: Split,
    gallery: Split,
) -> dict[str, Any]:
    """Return queries, spread evenly over those with a positive, and their hits in the full gallery."""
    ranks = positive_ranks(queries[query_width], galleries[1.0], query, gallery)
    answered = np.flatnonzero([len(positives) > 0 for positives in ranks])
    chosen = answered[np.linspace(0, len(answered) - 1, min(RANKED_LISTS, len(answered))).round().astype(int)]
    hits, scores = top_hits(
        queries[query_width][chosen], galleries[1.0], query.select(chosen), gallery, RANKED_HITS
    )
    return {
        "query_width": query_width,
        "gallery_width": 1.0,
        "rows": [
            {
                "query": _image(query, row),
                "average_precision": average_precision(ranks[row]),
                "hits": [
                    {
                        **_image(gallery, hit),
                        "score": float(score),
                        "correct": bool(gallery.identities[hit] == query.identities[row]),
                    }
                    for hit, score in zip(row_hits, row_scores, strict=True)
                    if hit >= 0
                ],
            }
            for row, row_hits, row_scores in zip(chosen, hits, scores, strict=True)
        ],
    }


def _image(split: Split, row: int) -> dict[str, Any]:
    return {
        "path": os.path.abspath(split.paths[row]),
        "identity": str(split.identities[row]),
        "camera": None if split.cameras is None else str(split.cameras[row]),
    }
