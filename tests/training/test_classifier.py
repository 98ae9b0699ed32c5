import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sfsc.data import open_dataset
from sfsc.family.family import Family
from sfsc.training.classifier import initialise
from sfsc.training.config import Config
from sfsc.training.loading import load_batches


def classifier_for(shapes: str, weights: str, seed: int = 0) -> tuple[nn.Parameter, Family]:
    images = open_dataset(shapes).train
    family = Family.create("small", image_size=(32, 32), embedding_dim=16)
    classifier = nn.Parameter(torch.zeros(int(images.labels().max()) + 1, 16))
    config = Config(dataset=shapes, weights=weights, seed=seed, workers=0)
    initialise([classifier], family, images, config)
    return classifier, family


def test_without_pretrained_weights_the_directions_are_of_the_seed(shapes: str) -> None:
    first, again, other = (classifier_for(shapes, "none", seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.norm(dim=1).max() < 0.1


def test_pretrained_weights_imprint_the_class_means(shapes: str) -> None:
    classifier, family = classifier_for(shapes, "imagenet")
    images = open_dataset(shapes).train
    [batch] = load_batches(images.paths, [np.arange(len(images))], (32, 32), 0)
    embeddings = family.eval().embed(batch)
    labels = torch.from_numpy(images.labels())
    for label, direction in enumerate(classifier):
        mean = embeddings[labels == label].mean(0) - embeddings.mean(0)
        torch.testing.assert_close(direction.detach(), F.normalize(mean, dim=0), rtol=1e-3, atol=1e-4)
    # The class of most images is then known before any training.
    assert (embeddings @ classifier.T).argmax(1).eq(labels).float().mean() > 0.5
