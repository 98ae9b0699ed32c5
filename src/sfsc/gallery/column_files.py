"""The columns of an index in files: small, and mapped so that the values of any rows can be read."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sfsc.gallery.columns import KINDS, WHOLE, Ends, whole

SAMPLE = 1 << 16  # rows that show whether the values of a column are repeated
INDICES = {2**7 - 1: pa.int8(), 2**15 - 1: pa.int16(), 2**31 - 1: pa.int32()}  # by the most values
LARGEST_TEXTS = 2**31 - 1  # bytes of texts that 32-bit offsets reach
VALUES, BEFORE, AFTER = "values", b"before", b"after"


def write_column(file: Path, values: pa.ChunkedArray) -> None:
    """Write a column as one Arrow array.

    Repeated values are dictionary-encoded, with the smallest indices that suffice. What all other texts begin
    and end with, such as a folder, is written only once.
    """
    array, (before, after) = _compact(values)
    field = pa.field(VALUES, array.type, metadata={BEFORE: before, AFTER: after})
    batch = pa.record_batch([array], pa.schema([field]))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_column(file: Path, rows: int, kind: str) -> tuple[pa.Array, Ends]:
    """Map a column of n rows; return it, and what all of its texts begin and end with.

    Raises:
        ValueError, pa.ArrowException: the file is damaged, or does not fit.
        OSError: it is missing or cannot be read.
    """
    table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    table.validate(full=True)
    [column], [field] = table.columns, table.schema
    type_ = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if len(column) != rows or KINDS.get(type_) != kind:
        raise ValueError("a column does not fit the rows")
    before, after = ((field.metadata or {}).get(name, b"").decode() for name in (BEFORE, AFTER))
    return whole(column), (before, after)


def _compact(values: pa.ChunkedArray) -> tuple[pa.Array, Ends]:
    if (encoded := _encoded(values)) is not None:
        return encoded, WHOLE
    if pa.types.is_large_string(values.type):
        return _shortened(values)
    return whole(values), WHOLE


def _encoded(values: pa.ChunkedArray) -> pa.DictionaryArray | None:
    """Return the dictionary-encoded values, or None if too few of them are repeated."""
    sample = values.slice(0, SAMPLE)
    if pa.types.is_boolean(values.type) or 2 * pc.count_distinct(sample).as_py() > len(sample):
        return None
    encoded = whole(values.dictionary_encode())
    if 2 * len(encoded.dictionary) > len(encoded):
        return None
    smallest = next(type_ for most, type_ in INDICES.items() if len(encoded.dictionary) <= most)
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(smallest), encoded.dictionary)


def _shortened(texts: pa.ChunkedArray) -> tuple[pa.Array, Ends]:
    """Return texts without their common beginning and end, and these."""
    before = _common_beginning(texts)
    texts = pc.utf8_slice_codeunits(texts, len(before))
    after = _common_beginning(pc.utf8_reverse(texts))[::-1]
    if after:
        texts = pc.utf8_slice_codeunits(texts, 0, -len(after))
    array = whole(texts)
    return (array.cast(pa.string()) if array.nbytes <= LARGEST_TEXTS else array), (before, after)


def _common_beginning(texts: pa.ChunkedArray) -> str:
    """Return what all texts begin with: what the least and the greatest of them begin with."""
    ends = pc.min_max(texts).as_py()
    pairs = zip(ends["min"] or "", ends["max"] or "", strict=False)
    return "".join(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
