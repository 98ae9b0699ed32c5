import copy
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfsc import to_switchable
from sfsc.errors import SfscError
from sfsc.switchable.network import Switchable
from tests.switchable.networks import SMALL_NETWORKS, small_network

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WIDTHS = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module", params=SMALL_NETWORKS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Switchable]:
    """A dense network and the switchable one that was made of it."""
    network = small_network(request.param)
    return network, to_switchable(network, IMAGES, round_to=1)


def test_the_full_network_computes_what_it_did_before(pair: tuple[nn.Module, Switchable]) -> None:
    dense, switchable = pair
    moved = [
        name
        for name, parameter in switchable.network.named_parameters()
        if not torch.equal(parameter, dense.get_parameter(name))
    ]
    assert len(moved) > len(list(dense.parameters())) / 2
    expected = dense(IMAGES)
    torch.testing.assert_close(
        switchable(IMAGES), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
    )


def test_the_switched_forward_equals_the_sub_model(pair: tuple[nn.Module, Switchable]) -> None:
    for width in WIDTHS:
        sub = pair[1].submodel(width)
        assert type(sub.network) is type(pair[0].network)
        torch.testing.assert_close(sub(IMAGES), pair[1](IMAGES, width), rtol=1e-5, atol=1e-5)


def test_narrow_sub_models_are_smaller_and_not_scaled_copies(pair: tuple[nn.Module, Switchable]) -> None:
    counts = [pair[1].parameter_count(width) / pair[1].parameter_count(1.0) for width in WIDTHS]
    assert all(r**2 / 2 < count < r**2 + 0.15 for r, count in zip(WIDTHS, counts, strict=True))
    outputs = [pair[1](IMAGES, width) for width in WIDTHS]
    assert not torch.allclose(outputs[0], outputs[-1], atol=1e-3)


def test_sub_models_export_with_any_batch_size(pair: tuple[nn.Module, Switchable]) -> None:
    sub = pair[1].submodel(0.5)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(sub, (IMAGES,), dynamic_shapes=({0: batch},))
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(images), sub(images), rtol=1e-4, atol=1e-4)


def test_every_width_follows_the_full_weights(pair: tuple[nn.Module, Switchable]) -> None:
    switchable = copy.deepcopy(pair[1])
    with torch.no_grad():
        before = [switchable(IMAGES, width) for width in WIDTHS]
        for corners in switchable.corners().values():
            corners[-1].mul_(0.9)
        for width, old in zip(WIDTHS, before, strict=True):
            assert not torch.allclose(switchable(IMAGES, width), old, rtol=1e-4)
            expected = copy.deepcopy(switchable).submodel(width)(IMAGES)
            torch.testing.assert_close(switchable(IMAGES, width), expected, rtol=1e-5, atol=1e-5)


def test_parts_in_their_orders_are_nested(pair: tuple[nn.Module, Switchable]) -> None:
    orders = pair[1].corner_orders()
    for name, corners in pair[1].corners().items():
        for order in zip(*[list(o.items()) for o in orders.get(name, [])], strict=True):
            for index, (dimension, positions) in enumerate(order):
                corners[index] = corners[index].index_select(dimension, positions)
        for narrow, wide in pairwise(corners):
            inner = wide
            for dimension, size in enumerate(narrow.shape):
                inner = inner.narrow(dimension, 0, size)
            assert torch.equal(narrow, inner), name


def test_only_concatenations_and_fused_layers_need_copies() -> None:
    assert to_switchable(small_network("resnet"), IMAGES).corner_orders() == {}
    orders = to_switchable(small_network("densenet"), IMAGES).corner_orders()
    assert "network.blocks.0.1.conv1.weight" in orders
    assert "network.blocks.0.1.conv2.weight" not in orders


