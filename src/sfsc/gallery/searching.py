"""Searching a gallery with an image that any sub-model of the family embeds."""

from __future__ import annotations

from pathlib import Path

from sfsc.decisions.thresholds import REMEDY
from sfsc.embedding.model import Model
from sfsc.errors import SfscError
from sfsc.gallery import Gallery, Hit
from sfsc.gallery.deciding import decide
from sfsc.gallery.gallery import Where
from sfsc.images.reading import decode
from sfsc.progress import say


def search(
    model: Model,
    query: str | Path,
    gallery: Gallery,
    width: float = 1.0,
    top: int = 10,
    where: Where = (),
    exact: bool = True,
    dimension: int | None = None,
    max_fmr: float | None = None,
    min_probability: float | None = None,
) -> list[Hit]:
    """Find the images in a gallery that are most similar to a query image.

    If the model has thresholds, hits have a probability and are matches or not. With `max_fmr` or
    `min_probability`, only matches are returned, which can be none.

    Args:
        model: a family in evaluation mode, as `Family.load` returns it, or an exported sub-model.
        query: the path of the query image.
        gallery: a gallery of the model's family.
        width: the width of the sub-model that embeds the query.
        top: the maximum number of hits.
        where: conditions that every hit fulfils, as for `Gallery.search`.
        exact: whether to compare every row, as for `Gallery.search`.
        dimension: the number of first components of the query to use; by default all.
        max_fmr: the largest false match rate of a match: the share of non-matching pairs of one query and one
            row that reach its score.
        min_probability: the smallest probability of a match.

    Returns:
        The hits, best first.

    Raises:
        SfscError: the image cannot be read, the model has no such width or dimension, the gallery belongs to
            another family, a condition names an unknown column, or a limit is given and the model has no
            thresholds, or none that support it.

    Example::

        hits = sfsc.search(family, "query.jpg", gallery, width=0.25, top=5, where=["camera=2"])
        for hit in hits:
            print(f"{hit.score:.3f} {hit.path}")
        matches = sfsc.search(family, "query.jpg", gallery, width=0.25, max_fmr=1e-3)
        print(matches or "no match")
    """
    model.check_width(width)
    embedding = model.embed_pixels(decode(str(query), model.image_size)[None], width, dimension)
    hits = gallery.search(embedding, model.fingerprint, top, where, exact)[0]
    limited = max_fmr is not None or min_probability is not None
    try:
        hits = _decided(hits, model, width, embedding.shape[1], gallery, max_fmr, min_probability)
    except SfscError as error:
        if limited:
            raise
        say(f"hits have no probability: {error}")
    return [hit for hit in hits if hit.match] if limited else hits


def _decided(
    hits: list[Hit],
    model: Model,
    width: float,
    dimension: int,
    gallery: Gallery,
    max_fmr: float | None,
    min_probability: float | None,
) -> list[Hit]:
    thresholds, described = model.thresholds, gallery.describe()
    if thresholds is None:
        if max_fmr is None and min_probability is None:
            return hits
        raise SfscError(f"the model has no thresholds: {REMEDY}, and export files again")
    thresholds.check(model.fingerprint)
    compared = dimension if described is None else min(dimension, described.dimension)
    return decide(hits, thresholds, width, compared, len(gallery), max_fmr, min_probability)
