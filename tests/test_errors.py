"""What a person reads: one line, and not too long a one."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfsc.errors import first_line, one_line

TEXT = st.text(st.characters(codec="utf-8"), max_size=400)


@given(TEXT, st.integers(1, 300))
def test_any_text_becomes_one_printable_line(text: str, longest: int) -> None:
    line = one_line(text, longest)
    assert line.isprintable()
    assert len(line) <= longest + len(" ...")
    assert len(f"{line}.".splitlines()) == 1


@given(st.text(string.ascii_letters + string.digits + " äπ/", max_size=200))
def test_what_is_short_and_printable_stays_as_it_is(text: str) -> None:
    assert one_line(text) == text


@given(TEXT)
def test_any_error_is_quoted_in_one_line(text: str) -> None:
    line = first_line(RuntimeError(text))
    assert line.isprintable()
    assert 0 < len(line) <= 204


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "ValueError"),
        ("\n first\nsecond", "first"),
        ("Error(s) in loading:\n\tsize mismatch for a\n\tand b", "Error(s) in loading: size mismatch for a"),
        ("heading:", "heading:"),
    ],
)
def test_the_line_that_says_something_is_quoted(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line
