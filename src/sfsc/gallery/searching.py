"""Searching a gallery with images that any sub-model of the family embeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfsc.decisions.thresholds import REMEDY
from sfsc.embedding.model import Model
from sfsc.errors import SfscError
from sfsc.gallery import Gallery, Hit
from sfsc.gallery.answering import Wanted, answer, together
from sfsc.gallery.deciding import decide
from sfsc.gallery.gallery import Where
from sfsc.images.boxes import Box
from sfsc.images.reading import decode
from sfsc.progress import say
from sfsc.retrieval.reranking import DEPTH


def search(
    model: Model,
    query: str | Path | Sequence[str | Path],
    gallery: Gallery,
    width: float = 1.0,
    top: int = 10,
    where: Where = (),
    exact: bool = True,
    dimension: int | None = None,
    max_fmr: float | None = None,
    min_probability: float | None = None,
    *,
    by: str = "row",
    best: int = 1,
    rerank: str | None = None,
    rerank_depth: int = DEPTH,
    box: Box | None = None,
) -> list[Hit]:
    """Find the images in a gallery that are most similar to a query image, or to several of one object.

    If the model has thresholds, hits have a probability and are matches or not. With `max_fmr` or
    `min_probability`, only matches are returned, which can be none.

    Args:
        model: a family in evaluation mode, as `Family.load` returns it, or an exported sub-model.
        query: the path of the query image. Several paths are images of one object, such as a track or a
            product from four sides: their mean embedding is the query.
        gallery: a gallery of the model's family.
        width: the width of the sub-model that embeds the query.
        top: the maximum number of hits.
        where: conditions that every hit fulfils, as for `Gallery.search`.
        exact: whether to compare every row, as for `Gallery.search`.
        dimension: the number of first components of the query to use; by default all.
        max_fmr: the largest false match rate of a match: the share of non-matching pairs of one query and one
            row that reach its score.
        min_probability: the smallest probability of a match.
        by: "row", or "identity" for each identity once, with its best row.
        best: with "identity", the number of best rows of an identity whose mean cosine is its score.
        rerank: "k-reciprocal" or "expansion" to re-rank the first rows by their neighbours among each other.
        rerank_depth: the number of rows that are re-ranked; all if the gallery has fewer.
        box: the part of each query image to search with, `Box(x, y, width, height)` in pixels of the upright
            image; by default the whole image.

    Returns:
        The hits, best first. The score of a hit is its cosine, also after re-ranking.

    Raises:
        SfscError: an image cannot be read, the model has no such width or dimension, the gallery belongs to
            another family or has no identities to search by, a condition names an unknown column, or a limit
            is given and the model has no thresholds, or none that support it.

    Example::

        hits = sfsc.search(family, "query.jpg", gallery, width=0.25, top=5, where=["camera=2"])
        for hit in hits:
            print(f"{hit.score:.3f} {hit.path}")
        matches = sfsc.search(family, "query.jpg", gallery, width=0.25, max_fmr=1e-3)
        print(matches or "no match")
    """
    model.check_width(width)
    wanted = Wanted(top, where, exact, by, best, rerank, rerank_depth)
    paths = [str(path) for path in ([query] if isinstance(query, (str, Path)) else query)]
    if not paths:
        raise SfscError("no query image was given: name at least one")
    size = model.image_size_of(width)
    pixels = np.stack([decode(path if box is None else box.named(path), size) for path in paths])
    embeddings = together(model.embed_pixels(pixels, width, dimension))
    [hits] = answer(gallery, embeddings, model.fingerprint, wanted)
    limited = max_fmr is not None or min_probability is not None
    try:
        hits = _decided(hits, model, width, embeddings.shape[1], gallery, max_fmr, min_probability)
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
