"""The compatibility matrix with the row and the column of an old model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

LABEL = "old"


class WithOld(NamedTuple):
    """A matrix of n models, of which the last may be an old model.

    Attributes:
        labels: the n - m labels that follow the m widths: exported files, and the old model.
        values: n rows of n fractions.
        met: for each width, whether its queries in the old model's gallery meet the criterion; empty without
            an old model.
    """

    labels: list[str]
    values: list[list[float]]
    met: list[bool]


def with_old(evaluation: Mapping[str, Any], metric: str) -> WithOld:
    """Return the matrix of a metric in the content of evaluation.json, with the old model if it has one."""
    labels, values = [*evaluation.get("exported", {})], evaluation["metrics"][metric]
    old = evaluation.get("old")
    if old is None:
        return WithOld(labels, values, [])
    column, row = old["column"][metric], old["row"][metric]
    wider = [[*line, cell] for line, cell in zip(values, column, strict=True)]
    return WithOld([*labels, LABEL], [*wider, [*row, old["self_test"][metric]]], old["criterion"])
