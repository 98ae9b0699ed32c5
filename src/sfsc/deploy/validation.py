"""The accuracy of sub-models that a family could have, on validation identities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sfsc.data.dataset import Dataset
from sfsc.deploy.points import Point, Space
from sfsc.deploy.profiling import embed_with
from sfsc.embedding.embedded import Embedder
from sfsc.family.family import Family
from sfsc.retrieval.ranking import evaluate_ranking
from sfsc.training.loading import load_batches
from sfsc.training.norm_statistics import BATCH, estimate_statistics
from sfsc.training.resizing import resized

QUERIES = 1000  # at most
BATCHES = 8  # of training images, which give the BatchNorm statistics


class Validation:
    """Measures M(point, full): the mAP of a point's queries in the gallery of the full sub-model.

    The images are decoded once, and the gallery is embedded once.
    """

    def __init__(self, space: Space, dataset: Dataset, seed: int, workers: int) -> None:
        """Decode the queries and images for statistics, and embed the gallery.

        Args:
            space: the points of the family.
            dataset: its training images give the BatchNorm statistics, its test images the accuracies.
            seed: the seed of the choice of training images.
            workers: the number of processes that decode images.

        Raises:
            SfscError: a split is empty, or an image cannot be read.
        """
        self.space, self._gallery = space, dataset.gallery
        query = dataset.query
        chosen = np.unique(np.linspace(0, len(query) - 1, QUERIES).astype(int))
        self._query = query.select(chosen)
        paths = dataset.part("train").paths
        order = np.random.default_rng(seed).permutation(len(paths))[: BATCHES * BATCH]
        self._statistics = self._decoded([paths[place] for place in order], workers)
        self._queries = self._decoded(self._query.paths, workers)
        full = Embedder.of(space.family, 1.0)
        [self._rows] = embed_with({"full": full}, self._gallery.paths).values()

    def _decoded(self, paths: Sequence[str], workers: int) -> list[Tensor]:
        batches = np.array_split(np.arange(len(paths)), max(1, round(len(paths) / BATCH)))
        return [*load_batches(paths, batches, self.space.family.image_size, workers)]

    def build(self, point: Point) -> tuple[Family, float]:
        """Return a family with the sub-model of a point, and its width there."""
        family, width = self.space.build(point)
        if family is not self.space.family:
            estimate_statistics(family, [width], self._statistics)
        return family, width

    @torch.inference_mode()
    def accuracy(self, family: Family, width: float) -> float:
        """Return the mAP, a fraction, of the queries of a sub-model in the gallery of the full one."""
        network, size = family.at(width), family.image_size_of(width)
        found = [network(resized(images.float() / 255, size)) for images in self._queries]
        return evaluate_ranking(torch.cat(found).numpy(), self._rows, self._query, self._gallery).mean_ap
