"""Checking JSON values against the types that a program expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from sfsc.errors import one_line

NAMES = {str: "a text", int: "an integer", float: "a number", bool: "true or false", NoneType: "null"}


def conform(value: Any, kind: Any, name: str = "it") -> Any:
    """Check a JSON value against a type and return it; lists become tuples where the type is a tuple.

    Args:
        value: a value that `parse_json` returned.
        kind: str, int, float, bool, None, Any; a list, tuple, mapping or union of such types; or a dataclass
            or TypedDict whose fields have such types. A value for a TypedDict can have additional fields.
        name: the name of the value in error messages.

    Raises:
        ValueError: the value has another type; the message names the part and the expected type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (NotRequired, Union, UnionType):
        return _one_of(value, arguments, name)
    if origin in (list, tuple):
        return _sequence(value, origin, arguments, name)
    if origin is not None and issubclass(origin, Mapping):
        _check(isinstance(value, dict), name, "an object")
        return {
            key: conform(part, arguments[1], f"{name}.{one_line(key, 100)}") for key, part in value.items()
        }
    if is_dataclass(kind) or is_typeddict(kind):
        return _object(value, kind, name)
    return _scalar(value, kind or NoneType, name)


def _scalar(value: Any, kind: type, name: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    _check(type(value) is kind, name, NAMES[kind])
    return value


def _one_of(value: Any, kinds: tuple[Any, ...], name: str) -> Any:
    reasons = []
    for kind in kinds:
        try:
            return conform(value, kind, name)
        except ValueError as error:
            reasons.append(error)
    raise reasons[0]


def _sequence(value: Any, origin: type, kinds: tuple[Any, ...], name: str) -> Any:
    _check(isinstance(value, list), name, "a list")
    if origin is list or kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    _check(len(value) == len(kinds), name, f"a list of {len(kinds)}")
    parts = enumerate(zip(value, kinds, strict=True))
    return origin(conform(part, kind, f"{name}[{place}]") for place, (part, kind) in parts)


def _object(value: Any, kind: Any, name: str) -> Any:
    _check(isinstance(value, dict), name, "an object")
    types = _types(kind)
    if is_typeddict(kind):
        needed = [key for key, one in types.items() if get_origin(one) is not NotRequired]
    else:
        needed = [
            one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING
        ]
    if missing := [key for key in needed if key not in value]:
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    found = {key: conform(value[key], types[key], f"{name}.{key}") for key in types if key in value}
    if is_typeddict(kind):
        return {**value, **found}
    if more := [key for key in value if key not in types]:
        raise ValueError(f"{name} has {one_line(repr(more[0]), 100)}, which is unknown")
    return kind(**found)


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _check(fulfilled: bool, name: str, what: str) -> None:
    if not fulfilled:
        raise ValueError(f"{name} is not {what}")
