from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sfsc.embedding.exported import PROPERTY, Exported, ExportedModel
from sfsc.embedding.onnx_file import FIELDS, TENSOR, has_external_data
from sfsc.errors import SfscError

DIMENSION = 4
EXPORTED = Exported("0123456789abcdef", 1.0, DIMENSION, (2, 2), "float32", "0", dimensions=(DIMENSION,))


def tensor(name: str, location: str | None = None) -> TensorProto:
    """(1, DIMENSION) float32, in itself or elsewhere."""
    made = helper.make_tensor(name, TensorProto.FLOAT, [1, DIMENSION], [0.5] * DIMENSION)
    if location is not None:
        made.ClearField("float_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value=location)
    return made


def model(
    row: TensorProto, more: onnx.NodeProto | None = None, exported: Exported = EXPORTED
) -> onnx.ModelProto:
    """Embeds every image as the same row."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "axis"], ["column"]),
        helper.make_node("Add", ["column", row.name], ["embeddings"]),
        *([more] if more else []),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *exported.image_size, 3])
    output = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", exported.dimension])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "graph", [images], [output], [row, zero, axis])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, {PROPERTY: exported.to_text()})
    return made


def constant(value: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["unused"], value=value)


def in_branch(node: onnx.NodeProto) -> onnx.NodeProto:
    result = helper.make_tensor_value_info("unused", TensorProto.FLOAT, [1, DIMENSION])
    branch = helper.make_graph([node], "branch", [], [result])
    return helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch)


def with_function(node: onnx.NodeProto) -> onnx.ModelProto:
    made = model(tensor("row"))
    opset = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function("own", "function", [], ["unused"], [node], opset))
    return made


def sparse(location: str) -> onnx.ModelProto:
    made = model(tensor("row"))
    indices = helper.make_tensor("indices", TensorProto.INT64, [0], [])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor("values", location), indices, [9]))
    return made


PLACES = {
    "initializer": lambda where: model(tensor("row", where)),
    "constant": lambda where: model(tensor("row"), constant(tensor("value", where))),
    "branch": lambda where: model(tensor("row"), in_branch(constant(tensor("value", where)))),
    "two branches": lambda where: model(
        tensor("row"), in_branch(in_branch(constant(tensor("value", where))))
    ),
    "function": lambda where: with_function(constant(tensor("value", where))),
    "sparse": sparse,
}


def test_a_model_of_one_file_embeds(tmp_path: Path) -> None:
    data = model(tensor("row")).SerializeToString()
    assert not has_external_data(data)
    found = ExportedModel.of(data, tmp_path / "model.onnx").embed_pixels(np.zeros((3, 2, 2, 3), np.uint8))
    np.testing.assert_array_equal(found, np.full((3, DIMENSION), 0.5, np.float32))


@pytest.mark.parametrize("where", ["secret.txt", "*/_ORT_MEM_ADDR_/*", "/etc/passwd", "../secret.txt"])
@pytest.mark.parametrize("place", PLACES)
def test_data_of_other_files_is_refused(
    place: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.txt").write_bytes(b"sixteen letters!")
    monkeypatch.chdir(tmp_path)
    data = PLACES[place](where).SerializeToString()
    assert has_external_data(data)
    Path("model.onnx").write_bytes(data)
    with pytest.raises(SfscError, match=r"^model\.onnx refers to external data") as caught:
        ExportedModel.load("model.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("said", ["location", "data"])
def test_half_of_a_reference_is_one(said: str) -> None:
    made = model(tensor("row", "secret.txt"))
    made.graph.initializer[0].ClearField("data_location" if said == "data" else "external_data")
    assert has_external_data(made.SerializeToString())


def test_all_fields_that_lead_to_tensors_are_followed() -> None:
    """The table is what onnx's own description of the format says."""
    expected: dict[str, dict[int, str]] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        inner = [field for field in message.fields if field.message_type and leads(field.message_type)]
        expected[message.name] = {field.number: field.message_type.name for field in inner}
        new = (field.message_type for field in inner)
        waiting += [one for one in new if one.name not in (*expected, TENSOR)]
    assert expected == FIELDS


def leads(message: Any, above: tuple[str, ...] = ()) -> bool:
    """Whether a message is, or can hold, a tensor."""
    if message.name == TENSOR or message.name in above:
        return message.name == TENSOR
    inner = [field.message_type for field in message.fields if field.message_type]
    return any(leads(one, (*above, message.name)) for one in inner)


def test_graphs_in_graphs_are_followed_to_any_depth() -> None:
    data = tensor("value", "secret.txt").SerializeToString()
    for depth in range(3000):
        number = (5 if depth == 0 else 6, 5, 1)  # of a tensor or graph, its attribute, its node
        for field in number:
            data = bytes([field << 3 | 2]) + varint(len(data)) + data
    assert has_external_data(bytes([7 << 3 | 2]) + varint(len(data)) + data)


def varint(number: int) -> bytes:
    digits = [number >> shift & 0x7F for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])


