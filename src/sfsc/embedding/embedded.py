"""Image files to embeddings, by any number of sub-models from one decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from sfsc.images.decoding import decode_images
from sfsc.images.reading import CorruptImage
from sfsc.interruption import INTERRUPTS
from sfsc.progress import track

BATCH = 64
BATCHES_PER_PART = 64

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
    embedders: Mapping[Key, Callable[[np.ndarray], np.ndarray]],
    paths: Sequence[str],
    size: tuple[int, int],
    workers: int = 2,
    description: str = "embedding",
) -> Iterator[Embedded[Key]]:
    """Decode each image once and hand it to every embedder; yields batch by batch, under a progress bar.

    Args:
        embedders: each maps (batch, height, width, 3) uint8 images to (batch, dim) float32, as
            `functools.partial(model.embed_pixels, width=...)` does.
        paths: image files.
        size: (height, width) to decode to.
        workers: threads that decode; 0 decodes in the caller's.
        description: what the progress bar says.
    """
    batches = decode_images(paths, size, BATCH, workers)
    for indices, images, corrupt in track(batches, description, total=-(-len(paths) // BATCH)):
        yield Embedded({key: embed(images) for key, embed in embedders.items()}, indices, corrupt)


def in_parts(batches: Iterator[Embedded[float]]) -> Iterator[Embedded[float]]:
    """The batches, some together: what is written at once is neither slow nor much to lose.

    What is finished when a signal comes is a part as well, before the signal is obeyed.
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
