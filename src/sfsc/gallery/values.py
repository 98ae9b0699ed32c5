"""The embeddings and columns that `Gallery.add` is given: checked, and as the gallery keeps them.

Every function that raises names the gallery, which is its last argument.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np

from sfsc.errors import SfscError
from sfsc.gallery.conditions import EXACT, kind_of
from sfsc.gallery.names import check_name
from sfsc.gallery.store import COLUMNS, EMBEDDING


def unit_rows(embeddings: np.ndarray, gallery: str) -> np.ndarray:
    """Return the embeddings as (N, dim) float32 of length 1."""
    if embeddings.ndim != 2:
        raise SfscError(f"gallery {gallery}: embeddings must have shape (N, dim), not {embeddings.shape}")
    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise SfscError(
            f"gallery {gallery}: embeddings contain NaN, infinity or a row of zeros: "
            "check the sub-model and the images"
        )
    return rows / lengths


def attribute_columns(
    attributes: Mapping[str, Sequence[Any] | np.ndarray], gallery: str
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Return the attributes under their stored names, and the kinds of those that have a value."""
    columns: dict[str, list[Any]] = {}
    for given, values in attributes.items():
        name = check_name(given, (*COLUMNS, EMBEDDING))
        if name in columns:
            raise SfscError(f"gallery {gallery}: attribute {name!r} is given twice")
        columns[name] = _plain(values)
    kinds = {name: kind for name, values in columns.items() if (kind := kind_of(values, name))}
    return columns, kinds


def check_columns(columns: Mapping[str, list[Any]], rows: int, gallery: str) -> None:
    """Raise `SfscError` unless every column has one storable value per row, and ids are unique."""
    for name, values in columns.items():
        if len(values) != rows:
            raise SfscError(f"gallery {gallery}: {rows} embeddings, but {len(values)} values of {name}")
        if name in ("id", "path") and None in values:
            raise SfscError(f"gallery {gallery}: every row needs a text as its {name}, but one has None")
        _check_storable(values, f"gallery {gallery}: column {name}")
    twice = [name for name, times in Counter(columns["id"]).items() if times > 1]
    if twice:
        raise SfscError(f"gallery {gallery}: id {twice[0]!r} is given twice: ids must be unique")


def exact_number(value: Any, column: str) -> float | None:
    """Return an integer or a number as float64, which must represent it exactly."""
    if isinstance(value, int) and abs(value) > EXACT:
        raise SfscError(
            f"column {column} contains float64 numbers, and {value} is not one exactly: pass it as text"
        )
    return None if value is None else float(value)


def texts(values: Sequence[Any] | np.ndarray) -> list[Any]:
    """Return the values as text, except None."""
    if {*map(type, values)} <= {str, NoneType}:
        return [*values]
    return [None if value is None else str(value) for value in values]


def _plain(values: Sequence[Any] | np.ndarray) -> list[Any]:
    """Return the values as Python objects, with None for numbers that are not finite."""
    if not {*map(type, values)} - {str, int, bool, NoneType}:
        return [*values]
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in plain]


def _check_storable(values: Sequence[Any], column: str) -> None:
    """Raise `SfscError` for a text that UTF-8 cannot encode, or an integer that does not fit in 64 bits."""
    kinds = {*map(type, values)}
    try:
        if str in kinds:
            "".join(values if kinds == {str} else [v for v in values if isinstance(v, str)]).encode()
    except UnicodeEncodeError as error:
        shown = error.object[max(0, error.start - 20) : error.end + 20]
        raise SfscError(f"{column} has a value that is not Unicode text, near {shown!r}: change it") from None
    if int not in kinds:
        return
    large = next((v for v in values if isinstance(v, int) and not -(2**63) <= v < 2**63), None)
    if large is not None:
        raise SfscError(f"{column} has an integer that does not fit in 64 bits, {large}: pass it as text")
