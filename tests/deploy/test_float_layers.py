"""The search for layers that int8 leaves in float32: on a network of which one layer cannot bear it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import sfsc.deploy.float_layers
from sfsc.deploy.exporting import Graph, _to_onnx
from sfsc.deploy.float_layers import ENOUGH, agreement, quantise
from sfsc.deploy.quantising import Quantiser
from sfsc.embedding.exported import Exported, ExportedModel

SIZE = (8, 8)


class Network(nn.Module):
    """Twelve convolutions; between the sixth and the seventh, one channel is `spread` times as large."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.mean, self.std = torch.zeros(3), torch.ones(3)
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(3 if n == 0 else 8, 8, 3, padding=1) for n in range(12))
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(2)
            self.layers[5].weight[0] *= spread
            self.layers[5].bias[0] *= spread
            self.layers[6].weight[:, 0] /= spread

    def embed_normalised(self, images: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            images = torch.relu(layer(images))
        features = images.flatten(1)
        return nn.functional.normalize(features - features.mean(1, keepdim=True))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, *SIZE, 3), np.uint8)


def to_onnx(spread: float) -> bytes:
    exported = Exported("f", 1.0, 512, SIZE, "int8", "0")
    return _to_onnx(Graph(Network(spread), SIZE[1]).eval(), exported, None)


def test_the_pair_that_hurts_stays_in_float(pixels: np.ndarray) -> None:
    data = to_onnx(3000.0)
    held = pixels[1::2]
    expected = ExportedModel.of(data, Path("x")).embed_pixels(held)
    with Quantiser(data, pixels[::2]) as quantiser:
        before = ExportedModel.of(quantiser.quantise(), Path("x")).embed_pixels(held)
    model, kept = quantise(data, pixels, Path("x"))
    after = ExportedModel.of(model, Path("x")).embed_pixels(held)
    assert agreement(expected, before) < 0.9
    # 0.98 where the processor multiplies 8 bits exactly (VNNI), 0.95 where their products saturate.
    assert agreement(expected, after) > 0.93
    assert 2 <= kept <= 3, "a quarter of twelve layers at most"
    assert {"layers.5.weight", "layers.6.weight"} <= floats(model)
    assert "layers.0.weight" not in floats(model)


def floats(model: bytes) -> set[str]:
    """The weights that a file holds in float32, without what is before their names."""
    initializers = onnx.load_from_string(model).graph.initializer
    names = [tensor.name for tensor in initializers if tensor.data_type == onnx.TensorProto.FLOAT]
    return {name.removeprefix("submodel.") for name in names}


def test_where_nothing_hurts_nothing_is_kept(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    data = to_onnx(1.0)
    monkeypatch.setattr(sfsc.deploy.float_layers, "ENOUGH", 0.5)
    model, kept = quantise(data, pixels, Path("x"))
    assert kept == 0
    with Quantiser(data, pixels[::2]) as quantiser:
        assert model == quantiser.quantise()


def test_a_layer_is_a_node_with_weights_and_what_follows(pixels: np.ndarray) -> None:
    layers = Quantiser(to_onnx(1.0), pixels).layers
    assert len(layers) == 12
    assert all("conv" in layer[0].lower() for layer in layers)


def test_agreement_is_that_of_rankings() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = rng.standard_normal(vectors.shape).astype(np.float32)
    assert agreement(vectors, vectors) == pytest.approx(1, abs=1e-6)
    assert agreement(vectors, 3 * vectors) == pytest.approx(1, abs=1e-6)
    assert abs(agreement(vectors, noise)) < 0.2
    by_noise = [agreement(vectors, vectors + scale * noise) for scale in (0.01, 0.03, 0.1)]
    assert by_noise == sorted(by_noise, reverse=True)
    assert by_noise[0] > ENOUGH > by_noise[2]
