"""Aggregations of the package torchjd, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sfsc.errors import missing_extra


def torchjd_weights(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The weights of an aggregation of torchjd: upgrad (Quinton and Rey, 2024), cagrad, mgda.

    Returns:
        A function of grams (groups, m, m) float32 and an order, which plays no part, that gives weights
        (groups, m) of the gradients: m times torchjd's, which sum to a mean.

    Raises:
        SfscError: when called, if torchjd or a solver that it needs is not installed.
    """

    def weights(grams: Tensor, order: Tensor) -> Tensor:
        weighting, m = _weighting(name), grams.shape[-1]
        found = [weighting(gram) for gram in grams.double().cpu()]
        return m * torch.stack(found).to(grams)

    return weights


@cache
def _weighting(name: str) -> Any:
    try:
        from torchjd import aggregation

        make: dict[str, Callable[[], Any]] = {
            "upgrad": aggregation.UPGradWeighting,
            "cagrad": lambda: aggregation.CAGradWeighting(c=0.5),
            "mgda": aggregation.MGDAWeighting,
        }
        return make[name]()
    except ImportError as error:
        raise missing_extra(f"the solver of {name}", "aggregation") from error
