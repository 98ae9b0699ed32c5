"""Image files to embeddings, by any number of sub-models from one decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from sfsc.data.images import CorruptImage
from sfsc.data.loading import load_images
from sfsc.errors import SfscError
from sfsc.progress import track
from sfsc.retrieval.matrix import raw_pixel_embeddings
from sfsc.switchable.family import Family

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


@dataclass(frozen=True)
class ImageSet:
    """Images as every sub-model of a family embeds them.

    `vectors` maps a width to (N, dim) float32, and None to raw pixels; `rows` maps a path to its row.
    """

    vectors: Mapping[float | None, np.ndarray]
    rows: Mapping[str, int]

    def of(self, paths: Sequence[str]) -> dict[float | None, np.ndarray]:
        """The vectors of these images, in their order."""
        rows = np.array([self.rows[path] for path in paths], np.int64)
        return {width: vectors[rows] for width, vectors in self.vectors.items()}

    def calibrated(self, family: Family) -> ImageSet:
        """The same images as a calibrated copy of the family embeds them."""
        vectors = dict(self.vectors)
        for width in family.widths.narrow:
            vectors[width] = family.calibration(width)(torch.from_numpy(self.vectors[width])).numpy()
        return ImageSet(vectors, self.rows)


def embed_all(
    family: Family, paths: Iterable[str], workers: int = 2, description: str = "embedding"
) -> ImageSet:
    """Embed images by every sub-model.

    Args:
        family: in any mode; it is left as it was.
        paths: image files; one that comes twice is embedded once.
        workers: processes that decode images.
        description: what the progress bar says.

    Raises:
        SfscError: an image cannot be read.
    """
    files = sorted({*paths})
    training = family.training
    embedders = {width: partial(family.embed, width=width) for width in family.widths}
    try:
        family.eval()
        size = family.spec.image_size
        parts = list(embed_images({**embedders, None: _pixels}, files, size, workers, description))
    finally:
        family.train(training)
    embedded = Embedded.join(parts)
    if bad := embedded.corrupt:
        raise SfscError(
            f"{len(bad)} of {len(files)} images cannot be read, the first: {bad[0]}; repair or remove them"
        )
    return ImageSet(embedded.vectors, {path: row for row, path in enumerate(files)})


def _pixels(images: Tensor) -> Tensor:
    return torch.from_numpy(raw_pixel_embeddings(images.permute(0, 2, 3, 1).numpy()))
