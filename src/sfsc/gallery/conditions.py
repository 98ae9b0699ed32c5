"""Conditions on the columns of a gallery, by which a search or a deletion chooses rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfsc.errors import SfscError

Value = str | int | float | bool
# The types that a column may have: their names in messages and in stored descriptions.
KINDS: dict[str, type] = {"text": str, "boolean": bool, "integer": int, "number": float}
OPERATORS = ("<=", ">=", "!=", "=", "<", ">")
_PATTERN = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """What a column must be: `column operator one of values`; a row without a value never fulfils it.

    The operators are =, !=, <, <=, > and >=; only = may have several values, of which any will do.
    """

    column: str
    operator: str
    values: tuple[Value, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """The condition of a text such as "camera=2", "price<=9.5" or "colour=red,blue"."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise SfscError(f"a condition is COLUMN=VALUE, or with one of <= >= != < >, got {text!r}")
        column, operator, value = match.groups()
        values = value.split(",") if operator == "=" else [value]
        return cls(column, operator, tuple(part.strip() for part in values))

    def typed(self, columns: Mapping[str, str]) -> Condition:
        """The condition with values of the column's kind.

        Args:
            columns: the kind of each column, as in `KINDS`.

        Raises:
            SfscError: there is no such column, or a value is not of its kind.
        """
        if self.column not in columns:
            raise SfscError(f"the gallery has no column {self.column!r}; it has {', '.join(columns)}")
        kind = columns[self.column]
        if kind in ("text", "boolean") and self.operator not in ("=", "!="):
            raise SfscError(f"column {self.column} is {kind}: compare it with = or !=, not {self.operator}")
        values = tuple(_typed(value, kind, self.column) for value in self.values)
        return Condition(self.column, self.operator, values)


def parse_conditions(where: Sequence[str | Condition]) -> list[Condition]:
    """Conditions, all of which must hold, some of them as texts; SfscError for one that is none."""
    return [Condition.parse(item) if isinstance(item, str) else item for item in where]


def kind_of(values: Sequence[object], column: str) -> str | None:
    """The kind of a column's values; None where all are None; SfscError where they are of several kinds."""
    found = {type(value) for value in values if value is not None}
    if not found:
        return None
    if found == {int, float}:
        return "number"
    kinds = [kind for kind, type_ in KINDS.items() if found == {type_}]
    if not kinds:
        names = ", ".join(sorted(type_.__name__ for type_ in found))
        raise SfscError(f"column {column} holds {names}: its values must all be text, numbers or booleans")
    return kinds[0]


def _typed(value: Value, kind: str, column: str) -> Value:
    try:
        if kind == "boolean":
            return {"true": True, "false": False}[str(value).lower()]
        if kind == "text":
            return str(value)
        if kind == "number" and not math.isfinite(float(value)):
            raise ValueError("no store compares with it")
        return _integer(value) if kind == "integer" else float(value)
    except (KeyError, ValueError):
        raise SfscError(f"column {column} is {kind}, and {value!r} is not") from None


def _integer(value: Value) -> int:
    integer = int(str(value))
    if not -(2**63) <= integer < 2**63:
        raise ValueError("it takes more than 64 bits")
    return integer
