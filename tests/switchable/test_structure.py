from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfsc.backbones.builtin import BACKBONES
from sfsc.errors import SfscError
from sfsc.family.embedder import Embedder
from sfsc.switchable.structure import Structure
from sfsc.switchable.tracer import analyse
from tests.switchable.networks import small_network

EXAMPLE = torch.zeros(2, 3, 32, 32)


def structure_of(network: nn.Module, keep: tuple[str, ...] = ()) -> Structure:
    return analyse(network, EXAMPLE, keep)[0]


def members(structure: Structure) -> list[set[tuple[str, int]]]:
    """For each group the (parameter, dimension) pairs in which it lies."""
    groups: list[set[tuple[str, int]]] = [set() for _ in structure.groups]
    for name, dimensions in structure.layouts.items():
        for dimension, layout in dimensions.items():
            for group in layout.groups.unique().tolist():
                if group >= 0:
                    groups[group].add((name, dimension))
    return groups


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.slope = nn.PReLU(8)
        self.last = nn.Conv2d(8, 8, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.scale * self.norm(self.depthwise(x))
        return self.last(self.slope(x)).mean((2, 3))


def test_sums_depthwise_norms_and_scales_tie_channels() -> None:
    tied = {
        ("first.weight", 0), ("first.bias", 0), ("depthwise.weight", 0), ("norm.weight", 0), ("norm.bias", 0),
        ("norm.running_mean", 0), ("norm.running_var", 0), ("last.weight", 1), ("scale", 0),
        ("slope.weight", 0),
    }  # fmt: skip
    assert members(structure_of(Residual())) == [tied]


def test_what_is_kept_is_whole_and_so_is_what_it_is_tied_to() -> None:
    with pytest.raises(SfscError, match=r"no module of that name"):
        structure_of(Residual(), keep=("norms",))
    with pytest.raises(SfscError, match="nothing of the network can be cut"):
        structure_of(Residual(), keep=("norm",))


class Mixture(nn.Module):
    """The sum of two layers' outputs with shares that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.last = nn.Conv2d(8, 4, 1, bias=False)
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.logits.softmax(0)
        return self.last(shares[0] * self.first(x) + shares[1] * self.second(x))


def test_shares_of_a_mixture_tie_no_channels() -> None:
    structure = structure_of(Mixture())
    assert members(structure) == [{("first.weight", 0), ("second.weight", 0), ("last.weight", 1)}]
    assert structure.groups[0].size == 8


@pytest.mark.parametrize("name", BACKBONES)
def test_all_but_the_image_and_the_embedding_is_cut(name: str) -> None:
    network = Embedder.build(BACKBONES[name], (32, 32), 16)
    structure = structure_of(network)
    state = network.state_dict()
    channels = {
        (key, d) for key, value in state.items() for d in range(min(2, value.ndim)) if value.shape[d] > 1
    }
    cut = {
        (key, d): len(layout.groups) for key, dims in structure.layouts.items() for d, layout in dims.items()
    }
    stem = next(
        key for key, value in state.items() if value.ndim == 4 and value.shape[1] == 3 and value.shape[0] > 1
    )
    ends = {("mean", 1), ("std", 1), (stem, 1), ("linear.weight", 0)}
    norm = {(f"norm.{key}", 0) for key in ("weight", "bias", "running_mean", "running_var")}
    assert channels - set(cut) == ends | norm
    assert all(state[key].shape[d] == size for (key, d), size in cut.items())


def test_behind_a_concatenation_lie_several_groups() -> None:
    structure = structure_of(small_network("densenet"))
    layout = structure.layouts["network.blocks.0.1.conv1.weight"][1]
    sizes = [structure.groups[group].size for group in dict.fromkeys(layout.groups.tolist())]
    assert sizes == [16, 8]
    kept = layout.kept(structure.counts(0.5))
    assert kept.tolist() == [*range(8), *range(16, 20)]


class Attention(nn.Module):
    """Attention over the pixels with one layer for queries, keys and values, as in timm."""

    def __init__(self, heads: int = 4, normalised: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 8, 8)
        self.heads = heads
        self.qkv = nn.Linear(32, 96)
        self.norm = nn.LayerNorm(32 // heads) if normalised else nn.Identity()
        self.projection = nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (self.norm(q) @ self.norm(k).transpose(-2, -1)).softmax(-1)
        x = x + self.projection((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))
        return self.head(x.mean(1))


@pytest.mark.parametrize("normalised", [False, True])
def test_attention_is_cut_by_whole_heads(normalised: bool) -> None:
    structure = structure_of(Attention(normalised=normalised))
    layout = structure.layouts["qkv.weight"][0]
    assert structure.groups[layout.groups[0]].size == 4
    assert structure.groups[layout.groups[0]].channels == 8
    kept = layout.kept(structure.counts(0.5))
    assert kept.tolist() == [*range(16), *range(32, 48), *range(64, 80)]
    assert "norm.weight" not in structure.layouts


class Tokens(nn.Module):
    """A class token and a table of positions, as in ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.zeros(1, 17, 16))
        self.unused = nn.Parameter(torch.zeros(1, 16))
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.encoder(x)[:, 0])


