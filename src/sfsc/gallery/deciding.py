"""Deciding which hits of a search are matches."""

from __future__ import annotations

from collections.abc import Sequence

from sfsc.decisions.pair import Pair
from sfsc.decisions.thresholds import Thresholds
from sfsc.errors import SfscError
from sfsc.gallery.store import BRIDGE_ERROR, Hit

EVEN = 0.5  # hits are matches from this probability on if no other limit is given


def decide(
    hits: Sequence[Hit],
    thresholds: Thresholds,
    width: float,
    dimension: int,
    rows: int,
    max_fmr: float | None = None,
    min_probability: float | None = None,
) -> list[Hit]:
    """Return hits with their probabilities, and whether they are matches.

    Every hit is judged by the map of its own pair: rows of one gallery can be written by different sub-models
    and stored in different forms. Bridged rows are not judged, because no thresholds were fitted for them.

    Args:
        hits: the hits of one query.
        thresholds: the thresholds of the query's family.
        width: the width of the sub-model that embedded the query.
        dimension: the number of components that were compared.
        rows: the number of rows that were searched, on which the probabilities depend.
        max_fmr: the largest false match rate at which a hit is a match.
        min_probability: the smallest probability at which a hit is a match; 0.5 if neither is given.

    Raises:
        SfscError: there is no map for the pair of a hit, its pairs do not support the false match rate, or a
            limit is not within 0 and 1.
    """
    if min_probability is not None and not 0 <= min_probability <= 1:
        raise SfscError(f"a probability is between 0 and 1, not {min_probability:g}")
    if max_fmr is None and min_probability is None:
        min_probability = EVEN
    least: dict[Pair, float] = {}
    decided = []
    for hit in hits:
        if hit.attributes.get(BRIDGE_ERROR) is not None:
            decided.append(hit)
            continue
        pair = Pair(width, hit.width, hit.form, dimension)
        found = thresholds.of(pair)
        if pair not in least:
            least[pair] = -1.0 if max_fmr is None else found.threshold(max_fmr)
        probability = float(found.probability(hit.score, rows))
        match = hit.score >= least[pair] and probability >= (min_probability or 0)
        decided.append(hit._replace(probability=probability, match=match))
    return decided
