from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import pytest

from sfsc.files.schema import conform


@dataclass(frozen=True)
class Pair:
    left: int
    right: tuple[float, ...] = ()


class Named(TypedDict):
    name: str
    pairs: NotRequired[list[Pair]]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, int, 3),
        (3, float, 3.0),
        ("x", str | None, "x"),
        (None, str | None, None),
        (True, bool, True),
        ([1, 2], list[int], [1, 2]),
        ([1, 2], tuple[int, int], (1, 2)),
        ([], tuple[int, ...], ()),
        ({"a": [1]}, dict[str, list[float]], {"a": [1.0]}),
        ({"left": 1}, Pair, Pair(1)),
        ({"left": 1, "right": [2]}, Pair, Pair(1, (2.0,))),
        ({"name": "a", "more": 1}, Named, {"name": "a", "more": 1}),
        ({"name": "a", "pairs": [{"left": 1}]}, Named, {"name": "a", "pairs": [Pair(1)]}),
        ([{"x": [None]}], Any, [{"x": [None]}]),
    ],
)
def test_values_become_what_they_should_be(value: Any, kind: Any, expected: Any) -> None:
    found = conform(value, kind)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        (True, int, "it is not an integer"),
        (1.0, int, "it is not an integer"),
        ("1", float, "it is not a number"),
        (1, bool, "it is not true or false"),
        (1, str | None, "it is not a text"),
        ({}, list[int], "it is not a list"),
        ([], dict[str, Any], "it is not an object"),
        ([1, "2"], list[int], r"it\[1\] is not an integer"),
        ([1], tuple[int, int], "it is not a list of 2"),
        ({"a": [1, None]}, dict[str, list[float]], r"it\.a\[1\] is not a number"),
        ({"right": []}, Pair, "it lacks left"),
        ({"left": 1, "up": 2}, Pair, "it has 'up', which is unknown"),
        ({"pairs": []}, Named, "it lacks name"),
        ({"name": "a", "pairs": [{"left": None}]}, Named, r"it\.pairs\[0\]\.left is not an integer"),
        ({"\n" * 500: 1}, dict[str, str], "is not a text"),
    ],
)
def test_other_values_are_refused_and_their_place_is_named(value: Any, kind: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        conform(value, kind)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
