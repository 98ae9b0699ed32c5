"""Conditions on the columns of a gallery, which select rows for a search or a deletion."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfsc.errors import SfscError

Value = str | int | float | bool
# The types that a column can have, by their names in messages and in stored descriptions.
KINDS: dict[str, type] = {"text": str, "boolean": bool, "integer": int, "number": float}
EXACT = 2**53  # float64, the type of numbers, represents every integer up to this one exactly
EQUALITIES = ("=", "!=")
_OPERATOR = re.compile("<=|>=|!=|=|<|>")
_QUOTE = '"'
_QUOTED = re.compile(r'\s*"((?:[^"]|"")*+)"\s*')
MOST_CONDITIONS, LONGEST = 100, 100_000  # conditions of one search, characters of one condition
SHOWN, MOST_SHOWN = 100, 30  # characters of a text, and columns, that a message shows
_FORM = 'COLUMN=VALUE, or with one of != < <= > >=, as in camera=2 or "unit price"<=9.5'


@dataclass(frozen=True)
class Condition:
    """A condition on one column of a gallery.

    The operators are =, !=, <, <=, > and >=. The operators = and != accept several values. A row fulfils = if
    its value is one of them, and != if its value is none of them. A row without a value fulfils only = with
    None among the values.

    Attributes:
        column: the name of the column.
        operator: one of the operators above.
        values: the values to compare with.

    Example::

        cheap = sfsc.Condition.parse("price<=9.5")
        cameras = sfsc.Condition("camera", "=", ("1", "2"))
        hits = sfsc.search(family, "query.jpg", gallery, where=[cheap, cameras])
    """

    column: str
    operator: str
    values: tuple[Value | None, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse a condition such as `camera=2`, `price<=9.5` or `"unit price"="1,50","2,50"`.

        A column or value in double quotes is used literally; inside it, write two double quotes for one.
        Without quotes, surrounding spaces are removed. Several values are separated by commas, and each of
        them is quoted. An empty value means that the row has no value.

        Raises:
            SfscError: the text is not a condition or is too long, or a value without quotes contains a comma.
        """
        if len(text) > LONGEST:
            raise SfscError(f"a condition has at most {LONGEST:,} characters, not {len(text):,}")
        column, rest = _read_column(text)
        found = _OPERATOR.match(rest)
        if found is None or not column:
            raise SfscError(f"a condition must have the form {_FORM}; got {_shown(text)}")
        operator = found[0]
        values = _read_values(rest[found.end() :], column + operator, operator in EQUALITIES)
        if len(values) > 1 and operator not in EQUALITIES:
            raise SfscError(f"condition {_shown(text)}: only = and != take several values")
        return cls(column, operator, values)

    def typed(self, columns: Mapping[str, str]) -> Condition:
        """Return the condition with its values converted to the column's kind; empty values become None.

        Args:
            columns: the kind of each column, as in `KINDS`.

        Raises:
            SfscError: there is no such column, or a value does not have its kind.
        """
        column = unicodedata.normalize("NFC", self.column)
        if column not in columns:
            there = ", ".join([*columns][:MOST_SHOWN]) + (", ..." if len(columns) > MOST_SHOWN else "")
            raise SfscError(f"the gallery has no column {_shown(self.column)}; its columns are {there}")
        kind = columns[column]
        if kind in ("text", "boolean") and self.operator not in EQUALITIES:
            raise SfscError(f"column {column} has type {kind}: compare it with = or !=, not {self.operator}")
        values = [_typed(value, kind, column) for value in self.values]
        if None in values and self.operator not in EQUALITIES:
            raise SfscError(f"condition {column}{self.operator} needs a value to compare with")
        if None in values and kind == "text":
            values.append("")
        return Condition(column, self.operator, tuple(dict.fromkeys(values)))


