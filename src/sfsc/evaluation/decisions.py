"""The quality of decisions in every cell of the compatibility matrix."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sfsc.decisions.pair import Pair
from sfsc.decisions.quality import (
    calibration,
    densities,
    error_curve,
    false_non_match_rate,
    identification_rate,
)
from sfsc.decisions.score_map import RATES, RULE
from sfsc.decisions.scores import Scores, count_scores
from sfsc.decisions.thresholds import Thresholds
from sfsc.progress import track
from sfsc.retrieval.labels import Labelled

ALARMS = (0.1, 0.01)  # the shares of false alarms for open-set identification
FORM = "float32"
SHOWN_BINS, SHOWN_RATES = 50, np.logspace(-5, 0, 41)

Vectors = Mapping[Any, np.ndarray]


def evaluate_decisions(
    queries: Vectors,
    rows: Vectors,
    query: Labelled,
    gallery: Labelled,
    tested: Mapping[float | str, float],
    thresholds: Thresholds | None,
) -> dict[str, Any]:
    """Measure error rates, open-set identification and the consistency of thresholds in every cell.

    Args:
        queries: (Q, dim) float32 L2-normalised embeddings for each width or label of a file.
        rows: (G, dim) float32 L2-normalised embeddings for the same widths and labels.
        query: the labels of the queries.
        gallery: the labels of the gallery images.
        tested: the width of each width or label, in the order of the matrix.
        thresholds: the thresholds of the family, if they were fitted.

    Returns:
        What `evaluation.json` contains under "decisions", see docs/evaluation.md.
    """
    dimension = next(iter(queries.values())).shape[1]
    full = Pair(1.0, 1.0, FORM, dimension)
    cells = []
    for one, other in track([*itertools.product(tested, tested)], "decisions"):
        scores = count_scores(queries[one], rows[other], query, gallery)
        cell = _measured(scores)
        if thresholds is not None:
            pair = Pair(tested[one], tested[other], FORM, dimension)
            cell |= _decided(scores, thresholds, pair, full)
        cells.append(cell)
    return {
        "rates": [*RATES],
        "alarms": [*ALARMS],
        "fitted_on": None if thresholds is None else thresholds.data,
        "cells": [cells[start : start + len(tested)] for start in range(0, len(cells), len(tested))],
    }


def _measured(scores: Scores) -> dict[str, Any]:
    """Measure what does not depend on thresholds that were fitted."""
    rates = SHOWN_RATES[SHOWN_RATES * scores.non_matches >= RULE]
    matching, others = densities(scores, SHOWN_BINS)
    return {
        "matches": scores.matches,
        "non_matches": scores.non_matches,
        "fnmr": [false_non_match_rate(scores, rate) for rate in RATES],
        "identified": [identification_rate(scores, share) for share in ALARMS],
        "curve": [
            [rate, missed] for rate, missed in zip(rates.tolist(), error_curve(scores, rates), strict=True)
        ],
        "matching": matching,
        "others": others,
    }


def _decided(scores: Scores, thresholds: Thresholds, pair: Pair, full: Pair) -> dict[str, Any]:
    """Measure the probabilities of a pair's map, and its thresholds beside those of the full sub-model."""
    own = calibration(scores, thresholds.of(pair))
    return {
        "calibration": {"error": own.error, "predicted": own.predicted, "observed": own.observed},
        "fmr": _rates(scores, thresholds, pair),
        "fmr_one_threshold": _rates(scores, thresholds, full),
    }


def _rates(scores: Scores, thresholds: Thresholds, pair: Pair) -> list[float | None]:
    """Return the real false match rate at the threshold for each wanted one, or None without support."""
    fitted = thresholds.of(pair)
    return [
        scores.false_match_rate(fitted.threshold(rate))
        if rate >= fitted.smallest_rate and rate * scores.non_matches >= RULE
        else None
        for rate in RATES
    ]


def factor(wanted: float, real: Sequence[float | None]) -> float | None:
    """Return the largest factor between a wanted false match rate and real ones, or None if none is known.

    A rate of 0 counts as the factor that one pair in a billion would give.
    """
    known = [max(rate, 1e-9) for rate in real if rate is not None]
    return max((max(rate / wanted, wanted / rate) for rate in known), default=None)
