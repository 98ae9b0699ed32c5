"""Safetensors files of float32 arrays, read without torch and within bounds.

The format is that of https://huggingface.co/docs/safetensors: eight bytes with the size of a header in JSON,
the header, and the data of all arrays one after another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.errors import SfscError
from sfsc.files.json_text import parse_json
from sfsc.files.schema import conform
from sfsc.files.writing import read_bytes, write_atomic

MOST_HEADER = 1 << 20  # bytes
METADATA = "__metadata__"
DTYPE = "F32"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write float32 arrays and texts durably and atomically. Equal contents give equal bytes."""
    header: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))}
    parts, start = [], 0
    for name, array in sorted(arrays.items()):
        data = np.ascontiguousarray(array, "<f4").tobytes()
        offsets = [start, start + len(data)]
        header[name] = {"dtype": DTYPE, "shape": list(array.shape), "data_offsets": offsets}
        parts.append(data)
        start += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    write_atomic(path, b"".join([len(text).to_bytes(8, "little"), text, *parts]))


def read_arrays(path: Path, most: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a file of float32 arrays from anyone.

    Args:
        path: the path of the file.
        most: the number of bytes that the file may have.

    Returns:
        The arrays, float32 and finite, and the texts by name.

    Raises:
        SfscError: the file cannot be read, is too large, is no safetensors file, or has arrays of another
            dtype, arrays that overlap or leave gaps, NaN or infinity.
    """
    data = read_bytes(path, most)
    try:
        return _parsed(data)
    except ValueError as error:
        raise SfscError(f"{path} is damaged: {error}") from None


def _parsed(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(MOST_HEADER, len(data) - 8):
        raise ValueError("it is not a safetensors file")
    header = conform(parse_json(data[8 : 8 + size]), dict[str, Any], "its header")
    metadata = conform(header.pop(METADATA, {}), dict[str, str], "its metadata")
    arrays, content, end = {}, data[8 + size :], 0
    described = ((name, conform(value, dict[str, Any], name)) for name, value in header.items())
    places = {name: _place(name[:100], value) for name, value in described}
    for name, (shape, start, stop) in sorted(places.items(), key=lambda item: item[1][1:]):
        if start != end or stop > len(content):
            raise ValueError("its arrays overlap, leave gaps or are cut short")
        arrays[name] = np.frombuffer(content[start:stop], "<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"array {name[:100]!r} contains NaN or infinity")
        end = stop
    if end != len(content):
        raise ValueError("it has more data than arrays")
    return arrays, metadata


def _place(name: str, value: Mapping[str, Any]) -> tuple[tuple[int, ...], int, int]:
    """Return the shape of an array, and where its data start and stop."""
    if value.get("dtype") != DTYPE:
        raise ValueError(f"array {name!r} is not of dtype {DTYPE}")
    shape = tuple(conform(value.get("shape"), list[int], "a shape"))
    start, stop = conform(value.get("data_offsets"), tuple[int, int], "data_offsets")
    count = 4
    for length in shape:
        count *= length
    if len(shape) > 2 or min(shape, default=0) < 0 or not 0 <= start <= stop or stop - start != count:
        raise ValueError(f"array {name!r} has a shape that does not fit its data")
    return shape, start, stop