def parse_conditions(where: Sequence[str | Condition]) -> list[Condition]:
    """Parse conditions and combine them, so that a row must fulfil every returned condition.

    Several equalities on one column become a single condition that accepts any of their values.

    Raises:
        SfscError: a text is not a condition, or there are too many conditions.
    """
    if len(where) > MOST_CONDITIONS:
        raise SfscError(f"a search has at most {MOST_CONDITIONS} conditions, but this one has {len(where)}")
    conditions: list[Condition] = []
    equalities: dict[str, int] = {}
    for item in where:
        condition = Condition.parse(item) if isinstance(item, str) else item
        place = equalities.get(condition.column)
        if condition.operator != "=" or place is None:
            if condition.operator == "=":
                equalities[condition.column] = len(conditions)
            conditions.append(condition)
        else:
            values = conditions[place].values + condition.values
            conditions[place] = Condition(condition.column, "=", values)
    return conditions


def kind_of(values: Sequence[object], column: str) -> str | None:
    """Return the kind of a column's values, or None if all of them are None.

    Raises:
        SfscError: the values have several kinds, or cannot be stored.
    """
    found = {type(value) for value in values if value is not None}
    if not found:
        return None
    if found == {int, float}:
        return "number"
    kinds = [kind for kind, type_ in KINDS.items() if found == {type_}]
    if not kinds:
        names = ", ".join(sorted(type_.__name__ for type_ in found))
        raise SfscError(f"column {column} contains {names}: its values must all be text, numbers or booleans")
    return kinds[0]


def _read_column(text: str) -> tuple[str, str]:
    """Return the column at the start of a condition, and the rest of the text."""
    if quoted := _QUOTED.match(text):
        return _unquote(quoted[1]), text[quoted.end() :]
    found = _OPERATOR.search(text)
    end = found.start() if found else len(text)
    return text[:end].strip(), text[end:]


def _read_values(text: str, before: str, several: bool) -> tuple[str, ...]:
    """Return the values after an operator; `before` is the preceding text, for messages."""
    text = text.strip()
    if not text.startswith(_QUOTE):
        if several and "," in text:
            each = ",".join(_quote(part.strip()) for part in text[:SHOWN].split(","))
            raise SfscError(
                f"condition {_shown(before + text)}: quote a value that contains a comma: write "
                f"{_quote(text[:SHOWN])} for this one value, or {each} for any of several values"
            )
        return (text,)
    values, end = [], -1
    while end < len(text):
        quoted = _QUOTED.match(text, end + 1)
        if quoted is None or text[quoted.end() : quoted.end() + 1] not in ("", ","):
            raise SfscError(
                f"condition {_shown(before + text)}: a quoted value must end with a quote, and values are "
                'separated by commas; write "" for a quote inside a value'
            )
        values.append(_unquote(quoted[1]))
        end = quoted.end()
    return tuple(values)


def _shown(value: Value) -> str:
    """Return a value as messages show it."""
    return repr(value) if len(str(value)) <= SHOWN else f"{str(value)[:SHOWN]!r}..."


def _unquote(text: str) -> str:
    return text.replace(2 * _QUOTE, _QUOTE)


def _quote(text: str) -> str:
    return _QUOTE + text.replace(_QUOTE, 2 * _QUOTE) + _QUOTE


def _typed(value: Value | None, kind: str, column: str) -> Value | None:
    if value is None or value == "":
        return None
    try:
        if kind == "boolean":
            return {"true": True, "false": False}[str(value).lower()]
        if kind == "text":
            return str(value).encode().decode()  # raises an error for half a surrogate pair
        if kind == "number" and not math.isfinite(float(value)):
            raise ValueError("stores cannot compare with it")
        return _integer(value) if kind == "integer" else float(value)
    except (KeyError, ValueError):
        raise SfscError(f"column {column} has type {kind}, but {_shown(value)} is not of this type") from None


def _integer(value: Value) -> int:
    integer = int(str(value))
    if not -(2**63) <= integer < 2**63:
        raise ValueError("it does not fit in 64 bits")
    return integer
