"""What an evaluation has only if it was asked for, as tables of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfsc.report.names import names_of


def further_tables(evaluation: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Return the matrices after re-ranking and of tracks, with the change of each cell, and the cascade.

    Args:
        evaluation: the content of evaluation.json.

    Returns:
        For each caption the rows of a table; the first row is its header.
    """
    found = {}
    if reranked := evaluation.get("reranked"):
        title = f"mAP % with {reranked['rule']} re-ranking of the first {reranked['depth']}"
        found[f"{title}, and the change"] = _matrix(evaluation, reranked)
    if tracks := evaluation.get("tracks"):
        title = f"mAP % of image-to-track retrieval, {tracks['count']} tracks"
        found[f"{title}, and the change"] = _matrix(evaluation, tracks)
    if cascade := evaluation.get("cascade"):
        names = " → ".join(f"{width:g}" for width in cascade["widths"])
        found[f"cascade {names}: queries stop at a probability, cost in % of width 1"] = _cascade(cascade)
    return found


def _matrix(evaluation: Mapping[str, Any], other: Mapping[str, Any]) -> list[list[str]]:
    names = [*names_of(evaluation), *evaluation.get("exported", {})]
    rows = zip(names, evaluation["metrics"]["mAP"], other["metrics"]["mAP"], strict=True)
    return [
        ["query \\ gallery", *names],
        *(
            [name, *(f"{100 * b:.1f} ({100 * (b - a):+.1f})" for a, b in zip(before, after, strict=True))]
            for name, before, after in rows
        ),
    ]


def _cascade(cascade: Mapping[str, Any]) -> list[list[str]]:
    full = cascade["alone"][-1]["multiply_adds"]

    def row(name: str, line: Mapping[str, Any], shares: list[str]) -> list[str]:
        values = (line["multiply_adds"] / full, line["mAP"], line["rank-1"])
        return [name, *(f"{100 * value:.1f}" for value in values), *shares]

    heading = ["queries", "cost", "mAP", "rank-1", *(f"{width:g} %" for width in cascade["widths"])]
    alone = [row(f"{one['width']:g} only", one, [""] * len(cascade["widths"])) for one in cascade["alone"]]
    limits = [
        row(f"from {one['limit']:g}", one, [f"{100 * share:.1f}" for share in one["shares"]])
        for one in cascade["limits"]
    ]
    return [heading, *alone, *limits]
