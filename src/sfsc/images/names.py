"""Handling file names that are not valid UTF-8 or contain line feeds."""

from __future__ import annotations

import re

_NOT_TEXT = re.compile("[\ud800-\udfff]")
_NOT_PRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_text(name: str) -> bool:
    """Return whether a name is text that can be stored and sent as UTF-8."""
    return _NOT_TEXT.search(name) is None


def as_text(name: str) -> str:
    """Return a name with bytes that are not UTF-8 written as escapes, as in `caf\\xe9`."""
    return _NOT_TEXT.sub(_escape, name)


def printable(name: str) -> str:
    """Return a name in one line, with control characters and invalid characters written as escapes."""
    return _NOT_PRINTABLE.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # Python's representation of a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()
