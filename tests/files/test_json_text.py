from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings

from sfsc.files.json_text import MOST_DEPTH, parse_json
from tests.files.json_values import JSON


@given(JSON)
@settings(deadline=None)
def test_what_was_written_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_names_of_files_that_are_no_text_are_read() -> None:
    assert parse_json(json.dumps("\udc80\udcff")) == "\udc80\udcff"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "it names 'a' twice"),
        ('{"a": {"b": NaN}}', "not finite: NaN"),
        ("[-Infinity]", "not finite"),
        ("1e999", "not finite"),
        ("9" * 19, "does not fit in 64 bits"),
        ("1" + "0" * 10_000, "does not fit in 64 bits"),
        ('{"\\ud800": 1}', "an invalid character"),
        ('["\\udfff"]', "an invalid character"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "nested too deeply"),
        ("[" * 1_000_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (b'"\xff"', "it is not JSON: not in UTF-8"),
        ("", "it is not JSON"),
        ("{} {}", "it is not JSON"),
        ("[1,\n2,\n3", "in line 3"),
    ],
)
def test_what_later_steps_cannot_handle_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_as_deep_as_is_allowed() -> None:
    text = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert json.dumps(parse_json(text)) == text


def test_numbers_are_as_python_reads_them() -> None:
    assert parse_json("[0, -0.0, 1e3, 9223372036854775807]") == [0, 0.0, 1000.0, 2**63 - 1]
    assert math.copysign(1, parse_json("-0.0")) == -1
    assert type(parse_json("1")) is int
