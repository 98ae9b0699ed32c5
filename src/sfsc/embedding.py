"""Image files to embeddings, by any number of sub-models from one decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


@torch.inference_mode()
def embed_images(
    embedders: Mapping[Key, Callable[[Tensor], Tensor]],
    paths: Sequence[str],
    size: tuple[int, int],
    workers: int = 2,
) -> Embedded[Key]:
    """Decode each image once and hand it to every embedder.

    Args:
        embedders: each maps (batch, 3, height, width) uint8 images to (batch, dim) float32; for a family
            `functools.partial(family.embed, width=...)`, in evaluation mode.
        paths: image files.
        size: (height, width) to decode to.
        workers: processes that decode; 0 decodes in this one.
    """
    vectors: dict[Key, list[np.ndarray]] = {key: [] for key in embedders}
    indices: list[np.ndarray] = []
    corrupt: list[CorruptImage] = []
    batches = load_images(paths, size, BATCH, workers)
    for batch_indices, images, unreadable in track(batches, "embedding", total=-(-len(paths) // BATCH)):
        corrupt += unreadable
        if len(batch_indices):
            indices.append(batch_indices)
            for key, embed in embedders.items():
                vectors[key].append(embed(images).float().cpu().numpy())
    stacked = {key: np.concatenate(parts) for key, parts in vectors.items() if parts}
    return Embedded(stacked, np.concatenate(indices) if indices else np.zeros(0, np.int64), corrupt)
