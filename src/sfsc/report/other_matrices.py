"""The matrices of an evaluation besides that of single images, as tables of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def other_matrices(evaluation: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Return the matrices after re-ranking and of tracks, with the change of each cell in points.

    Args:
        evaluation: the content of evaluation.json.

    Returns:
        For each caption the rows of a table; the first row is its header.
    """
    found = {}
    if reranked := evaluation.get("reranked"):
        title = f"mAP % with {reranked['rule']} re-ranking of the first {reranked['depth']}"
        found[f"{title}, and the change"] = _table(evaluation, reranked)
    if tracks := evaluation.get("tracks"):
        title = f"mAP % of image-to-track retrieval, {tracks['count']} tracks"
        found[f"{title}, and the change"] = _table(evaluation, tracks)
    return found


def _table(evaluation: Mapping[str, Any], other: Mapping[str, Any]) -> list[list[str]]:
    names = [*(f"{width:g}" for width in evaluation["widths"]), *evaluation.get("exported", {})]
    rows = zip(names, evaluation["metrics"]["mAP"], other["metrics"]["mAP"], strict=True)
    return [
        ["query \\ gallery", *names],
        *(
            [name, *(f"{100 * b:.1f} ({100 * (b - a):+.1f})" for a, b in zip(before, after, strict=True))]
            for name, before, after in rows
        ),
    ]
