"""Parsing and formatting of times and sizes such as 10ms and 20MB."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from sfsc.errors import SfscError, one_line

TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
SIZES = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0}


def read_quantity(text: str, units: Mapping[str, float]) -> float:
    """Parse a text such as "10ms" into seconds or bytes.

    Args:
        text: a positive number and a unit.
        units: `TIMES` or `SIZES`.

    Raises:
        SfscError: the text has another form.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)", text.strip())
    if not found or found[2] not in units or not 0 < float(found[1]) < math.inf:
        unit = [*units][1]
        raise SfscError(
            f"{one_line(repr(text), 100)} is not a number with one of the units {', '.join(units)}, "
            f"such as 10{unit}"
        )
    return float(found[1]) * units[found[2]]


def show_quantity(value: float, units: Mapping[str, float]) -> str:
    """Format seconds or bytes with three digits and a suitable unit; `units` as for `read_quantity`."""
    name = next((name for name, unit in units.items() if value >= 0.9995 * unit), [*units][-1])
    number = value / units[name]
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {name}"
