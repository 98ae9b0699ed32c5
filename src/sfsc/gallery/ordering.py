"""The order in which rows of a gallery are embedded again, so that those that gain most come first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfsc.errors import SfscError

ORDERS = ("width", "uncertainty", "age", "queries")
NEAREST = 50  # rows that count as found by a query


def upgrade_order(
    order: str,
    widths: np.ndarray,
    errors: np.ndarray,
    times: np.ndarray,
    found: np.ndarray | None = None,
) -> np.ndarray:
    """Return the positions of n rows in the order in which they are to be embedded again.

    Args:
        order: "width": the narrowest sub-model first; "uncertainty": the greatest expected error first
            (Jaeckle et al., FastFill, ICLR 2023); "age": the oldest first; "queries": the rows that queries
            find most often first. Rows that are equal in this are ordered by expected error, then by width.
        widths: (n,) the widths of the rows.
        errors: (n,) the expected errors of bridged rows, NaN for others.
        times: (n,) the times when the rows were written.
        found: (n,) how often queries find each row, for "queries".

    Returns:
        (n,) int64.

    Raises:
        SfscError: the order is unknown, or "queries" lacks queries.
    """
    check_order(order, found is not None)
    unsure = -np.nan_to_num(errors)
    first = {"width": widths, "uncertainty": unsure, "age": times}
    return np.lexsort((widths, unsure, first[order] if found is None else -found))


def check_order(order: str, queries: bool) -> None:
    """Raise `SfscError` if an order is unknown, or if queries are given or missing against its meaning."""
    if order not in ORDERS:
        raise SfscError(f"unknown order {order!r}; choose one of {', '.join(ORDERS)}")
    if queries != (order == "queries"):
        raise SfscError(
            "the order queries, and no other, needs images of queries: give --queries IMAGES with it"
        )


def times_found(hits: Sequence[Sequence[str]], ids: Sequence[str]) -> np.ndarray:
    """Count how often rows are among the hits of queries: (n,) float64 for the n ids.

    A hit at rank r counts 1 / r.
    """
    places = {id_: place for place, id_ in enumerate(ids)}
    counts = np.zeros(len(ids))
    for one in hits:
        for rank, id_ in enumerate(one, 1):
            if id_ in places:
                counts[places[id_]] += 1 / rank
    return counts
