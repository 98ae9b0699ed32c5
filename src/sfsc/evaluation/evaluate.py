"""Evaluating a family on a data set: the compatibility matrix, a baseline and ranked lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.data.dataset import Dataset, Split
from sfsc.data.listing import TESTS, Listing
from sfsc.decisions.thresholds import Thresholds
from sfsc.dimensions import shorten
from sfsc.embedding.cascade import read_cascade
from sfsc.embedding.image_set import ImageSet, embed_all
from sfsc.errors import SfscError
from sfsc.evaluation.cascade import evaluate_cascade
from sfsc.evaluation.decisions import evaluate_decisions
from sfsc.evaluation.members import open_members
from sfsc.evaluation.old import OldMember, OldTests, evaluate_old
from sfsc.evaluation.other_rankings import Reranked, Tracks, evaluate_tracks, rerank_images
from sfsc.evaluation.shown import projection, ranked_lists, same_image_cosines
from sfsc.evaluation.thresholds import TARGET
from sfsc.family.family import Family
from sfsc.files.writing import as_json, write_with
from sfsc.notation import Size
from sfsc.progress import say
from sfsc.retrieval.matrix import CompatibilityMatrix, compatibility_matrix
from sfsc.retrieval.metrics import Retrieval
from sfsc.retrieval.ranking import evaluate_ranking
from sfsc.retrieval.reranking import DEPTH, rule_of
from sfsc.retrieval.tracks import count_tracks
from sfsc.runs.datasets import absolute
from sfsc.runs.results import (
    ACCURACY_FIGURE,
    EVALUATION_FILE,
    MATRIX_FIGURE,
    RANKINGS_FILE,
    results_folder,
)
from sfsc.switchable.inspection import inspect
from sfsc.widths import Widths


@dataclass(frozen=True)
class Evaluation:
    """The results of `evaluate`.

    Attributes:
        dataset: KIND:PATH of the data set, with an absolute path.
        images: a digest that identifies the test images.
        fingerprint: the fingerprint of the family.
        parameters: the parameter count of each sub-model, in the order of `matrix.widths`.
        multiply_adds: the multiply-adds of each sub-model for one image, in the same order.
        image_sizes: the (height, width) in pixels of the images of each sub-model, in the same order.
        depths: the share of the residual blocks of each stage that each sub-model keeps, in the same order.
        matrix: the compatibility matrix.
        baseline: the same test with raw 16x16 colour pixels as embeddings.
        rankings: a dozen queries of the smallest sub-model, with their first hits in the gallery of the full
            sub-model, for the report.
        cosines: (m, m) float64, the mean cosine between the embeddings of one image by two sub-models.
        projection: the images of a few identities as embedded by every sub-model, projected onto the first
            two principal components of the full sub-model's embeddings.
        dimensions: for each supported dimension, the mAP of the self-tests and of the smallest sub-model's
            queries in the full sub-model's gallery.
        decisions: error rates, open-set identification and the consistency of thresholds in every cell, see
            docs/evaluation.md.
        reranked: the matrix after re-ranking, or None. All other attributes are without re-ranking.
        tracks: the matrix of image-to-track retrieval, or None. All other attributes are for single images.
        cascade: the accuracy and the mean cost of a cascade, see docs/evaluation.md, or None.
        old: the tests of the family together with an old model, or None.
    """

    dataset: str
    images: str
    fingerprint: str
    parameters: tuple[int, ...]
    multiply_adds: tuple[int, ...]
    image_sizes: tuple[Size, ...]
    depths: tuple[float, ...]
    matrix: CompatibilityMatrix
    baseline: Retrieval
    rankings: dict[str, Any]
    cosines: np.ndarray
    projection: dict[str, Any]
    dimensions: list[dict[str, Any]]
    decisions: dict[str, Any]
    reranked: Reranked | None = None
    tracks: Tracks | None = None
    cascade: dict[str, Any] | None = None
    old: OldTests | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation without the ranked lists, as plain lists and numbers."""
        return {
            "dataset": self.dataset,
            "images": self.images,
            "fingerprint": self.fingerprint,
            "parameters": list(self.parameters),
            "multiply_adds": list(self.multiply_adds),
            **({"image_sizes": list(self.image_sizes)} if len({*self.image_sizes}) > 1 else {}),
            **({"depths": list(self.depths)} if min(self.depths) < 1 else {}),
            **self.matrix.to_json(),
            "criterion": self.matrix.criterion().tolist(),
            "cells_met": self.matrix.cells_met(),
            "cells": self.matrix.cells,
            "gallery_gain": self.matrix.gallery_gain().tolist(),
            "costs": self.matrix.costs(),
            "baseline": {"name": "raw 16x16 colour pixels", **self.baseline.metrics},
            "cosines": self.cosines.tolist(),
            "projection": self.projection,
            "dimensions": self.dimensions,
            "decisions": self.decisions,
            **({"reranked": self.reranked.to_json()} if self.reranked else {}),
            **({"tracks": self.tracks.to_json()} if self.tracks else {}),
            **({"cascade": self.cascade} if self.cascade else {}),
            **({"old": self.old.to_json()} if self.old else {}),
        }

    def write(self, run: str | Path) -> Path:
        """Write the results into a run folder, or into a subfolder if they are for another data set.

        Returns:
            The path of `evaluation.json`. `sfsc.report.result_figures.draw_evaluation` draws the figures next
            to it.
        """
        return self.write_into(results_folder(Path(run), self.dataset))

    def write_into(self, folder: Path) -> Path:
        """Write `evaluation.json` and `rankings.json` into a folder, and remove figures of older results."""
        others = {
            folder / RANKINGS_FILE: as_json(self.rankings),
            folder / MATRIX_FIGURE: None,
            folder / ACCURACY_FIGURE: None,
        }
        write_with(folder / EVALUATION_FILE, as_json(self.to_json()), others)
        return folder / EVALUATION_FILE


