"""Image files to embeddings, by any number of sub-models from one decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from sfsc.data.images import CorruptImage
from sfsc.data.loading import load_images
from sfsc.progress import track

BATCH = 64

Key = TypeVar("Key")


@dataclass(frozen=True)
class Embedded(Generic[Key]):
    """Embeddings of the images that could be read.

    `vectors` maps each embedder's key to (N, dim) float32; `indices` (N,) says which of the given paths
    they are; `corrupt` are the others.
    """

    vectors: dict[Key, np.ndarray]
    indices: np.ndarray
    corrupt: list[CorruptImage]

    @staticmethod
    def join(parts: Sequence[Embedded[Key]]) -> Embedded[Key]:
        """The parts, of which there is at least one, one after the other."""
        return Embedded(
            {key: np.concatenate([part.vectors[key] for part in parts]) for key in parts[0].vectors},
            np.concatenate([part.indices for part in parts]),
            [error for part in parts for error in part.corrupt],
        )


def embed_images(
    embedders: Mapping[Key, Callable[[Tensor], Tensor]],
    paths: Sequence[str],
    size: tuple[int, int],
    workers: int = 2,
    description: str = "embedding",
) -> Iterator[Embedded[Key]]:
    """Decode each image once and hand it to every embedder; yields batch by batch, under a progress bar.

    Args:
        embedders: each maps (batch, 3, height, width) uint8 images to (batch, dim) float32; for a family
            `functools.partial(family.embed, width=...)`, in evaluation mode.
        paths: image files.
        size: (height, width) to decode to.
        workers: processes that decode; 0 decodes in this one.
        description: what the progress bar says.
    """
    batches = load_images(paths, size, BATCH, workers)
    for indices, images, corrupt in track(batches, description, total=-(-len(paths) // BATCH)):
        with torch.inference_mode():
            vectors = {key: embed(images).float().cpu().numpy() for key, embed in embedders.items()}
        yield Embedded(vectors, indices, corrupt)
