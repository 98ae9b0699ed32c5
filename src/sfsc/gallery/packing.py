"""The bytes of embeddings in the table of a gallery: written from arrays, and read into arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from sfsc.gallery.forms import DTYPES, decode, encode
from sfsc.gallery.store import EMBEDDING


def stored(batch: pa.RecordBatch, dimension: int, form: str) -> np.ndarray:
    """Return the rows of a batch with the columns form and embedding as they can be compared.

    Returns:
        (N, dimension) of the dtype of the form, if all rows have it; float32 of length 1 if it is float32.
    """
    if form == "float32":
        return unpacked(batch, dimension)
    return _bytes(batch[EMBEDDING]).view(DTYPES[form]).reshape(len(batch), dimension)


def unpacked(batch: pa.RecordBatch, dimension: int, column: str = EMBEDDING) -> np.ndarray:
    """Decode a column of embeddings of a batch with the column form: (N, dimension) float32 of length 1."""
    vectors = np.empty((len(batch), dimension), np.float32)
    forms = batch["form"].to_numpy(zero_copy_only=False)
    for form in np.unique(forms):
        if form not in DTYPES:
            raise ValueError(f"a row is stored in the unknown form {form!r}")
        chosen = forms == form
        packed = batch[column] if chosen.all() else batch[column].filter(pa.array(chosen))
        vectors[chosen] = decode(_bytes(packed).view(DTYPES[form]).reshape(len(packed), -1))
    return vectors


def _bytes(packed: pa.Array) -> np.ndarray:
    """Return the bytes of all rows of an array that `packed` returned: (n,) uint8."""
    offsets = np.frombuffer(packed.buffers()[1], np.int64)[packed.offset : packed.offset + len(packed) + 1]
    return np.frombuffer(packed.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]


def packed_in_forms(rows: np.ndarray, forms: np.ndarray) -> pa.Array:
    """Return the bytes of (N, dim) float32 rows of length 1, each in its own form, (N,) texts."""
    if len(found := np.unique(forms.astype(str))) == 1:
        return packed(encode(rows, found[0]))
    encoded = [packed(encode(rows[forms == form], form)) for form in found]
    order = np.argsort(np.concatenate([np.flatnonzero(forms == form) for form in found]))
    return pa.concat_arrays(encoded).take(pa.array(order))


def packed(rows: np.ndarray) -> pa.Array:
    """Return the bytes of each row of an (N, dim) array."""
    size = rows.shape[1] * rows.itemsize
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * size
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)
