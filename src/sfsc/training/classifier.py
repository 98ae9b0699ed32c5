"""The shared classifier's first directions."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfsc.data.records import Split
from sfsc.embedding import embed_images
from sfsc.switchable.family import Family
from sfsc.training.config import Config
from sfsc.training.distributed import ALONE, World


@torch.no_grad()
def initialise(
    classifier: nn.Parameter, family: Family, images: Split, config: Config, world: World = ALONE
) -> None:
    """Set a classifier, (classes, dim), in place, before the first step.

    Without pretrained weights its directions are random. With them, a class's direction is the mean of its
    images' embeddings by the full sub-model, less the mean of all (imprinting: Qi et al., CVPR 2018): what
    the backbone knows then reaches every sub-model from the first step. Each rank embeds its share.
    """
    if config.weights == "none":
        generator = torch.Generator().manual_seed(config.seed)
        classifier.copy_(torch.randn(classifier.shape, generator=generator) / 100)  # short vectors turn fast
    else:
        classifier.copy_(_class_means(family, images, len(classifier), config.workers, world))


def _class_means(family: Family, images: Split, classes: int, workers: int, world: World) -> Tensor:
    family.eval()
    embedder = {1.0: partial(family.embed, width=1.0)}
    paths = images.paths[world.share(len(images))]
    parts = embed_images(embedder, paths, family.spec.image_size, workers, "imprinting")
    batches = world.gather([part.vectors[1.0] for part in parts])
    embeddings = torch.from_numpy(np.concatenate(batches))
    sums = torch.zeros(classes, embeddings.shape[1])
    sums.index_add_(0, torch.from_numpy(images.labels()), embeddings - embeddings.mean(0))
    return F.normalize(sums)
