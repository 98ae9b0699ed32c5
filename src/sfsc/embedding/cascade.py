"""The widths of a cascade."""

from __future__ import annotations

from collections.abc import Sequence

from sfsc.decisions.thresholds import REMEDY
from sfsc.embedding.model import Model
from sfsc.errors import SfscError
from sfsc.widths import Widths


def read_cascade(cascade: str | Sequence[float], model: Model) -> Widths:
    """Return the widths of a cascade, at each of which a query can stop.

    Args:
        cascade: increasing widths of the model that end in 1, or their text, such as "0.25,1".
        model: the model that embeds the queries.

    Raises:
        SfscError: these are not such widths, there is only one, or the model has no thresholds of its family.
    """
    widths = Widths.of(cascade)
    if len(widths) < 2:
        raise SfscError("a cascade needs at least two widths, such as 0.25,1")
    for width in widths:
        model.check_width(width)
    if model.thresholds is None:
        raise SfscError(f"a cascade decides by the probability of a match: {REMEDY}")
    model.thresholds.check(model.fingerprint)
    return widths
