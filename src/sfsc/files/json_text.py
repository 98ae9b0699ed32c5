"""Parsing JSON from untrusted files within bounds."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

MOST_DEPTH = 64  # of nested lists and objects
# Surrogates are not characters. The range left out here stands for bytes in file names that are not UTF-8.
_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text into a value that every part of this program can handle.

    Integers must fit in 64 bits, numbers must be finite, texts must be encodable, the names in an object must
    be unique, and lists and objects can be nested to a depth of `MOST_DEPTH`.

    Raises:
        ValueError: the text is not JSON in UTF-8 or violates one of these rules; the message says which.
    """
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode("utf-8-sig"),
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError:
        raise ValueError("it is not JSON: not in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check(value)
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"it has an integer that does not fit in 64 bits: {text[:20]}...")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it has a number that is not finite: {text[:20]}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it names {twice[:100]!r} twice")
    return values


def _check(value: Any) -> None:
    """Raise `ValueError` for deep nesting and for texts with invalid characters, without recursion."""
    level = [value]
    for depth in range(MOST_DEPTH + 1):
        below: list[Any] = []
        for part in level:
            if isinstance(part, str):
                if _SURROGATE.search(part):
                    raise ValueError(f"it has an invalid character in a text: {part[:50]!r}")
            elif isinstance(part, dict | list):
                if depth == MOST_DEPTH:
                    raise ValueError("it is nested too deeply")
                below += [*part, *part.values()] if isinstance(part, dict) else part
        level = below