def test_tokens_and_positions_are_channels_of_the_stream() -> None:
    groups = members(structure_of(Tokens()))
    stream = next(group for group in groups if ("stem.weight", 0) in group)
    assert {("token", 2), ("positions", 2), ("encoder.norm1.weight", 0), ("head.weight", 1)} <= stream
    assert not any(name == "unused" for group in groups for name, _ in group)


class Wrapped(nn.Module):
    """A convolution, something over 16 channels, and a linear layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.inner = inner
        self.head = nn.LazyLinear(5)
        self.eval()(EXAMPLE)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.stem(x))
        return self.head(x.mean((2, 3)) if x.ndim == 4 else x)


@pytest.mark.parametrize(
    ("layer", "size", "channels"),
    [
        (nn.GroupNorm(4, 16), 4, 4),
        (nn.GroupNorm(1, 16), 16, 1),
        (nn.Conv2d(16, 32, 3, groups=4), 4, 4),
        (nn.Conv2d(16, 32, 3, groups=16), 16, 1),
        (nn.InstanceNorm2d(16, affine=True), 16, 1),
        (nn.GLU(1), 8, 1),
        (nn.PixelShuffle(2), 4, 1),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), 16, 1),
        (nn.Softmax2d(), 1, 16),
    ],
)
def test_units_are_what_can_only_be_cut_together(layer: nn.Module, size: int, channels: int) -> None:
    structure = structure_of(Wrapped(layer))
    group = structure.groups[structure.layouts["stem.weight"][0].groups[0]]
    assert (group.size, group.channels) == (size, channels)


def test_counts_are_rounded_up_but_never_beyond_the_full_width() -> None:
    structure = structure_of(Wrapped(nn.Conv2d(16, 20, 3)))
    assert structure.counts(0.3) == [5, 6]
    assert structure.counts(0.3, 8) == [8, 8]
    assert structure.counts(0.9, 8) == [16, 20]
    assert structure.counts(0.01) == [1, 1]


class Called(nn.Module):
    """A module that does with its input what a function says; some functions need a parameter."""

    def __init__(self, function: Callable[[Tensor, nn.Parameter], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x, _: torch.sort(x, 1).values, "aten.sort"),
        (lambda x, w: F.conv2d(x, (w / 2)[:, :, None, None]), "weight is computed"),
        (lambda x, w: F.linear(x.mean((2, 3)), w) + w.mean(0), "weight is used twice"),
        (lambda x, _: F.layer_norm(x, x.shape[1:]), "channels and space together"),
        (lambda x, _: x if x.sum() > 0 else -x, r"analysed, torch\.export says"),
    ],
)
def test_what_cannot_be_cut_is_named_with_the_remedy(
    function: Callable[[Tensor, nn.Parameter], Tensor], reason: str
) -> None:
    network = Wrapped(Called(function))
    with pytest.raises(SfscError, match=rf"^inner cannot be .*{reason}") as caught:
        structure_of(network)
    assert "\n" not in str(caught.value)
    if "export" not in reason:
        assert str(caught.value).endswith("keep=['inner'] leaves it whole")
        with pytest.raises(SfscError, match="nothing of the network can be cut"):
            structure_of(network, keep=("inner",))


def test_an_example_of_the_wrong_shape_is_named_with_its_module() -> None:
    with pytest.raises(SfscError, match=r"^stem cannot be analysed, torch\.export says: .*channels"):
        analyse(Wrapped(nn.ReLU()), torch.zeros(2, 1, 32, 32))


def test_the_network_is_left_as_it_was() -> None:
    network = Residual().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    structure_of(network)
    assert network.norm.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network._forward_hooks