def evaluate(
    family: Family,
    dataset: Dataset,
    workers: int = 2,
    exported: Sequence[str | Path] = (),
    rerank: str | None = None,
    rerank_depth: int = DEPTH,
    tracks: bool = False,
    cascade: str | Sequence[float] | None = None,
    old: OldMember | None = None,
) -> Evaluation:
    """Evaluate every sub-model's queries against every sub-model's gallery.

    Queries and gallery images are matched by the protocol of Market-1501 (Zheng et al., ICCV 2015): gallery
    images with the identity and camera of the query are ignored.

    Args:
        family: the family, in any mode; its mode is restored.
        dataset: the data set; its query and gallery splits are used.
        workers: the number of threads that decode images.
        exported: ONNX files of this family, which are evaluated together with its sub-models.
        rerank: the rule of a second matrix, after re-ranking: k-reciprocal or expansion.
        rerank_depth: the number of first items of each ranking that are re-ranked.
        tracks: whether to compute a further matrix whose gallery items are tracks: all images of one identity
            from one camera.
        cascade: the widths of a cascade to measure, increasing and ending in 1, such as "0.25,1": a query
            goes on to the next width only where its first hit is not surely a match.
        old: an old model, as `open_member` returns it, which becomes a row and a column of the matrix.

    Raises:
        SfscError: a split is empty, an image cannot be read, no query has a positive, a file belongs to
            another family, there is no such rule, there are no cameras by which tracks are known, or a
            cascade is wanted of a family that lacks a width or thresholds.

    Example::

        evaluation = sfsc.evaluate(sfsc.Family.load("runs/photos"), sfsc.open_dataset("folder:photos"))
        print(evaluation.matrix.metrics["mAP"])  # rows: query width, columns: gallery width
        evaluation.write("runs/photos")
    """
    if rerank is not None:
        rule_of(rerank, rerank_depth)
    if tracks:
        count_tracks(dataset.query, dataset.gallery)
    chosen = None if cascade is None else read_cascade(cascade, family)
    models = open_members(exported, family)
    images = embed_all(family, tested_paths(dataset), workers, exported=models)
    widths = {label: file.widest for label, file in models.items()}
    plain = evaluate_images(family, dataset, images, widths)
    return replace(
        plain,
        reranked=rerank_images(dataset, images, plain.matrix, rerank, rerank_depth) if rerank else None,
        tracks=evaluate_tracks(dataset, images, plain.matrix) if tracks else None,
        cascade=_cascade(family, dataset, images, plain, chosen) if chosen else None,
        old=evaluate_old(old, family, dataset, images, widths) if old else None,
    )


