"""Writing images into a gallery and searching it, by any sub-model of a family."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from sfsc.data.dataset import names_dataset, open_dataset
from sfsc.data.images import CorruptImage, decode, find_images, write_png
from sfsc.embedding import Embedded, embed_images
from sfsc.errors import SfscError
from sfsc.gallery import Gallery, Hit
from sfsc.report.ranked_list import RankedImage, ranked_list_picture
from sfsc.switchable.family import Family

BATCHES_PER_ADD = 64


def index(
    family: Family, images: str | Path, gallery: Gallery, width: float = 1.0, workers: int = 2
) -> list[CorruptImage]:
    """Embed images with one sub-model and add them to a gallery; a path added before is replaced.

    Args:
        family: in evaluation mode, as `Family.load` gives it.
        images: an image, a folder of images, or "KIND:PATH" of a data set, whose gallery split is added
            with its identities and cameras.
        gallery: empty, or written by this family.
        width: the sub-model that embeds.
        workers: processes that decode images.

    Returns:
        The images that could not be read; all others are in the gallery.

    Raises:
        SfscError: no images, not one of the family's widths, or a gallery of another family.
    """
    paths, identities, cameras = _labelled(str(images))
    fingerprint = family.fingerprint
    gallery.check_family(family.spec.embedding_dim, fingerprint)
    embedders = {width: partial(family.embed, width=width)}
    family.widths.index(width)
    corrupt: list[CorruptImage] = []
    for embedded in _in_parts(embed_images(embedders, paths, family.spec.image_size, workers)):
        corrupt += embedded.corrupt
        read = [paths[i] for i in embedded.indices]
        gallery.add(
            embedded.vectors[width],
            read,
            paths=read,
            identities=None if identities is None else identities[embedded.indices],
            cameras=None if cameras is None else cameras[embedded.indices],
            width=width,
            fingerprint=fingerprint,
        )
    return corrupt


def search(
    family: Family, query: str | Path, gallery: Gallery, width: float = 1.0, top: int = 10
) -> list[Hit]:
    """The gallery's images most similar to a query image that one sub-model embeds, best first.

    Raises:
        SfscError: the image cannot be read, not one of the family's widths, or a gallery of another family.
    """
    pixels = torch.from_numpy(decode(str(query), family.spec.image_size)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        embedding = family.embed(pixels, width).numpy()
    return gallery.search(embedding, family.fingerprint, top)[0]


def draw_hits(query: str | Path, hits: Sequence[Hit], out: Path) -> None:
    """Write a PNG of a query and its hits, with scores and what is known of their identities."""
    ranked = [RankedImage(hit.path, hit.score, hit.identity or Path(hit.path).name, None) for hit in hits]
    write_png(out, ranked_list_picture(str(query), ranked))


def _in_parts(batches: Iterator[Embedded[float]]) -> Iterator[Embedded[float]]:
    """The batches, some together: what is written at once is neither slow nor much to lose."""
    while part := list(islice(batches, BATCHES_PER_ADD)):
        yield Embedded.join(part)


def _labelled(images: str) -> tuple[list[str], np.ndarray | None, np.ndarray | None]:
    """Absolute paths, and identities and cameras where they are known, each (N,) str."""
    if names_dataset(images):
        split = open_dataset(images).gallery
        return [_absolute(path) for path in split.paths], split.identities, split.cameras
    if not Path(images).exists():
        raise SfscError(f"there is nothing at {images}: give an image, a folder or KIND:PATH of a data set")
    return [_absolute(path) for path in find_images(Path(images))], None, None


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # Path.absolute keeps ".."
