"""Removing the parts of an ONNX model that are not needed to run it: half of a small int8 file."""

from __future__ import annotations

from collections import defaultdict
from itertools import count

import onnx


def slim(data: bytes) -> bytes:
    """Return the same model in fewer bytes: the same operators on the same numbers.

    The annotations of torch, the shapes of intermediate values, the names of operators, and the zero points
    of biases (which are always zero by the standard) are removed. Values get short names. The metadata of the
    model and the names of its inputs and outputs are kept.

    A model with subgraphs or functions, which refer to each other's values by name, is returned unchanged.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    inner = (attribute for node in graph.node for attribute in node.attribute)
    if model.functions or any(attribute.HasField("g") or attribute.graphs for attribute in inner):
        return data
    del graph.value_info[:], graph.metadata_props[:]
    _drop_zero_points(graph)
    short = _names(graph)
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("name")
        node.ClearField("doc_string")
        node.input[:] = [short[name] for name in node.input]
        node.output[:] = [short[name] for name in node.output]
    return model.SerializeToString()


def _drop_zero_points(graph: onnx.GraphProto) -> None:
    """Remove the zero points of biases, which are int32.

    The zero points of weights are kept, because without them onnxruntime computes some layers in float32.
    """
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT32}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and integers.intersection(node.input[2:]):
            del node.input[2:]
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _names(graph: onnx.GraphProto) -> dict[str, str]:
    """Return a short name for every value except the inputs and outputs of the model."""
    fixed = {value.name for value in (*graph.input, *graph.output)} | {""}
    numbers = (name for n in count() if (name := f"{n:x}") not in fixed)
    short: dict[str, str] = defaultdict(lambda: next(numbers))
    short.update({name: name for name in fixed})
    return short
