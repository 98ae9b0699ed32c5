import copy

import pytest
import torch
from torch import Tensor, nn

from sfsc.switchable.backbones import BACKBONES
from sfsc.switchable.convert import sort_by_importance
from sfsc.switchable.structure import channel_groups

EXAMPLE = torch.rand(2, 3, 32, 32)


def with_lively_norms(network: nn.Module) -> nn.Module:
    """Statistics and affine parameters as after training: a wrong permutation of them then shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_sorting_preserves_the_function(name: str) -> None:
    torch.manual_seed(0)
    network = with_lively_norms(BACKBONES[name].build())
    original = copy.deepcopy(network)
    sort_by_importance(network, channel_groups(network, EXAMPLE))
    weights = dict(original.named_parameters())
    moved = [name for name, p in network.named_parameters() if not torch.equal(p, weights[name])]
    assert len(moved) > len(weights) / 2
    expected = original(EXAMPLE)
    torch.testing.assert_close(network(EXAMPLE), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


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
    sort_by_importance(network, channel_groups(network, EXAMPLE))
    assert network.first.weight[:, 0, 0, 0].tolist() == pytest.approx([3.0, 2.0, 1.0, 0.1])
    assert network.last.weight[0, :, 0, 0].tolist() == pytest.approx([3.0, 2.0, 1.0, 0.1])