WHOLE_MODEL = model(tensor("row")).SerializeToString()
WHOLE = model(tensor("row"), in_branch(constant(tensor("value")))).SerializeToString()
REFERS = PLACES["two branches"]("secret.txt").SerializeToString()


@given(st.data(), st.sampled_from([WHOLE, REFERS]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: st.DataObject, seed: bytes) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        has_external_data(bytes(changed))
    except ValueError:
        return


@pytest.mark.parametrize(
    "said",
    [
        *({"dimension": DIMENSION + 1}, {"image_size": (3, 2)}, {"image_size": (10**9, 10**9)}),
        *({"dimension": 0}, {"width": float("nan")}, {"width": -1.0}, {"dimensions": ("1",)}),
    ],
)
def test_a_file_that_does_not_do_what_it_says_is_refused(said: dict[str, Any]) -> None:
    made = model(tensor("row"))
    helper.set_model_props(made, {PROPERTY: replace(EXPORTED, **said).to_text()})
    with pytest.raises(SfscError, match=r"model\.onnx"):
        ExportedModel.of(made.SerializeToString(), Path("model.onnx"))


@given(st.text() | st.none() | st.text().map(lambda text: EXPORTED.to_text()[: len(text)] + text))
@settings(max_examples=200, deadline=None)
def test_any_metadata_is_read_or_refused(text: str | None) -> None:
    with pytest.raises(SfscError, match=r"^model\.onnx was not exported by sfsc"):
        Exported.from_text(text, Path("model.onnx"))


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, '{"a":' * 5_000, "null", "[]", '"x"', '{"format": "2"}', '{"format": 2}', "1e999"),
        *(EXPORTED.to_text().replace("1.0", "1e999"), EXPORTED.to_text().replace('"0"', '"\\ud800"')),
        EXPORTED.to_text().replace('"version"', '"width": 0.5, "version"'),
    ],
)
def test_metadata_of_strangers(text: str) -> None:
    with pytest.raises(SfscError, match=r"^model\.onnx ") as caught:
        Exported.from_text(text, Path("model.onnx"))
    assert "\n" not in str(caught.value)


def test_metadata_of_a_newer_format_says_so() -> None:
    with pytest.raises(SfscError, match="written by a newer sfsc: upgrade"):
        Exported.from_text(replace(EXPORTED, format=99).to_text(), Path("model.onnx"))


@pytest.mark.parametrize("name", [b"images", b"sfsc"])
def test_names_that_are_no_text_are_refused_without_a_word_more(
    name: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Found by fuzzing: onnxruntime prints them and tries again, or hands them out."""
    data = WHOLE_MODEL.replace(name, b"\xff" + name[1:])
    with pytest.raises(SfscError, match=r"^model\.onnx "):
        ExportedModel.of(data, Path("model.onnx"))
    assert capfd.readouterr().out == ""
