"""The columns of an index in files: smaller than the values, and with the same values and answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfsc.gallery import column_files, columns
from sfsc.gallery.column_files import read_column, write_column
from sfsc.gallery.columns import TYPES, Columns
from sfsc.gallery.conditions import Condition

ROWS = 300
VALUES: dict[str, tuple[str, list[Any]]] = {
    "paths": ("text", [f"/photos/größe/😀{row}.jpg" for row in range(ROWS)]),
    "numbers as text": ("text", [f"{row}" for row in range(ROWS)]),
    "ends that overlap": ("text", ["a" * (row + 2) for row in range(ROWS)]),
    "some without a value": ("text", [None if row % 3 else f"a{row}b" for row in range(ROWS)]),
    "an empty one": ("text", ["", *(f"ab{row}" for row in range(1, ROWS))]),
    "one text": ("text", ["same"] * ROWS),
    "no text": ("text", [None] * ROWS),
    "127 texts": ("text", [None if row == 200 else f"a{row % 127}" for row in range(ROWS)]),
    "128 texts": ("text", [None if row == 200 else f"a{row % 128}" for row in range(ROWS)]),
    "repeated at first": ("text", ["a"] * 20 + [f"a{row}" for row in range(20, ROWS)]),
    "repeated integers": ("integer", [None if row % 7 == 0 else -(2**50) * (row % 3) for row in range(ROWS)]),
    "integers": ("integer", [*range(ROWS)]),
    "numbers": ("number", [row / 7 for row in range(ROWS)]),
    "repeated numbers": ("number", [row % 5 / 7 for row in range(ROWS)]),
    "booleans": ("boolean", [None if row % 5 == 0 else row % 2 == 0 for row in range(ROWS)]),
}


def chunked(values: Sequence[Any], kind: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values[:100], TYPES[kind]), pa.array(values[100:], TYPES[kind])])


def conditions(kind: str, values: Sequence[Any]) -> list[Condition]:
    """Conditions with values that are there, parts of them, others, and none."""
    some = tuple({values[0], values[50], values[-1]})
    parts = tuple(str(value)[1:] for value in some) if kind == "text" else ()
    equal = [some, parts, (None,), (None, ""), ("a", *some)] if kind == "text" else [some, (None,)]
    found = [Condition("c", operator, own) for operator in ("=", "!=") for own in equal]
    if kind in ("integer", "number"):
        found += [Condition("c", operator, (values[50],)) for operator in ("<", "<=", ">", ">=")]
    return found


@pytest.mark.parametrize("decoded", [0, 4096])
@pytest.mark.parametrize("name", VALUES)
def test_values_and_conditions_are_those_of_the_column(
    tmp_path: Path, name: str, decoded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_files, "SAMPLE", 20)
    monkeypatch.setattr(columns, "DECODED", decoded)
    kind, values = VALUES[name]
    write_column(tmp_path / "column", chunked(values, kind))
    array, ends = read_column(tmp_path / "column", ROWS, kind)
    mapped = Columns({"c": array}, ROWS, {"c": ends})
    plain = Columns({"c": pa.array(values, TYPES[kind])}, ROWS)
    rows = np.random.default_rng(0).permutation(ROWS)
    assert mapped.take(["c"], rows) == [[values[row] for row in rows]]
    assert mapped.kinds == {"c": kind}
    for condition in conditions(kind, values):
        assert np.array_equal(mapped.fulfilling([condition]), plain.fulfilling([condition])), condition
    if kind == "integer":
        assert mapped.converted({"c": "number"}).take(["c"], rows) == [[values[row] for row in rows]]


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("paths", 4 + 3),  # offsets, and up to three digits
        ("one text", 1),
        ("127 texts", 1 + 127 * (8 + 4) / ROWS),
        ("repeated integers", 1 + 8 * 4 / ROWS),
        ("repeated numbers", 1 + 8 * 5 / ROWS),
    ],
)
def test_files_are_small(tmp_path: Path, name: str, most: float) -> None:
    kind, values = VALUES[name]
    write_column(tmp_path / "column", chunked(values * 100, kind))
    size = (tmp_path / "column").stat().st_size
    assert size <= 100 * ROWS * (most + 1 / 8) + 2000, (
        "bytes of each row, the bit of missing values, and the header"
    )


def test_many_texts_keep_offsets_that_reach_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_files, "LARGEST_TEXTS", 100)
    kind, values = VALUES["paths"]
    write_column(tmp_path / "column", chunked(values, kind))
    array, ends = read_column(tmp_path / "column", ROWS, kind)
    assert array.type == pa.large_string()
    assert Columns({"c": array}, ROWS, {"c": ends}).take(["c"], np.arange(ROWS)) == [values]


@pytest.mark.parametrize(("rows", "kind"), [(ROWS + 1, "text"), (ROWS, "integer")])
def test_a_column_of_other_rows_or_values_is_refused(tmp_path: Path, rows: int, kind: str) -> None:
    write_column(tmp_path / "column", chunked(VALUES["paths"][1], "text"))
    with pytest.raises(ValueError, match="does not fit"):
        read_column(tmp_path / "column", rows, kind)
