"""Searching with a cascade: cheap sub-models answer what they are sure of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sfsc.embedding.cascade import read_cascade
from sfsc.embedding.model import Model
from sfsc.errors import SfscError
from sfsc.gallery.gallery import Gallery
from sfsc.gallery.searching import search
from sfsc.gallery.store import Hit

SURE = 0.5  # a match is more likely than none


class CascadeAnswer(NamedTuple):
    """The answer of `search_cascade`.

    Attributes:
        hits: the hits, best first, as `search` returns them.
        width: the width of the sub-model that embedded the query.
    """

    hits: list[Hit]
    width: float


def search_cascade(
    model: Model,
    query: str | Path | Sequence[str | Path],
    gallery: Gallery,
    widths: str | Sequence[float],
    sure: float = SURE,
    **options: Any,
) -> CascadeAnswer:
    """Search with a narrow sub-model, and with the next wider one only where its first hit is uncertain.

    Every sub-model searches the same gallery. The first one whose first hit is a match with a probability of
    at least `sure` answers; otherwise, the last one does. `sfsc evaluate --cascade` measures the accuracy and
    the mean cost of a cascade at several of these limits.

    Args:
        model: a family in evaluation mode, with thresholds.
        query: the path of the query image, or several of one object.
        gallery: a gallery of the model's family.
        widths: increasing widths of the family that end in 1, or their text, such as "0.25,1".
        sure: the probability of a match, in [0, 1], from which a query stops.
        **options: the other arguments of `search`, except the width.

    Raises:
        SfscError: the model has no thresholds or lacks a width, `sure` is not a probability, or as for
            `search`.

    Example::

        hits, width = sfsc.search_cascade(family, "query.jpg", gallery, "0.25,1", sure=0.95)
        print(f"answered by width {width:g}")
    """
    chosen = read_cascade(widths, model)
    if not 0 <= sure <= 1:
        raise SfscError(f"the probability from which a cascade stops is between 0 and 1, not {sure:g}")
    hits: list[Hit] = []
    for width in chosen:
        hits = search(model, query, gallery, width, **options)
        if hits and (hits[0].probability or 0) >= sure:
            return CascadeAnswer(hits, width)
    return CascadeAnswer(hits, 1.0)
