"""Engines that embed images: this process, or actors on a Ray cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.embedding.embedded import BATCH, Embedded, Embedder, embed_images
from sfsc.embedding.model import Model, open_model
from sfsc.embedding.ray_cluster import connect, reported
from sfsc.errors import SfscError, missing_extra
from sfsc.images.decoding import decode_images
from sfsc.images.reading import CorruptImage
from sfsc.progress import track

ENGINES = ("local", "ray")
# Embeds the images at the given paths with one sub-model, in parts whose vectors have its width as key.
Engine = Callable[[Sequence[str]], Iterator[Embedded[float]]]


def make_engine(
    name: str,
    source: str | Path,
    model: Model,
    width: float,
    workers: int,
    dimension: int | None = None,
    allow_code: str | None = None,
) -> Engine:
    """Make the engine with this name.

    Args:
        name: "local" or "ray".
        source: the path that the model was opened from; on a cluster, every machine must have it at this
            path.
        model: a family in evaluation mode, or an exported sub-model.
        width: the width of the sub-model that embeds the images.
        workers: the number of threads that decode images, or the number of actors.
        dimension: the number of first components of the embeddings; by default all.
        allow_code: as for `Family.load`, on the machines of a cluster.

    Raises:
        SfscError: there is no engine with this name, the model has no such width or dimension, or the `ray`
            extra is not installed.
    """
    model.check_width(width)
    if dimension is not None:
        model.check_dimension(dimension)
    if name == "local":
        return local_engine(model, width, workers, dimension)
    if name == "ray":
        return ray_engine(source, width, max(1, workers), dimension, allow_code)
    raise SfscError(f"unknown engine {name!r}; choose one of {', '.join(ENGINES)}")


def local_engine(model: Model, width: float, workers: int, dimension: int | None = None) -> Engine:
    """Make an engine that embeds in this process while `workers` threads decode images."""
    embedder = {width: Embedder.of(model, width, dimension)}
    return lambda paths: embed_images(embedder, paths, workers)


def ray_engine(
    source: str | Path,
    width: float,
    actors: int,
    dimension: int | None = None,
    allow_code: str | None = None,
) -> Engine:
    """Make an engine that embeds with a number of actors. Each actor loads the sub-model once.

    The actors run on the cluster named by the environment variable RAY_ADDRESS, or in processes on this
    machine if it is not set. The paths of the images must be valid on every machine. If a machine is lost,
    the others embed its images.

    Raises:
        SfscError: the `ray` extra is not installed. The engine raises it if the cluster does not answer or
            an actor fails.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray") from error

    def embed(paths: Sequence[str]) -> Iterator[Embedded[float]]:
        connect()
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"index": index, "path": path} for index, path in enumerate(paths)]
        parts = ray.data.from_items(items, override_num_blocks=-(-len(items) // BATCH)).map_batches(
            Actor,
            fn_constructor_args=(str(Path.cwd()), str(Path(source).absolute()), width, dimension, allow_code),
            concurrency=min(actors, len(items)),
            batch_size=BATCH,
        )
        batches = parts.iter_batches(batch_size=None, batch_format="numpy")
        with reported():
            for batch in track(batches, "embedding", total=-(-len(items) // BATCH)):
                yield _embedded(batch, width)

    return embed


class Actor:
    """A sub-model on one machine of a cluster."""

    def __init__(
        self, folder: str, source: str, width: float, dimension: int | None, allow_code: str | None
    ) -> None:
        """Open a model. Relative paths of images start at `folder` if the machine has it."""
        with contextlib.suppress(OSError):
            os.chdir(folder)
        self.model = open_model(source, allow_code)
        self.width = width
        self.dimension = dimension

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Add "embedding", (N, dim) float32, and "error", an empty text for images that could be read."""
        paths = [str(path) for path in batch["path"]]
        embedder = Embedder.of(self.model, self.width, self.dimension)
        [decoded] = decode_images(paths, [embedder.size], len(paths), threads=0)
        vectors = np.zeros((len(paths), self.dimension or self.model.dimension), np.float32)
        if len(decoded.indices):
            vectors[decoded.indices] = embedder.embed(decoded.images[embedder.size])
        reasons = {error.path: error.reason for error in decoded.corrupt}
        return {**batch, "embedding": vectors, "error": np.array([reasons.get(path, "") for path in paths])}


def _embedded(batch: dict[str, np.ndarray], width: float) -> Embedded[float]:
    good = batch["error"] == ""
    return Embedded(
        {width: np.stack(list(batch["embedding"]))[good]},
        batch["index"][good],
        [
            CorruptImage(str(path), str(reason))
            for path, reason in zip(batch["path"][~good], batch["error"][~good], strict=True)
        ],
    )
