"""The compatibility matrix: every sub-model's queries against every sub-model's gallery."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sfsc.errors import SfscError
from sfsc.progress import track
from sfsc.retrieval.ranking import Labelled, check_embeddings, evaluate_ranking

METRICS = ("mAP", "rank-1", "rank-5", "rank-10", "mINP")


@dataclass(frozen=True, eq=False)
class CompatibilityMatrix:
    """M(q, g), the retrieval accuracy of queries at width q against a gallery at width g.

    `metrics` maps each of `METRICS` to an (m, m) float64 array of fractions, indexed [query width, gallery
    width] in the order of the m ascending `widths`: self-tests on the diagonal, cross-tests elsewhere.
    `queries` of them counted, `skipped` had no positive, `gallery` is the number of gallery items.
    """

    widths: tuple[float, ...]
    metrics: dict[str, np.ndarray]
    queries: int
    skipped: int
    gallery: int

    @property
    def cells(self) -> int:
        """How many cross-tests there are, each of them held against the criterion."""
        return len(self.widths) * (len(self.widths) - 1)

    def criterion(self, metric: str = "mAP") -> np.ndarray:
        """Where the compatibility criterion is met, (m, m) bool; the diagonal, which has none, is False.

        A cross-test must reach the self-test of the smaller of its two sub-models (Shen et al., CVPR 2020).
        """
        values = self.metrics[metric]
        place = np.arange(len(self.widths))
        smaller = np.minimum(place[:, None], place)
        return (values >= np.diag(values)[smaller]) & ~np.eye(len(place), dtype=bool)

    def cells_met(self, metric: str = "mAP") -> int:
        """How many of the `cells` meet the criterion."""
        return int(self.criterion(metric).sum())

    def self_tests(self, metric: str = "mAP") -> float:
        """The mean of the self-tests."""
        return float(np.diag(self.metrics[metric]).mean())

    def cross_tests(self, metric: str = "mAP") -> float:
        """The mean of the cross-tests; NaN for a single width, which has none."""
        values = self.metrics[metric][~np.eye(len(self.widths), dtype=bool)]
        return float(values.mean()) if self.cells else math.nan

    def to_json(self) -> dict[str, Any]:
        """The matrix as plain lists and numbers."""
        return {
            "widths": list(self.widths),
            "metrics": {name: values.tolist() for name, values in self.metrics.items()},
            "queries": self.queries,
            "skipped": self.skipped,
            "gallery": self.gallery,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CompatibilityMatrix:
        """What `to_json` wrote; `SfscError` for anything else."""
        try:
            widths = tuple(float(width) for width in content["widths"])
            metrics = {name: np.array(content["metrics"][name], np.float64) for name in METRICS}
            counts = {name: int(content[name]) for name in ("queries", "skipped", "gallery")}
        except (KeyError, TypeError, ValueError) as error:
            raise SfscError(f"not a compatibility matrix ({error!r}): compute it again") from error
        for name, values in metrics.items():
            if values.shape != (len(widths), len(widths)):
                raise SfscError(
                    f"not a compatibility matrix: {name} of {len(widths)} widths is {values.shape}"
                )
        return cls(widths, metrics, **counts)


def compatibility_matrix(
    query_embeddings: Mapping[float, np.ndarray],
    gallery_embeddings: Mapping[float, np.ndarray],
    query: Labelled,
    gallery: Labelled,
) -> CompatibilityMatrix:
    """Evaluate every pair of widths by `evaluate_ranking`.

    The mappings go from width to (Q, dim) and (G, dim) float32 L2-normalised embeddings. Raises `SfscError`
    where they are not of the same widths, or for embeddings that `evaluate_ranking` refuses.
    """
    widths = tuple(sorted(query_embeddings))
    if not widths or widths != tuple(sorted(gallery_embeddings)):
        raise SfscError(
            f"queries are embedded at widths {list(widths)}, the gallery at {sorted(gallery_embeddings)}: "
            "embed both at the same widths"
        )
    for width in widths:
        check_embeddings(query_embeddings[width], query, f"query embeddings at width {width}")
        check_embeddings(gallery_embeddings[width], gallery, f"gallery embeddings at width {width}")
    cells = list(itertools.product(widths, widths))
    results = [
        evaluate_ranking(query_embeddings[q], gallery_embeddings[g], query, gallery)
        for q, g in track(cells, "compatibility matrix")
    ]
    shape = (len(widths), len(widths))
    return CompatibilityMatrix(
        widths=widths,
        metrics={name: np.array([cell.metrics[name] for cell in results]).reshape(shape) for name in METRICS},
        queries=results[0].queries,
        skipped=results[0].skipped,
        gallery=len(gallery.identities),
    )


def raw_pixel_embeddings(images: Iterable[np.ndarray]) -> np.ndarray:
    """The baseline without any model, (N, 768) float32, L2-normalised: each image as 16 x 16 colour pixels.

    `images` are (h, w, 3) uint8. Each colour channel is taken relative to its mean over the image, so that
    the cosine is a correlation. Of the simple choices it is the strongest: on the emoji data set it reaches
    mAP 21.3, the mean over all channels 21.2, a grey level of 0.5 subtracted 19.1, the Euclidean distance
    18.7, the cosine of the pixels as they are 18.3.
    """
    small = [cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in images]
    pixels = np.array(small, np.float32).reshape(-1, 256, 3)
    pixels = (pixels - pixels.mean(axis=1, keepdims=True)).reshape(-1, 768)
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-12)
