from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from sfsc.images.names import as_text, is_text, printable

names = st.one_of(st.text(), st.binary().map(os.fsdecode))


@given(names)
def test_whatever_a_name_is_it_can_be_stored_and_printed(name: str) -> None:
    as_text(name).encode()
    line = printable(name)
    line.encode()
    assert len(line.splitlines()) <= 1
    assert "\0" not in line


@given(names)
def test_text_is_what_encodes_and_stays_as_it_is(name: str) -> None:
    try:
        name.encode()
        encodes = True
    except UnicodeEncodeError:
        encodes = False
    assert is_text(name) is encodes is (as_text(name) == name)


def test_escapes_say_the_bytes() -> None:
    assert as_text(os.fsdecode(b"caf\xe9\n.png")) == "caf\\xe9\n.png"
    assert printable(os.fsdecode(b"caf\xe9\n.png")) == "caf\\xe9\\n.png"
    assert printable("IMG 1\u202f(é).jpg") == "IMG 1\u202f(é).jpg"
