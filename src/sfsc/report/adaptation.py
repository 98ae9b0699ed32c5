"""The candidates of an adaptation as a table of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict


class StoredCandidate(TypedDict):
    """A candidate in adaptation.json."""

    name: str
    matrix: list[list[float]]
    cross_tests: float
    gain: float
    error: float
    galleries_stay: bool


class StoredAdaptation(TypedDict):
    """The content of adaptation.json."""

    images: str
    fitted: int
    held_out: int
    chosen: str
    candidates: list[StoredCandidate]


def adaptation_table(adaptation: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table of a `StoredAdaptation`, in percent; the first row is its header."""
    heading = ["candidate", "cross-tests", "gain", "galleries of the full sub-model"]
    rows = [
        [
            f"{one['name']}{' (chosen)' if one['name'] == adaptation['chosen'] else ''}",
            f"{100 * one['cross_tests']:.1f}",
            f"{100 * one['gain']:+.1f} ± {100 * one['error']:.1f}",
            "stay valid" if one["galleries_stay"] else "must be embedded again",
        ]
        for one in adaptation["candidates"]
    ]
    return [heading, *rows]
