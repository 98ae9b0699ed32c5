"""Searching a gallery with an image, embedded by any sub-model of a family."""

from __future__ import annotations

from pathlib import Path

from sfsc.embedding.model import Model
from sfsc.gallery import Gallery, Hit
from sfsc.gallery.gallery import Where
from sfsc.images.reading import decode


def search(
    model: Model,
    query: str | Path,
    gallery: Gallery,
    width: float = 1.0,
    top: int = 10,
    where: Where = (),
    exact: bool = True,
    dimension: int | None = None,
) -> list[Hit]:
    """The gallery's images most similar to a query image that one sub-model embeds, best first.

    Args:
        model: a family in evaluation mode, as `Family.load` gives it, or an exported sub-model.
        query: an image file.
        gallery: written by its family.
        width: the sub-model that embeds the query.
        top: how many images.
        where: conditions that they fulfil, and
        exact: whether all rows are compared: both as for `Gallery.search`.
        dimension: how many of the embedding's first components are sent; by default all.

    Raises:
        SfscError: the image cannot be read, not one of the model's widths or dimensions, a gallery of another
            family, or an unknown column in a condition.
    """
    model.check_width(width)
    embedding = model.embed_pixels(decode(str(query), model.image_size)[None], width, dimension)
    return gallery.search(embedding, model.fingerprint, top, where, exact)[0]
