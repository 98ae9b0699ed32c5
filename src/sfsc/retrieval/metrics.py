"""Retrieval metrics of rankings: mAP, CMC and mINP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfsc.errors import SfscError

CMC_RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """The retrieval accuracy over all queries that have a positive in the gallery, as fractions.

    Attributes:
        mean_ap: the mean of the average precisions.
        cmc: for each k in `CMC_RANKS`, the share of queries with a positive among the first k items.
        mean_inp: the mean inverse negative penalty, positives / rank of the last (Ye et al., TPAMI 2021).
        queries: the number of these queries.
        skipped: the number of the other queries, which are left out.
    """

    mean_ap: float
    cmc: dict[int, float]
    mean_inp: float
    queries: int
    skipped: int

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by their names in tables and matrices: mAP, rank-1, rank-5, rank-10 and mINP."""
        ranks = {f"rank-{k}": share for k, share in self.cmc.items()}
        return {"mAP": self.mean_ap, **ranks, "mINP": self.mean_inp}


def average_precision(ranks: np.ndarray) -> float:
    """Return the mean of the precisions at all positives of a query.

    Args:
        ranks: (P,) int, P > 0, the ascending ranks of the positives, counted from 1.
    """
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def retrieval_of(ranks: Sequence[np.ndarray]) -> Retrieval:
    """Compute the retrieval accuracy from the ranks of the positives of each query.

    Raises:
        SfscError: no query has a positive.
    """
    counted = [positives for positives in ranks if len(positives)]
    if not counted:
        raise SfscError("no query has a positive in the gallery: check the identities and the cameras")
    first = np.array([positives[0] for positives in counted])
    return Retrieval(
        mean_ap=float(np.mean([average_precision(positives) for positives in counted])),
        cmc={k: float(np.mean(first <= k)) for k in CMC_RANKS},
        mean_inp=float(np.mean([len(positives) / positives[-1] for positives in counted])),
        queries=len(counted),
        skipped=len(ranks) - len(counted),
    )
