"""Columns of rows in memory: reading the values of some rows, and evaluating conditions on all rows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfsc.gallery.conditions import EQUALITIES, Condition

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


class Columns:
    """The columns of n rows. Dictionary-encoded columns take less memory and are read faster."""

    def __init__(self, columns: Mapping[str, _Column], rows: int) -> None:
        self._columns = dict(columns)
        self._rows = rows

    @classmethod
    def of(cls, table: pa.Table) -> Columns:
        """Return the columns of a table."""
        return cls({name: _column(_whole(table[name])) for name in table.column_names}, len(table))

    @property
    def names(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self._columns)

    def extended(self, table: pa.Table) -> Columns:
        """Return these rows followed by those of a table; a column that one of them lacks is null there."""
        columns = dict(self._columns)
        for name in table.column_names:
            values = _whole(table[name])
            before = columns.get(name) or _Plain(pa.nulls(self._rows, values.type))
            columns[name] = before.extended(values)
        for name in columns.keys() - set(table.column_names):
            columns[name] = columns[name].lengthened(len(table))
        return Columns(columns, self._rows + len(table))

    def take(self, name: str, rows: np.ndarray) -> list[Any]:
        """Return the values of the rows at (k,) positions, with None for missing values."""
        return self._columns[name].take(rows)

    def fulfilling(self, where: Sequence[Condition]) -> np.ndarray:
        """Return (n,) bool: whether each row fulfils all conditions. At least one condition is required."""
        masks = (self._columns[condition.column].mask(condition) for condition in where)
        return reduce(operator.and_, masks)


class _Column(Protocol):
    def extended(self, values: pa.Array) -> _Column: ...

    def lengthened(self, rows: int) -> _Column: ...

    def take(self, rows: np.ndarray) -> list[Any]: ...

    def mask(self, condition: Condition) -> np.ndarray: ...


class _Plain:
    """A column that stores one value for each row."""

    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def extended(self, values: pa.Array) -> _Plain:
        return _Plain(pa.concat_arrays([self._values, values]))

    def lengthened(self, rows: int) -> _Plain:
        return self.extended(pa.nulls(rows, self._values.type))

    def take(self, rows: np.ndarray) -> list[Any]:
        return self._values.take(pa.array(rows)).to_pylist()

    def mask(self, condition: Condition) -> np.ndarray:
        return _mask(self._values, condition)


class _Repeated:
    """A column that stores, for each row, the position of its value among the distinct values, None first."""

    def __init__(self, places: np.ndarray, values: list[Any], type_: pa.DataType) -> None:
        self._places = places.astype(np.min_scalar_type(len(values)))
        self._values = np.array(values, object)
        self._type = type_

    def extended(self, values: pa.DictionaryArray) -> _Repeated:
        added = values.dictionary.to_pylist()
        known = {value: place for place, value in enumerate(self._values)}
        for value in added:
            known.setdefault(value, len(known))
        places = np.array([0, *(known[value] for value in added)])
        more = places[values.indices.fill_null(-1).to_numpy() + 1]
        return _Repeated(np.concatenate([self._places, more]), list(known), self._type)

    def lengthened(self, rows: int) -> _Repeated:
        return _Repeated(np.pad(self._places, (0, rows)), list(self._values), self._type)

    def take(self, rows: np.ndarray) -> list[Any]:
        return self._values[self._places[rows]].tolist()

    def mask(self, condition: Condition) -> np.ndarray:
        return _mask(pa.array(self._values, self._type), condition)[self._places]


def _column(values: pa.Array) -> _Column:
    if pa.types.is_dictionary(values.type):
        return _Repeated(np.empty(0, int), [None], values.type.value_type).extended(values)
    return _Plain(values)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array: taking rows from it is a hundred times faster than from chunks."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _mask(values: pa.Array, condition: Condition) -> np.ndarray:
    """Return (n,) bool: whether each value fulfils a condition."""
    if condition.operator not in EQUALITIES:
        mask = COMPARISONS[condition.operator](values, pa.scalar(condition.values[0], values.type))
        return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    among = pa.array([value for value in condition.values if value is not None], values.type)
    found = pc.is_in(values, value_set=among)
    missing = pc.is_null(values)
    if condition.operator == "!=":
        mask = pc.invert(pc.or_(found, missing))
    else:
        mask = pc.or_(found, missing) if None in condition.values else found
    return mask.to_numpy(zero_copy_only=False)
