"""Slim models: fewer bytes, the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sfsc.deploy.slimming import slim

WEIGHTS = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
BIAS = np.array([1000, -2000, 3000, 4], np.int32)
LONG = "backbone.blocks.0.depthwise_conv.weight_"


@pytest.fixture
def model() -> onnx.ModelProto:
    """x @ weights + bias, both dequantised with zero points, and full of notes."""
    tensors = {"w": WEIGHTS, "b": BIAS, "scale": np.float32(0.5), "w0": np.int8(2), "b0": np.int32(0)}
    nodes = [
        helper.make_node("DequantizeLinear", [LONG + "w", LONG + "scale", LONG + "w0"], [LONG + "wf"]),
        helper.make_node("DequantizeLinear", [LONG + "b", LONG + "scale", LONG + "b0"], [LONG + "bf"]),
        helper.make_node("Gemm", ["0", LONG + "wf", LONG + "bf"], ["out"]),
    ]
    for number, node in enumerate(nodes):
        node.name, node.doc_string = f"{LONG}{number}", "a doc"
        node.metadata_props.add(key="stack_trace", value="file.py, line 7 " * 20)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("0", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.array(value), LONG + name) for name, value in tensors.items()],
        value_info=[helper.make_tensor_value_info(LONG + "wf", TensorProto.FLOAT, [3, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model.metadata_props.add(key="sfsc", value="{}")
    return model


def run(data: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["out"], {"0": np.eye(3, dtype=np.float32)})[0]


def test_a_slim_model_computes_the_same(model: onnx.ModelProto) -> None:
    whole = model.SerializeToString()
    slimmed = slim(whole)
    assert np.array_equal(run(slimmed), run(whole))
    assert np.array_equal(run(whole), 0.5 * (WEIGHTS - 2.0) + 0.5 * BIAS)
    assert len(slimmed) < 0.4 * len(whole)


def test_what_is_left_out_and_what_stays(model: onnx.ModelProto) -> None:
    slimmed = onnx.load_from_string(slim(model.SerializeToString()))
    onnx.checker.check_model(slimmed, full_check=True)
    text = str(slimmed)
    assert not any(word in text for word in ("stack_trace", "depthwise", "a doc"))
    assert [tensor.data_type for tensor in slimmed.graph.initializer].count(TensorProto.INT32) == 1
    assert [tensor.data_type for tensor in slimmed.graph.initializer].count(TensorProto.INT8) == 2
    assert [value.name for value in (*slimmed.graph.input, *slimmed.graph.output)] == ["0", "out"]
    assert [(entry.key, entry.value) for entry in slimmed.metadata_props] == [("sfsc", "{}")]
    assert slim(slimmed.SerializeToString()) == slimmed.SerializeToString()


def test_a_model_with_subgraphs_stays_as_it_is(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([helper.make_node("Identity", ["out"], ["y"])], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    whole = model.SerializeToString()
    assert slim(whole) == whole
