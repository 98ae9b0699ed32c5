"""Embedding image files with any number of sub-models while decoding each image only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from sfsc.embedding.model import Model
from sfsc.images.decoding import decode_images
from sfsc.images.reading import CorruptImage
from sfsc.interruption import INTERRUPTS
from sfsc.notation import Size
from sfsc.progress import track

BATCH = 64
BATCHES_PER_PART = 64

Key = TypeVar("Key")


class Embedder(NamedTuple):
    """A function that embeds images of one size.

    Attributes:
        size: the (height, width) of the images.
        embed: maps (batch, height, width, 3) uint8 images to (batch, dim) float32.
    """

    size: Size
    embed: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, model: Model, width: float, dimension: int | None = None) -> Embedder:
        """Return the embedder of one sub-model, for the first components or, by default, all of them.

        Raises:
            SfscError: the model has no sub-model of this width.
        """
        return cls(model.image_size_of(width), partial(model.embed_pixels, width=width, dimension=dimension))


@dataclass(frozen=True)
class Embedded(Generic[Key]):
    """Embeddings of the images that could be read.

    Attributes:
        vectors: (N, dim) float32 embeddings by each embedder's key.
        indices: (N,) int positions of the images in the given paths.
        corrupt: the images that could not be read.
    """

    vectors: dict[Key, np.ndarray]
    indices: np.ndarray
    corrupt: list[CorruptImage]

    @staticmethod
    def join(parts: Sequence[Embedded[Key]]) -> Embedded[Key]:
        """Concatenate one or more parts."""
        return Embedded(
            {key: np.concatenate([part.vectors[key] for part in parts]) for key in parts[0].vectors},
            np.concatenate([part.indices for part in parts]),
            [error for part in parts for error in part.corrupt],
        )


def embed_images(
    embedders: Mapping[Key, Embedder],
    paths: Sequence[str],
    workers: int = 2,
    description: str = "embedding",
) -> Iterator[Embedded[Key]]:
    """Read each image once and embed it with every embedder; yield batch by batch with a progress bar.

    Args:
        embedders: the embedders by key. Each of them gets the images in its own size.
        paths: the paths of the images.
        workers: the number of threads that decode images; 0 decodes in the calling thread.
        description: the text of the progress bar.
    """
    batches = decode_images(paths, {one.size for one in embedders.values()}, BATCH, workers)
    for indices, images, corrupt in track(batches, description, total=-(-len(paths) // BATCH)):
        vectors = {key: one.embed(images[one.size]) for key, one in embedders.items()}
        yield Embedded(vectors, indices, corrupt)


def in_parts(batches: Iterator[Embedded[float]]) -> Iterator[Embedded[float]]:
    """Group batches into parts that are large enough to write efficiently and small enough to lose.

    If a signal arrives, the finished batches are yielded as a part before the signal is handled.
    """
    part: list[Embedded[float]] = []
    try:
        for batch in batches:
            part.append(batch)
            if len(part) == BATCHES_PER_PART:
                finished, part = part, []
                yield Embedded.join(finished)
    except INTERRUPTS:
        if part:
            yield Embedded.join(part)
        raise
    if part:
        yield Embedded.join(part)
