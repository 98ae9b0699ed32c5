"""The compatibility matrix: every sub-model's queries against every sub-model's gallery."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from sfsc.errors import SfscError
from sfsc.progress import track
from sfsc.retrieval.labels import Labelled, check_embeddings
from sfsc.retrieval.metrics import retrieval_of
from sfsc.retrieval.ranking import positive_ranks

# Maps query embeddings, gallery embeddings and their labels to the ranks of each query's positives.
RanksOf = Callable[[np.ndarray, np.ndarray, Labelled, Labelled], list[np.ndarray]]
METRICS = ("mAP", "rank-1", "rank-5", "rank-10", "mINP")


@dataclass(frozen=True, eq=False)
class CompatibilityMatrix:
    """M(q, g): the retrieval accuracy of queries at width q against a gallery at width g.

    Rows and columns are the family's m sub-models by ascending width, followed by the exported files.
    Self-tests are on the diagonal, cross-tests elsewhere.

    Attributes:
        widths: the m widths, ascending.
        metrics: for each name in `METRICS` an (n, n) float64 array of fractions, indexed [query, gallery].
        queries: the number of queries that were evaluated.
        skipped: the number of queries that were left out because the gallery has no positive for them.
        gallery: the number of gallery images.
        exported: for the label of each exported file, the width of the sub-model that it was made from.

    Example::

        matrix = sfsc.evaluate(family, sfsc.open_dataset("folder:photos")).matrix
        print(matrix.metrics["mAP"], matrix.cells_met(), "of", matrix.cells)
    """

    widths: tuple[float, ...]
    metrics: dict[str, np.ndarray]
    queries: int
    skipped: int
    gallery: int
    exported: Mapping[str, float] = field(default_factory=dict)

    def family(self) -> CompatibilityMatrix:
        """Return the matrix of the family's sub-models, without exported files."""
        return replace(self, metrics={name: self._own(name) for name in self.metrics}, exported={})

    def _own(self, metric: str) -> np.ndarray:
        return self.metrics[metric][: len(self.widths), : len(self.widths)]

    def costs(self, metric: str = "mAP") -> dict[str, float]:
        """Return, for the label of each exported file, the accuracy that its queries lose.

        The loss is a fraction, relative to queries of the sub-model that the file was made from. Both search
        the gallery of the full sub-model. A negative loss means that the file is more accurate.
        """
        full = len(self.widths) - 1
        against_full = self.metrics[metric][:, full]
        return {
            label: float(against_full[self.widths.index(width)] - against_full[full + place])
            for place, (label, width) in enumerate(self.exported.items(), 1)
        }

    @property
    def cells(self) -> int:
        """The number of cross-tests, each of which is compared with the criterion."""
        return len(self.widths) * (len(self.widths) - 1)

    def criterion(self, metric: str = "mAP") -> np.ndarray:
        """Return where the compatibility criterion is met, (m, m) bool; the diagonal is False.

        A cross-test meets the criterion if it is at least as accurate as the self-test of the smaller of its
        two sub-models (Shen et al., CVPR 2020).
        """
        values = self._own(metric)
        place = np.arange(len(self.widths))
        smaller = np.minimum(place[:, None], place)
        return (values >= np.diag(values)[smaller]) & ~np.eye(len(place), dtype=bool)

    def cells_met(self, metric: str = "mAP") -> int:
        """Return how many of the `cells` meet the criterion."""
        return int(self.criterion(metric).sum())

    def gallery_gain(self, metric: str = "mAP") -> np.ndarray:
        """Return the gallery gain M(r, 1) - M(r, r) of each narrow width r, (m - 1,) float64.

        This is what the queries of a narrow sub-model gain, as a fraction, if the full sub-model and not the
        narrow one embeds the gallery. It is the main effect in the paper (Wu et al., CVPR 2023).
        """
        values = self._own(metric)[:-1]
        return values[:, -1] - np.diag(values)

    def mean_gallery_gain(self, metric: str = "mAP") -> float:
        """Return the mean of `gallery_gain`, or NaN for a single width."""
        return float(self.gallery_gain(metric).mean()) if self.cells else math.nan

    def self_tests(self, metric: str = "mAP") -> float:
        """Return the mean of the self-tests."""
        return float(np.diag(self._own(metric)).mean())

    def cross_tests(self, metric: str = "mAP") -> float:
        """Return the mean of the cross-tests, or NaN for a single width."""
        values = self._own(metric)[~np.eye(len(self.widths), dtype=bool)]
        return float(values.mean()) if self.cells else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return the matrix as plain lists and numbers."""
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
        """Return the matrix that `to_json` wrote; raise `SfscError` for anything else."""
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
                raise SfscError(
                    f"not a compatibility matrix: {name} has shape {values.shape}, expected {(size, size)}"
                )
        return cls(widths, metrics, **counts, exported=exported)


def compatibility_matrix(
    query_embeddings: Mapping[float | str, np.ndarray],
    gallery_embeddings: Mapping[float | str, np.ndarray],
    query: Labelled,
    gallery: Labelled,
    exported: Mapping[str, float] | None = None,
    ranks: RanksOf = positive_ranks,
) -> CompatibilityMatrix:
    """Evaluate every pair of widths and exported files as `evaluate_ranking` does.

    Args:
        query_embeddings: (Q, dim) float32 L2-normalised embeddings for each width or label of a file.
        gallery_embeddings: (G, dim) float32 L2-normalised embeddings for the same widths and labels.
        query: the identities and cameras of the Q queries.
        gallery: the identities and cameras of the G gallery images.
        exported: the width of each file, by label.
        ranks: computes the ranks of the positives of each query, for example after re-ranking.

    Raises:
        SfscError: the two mappings have different widths and labels, or `evaluate_ranking` refuses the
            embeddings.
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
        retrieval_of(ranks(query_embeddings[q], gallery_embeddings[g], query, gallery))
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
    """Compute the baseline without a model: each image as 16 x 16 colour pixels.

    The mean of each colour channel over the image is subtracted, so the cosine is a correlation. This is the
    strongest simple choice. On the emoji data set it reaches mAP 21.3. Subtracting the mean of all channels
    reaches 21.2, subtracting a grey level of 0.5 reaches 19.1, the Euclidean distance 18.7 and the cosine of
    unchanged pixels 18.3.

    Args:
        images: N images, (h, w, 3) uint8.

    Returns:
        (N, 768) float32, L2-normalised.
    """
    small = [cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in images]
    pixels = np.array(small, np.float32).reshape(-1, 256, 3)
    pixels = (pixels - pixels.mean(axis=1, keepdims=True)).reshape(-1, 768)
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-12)
