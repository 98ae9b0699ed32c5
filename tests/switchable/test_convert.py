import pytest
import torch
from torch import Tensor, nn

from sfsc.switchable.convert import select, sort_by_importance
from sfsc.switchable.tracer import analyse

EXAMPLE = torch.rand(2, 3, 32, 32)


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


def test_the_most_important_channels_come_first() -> None:
    network = Hidden()
    importance = torch.tensor([0.1, 3.0, 1.0, 2.0])
    with torch.no_grad():
        network.first.weight.copy_(importance.view(4, 1, 1, 1).expand(4, 3, 1, 1))
        network.last.weight.copy_(importance.view(1, 4, 1, 1).expand(2, 4, 1, 1))
    sort_by_importance(network, analyse(network, EXAMPLE)[0])
    assert network.first.weight[:, 0, 0, 0].tolist() == pytest.approx([3.0, 2.0, 1.0, 0.1])
    assert network.last.weight[0, :, 0, 0].tolist() == pytest.approx([3.0, 2.0, 1.0, 0.1])


def test_a_unit_of_several_channels_moves_as_one() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.GroupNorm(3, 6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    rows = torch.tensor([1.0, 2.0, 9.0, 0.1, 4.0, 4.0])
    with torch.no_grad():
        network[0].weight.copy_(rows.view(6, 1, 1, 1).expand(6, 3, 1, 1))
        network[3].weight.fill_(1.0)
    sort_by_importance(network, analyse(network, EXAMPLE)[0])
    moved = network[0].weight[:, 0, 0, 0].tolist()
    assert moved == pytest.approx([9.0, 0.1, 4.0, 4.0, 1.0, 2.0])


def test_first_positions_are_a_view_and_others_a_copy() -> None:
    weight = torch.rand(6, 4)
    first = select(weight, {0: torch.arange(3), 1: torch.arange(2)})
    assert first.data_ptr() == weight.data_ptr()
    torch.testing.assert_close(first, weight[:3, :2])
    others = select(weight, {0: torch.tensor([0, 1, 4])})
    assert others.data_ptr() != weight.data_ptr()
    torch.testing.assert_close(others, weight[[0, 1, 4]])
