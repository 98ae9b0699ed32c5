"""Embeddings in requests: lists of numbers, base64 text, or a .npy file."""

from __future__ import annotations

import binascii
import io
import math
import tokenize
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.lib import format as npy
from pydantic import Field, GetPydanticSchema, WithJsonSchema
from pydantic_core import PydanticCustomError, core_schema

from sfsc.errors import SfscError
from sfsc.gallery.store import MOST_DIMENSIONS

NPY = "application/x-npy"
FLOAT32 = np.dtype("<f4")
MOST_HEADER = 1024  # bytes of the header of a .npy file; numpy writes 118

Numbers = Annotated[list[float], Field(min_length=1, max_length=MOST_DIMENSIONS, fail_fast=True)]


def _read(value: Any, read_numbers: Callable[[Any], list[float]]) -> np.ndarray:
    """Return an embedding as (dim,) float32 or float64, from numbers, base64 text, or a row of an array."""
    if isinstance(value, np.ndarray):
        return value
    return _decode(value) if isinstance(value, str) else np.array(read_numbers(value), np.float64)


def _decode(text: str) -> np.ndarray:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        data = b""
    if not data or len(data) % FLOAT32.itemsize or len(data) > FLOAT32.itemsize * MOST_DIMENSIONS:
        raise PydanticCustomError(
            "base64", "Text should be the base64 of up to 65536 little-endian float32 numbers"
        )
    return np.frombuffer(data, FLOAT32)


Embedding = Annotated[
    np.ndarray,
    GetPydanticSchema(
        lambda _, handler: core_schema.no_info_wrap_validator_function(_read, handler(Numbers))
    ),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 1,
                    "maxItems": MOST_DIMENSIONS,
                },
                {"type": "string", "contentEncoding": "base64"},
            ],
            "description": "A list of numbers, or the base64 text of its little-endian float32 bytes.",
        }
    ),
]


def read_npy(data: bytes) -> np.ndarray:
    """Return the array in a .npy file, (N, dim) float32; nothing in the file is executed.

    Raises:
        SfscError: the file is damaged, or holds another kind of array.
    """
    file = io.BytesIO(data)
    try:
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, by_columns, dtype = readers[npy.read_magic(file)](file, max_header_size=MOST_HEADER)
    except (KeyError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        raise SfscError("the body is not a .npy file: write it with np.save(file, embeddings)") from None
    if dtype != FLOAT32 or len(shape) != 2 or min(shape) < 1:
        raise SfscError(
            f"the .npy file holds {dtype} of shape {shape}: send (number of embeddings, dimension) "
            "little-endian float32"
        )
    found, expected = len(data) - file.tell(), FLOAT32.itemsize * math.prod(shape)
    if found != expected:
        raise SfscError(f"the .npy file has {found} bytes after its header instead of {expected}: send all")
    return np.frombuffer(data, FLOAT32, offset=file.tell()).reshape(shape, order="F" if by_columns else "C")


def stacked(embeddings: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Return embeddings of one dimension as (N, dim) float32, scaled so that no square over- or underflows.

    Args:
        embeddings: N embeddings, each (dim,) float32 or float64.
        most: the largest dimension that is accepted.

    Raises:
        SfscError: an embedding has another dimension than the first, is not finite, or is zero, or the
            dimension exceeds `most`.
    """
    length = len(embeddings[0])
    if length > most:
        raise SfscError(
            f"the embeddings have {length} dimensions, but this family has {most}: use a sub-model of this "
            "family"
        )
    for place, embedding in enumerate(embeddings):
        if len(embedding) != length:
            raise SfscError(
                f"embedding {place} has {len(embedding)} dimensions, but embedding 0 has {length}: "
                "send embeddings of one dimension"
            )
    rows = np.stack(embeddings)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    wrong = ~(np.isfinite(largest) & (largest > 0))[:, 0]
    if wrong.any():
        raise SfscError(
            f"embedding {wrong.argmax()} contains NaN or infinity, or consists of zeros: "
            "check the sub-model and the image"
        )
    return (rows / largest).astype(np.float32, copy=False)
