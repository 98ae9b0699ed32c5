"""A small run folder, as `sfsc train` and `sfsc evaluate` leave it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.images.reading import write_png

WIDTHS = [0.25, 0.5, 0.75, 1.0]
MAP = [
    [0.640, 0.662, 0.651, 0.609],
    [0.665, 0.701, 0.704, 0.702],
    [0.670, 0.706, 0.727, 0.729],
    [0.661, 0.709, 0.725, 0.735],
]
COLOUR = (30, 90, 200)  # of every image: red, green, blue
HITS_CORRECT = [[True, False, True], [False, False, True]]


def evaluation() -> dict[str, Any]:
    accuracy = np.array(MAP)
    smaller = np.minimum(*np.indices(accuracy.shape))
    criterion = (accuracy >= accuracy.diagonal()[smaller]) & ~np.eye(len(WIDTHS), dtype=bool)
    return {
        "dataset": "emoji:data/emoji",
        "fingerprint": "3f2a9c51",
        "widths": WIDTHS,
        "parameters": [312_440, 1_024_000, 2_210_112, 3_890_500],
        "queries": 1843,
        "skipped": 12,
        "gallery": 5530,
        "metrics": {"mAP": MAP, "rank-1": (accuracy + 0.123).tolist(), "mINP": (accuracy - 0.3).tolist()},
        "criterion": criterion.tolist(),
        "cells_met": int(criterion.sum()),
        "cells": 12,
        "baseline": {"name": "raw 16x16 colour pixels", "mAP": 0.183, "rank-1": 0.314, "mINP": 0.05},
    }


def with_exported() -> dict[str, Any]:
    """An evaluation with two exported files beside the sub-models."""
    content = evaluation()
    wider = np.full((6, 6), 0.333)
    for name, values in content["metrics"].items():
        wider[:4, :4] = values
        content["metrics"][name] = wider.tolist()
    labels = {"0.25 int8": 0.25, "a<b>.onnx": 1.0}
    return content | {"exported": labels, "costs": {"0.25 int8": 0.276, "a<b>.onnx": 0.402}}


def log() -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": step / 10,
            "loss": [4 - 0.1 * step, 3, 2, 1],
            "uncertainty": [0.9, 0.8, 0.7, 0.6],
            "conflicts": [0.1, 0.2, 0.1, 0.0],
        }
        for step in range(1, 21)
    ]


def rankings(folder: Path) -> dict[str, Any]:
    """Two queries with three hits each; one path, one identity and one camera are hostile to HTML."""
    image = folder / 'a"b<i>&c.png'
    write_png(image, np.full((40, 20, 3), COLOUR, np.uint8))
    item = {"path": str(image), "identity": "<script>alert(1)</script>", "camera": 'c"1'}
    hits = [
        [
            item | {"camera": None, "score": 0.9 - 0.1 * rank, "correct": correct}
            for rank, correct in enumerate(row)
        ]
        for row in HITS_CORRECT
    ]
    rows = [{"query": item, "average_precision": 0.777, "hits": row} for row in hits]
    return {"query_width": 0.25, "gallery_width": 1.0, "rows": rows}


def write_trained(run: Path) -> Path:
    """A run that is trained and not evaluated."""
    run.mkdir()
    config = {"dataset": "emoji:data/emoji", "recipe": "sfsc", "widths": WIDTHS, "learning_rate": 0.00123}
    (run / "config.json").write_text(json.dumps(config))
    (run / "environment.json").write_text(json.dumps({"sfsc": "0.1.0", "torch": "2.99.1"}))
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log()))
    return run


def write_evaluated(run: Path) -> Path:
    """A run with results."""
    write_trained(run)
    (run / "evaluation.json").write_text(json.dumps(evaluation()))
    (run / "rankings.json").write_text(json.dumps(rankings(run)))
    return run
