"""Where images are embedded: on this machine, or by actors on a Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfsc.data.images import CorruptImage, decode
from sfsc.embedding import BATCH, Embedded, embed_images
from sfsc.errors import SfscError, missing_extra
from sfsc.progress import track
from sfsc.switchable.family import Family

ENGINES = ("local", "ray")
# Embeds images of these paths with one sub-model, in parts; the key of their vectors is its width.
Engine = Callable[[Sequence[str]], Iterator[Embedded[float]]]


def make_engine(name: str, run: str | Path, family: Family, width: float, workers: int) -> Engine:
    """The engine of this name.

    Args:
        name: local or ray.
        run: the run folder of the family; on a cluster, every machine must have it at this path.
        family: in evaluation mode.
        width: the sub-model that embeds.
        workers: processes that decode images; or the number of actors.

    Raises:
        SfscError: no engine of this name, not one of the family's widths, or the `ray` extra is missing.
    """
    family.widths.index(width)
    if name == "local":
        return local_engine(family, width, workers)
    if name == "ray":
        return ray_engine(run, width, max(1, workers))
    raise SfscError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")


def local_engine(family: Family, width: float, workers: int) -> Engine:
    """Embeds in this process, while `workers` others decode."""
    embedder = {width: partial(family.embed, width=width)}
    return lambda paths: embed_images(embedder, paths, family.spec.image_size, workers)


def ray_engine(run: str | Path, width: float, actors: int) -> Engine:
    """Embeds by so many actors, each of which loads the sub-model once.

    They run on the cluster of the environment variable RAY_ADDRESS, or in processes of this machine where it
    is not set. Paths must lead to the images on every machine.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray") from error

    def embed(paths: Sequence[str]) -> Iterator[Embedded[float]]:
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"index": index, "path": path} for index, path in enumerate(paths)]
        parts = ray.data.from_items(items, override_num_blocks=-(-len(items) // BATCH)).map_batches(
            Actor,
            fn_constructor_args=(str(Path(run).absolute()), width),
            concurrency=min(actors, len(items)),
            batch_size=BATCH,
        )
        batches = parts.iter_batches(batch_size=None, batch_format="numpy")
        for batch in track(batches, "embedding", total=-(-len(items) // BATCH)):
            yield _embedded(batch, width)

    return embed


class Actor:
    """A sub-model on one machine of the cluster."""

    def __init__(self, run: str, width: float) -> None:
        torch.set_num_threads(1)  # as many actors as cores use them all
        self.family = Family.load(run)
        self.width = width

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Add "embedding", (N, dim) float32, and "error", empty where an image could be read."""
        size = self.family.spec.image_size
        vectors = np.zeros((len(batch["path"]), self.family.spec.embedding_dim), np.float32)
        images, errors = {}, [""] * len(vectors)
        for place, path in enumerate(batch["path"]):
            try:
                images[place] = torch.from_numpy(decode(str(path), size)).permute(2, 0, 1)
            except CorruptImage as error:
                errors[place] = error.reason
        if images:
            with torch.inference_mode():
                embeddings = self.family.embed(torch.stack(list(images.values())), self.width)
            vectors[list(images)] = embeddings.numpy()
        return {**batch, "embedding": vectors, "error": np.array(errors)}


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
