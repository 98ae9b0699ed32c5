"""Ranking, retrieval metrics and the compatibility matrix: arrays in, arrays out."""

from sfsc.retrieval.labels import Labelled, Labels
from sfsc.retrieval.matrix import CompatibilityMatrix, compatibility_matrix, raw_pixel_embeddings
from sfsc.retrieval.metrics import Retrieval, average_precision
from sfsc.retrieval.ranking import evaluate_ranking, positive_ranks, top_hits

__all__ = [
    "CompatibilityMatrix",
    "Labelled",
    "Labels",
    "Retrieval",
    "average_precision",
    "compatibility_matrix",
    "evaluate_ranking",
    "positive_ranks",
    "raw_pixel_embeddings",
    "top_hits",
]
