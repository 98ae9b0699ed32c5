"""Initialisation of the classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfsc.data.dataset import Split
from sfsc.embedding.embedded import Embedder, embed_images
from sfsc.family.family import Family
from sfsc.training.config import Config
from sfsc.training.distributed import ALONE, World


@torch.no_grad()
def initialise(
    classifiers: Sequence[nn.Parameter], family: Family, images: Split, config: Config, world: World = ALONE
) -> None:
    """Initialise classifiers, each (classes, dim), in place.

    There is one classifier for the full sub-model, or one for each width, narrow first. Without pretrained
    weights, the directions are random. With pretrained weights, a class's direction is the mean embedding of
    its images by the classifier's sub-model, minus the mean embedding of all images (imprinting: Qi et al.,
    CVPR 2018). The classifier then fits the backbone from the first step. Each rank embeds its share of the
    images.
    """
    if config.weights == "none":
        generator = torch.Generator().manual_seed(config.seed)
        for classifier in reversed(classifiers):
            directions = torch.randn(classifier.shape, generator=generator)
            classifier.copy_(directions / 100)  # the directions of short vectors change fast
        return
    widths = family.widths.ratios[-len(classifiers) :]
    for classifier, means in zip(
        classifiers, _class_means(family, widths, images, config, world), strict=True
    ):
        classifier.copy_(means)


def _class_means(
    family: Family, widths: Sequence[float], images: Split, config: Config, world: World
) -> list[Tensor]:
    """Return the directions of the classes, (classes, dim) float32, for each width."""
    family.eval()
    embedders = {width: Embedder.of(family, width) for width in widths}
    paths, labels = images.paths[world.share(len(images))], torch.from_numpy(images.labels())
    parts = list(embed_images(embedders, paths, config.workers, "imprinting"))
    means = []
    for width in widths:
        batches = world.gather([part.vectors[width] for part in parts])
        embeddings = torch.from_numpy(np.concatenate(batches))
        sums = torch.zeros(int(labels.max()) + 1, embeddings.shape[1])
        means.append(F.normalize(sums.index_add_(0, labels, embeddings - embeddings.mean(0))))
    return means
