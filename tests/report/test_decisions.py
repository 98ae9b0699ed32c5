"""The tables of decisions, from cells whose values are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfsc.errors import SfscError
from sfsc.files.writing import write_json
from sfsc.report.decisions import decision_tables
from sfsc.runs.results import read_result
from tests.fuzzing import result

CAPTION = "real FMR of exported files' queries, over that of their sub-models"


def test_files_are_compared_with_their_own_sub_models_in_the_galleries_of_the_family() -> None:
    evaluation = result()  # widths 0.5 and 1, and "0.5 int8"
    cells = evaluation["decisions"]["cells"]
    real = [[0.01, 0.02, 9], [5, 5, 9], [0.011, 0.018, 9]]
    evaluation["decisions"]["cells"] = [
        [cell | {"fmr": [value]} for cell, value in zip(row, values, strict=True)]
        for row, values in zip(cells, real, strict=True)
    ]
    assert decision_tables(evaluation)[CAPTION] == [
        ["exported", "at FMR 0.01"],
        ["0.5 int8", "0.90 to 1.10"],
    ]


@pytest.mark.parametrize("without", [None, 0.0])
def test_rates_that_are_unknown_or_zero_are_left_out(without: float | None) -> None:
    evaluation = result()
    cell = evaluation["decisions"]["cells"][0][0] | {"fmr": [without]}
    evaluation["decisions"]["cells"] = [[cell] * 3] * 3
    assert decision_tables(evaluation)[CAPTION][1] == ["0.5 int8", "-"]


def test_no_table_without_files_or_thresholds() -> None:
    evaluation = result()
    family = evaluation["decisions"] | {"cells": [row[:2] for row in evaluation["decisions"]["cells"][:2]]}
    assert CAPTION not in decision_tables(evaluation | {"exported": {}, "decisions": family})
    without = evaluation["decisions"] | {"fitted_on": None}
    assert CAPTION not in decision_tables(evaluation | {"decisions": without})


def test_a_file_of_a_width_that_was_not_evaluated_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluation.json", result() | {"exported": {"0.5 int8": 0.75}})
    with pytest.raises(SfscError, match="belong to different sub-models"):
        read_result(tmp_path / "evaluation.json")
