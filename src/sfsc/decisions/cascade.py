"""The widths of a cascade."""

from __future__ import annotations

from collections.abc import Sequence

from sfsc.decisions.thresholds import REMEDY, Thresholds
from sfsc.errors import SfscError
from sfsc.widths import Widths


def read_cascade(cascade: str | Sequence[float], thresholds: Thresholds | None) -> Widths:
    """Return the widths of a cascade, at each of which a query can stop.

    Args:
        cascade: increasing widths that end in 1, or their text, such as "0.25,1".
        thresholds: the thresholds of the family that answers, or None if it has none.

    Raises:
        SfscError: these are not such widths, there is only one, or there are no thresholds.
    """
    widths = Widths.of(cascade)
    if len(widths) < 2:
        raise SfscError("a cascade needs at least two widths, such as 0.25,1")
    if thresholds is None:
        raise SfscError(f"a cascade decides by the probability of a match: {REMEDY}")
    return widths
