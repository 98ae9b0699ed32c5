"""Aggregations of the torchjd package, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sfsc.errors import missing_extra


def torchjd_weights(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that computes the weights of upgrad (Quinton and Rey, 2024), cagrad or mgda.

    Returns:
        A function of grams (groups, m, m) float32 and an order, which it ignores. It returns the weights of
        the gradients, (groups, m): m times torchjd's weights, which give a mean. It raises `SfscError` if
        torchjd or a solver that it needs is not installed.
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
