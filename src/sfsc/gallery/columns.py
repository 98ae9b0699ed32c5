"""Columns of rows in memory: read for some rows, or compared with a condition for all."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfsc.gallery.conditions import Condition

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


class Columns:
    """The columns of n rows; what a dictionary of pyarrow tells to repeat is small, and read faster."""

    def __init__(self, columns: Mapping[str, _Column]) -> None:
        self._columns = dict(columns)

    @classmethod
    def of(cls, table: pa.Table) -> Columns:
        """The columns of a table of n rows."""
        return cls({name: _column(_whole(table[name])) for name in table.column_names})

    @property
    def names(self) -> list[str]:
        """Of the columns, in order."""
        return list(self._columns)

    def extended(self, table: pa.Table) -> Columns:
        """These rows and, after them, those of another table of the same columns."""
        return Columns({name: column.extended(_whole(table[name])) for name, column in self._columns.items()})

    def take(self, name: str, rows: np.ndarray) -> list[Any]:
        """The values of some rows, by their (k,) numbers; None where there is none."""
        return self._columns[name].take(rows)

    def fulfilling(self, where: Sequence[Condition]) -> np.ndarray:
        """(n,) bool: whether a row fulfils all conditions, of which there is at least one."""
        masks = (self._columns[condition.column].mask(condition) for condition in where)
        return reduce(operator.and_, masks)


class _Column(Protocol):
    def extended(self, values: pa.Array) -> _Column: ...

    def take(self, rows: np.ndarray) -> list[Any]: ...

    def mask(self, condition: Condition) -> np.ndarray: ...


class _Plain:
    """A value for each row."""

    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def extended(self, values: pa.Array) -> _Plain:
        return _Plain(pa.concat_arrays([self._values, values]))

    def take(self, rows: np.ndarray) -> list[Any]:
        return self._values.take(pa.array(rows)).to_pylist()

    def mask(self, condition: Condition) -> np.ndarray:
        return _mask(self._values, condition)


class _Repeated:
    """For each row the place of its value among the different ones, of which the first is None."""

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

    def take(self, rows: np.ndarray) -> list[Any]:
        return self._values[self._places[rows]].tolist()

    def mask(self, condition: Condition) -> np.ndarray:
        return _mask(pa.array(self._values, self._type), condition)[self._places]


def _column(values: pa.Array) -> _Column:
    if pa.types.is_dictionary(values.type):
        return _Repeated(np.empty(0, int), [None], values.type.value_type).extended(values)
    return _Plain(values)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """The array of a column, of which rows are taken a hundred times faster than of pieces."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _mask(values: pa.Array, condition: Condition) -> np.ndarray:
    """(n,) bool: whether a value fulfils a condition; none does not."""
    if condition.operator == "=":
        mask = pc.is_in(values, value_set=pa.array(condition.values, values.type))
    else:
        mask = COMPARISONS[condition.operator](values, pa.scalar(condition.values[0], values.type))
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
