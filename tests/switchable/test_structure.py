import pytest
import torch
from torch import Tensor, nn

from sfsc.errors import SfscError
from sfsc.switchable.backbones import BACKBONES
from sfsc.switchable.structure import ChannelGroup, channel_groups

EXAMPLE = torch.zeros(2, 3, 32, 32)


def members(groups: list[ChannelGroup]) -> list[set[tuple[str, int]]]:
    return [set(group.members) for group in groups]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 8, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.scale * self.norm(self.depthwise(x))
        return self.last(x.relu()).mean((2, 3))


def test_sums_depthwise_and_norms_tie_channels() -> None:
    groups = channel_groups(Residual(), EXAMPLE)
    tied = {
        ("first.weight", 0), ("first.bias", 0), ("depthwise.weight", 0), ("norm.weight", 0), ("norm.bias", 0),
        ("norm.running_mean", 0), ("norm.running_var", 0), ("last.weight", 1), ("scale", 0),
    }  # fmt: skip
    assert members(groups) == [{("first.weight", 1)}, tied, {("last.weight", 0)}]


def test_the_image_and_the_output_are_whole() -> None:
    assert [group.whole for group in channel_groups(Residual(), EXAMPLE)] == [True, False, True]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_of_a_backbone_is_in_a_group_of_its_size(name: str) -> None:
    network = BACKBONES[name].build()
    groups = channel_groups(network, EXAMPLE)
    state = {key: value for key, value in network.state_dict().items() if value.ndim}
    dimensions = [member for group in groups for member in group.members]
    assert len(dimensions) == len(set(dimensions))
    assert {key for key, _ in dimensions} == set(state)
    for group in groups:
        assert {state[key].shape[dimension] for key, dimension in group.members} == {group.size}


def test_the_network_is_left_in_its_mode() -> None:
    network = Residual().train()
    channel_groups(network, EXAMPLE)
    assert network.norm.training


class Shuffled(nn.Module):
    def __init__(self, broken: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.inner = nn.Sequential(nn.ReLU(), broken)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.stem(x))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (nn.ChannelShuffle(2), "channel_shuffle"),
        (nn.Conv2d(8, 8, 1, groups=2), "2 groups"),
        (nn.Flatten(), "pool it first"),
        (nn.ConstantPad3d((0, 0, 0, 0, 1, 1), 0.0), "pads the channels"),
    ],
)
def test_what_cannot_be_cut_is_named_with_its_module(broken: nn.Module, reason: str) -> None:
    with pytest.raises(SfscError, match=rf"^inner\.1 cannot be cut: .*{reason}"):
        channel_groups(Shuffled(broken), EXAMPLE)


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_exported_is_one_line() -> None:
    with pytest.raises(
        SfscError, match=r"^the network cannot be analysed, torch\.export says: .+$"
    ) as caught:
        channel_groups(DataDependent(), EXAMPLE)
    assert "\n" not in str(caught.value)
