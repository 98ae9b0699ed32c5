"""Exporting sub-models with other normalisations than BatchNorm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sfsc import Family
from sfsc.backbones.normalisation import LAYERS
from sfsc.data import decode
from sfsc.deploy.exporting import export
from sfsc.embedding.exported import ExportedModel


@pytest.fixture(scope="module", params=LAYERS)
def family(request: pytest.FixtureRequest) -> Family:
    family = Family.create("small", (0.25, 1.0), 16, (32, 32), normalisation=request.param).train()
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(10):
            family.at(0.25)(images)
    return family.eval()


def test_a_file_embeds_as_the_family_does(family: Family, images: list[str], tmp_path: Path) -> None:
    export(family, 0.25, tmp_path / "narrow.onnx", images)
    shown = np.stack([decode(path, (32, 32)) for path in images[:5]])
    found = ExportedModel.load(tmp_path / "narrow.onnx").embed_pixels(shown)
    np.testing.assert_allclose(found, family.embed_pixels(shown, 0.25), atol=1e-4)


def test_torch_export_takes_the_layers(family: Family, images: list[str], tmp_path: Path) -> None:
    export(family, 0.25, tmp_path / "narrow.pt2", images)  # it compares the file with the sub-model


def test_whitening_stays_in_float32(family: Family, images: list[str], tmp_path: Path) -> None:
    export(family, 0.25, tmp_path / "int8.onnx", images, int8=True)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert bool(products) is (family.spec.normalisation == "switchable_whitening")
    assert not any(made_by.get(name) == "DequantizeLinear" for node in products for name in node.input)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantised = [node for node in convolutions if made_by.get(node.input[0]) == "DequantizeLinear"]
    assert len(quantised) > len(convolutions) / 2
    shown = np.stack([decode(path, (32, 32)) for path in images[:5]])
    found = ExportedModel.load(tmp_path / "int8.onnx").embed_pixels(shown)
    assert (found * family.embed_pixels(shown, 0.25)).sum(1).min() > 0.9
