"""Which blocks of a network can be left out, and sub-networks that leave them out."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfsc.backbones.sources import find_backbone
from sfsc.errors import SfscError
from sfsc.switchable.network import Switchable
from sfsc.switchable.stages import LeftOut, Stage, find_stages, left_out
from sfsc.switchable.tracer import analyse
from sfsc.widths import Widths
from tests.switchable.networks import Deep, with_lively_weights

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def stages_of(network: nn.Module, example: Tensor = IMAGES) -> tuple[Stage, ...]:
    network.eval()
    return find_stages(network, torch.export.export(network, (example,)).graph, example)


def test_stages_of_built_in_networks() -> None:
    """A block that halves the maps is the first of its stage, and the only one of some stages."""
    assert stages_of(find_backbone("small").build((32, 32))) == ()
    assert stages_of(find_backbone("resnet50").build((32, 32))) == tuple(
        tuple(f"layer{stage}.{block}" for block in range(depth))
        for stage, depth in enumerate((3, 4, 6, 3), start=1)
    )
    lite = stages_of(find_backbone("efficientnet_lite0").build((32, 32)))
    assert [len(stage) for stage in lite] == [2, 2, 3, 3, 4]


class Block(nn.Module):
    """A residual block, in one of several ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor, other: Tensor | float = 1.0) -> Tensor | tuple[Tensor]:
        return KINDS[self.kind](self, x, other)


def twice(block: Block, x: Tensor, _: Tensor | float) -> Tensor:
    x = x + block.inner(x)
    return x + block.inner(block.norm(x))


KINDS: dict[str, Callable[[Block, Tensor, Tensor | float], Tensor | tuple[Tensor]]] = {
    "twice": twice,
    "masked": lambda block, x, other: x + block.inner(x) * other,
    "relu": lambda block, x, _: F.relu(block.inner(x) + x),
    "normalised after": lambda block, x, _: block.norm(x + block.inner(x)),
    "doubled": lambda block, x, _: 2 * x + block.inner(x),
    "tuple": lambda block, x, _: (x + block.inner(x),),
    "second argument": lambda block, x, other: block.inner(x) + other,
}


class Chain(nn.Module):
    """Three blocks of a kind behind a linear layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(Block(kind) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            if block.kind == "masked":
                x = block(x, x.mean(1, keepdim=True))
            elif block.kind == "second argument":
                x = block(F.relu(x), x)
            else:
                x = block(x)
                x = x[0] if isinstance(x, tuple) else x
        return x


@pytest.mark.parametrize("kind", ["twice", "masked", "relu"])
def test_blocks_that_can_be_left_out(kind: str) -> None:
    assert stages_of(Chain(kind), torch.rand(2, 4)) == (("blocks.0", "blocks.1", "blocks.2"),)


@pytest.mark.parametrize("kind", ["normalised after", "doubled", "tuple", "second argument"])
def test_blocks_that_cannot_be_left_out(kind: str) -> None:
    assert stages_of(Chain(kind), torch.rand(2, 4)) == ()


def test_a_block_that_is_used_twice_stays() -> None:
    block = Block("twice")
    network = nn.Sequential(nn.Linear(4, 8), block, block)
    assert stages_of(network, torch.rand(2, 4)) == ()


def test_depths_are_nested_and_keep_the_first_block() -> None:
    stages = (("a", "b", "c", "d"), ("e", "f"))
    depths = (0.01, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 1.0)
    gone = [left_out(stages, depth) for depth in depths]
    assert [sorted(names) for names in gone[::2]] == [["b", "c", "d", "f"], ["c", "d", "f"], ["d"], []]
    assert all(more >= less for more, less in itertools.pairwise(gone))
    assert not any({"a", "e"} & names for names in gone)


class Shallow(Switchable):
    """A switchable network whose widths 0.49 and 0.75 have half of the blocks, and 0.5 has fewer."""

    def _depth(self, width: float) -> float:
        return {0.49: 0.5, 0.5: 0.3, 0.75: 0.5}.get(width, 1.0)


@pytest.fixture(scope="module")
def switchable() -> Switchable:
    network = with_lively_weights(Deep().eval())
    structure, _ = analyse(network, IMAGES)
    return Shallow(network, structure, Widths((0.5, 0.75, 1.0)), 1)


def test_a_sub_network_is_the_cut_one_without_its_blocks(switchable: Switchable) -> None:
    whole = Switchable(switchable.network, switchable.structure, switchable.widths, 1)
    for width, gone in ((0.5, ["2.1", "2.2", "2.4", "2.5"]), (0.75, ["2.2", "2.5"])):
        expected = copy.deepcopy(whole.at(width))
        for name in gone:
            expected.set_submodule(name, nn.Identity())
        found = switchable.submodel(width)
        assert [name for name, module in found.named_modules() if isinstance(module, LeftOut)] == gone
        torch.testing.assert_close(found(IMAGES), expected(IMAGES))
        assert {*found.state_dict()} == {*expected.state_dict()}
        assert switchable.parameter_count(width) < whole.parameter_count(width)
    torch.testing.assert_close(switchable(IMAGES), whole(IMAGES))


def test_the_parts_of_blocks_that_are_left_out_get_no_gradient(switchable: Switchable) -> None:
    corners = switchable.corners()
    assert corners["2.5.conv1.weight"][0].shape == (16, 32, 3, 3)
    assert corners["2.5.conv1.weight"][-1].shape == (32, 32, 3, 3)
    parts = [parts[0] for parts in corners.values()]
    output = switchable(IMAGES, 0.5).sum()
    gradients = torch.autograd.grad(output, parts, allow_unused=True)
    unused = {name for name, gradient in zip(corners, gradients, strict=True) if gradient is None}
    gone = ("2.1.", "2.2.", "2.4.", "2.5.")
    assert unused == {name for name in corners if name.startswith(gone)}


def test_two_widths_with_the_same_channels_may_differ_in_depth() -> None:
    network = Deep().eval()
    structure, _ = analyse(network, IMAGES)
    widths = Widths((0.49, 0.5, 1.0))
    with pytest.raises(SfscError, match="keep the same channels"):
        Switchable(network, structure, widths, 8)
    nested = Shallow(network, structure, widths, 8)
    assert nested.parameter_count(0.49) > nested.parameter_count(0.5)
