"""Conditions: how they are read, and which kinds of values columns have."""

from __future__ import annotations

import cProfile
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from sfsc.errors import SfscError
from sfsc.gallery import Condition
from sfsc.gallery.conditions import kind_of
from sfsc.gallery.forms import decode, encode


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("camera=2", Condition("camera", "=", ("2",))),
        (" camera = 2 ", Condition("camera", "=", ("2",))),
        ('camera="2" , "3"', Condition("camera", "=", ("2", "3"))),
        ('name="lamp, red"', Condition("name", "=", ("lamp, red",))),
        ('name=" a "', Condition("name", "=", (" a ",))),
        ('name="5"" disk"', Condition("name", "=", ('5" disk',))),
        ('name=5" disk', Condition("name", "=", ('5" disk',))),
        ("unit price=2", Condition("unit price", "=", ("2",))),
        ('"a=b"=2', Condition("a=b", "=", ("2",))),
        ("price<=9.5", Condition("price", "<=", ("9.5",))),
        ("price>=a=b", Condition("price", ">=", ("a=b",))),
        ('colour!="red","blue"', Condition("colour", "!=", ("red", "blue"))),
        ("colour=", Condition("colour", "=", ("",))),
    ],
)
def test_a_text_becomes_a_condition(text: str, expected: Condition) -> None:
    assert Condition.parse(text) == expected


@pytest.mark.parametrize("text", ["", "camera", "=2", '""=2', "camera~2", '"camera"'])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(SfscError, match="a condition must have the form COLUMN=VALUE"):
        Condition.parse(text)


@pytest.mark.parametrize("part", [" ", '"', '""', '"a",', "a", "=", "a ", "<", '" "', "\\"])
@pytest.mark.parametrize("start", ["", "a=", '"', 'a="'])
def test_long_texts_take_no_longer_than_they_are(part: str, start: str) -> None:
    counted: list[int] = []
    for length in (1000, 100_000 - len(start)):
        text = start + (part * length)[:length]
        profile = cProfile.Profile()
        with suppress(SfscError):
            profile.runcall(Condition.parse, text)
        counted.append(sum(entry.callcount for entry in profile.getstats()))
    assert counted[1] <= 110 * counted[0]
    with pytest.raises(SfscError, match="at most 100,000 characters"):
        Condition.parse("a" * 100_001)


@pytest.mark.parametrize("text", ["x" * 10**5, "x=" + "," * 10**5, 'x="' * 10**4, "x=" + "9" * 10**5])
def test_messages_quote_no_more_than_can_be_read(text: str) -> None:
    with pytest.raises(SfscError) as caught:
        Condition.parse(text[:100_000]).typed({"x": "integer"})
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", None], "text"),
        ([1, 2, None], "integer"),
        ([1, 2.5], "number"),
        ([True, False], "boolean"),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_kind_of_values(values: list[Any], kind: str | None) -> None:
    assert kind_of(values, "column") == kind


@pytest.mark.parametrize("values", [[True, 1], ["a", 1.0], [[1], [2]]])
def test_values_of_several_kinds_are_refused(values: list[Any]) -> None:
    with pytest.raises(SfscError, match="column price contains "):
        kind_of(values, "price")


@pytest.mark.parametrize(("form", "error"), [("float32", 0), ("float16", 1e-3), ("int8", 1e-2)])
def test_a_form_keeps_the_direction(form: str, error: float) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    stored = encode(rows, form)
    assert stored.dtype == form
    back = decode(stored)
    assert back.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    assert np.abs(back - rows).max() <= error
