"""Results that lack parts, as those of earlier versions do, are shown without them."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, get_origin, get_type_hints

import pytest

from sfsc.runs.results import EVALUATION_FILE, Result
from tests.fuzzing import in_run, print_result, result, values

KINDS = get_type_hints(Result, include_extras=True)
FILES = ("exported", "costs")  # the sizes of the matrices depend on them
OPTIONAL = [key for key, kind in KINDS.items() if get_origin(kind) is NotRequired and key not in FILES]


def test_the_result_has_all_parts() -> None:
    assert result().keys() == KINDS.keys()


@pytest.mark.parametrize("part", OPTIONAL)
def test_each_part_can_be_missing(part: str, tmp_path: Path) -> None:
    show({key: value for key, value in result().items() if key != part}, tmp_path)


@pytest.mark.parametrize("part", OPTIONAL)
def test_each_part_can_be_the_only_one(part: str, tmp_path: Path) -> None:
    show({key: value for key, value in result().items() if key == part or key not in OPTIONAL}, tmp_path)


def show(found: dict[str, object], folder: Path) -> None:
    """Print a result and write its report."""
    in_run(folder / "run", EVALUATION_FILE, []).read(values(found), folder)
    print_result(folder / "run" / EVALUATION_FILE)
