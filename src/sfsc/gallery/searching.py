"""Searching a gallery with an image that any sub-model of the family embeds."""

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
    """Find the images in a gallery that are most similar to a query image.

    Args:
        model: a family in evaluation mode, as `Family.load` returns it, or an exported sub-model.
        query: the path of the query image.
        gallery: a gallery of the model's family.
        width: the width of the sub-model that embeds the query.
        top: the maximum number of hits.
        where: conditions that every hit fulfils, as for `Gallery.search`.
        exact: whether to compare every row, as for `Gallery.search`.
        dimension: the number of first components of the query to use; by default all.

    Returns:
        The hits, best first.

    Raises:
        SfscError: the image cannot be read, the model has no such width or dimension, the gallery belongs to
            another family, or a condition names an unknown column.

    Example::

        hits = sfsc.search(family, "query.jpg", gallery, width=0.25, top=5, where=["camera=2"])
        for hit in hits:
            print(f"{hit.score:.3f} {hit.path}")
    """
    model.check_width(width)
    embedding = model.embed_pixels(decode(str(query), model.image_size)[None], width, dimension)
    return gallery.search(embedding, model.fingerprint, top, where, exact)[0]
