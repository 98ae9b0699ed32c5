"""Compatibility matrices after re-ranking, and of tracks instead of single images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from sfsc.data.dataset import Dataset
from sfsc.embedding.image_set import ImageSet
from sfsc.retrieval.matrix import CompatibilityMatrix, RanksOf, compatibility_matrix
from sfsc.retrieval.reranked import reranked_ranks
from sfsc.retrieval.reranking import DEPTH, rule_of
from sfsc.retrieval.tracks import count_tracks, track_ranks


@dataclass(frozen=True)
class Reranked:
    """The compatibility matrix after re-ranking.

    Attributes:
        rule: the name of the rule, one of `sfsc.retrieval.reranking.RULES`.
        depth: the number of first items of each ranking that were re-ranked.
        matrix: the compatibility matrix.
    """

    rule: str
    depth: int
    matrix: CompatibilityMatrix

    def to_json(self) -> dict[str, Any]:
        """Return the rule, the depth and the metrics as plain lists and numbers."""
        return {"rule": self.rule, "depth": self.depth, "metrics": self.matrix.to_json()["metrics"]}


@dataclass(frozen=True)
class Tracks:
    """The compatibility matrix of image-to-track retrieval, see `sfsc.retrieval.tracks.track_ranks`.

    Attributes:
        count: the number of tracks in the gallery.
        matrix: the compatibility matrix.
    """

    count: int
    matrix: CompatibilityMatrix

    def to_json(self) -> dict[str, Any]:
        """Return the count and the metrics as plain lists and numbers."""
        return {"count": self.count, "metrics": self.matrix.to_json()["metrics"]}


def rerank_images(
    dataset: Dataset, images: ImageSet, plain: CompatibilityMatrix, rule: str, depth: int = DEPTH
) -> Reranked:
    """Compute the matrix after re-ranking, with images that are already embedded.

    Args:
        dataset: the data set; its query and gallery splits are used.
        images: the embeddings of its query and gallery images.
        plain: the matrix without re-ranking, which says what to evaluate.
        rule: one of `sfsc.retrieval.reranking.RULES`.
        depth: the number of first items of each ranking that are re-ranked.

    Raises:
        SfscError: there is no such rule, or the depth is less than 2.
    """
    ranks = partial(reranked_ranks, rule=rule_of(rule, depth), depth=depth)
    matrix = _matrix(dataset, images, plain, ranks)
    return Reranked(rule, min(depth, matrix.gallery), matrix)


def evaluate_tracks(dataset: Dataset, images: ImageSet, plain: CompatibilityMatrix) -> Tracks:
    """Compute the matrix of image-to-track retrieval, with images that are already embedded.

    Args:
        dataset: the data set; its query and gallery splits are used.
        images: the embeddings of its query and gallery images.
        plain: the matrix of single images, which says what to evaluate.

    Raises:
        SfscError: the data set has no cameras.
    """
    count = count_tracks(dataset.query, dataset.gallery)
    return Tracks(count, _matrix(dataset, images, plain, track_ranks))


def _matrix(
    dataset: Dataset, images: ImageSet, plain: CompatibilityMatrix, ranks: RanksOf
) -> CompatibilityMatrix:
    """Return a matrix of the sub-models and files of `plain`, with other ranks of positives."""
    tested: list[float | str] = [*plain.widths, *plain.exported]
    embedded, found = images.of(dataset.query.paths), images.of(dataset.gallery.paths)
    return compatibility_matrix(
        {key: embedded[key] for key in tested},
        {key: found[key] for key in tested},
        query=dataset.query,
        gallery=dataset.gallery,
        exported=plain.exported,
        ranks=ranks,
    )
