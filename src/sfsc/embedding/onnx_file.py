"""Finding references to external data in the bytes of an ONNX file, before anything else reads it.

onnxruntime follows references to other files, and even to memory addresses, as soon as it loads a model.
"""

from __future__ import annotations

from collections.abc import Iterator

TENSOR = "TensorProto"
# For each message of onnx.proto, the fields that may lead to tensors, and the message in each of them.
FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: TENSOR, 6: "GraphProto", 10: TENSOR, 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: TENSOR, 2: TENSOR},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a tensor
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SIZES = {FIXED64: 8, FIXED32: 4}


def has_external_data(model: bytes) -> bool:
    """Return whether a tensor of an ONNX model is stored outside the bytes of the model.

    Raises:
        ValueError: the bytes are not an ONNX model.
    """
    waiting = [("ModelProto", memoryview(model))]
    while waiting:
        message, data = waiting.pop()
        for field, value in _fields(data):
            if message == TENSOR:
                if field == EXTERNAL_DATA or (field == DATA_LOCATION and value != 0):
                    return True
            elif isinstance(value, memoryview) and field in FIELDS[message]:
                waiting.append((FIELDS[message][field], value))
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the numbers and values of the fields of a protocol buffer message."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        field, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield field, value
            continue
        if kind == BYTES:
            size, place = _varint(data, place)
        elif kind in SIZES:
            size = SIZES[kind]
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        if size > len(data) - place:
            raise ValueError("a field is cut off")
        yield field, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return the number that starts at a position, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a number is cut off")
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("a number is too long")
