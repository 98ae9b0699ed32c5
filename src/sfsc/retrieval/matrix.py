"""The compatibility matrix: every sub-model's queries against every sub-model's gallery."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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

    `metrics` maps each of `METRICS` to an (n, n) float64 array of fractions, indexed [query, gallery]:
    self-tests on the diagonal, cross-tests elsewhere. First come the family's m sub-models, by ascending
    `widths`; then the files of `exported`, which maps the label of each to the width that it was made from.
    `queries` of them counted, `skipped` had no positive, `gallery` is the number of gallery items.
    """

    widths: tuple[float, ...]
    metrics: dict[str, np.ndarray]
    queries: int
    skipped: int
    gallery: int
    exported: Mapping[str, float] = field(default_factory=dict)

    def family(self) -> CompatibilityMatrix:
        """The family's sub-models alone, which the criterion is about."""
        return replace(self, metrics={name: self._own(name) for name in self.metrics}, exported={})

    def _own(self, metric: str) -> np.ndarray:
        return self.metrics[metric][: len(self.widths), : len(self.widths)]

    def costs(self, metric: str = "mAP") -> dict[str, float]:
        """By label, what a query by the exported file loses beside one by the sub-model it was made from.

        Both search the full sub-model's gallery. In fractions; below 0, the file finds more.
        """
        full = len(self.widths) - 1
        against_full = self.metrics[metric][:, full]
        return {
            label: float(against_full[self.widths.index(width)] - against_full[full + place])
            for place, (label, width) in enumerate(self.exported.items(), 1)
        }

    @property
    def cells(self) -> int:
        """How many cross-tests there are, each of them held against the criterion."""
        return len(self.widths) * (len(self.widths) - 1)

    def criterion(self, metric: str = "mAP") -> np.ndarray:
        """Where the compatibility criterion is met, (m, m) bool; the diagonal, which has none, is False.

        A cross-test must reach the self-test of the smaller of its two sub-models (Shen et al., CVPR 2020).
        """
        values = self._own(metric)
        place = np.arange(len(self.widths))
        smaller = np.minimum(place[:, None], place)
        return (values >= np.diag(values)[smaller]) & ~np.eye(len(place), dtype=bool)

    def cells_met(self, metric: str = "mAP") -> int:
        """How many of the `cells` meet the criterion."""
        return int(self.criterion(metric).sum())

    def self_tests(self, metric: str = "mAP") -> float:
        """The mean of the self-tests."""
        return float(np.diag(self._own(metric)).mean())

    def cross_tests(self, metric: str = "mAP") -> float:
        """The mean of the cross-tests; NaN for a single width, which has none."""
        values = self._own(metric)[~np.eye(len(self.widths), dtype=bool)]
        return float(values.mean()) if self.cells else math.nan

    def to_json(self) -> dict[str, Any]:
        """The matrix as plain lists and numbers."""
        return {
            "widths": list(self.widths),
            "metrics": {name: values.tolist() for name, values in self.metrics.items()},
            "queries": self.queries,
            "skipped": self.skipped,
            "gallery": self.gallery,
            "exported": dict(self.exported),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CompatibilityMatrix:
        """What `to_json` wrote; `SfscError` for anything else."""
        try:
            widths = tuple(float(width) for width in content["widths"])
            metrics = {name: np.array(content["metrics"][name], np.float64) for name in METRICS}
            counts = {name: int(content[name]) for name in ("queries", "skipped", "gallery")}
            exported = {str(label): float(width) for label, width in content.get("exported", {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SfscError(f"not a compatibility matrix ({error!r}): compute it again") from error
        size = len(widths) + len(exported)
        for name, values in metrics.items():
            if values.shape != (size, size):
                raise SfscError(f"not a compatibility matrix: {name} of {size} widths is {values.shape}")
        return cls(widths, metrics, **counts, exported=exported)


def compatibility_matrix(
    query_embeddings: Mapping[float | str, np.ndarray],
    gallery_embeddings: Mapping[float | str, np.ndarray],
    query: Labelled,
    gallery: Labelled,
    exported: Mapping[str, float] | None = None,
) -> CompatibilityMatrix:
    """Evaluate every pair of widths, and of exported files, by `evaluate_ranking`.

    The mappings go from width, or the label of a file, to (Q, dim) and (G, dim) float32 L2-normalised
    embeddings; `exported` from label to width. Raises `SfscError` where they are not of the same widths and
    labels, or for embeddings that `evaluate_ranking` refuses.
    """
    exported = exported or {}
    widths = tuple(sorted(key for key in query_embeddings if not isinstance(key, str)))
    names: list[float | str] = [*widths, *exported]
    if not widths or not set(names) == set(query_embeddings) == set(gallery_embeddings):
        raise SfscError(
            f"queries are embedded at widths {list(query_embeddings)}, the gallery at "
            f"{list(gallery_embeddings)}: embed both at the same widths"
        )
    for name in names:
        check_embeddings(query_embeddings[name], query, f"query embeddings at width {name}")
        check_embeddings(gallery_embeddings[name], gallery, f"gallery embeddings at width {name}")
    cells = list(itertools.product(names, names))
    results = [
        evaluate_ranking(query_embeddings[q], gallery_embeddings[g], query, gallery)
        for q, g in track(cells, "compatibility matrix")
    ]
    shape = (len(names), len(names))
    return CompatibilityMatrix(
        widths=widths,
        metrics={name: np.array([cell.metrics[name] for cell in results]).reshape(shape) for name in METRICS},
        queries=results[0].queries,
        skipped=results[0].skipped,
        gallery=len(gallery.identities),
        exported=exported,
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