def test_the_model_is_copied_not_changed() -> None:
    network = small_network("resnet").train()
    before = copy.deepcopy(network.state_dict())
    switchable = to_switchable(network, IMAGES)
    with torch.no_grad():
        next(switchable.parameters()).zero_()
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_sub_models_need_nothing_of_this_project(tmp_path: Path) -> None:
    path = tmp_path / "sub.pt"
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    sub = to_switchable(network, IMAGES, round_to=1).submodel(0.5)
    torch.save(sub, path)
    code = (
        "import sys, torch; sys.modules['sfsc'] = None\n"
        f"print(torch.load({str(path)!r}, weights_only=False)(torch.ones(1, 3, 32, 32)).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(printed) == [pytest.approx(sub(torch.ones(1, 3, 32, 32))[0].tolist(), rel=1e-4)]


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 1)
            self.first, self.second = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
            self.second.weight = self.first.weight
            self.head = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(self.stem(x)).relu()).mean((2, 3)))

    sub = to_switchable(Tied(), IMAGES, round_to=1).submodel(0.5)
    assert sub.second.weight is sub.first.weight
    assert sub.first.weight.shape[:2] == (8, 8)


class MultiHead(nn.Module):
    """Attention whose number of heads its own code needs."""

    def __init__(self, kept_as: str = "heads") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 8, 8)
        self.attention = _Attention(kept_as)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x)).mean(1))


class _Attention(nn.Module):
    def __init__(self, kept_as: str) -> None:
        super().__init__()
        self.qkv, self.projection = nn.Linear(32, 96), nn.Linear(32, 32)
        self.kept_as = kept_as
        self.heads = 4
        self.list = [4]

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        heads = {"heads": self.heads, "code": 4, "list": self.list[0]}[self.kept_as]
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, scale=0.3)
        return self.projection(x.transpose(1, 2).reshape(batch, tokens, -1))


def test_sizes_that_modules_keep_are_changed() -> None:
    switchable = to_switchable(MultiHead(), IMAGES)
    assert [switchable.submodel(width).attention.heads for width in WIDTHS] == [1, 2, 3, 4]


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def convolutions(inner: nn.Module) -> nn.Module:
    layers = [nn.Conv2d(3, 16, 1), nn.Sequential(nn.ReLU(), inner), nn.Conv2d(16, 16, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))


@pytest.mark.parametrize(
    ("make", "module"),
    [
        (lambda: MultiHead("code"), "attention"),
        (lambda: convolutions(Shuffle()), r"1\.1"),
    ],
)
def test_a_size_in_a_modules_code_is_found(make: Callable[[], nn.Module], module: str) -> None:
    with pytest.raises(SfscError, match=rf"^{module} cannot be cut, its code seems to hold a size") as caught:
        to_switchable(make(), IMAGES, round_to=1)
    assert "\n" not in str(caught.value)


def test_kept_modules_are_whole_at_every_width() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 32, 1), MultiHead("code"))
    network[3].stem = nn.Conv2d(32, 32, 8, 8)
    sub = to_switchable(network, IMAGES, keep=["3.attention"]).submodel(0.25)
    assert sub[3].attention.qkv.weight.shape == (96, 32)
    assert sub[0].weight.shape[0] == 8


def test_evaluation_without_gradients_uses_contiguous_weights() -> None:
    switchable = to_switchable(small_network("resnet"), IMAGES).eval()
    storage = {p.untyped_storage().data_ptr() for p in switchable.network.parameters()}
    shared = {p.untyped_storage().data_ptr() for p in switchable.at(0.5).parameters()}
    assert shared & storage
    with torch.no_grad():
        packed = switchable.at(0.5)
        assert all(p.is_contiguous() for p in packed.parameters())
        assert switchable.at(0.5) is packed
        next(iter(switchable.corners().values()))[-1].add_(1.0)
        assert switchable.at(0.5) is not packed
        switchable.train()
        assert {p.untyped_storage().data_ptr() for p in switchable.at(0.5).parameters()} == shared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (0.6, 0.61, 1.0), "round_to": 1}, r"widths 0\.6 and 0\.61 keep the same channels"),
        ({"widths": (0.5, 0.75)}, r"end in 1\.0"),
        ({"round_to": 0}, "round_to is a number of channels, at least 1, got 0"),
        ({"keep": ["0"]}, "nothing of the network can be cut"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 2, 1))
    with pytest.raises(SfscError, match=message):
        to_switchable(network, IMAGES, **arguments)


@pytest.mark.long
def test_sub_models_compile(pair: tuple[nn.Module, Switchable]) -> None:
    with torch.no_grad():
        compiled = torch.compile(pair[1].submodel(0.5))
        torch.testing.assert_close(compiled(IMAGES), pair[1](IMAGES, 0.5), rtol=1e-3, atol=1e-3)