def _cascade(
    family: Family, dataset: Dataset, images: ImageSet, plain: Evaluation, widths: Widths
) -> dict[str, Any]:
    assert family.thresholds is not None
    query, gallery = dataset.query, dataset.gallery
    costs = dict(zip(plain.matrix.widths, plain.multiply_adds, strict=True))
    return evaluate_cascade(
        images.of(query.paths),
        images.of(gallery.paths)[1.0],
        query,
        gallery,
        {width: costs[width] for width in widths},
        family.thresholds,
    )


def tested_paths(dataset: Dataset) -> list[str]:
    """Return the paths of the query and gallery images of a data set."""
    return [*dataset.query.paths, *dataset.gallery.paths]


def evaluate_images(
    family: Family, dataset: Dataset, images: ImageSet, exported: Mapping[str, float] | None = None
) -> Evaluation:
    """Evaluate as `evaluate` does, with images that are already embedded.

    Args:
        family: the family that embedded the images.
        dataset: the data set; its query and gallery splits are used.
        images: the embeddings of its query and gallery images.
        exported: the width of each exported file, by label.
    """
    query, gallery = dataset.query, dataset.gallery
    embedded, found = images.of(query.paths), images.of(gallery.paths)
    queries = {width: embedded[width] for width in family.widths}
    galleries = {width: found[width] for width in family.widths}
    tested: list[float | str] = [*family.widths, *(exported or {})]
    matrix = compatibility_matrix(
        {key: embedded[key] for key in tested},
        {key: found[key] for key in tested},
        query=query,
        gallery=gallery,
        exported=exported,
    )
    whole = matrix.family().metrics["mAP"]
    of_width: dict[float | str, float] = {width: width for width in family.widths}
    of_width.update((exported or {}).items())
    size = inspect(family, family.examples())
    return Evaluation(
        dataset=absolute(dataset.source),
        images=Listing.of(dataset).digest(TESTS),
        fingerprint=family.fingerprint,
        parameters=size.parameters,
        multiply_adds=size.multiply_adds,
        image_sizes=tuple(map(family.image_size_of, family.widths)),
        depths=tuple(map(family.depth_of, family.widths)),
        matrix=matrix,
        baseline=evaluate_ranking(embedded[None], found[None], query, gallery),
        rankings=ranked_lists(family.widths.ratios[0], queries, galleries, query, gallery),
        cosines=same_image_cosines(galleries),
        projection=projection(galleries, gallery),
        dimensions=[
            *(_tests_in(dim, queries, galleries, query, gallery) for dim in family.spec.nested_dims),
            _tests(family.dimension, whole.diagonal().tolist(), float(whole[0, -1])),
        ],
        decisions=evaluate_decisions(embedded, found, query, gallery, of_width, _thresholds(family, dataset)),
    )


def _thresholds(family: Family, dataset: Dataset) -> Thresholds | None:
    """Return the thresholds of a family, or None with a remark if they are those of another one."""
    thresholds = family.thresholds
    if thresholds is None:
        return None
    try:
        thresholds.check(family.fingerprint)
    except SfscError as error:
        say(f"remark: {error}")
        return None
    if thresholds.data == absolute(dataset.source) and not dataset.source.startswith(TARGET):
        say("remark: the thresholds were fitted on these images, so that they seem better than they are")
    return thresholds


def _tests(dimension: int, self_tests: list[float], smallest_to_full: float) -> dict[str, Any]:
    return {"dimension": dimension, "self_tests": self_tests, "smallest_to_full": smallest_to_full}


def _tests_in(
    dimension: int,
    queries: Mapping[float, np.ndarray],
    galleries: Mapping[float, np.ndarray],
    query: Split,
    gallery: Split,
) -> dict[str, Any]:
    """Run the tests on the first components of the embeddings."""

    def test(one: float, other: float) -> float:
        short = shorten(queries[one], dimension), shorten(galleries[other], dimension)
        return evaluate_ranking(*short, query, gallery).mean_ap

    widths = sorted(queries)
    return _tests(dimension, [test(width, width) for width in widths], test(widths[0], widths[-1]))
