"""Conditions on the columns of a gallery, by which a search or a deletion chooses rows."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfsc.errors import SfscError

Value = str | int | float | bool
# The types that a column may have: their names in messages and in stored descriptions.
KINDS: dict[str, type] = {"text": str, "boolean": bool, "integer": int, "number": float}
EXACT = 2**53  # up to here every integer is a number, which is a float64
EQUALITIES = ("=", "!=")
_OPERATOR = re.compile("<=|>=|!=|=|<|>")
_QUOTE = '"'
_QUOTED = re.compile(r'\s*"((?:[^"]|"")*+)"\s*')
MOST_CONDITIONS, LONGEST = 100, 100_000  # texts of one search, and characters of one of them
SHOWN, MOST_SHOWN = 100, 30  # characters of a text, and columns, that a message quotes
_FORM = 'COLUMN=VALUE, or with one of != < <= > >=, as in camera=2 or "unit price"<=9.5'


@dataclass(frozen=True)
class Condition:
    """What a column must be.

    The operators are =, !=, <, <=, > and >=. With = and != there may be several values: a row fulfils the
    former if it has any of them, the latter if it has none of them. A row without a value fulfils only =
    with None among the values.
    """

    column: str
    operator: str
    values: tuple[Value | None, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition such as `camera=2`, `price<=9.5` or `"unit price"="1,50","2,50"`.

        A column or a value in double quotes is taken as it is, with two double quotes for one. Without
        quotes, blanks around it are dropped. Several values are separated by commas, and each is quoted. An
        empty value stands for no value.

        Raises:
            SfscError: the text is no condition or too long, or a comma stands in a value without quotes.
        """
        if len(text) > LONGEST:
            raise SfscError(f"a condition has at most {LONGEST:,} characters, and this one {len(text):,}")
        column, rest = _read_column(text)
        found = _OPERATOR.match(rest)
        if found is None or not column:
            raise SfscError(f"a condition is {_FORM}; got {_shown(text)}")
        operator = found[0]
        values = _read_values(rest[found.end() :], column + operator, operator in EQUALITIES)
        if len(values) > 1 and operator not in EQUALITIES:
            raise SfscError(f"condition {_shown(text)}: only = and != take several values")
        return cls(column, operator, values)

    def typed(self, columns: Mapping[str, str]) -> Condition:
        """Return the condition with values of the column's kind, an empty one as None.

        Args:
            columns: the kind of each column, as in `KINDS`.

        Raises:
            SfscError: there is no such column, or a value is not of its kind.
        """
        column = unicodedata.normalize("NFC", self.column)
        if column not in columns:
            there = ", ".join([*columns][:MOST_SHOWN]) + (", ..." if len(columns) > MOST_SHOWN else "")
            raise SfscError(f"the gallery has no column {_shown(self.column)}; it has {there}")
        kind = columns[column]
        if kind in ("text", "boolean") and self.operator not in EQUALITIES:
            raise SfscError(f"column {column} is {kind}: compare it with = or !=, not {self.operator}")
        values = [_typed(value, kind, column) for value in self.values]
        if None in values and self.operator not in EQUALITIES:
            raise SfscError(f"condition {column}{self.operator}: give a value to compare with")
        if None in values and kind == "text":
            values.append("")
        return Condition(column, self.operator, tuple(dict.fromkeys(values)))


def parse_conditions(where: Sequence[str | Condition]) -> list[Condition]:
    """Return conditions, some of which are texts, such that a row must fulfil all that are returned.

    Several equalities of one column become one: any of their values will do.

    Raises:
        SfscError: a text is no condition, or there are too many.
    """
    if len(where) > MOST_CONDITIONS:
        raise SfscError(f"a search has at most {MOST_CONDITIONS} conditions, and this one {len(where)}")
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
    """Return the kind of a column's values; None if all of them are None.

    Raises:
        SfscError: they are of several kinds, or cannot be stored.
    """
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


def _read_column(text: str) -> tuple[str, str]:
    """The column that a condition begins with, and what follows."""
    if quoted := _QUOTED.match(text):
        return _unquote(quoted[1]), text[quoted.end() :]
    found = _OPERATOR.search(text)
    end = found.start() if found else len(text)
    return text[:end].strip(), text[end:]


def _read_values(text: str, before: str, several: bool) -> tuple[str, ...]:
    """The values after an operator; `before` is the condition up to them, for messages."""
    text = text.strip()
    if not text.startswith(_QUOTE):
        if several and "," in text:
            each = ",".join(_quote(part.strip()) for part in text[:SHOWN].split(","))
            raise SfscError(
                f"condition {_shown(before + text)}: quote a value with a comma: {_quote(text[:SHOWN])} for "
                f"this one, {each} for any of several"
            )
        return (text,)
    values, end = [], -1
    while end < len(text):
        quoted = _QUOTED.match(text, end + 1)
        if quoted is None or text[quoted.end() : quoted.end() + 1] not in ("", ","):
            raise SfscError(
                f"condition {_shown(before + text)}: a quoted value ends in a quote, and before the next one "
                'comes a comma; write "" for a quote within'
            )
        values.append(_unquote(quoted[1]))
        end = quoted.end()
    return tuple(values)


def _shown(value: Value) -> str:
    """A value as messages quote it."""
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
            return str(value).encode().decode()  # half a surrogate pair is no text
        if kind == "number" and not math.isfinite(float(value)):
            raise ValueError("no store compares with it")
        return _integer(value) if kind == "integer" else float(value)
    except (KeyError, ValueError):
        raise SfscError(f"column {column} is {kind}, and {_shown(value)} is not") from None


def _integer(value: Value) -> int:
    integer = int(str(value))
    if not -(2**63) <= integer < 2**63:
        raise ValueError("it takes more than 64 bits")
    return integer
