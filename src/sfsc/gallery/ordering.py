"""The order in which rows of a gallery are embedded again, so that those that gain most come first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from sfsc.errors import SfscError

ORDERS = ("width", "uncertainty", "age", "queries", "spread")
NEAREST = 50  # rows that count as found by a query


def upgrade_order(
    order: str,
    widths: np.ndarray,
    errors: np.ndarray,
    times: np.ndarray,
    found: np.ndarray | None = None,
    spread: np.ndarray | None = None,
) -> np.ndarray:
    """Return the positions of n rows in the order in which they are to be embedded again.

    Args:
        order: "width": the narrowest sub-model first; "uncertainty": the greatest expected error first
            (Jaeckle et al., FastFill, ICLR 2023); "age": the oldest first; "queries": the rows with the
            greatest product of expected error and of how often queries find them first; "spread": the row
            farthest from all that come before it. Rows that are equal in this are ordered by expected error,
            then by width.
        widths: (n,) the widths of the rows.
        errors: (n,) the expected errors of bridged rows, NaN for others.
        times: (n,) the times when the rows were written.
        found: (n,) how often queries find each row, for "queries".
        spread: (n,) the ranks that `spread_ranks` returns, for "spread".

    Returns:
        (n,) int64.

    Raises:
        SfscError: the order is unknown, or "queries" lacks queries.
    """
    check_order(order, found is not None)
    unsure = -np.nan_to_num(errors)
    first = {"width": widths, "uncertainty": unsure, "age": times}
    if spread is not None:
        first["spread"] = spread
    if found is not None:
        typical = np.nanmean(errors) if np.isfinite(errors).any() else 1.0
        first["queries"] = -found * np.where(np.isnan(errors), typical, errors)
    return np.lexsort((widths, unsure, first[order]))


def check_order(order: str, queries: bool) -> None:
    """Raise `SfscError` if an order is unknown, or if queries are given or missing against its meaning."""
    if order not in ORDERS:
        raise SfscError(f"unknown order {order!r}; choose one of {', '.join(ORDERS)}")
    if queries != (order == "queries"):
        raise SfscError(
            "the order queries, and no other, needs images of queries: give --queries IMAGES with it"
        )


def times_found(hits: Iterable[Sequence[str]], ids: Sequence[str]) -> np.ndarray:
    """Count how often n rows are among the hits of queries, which are given by their ids: (n,) int64."""
    counts = Counter(id_ for one in hits for id_ in one)
    return np.array([counts[id_] for id_ in ids], np.int64)
