from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sfsc import Config, Family
from sfsc.family.embedder import Embedder
from sfsc.family.spec import FamilySpec
from sfsc.switchable.tracer import analyse
from sfsc.training.aggregation.projection import random_order
from sfsc.training.checkpoint import TrainingState
from sfsc.training.forward import Forward
from sfsc.training.gradients import Batch, NestedGradients, family_step
from sfsc.training.losses.evidential import cosine_logits, evidential_loss
from sfsc.training.norm_statistics import with_width
from sfsc.training.optimizer import make_optimizer
from sfsc.training.random_widths import AnyWidth
from sfsc.training.recipes import RECIPES
from sfsc.widths import Widths

IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Concatenated(nn.Module):
    """A normalisation layer behind a concatenation, whose kept channels are not the first ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 1)
        self.bn = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.second(self.bn(torch.cat([x, self.first(x).relu()], 1)))


def shuffled_norms(family: Family) -> Family:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norms in (family.norms_of(index) for index in range(len(family.widths))):
            for norm in norms.values():
                for tensor in norm.parameters():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return family.train()


def small() -> Family:
    return shuffled_norms(Family.create("small", (0.25, 0.5, 1.0), 16, (32, 32)))


def concatenated() -> Family:
    network = Embedder(Concatenated(), 24, 8, (0.5,) * 3, (0.5,) * 3).train()
    spec = FamilySpec("python:networks:concatenated", Widths((0.25, 0.5, 1.0)), 8, (32, 32), round_to=1)
    structure, _ = analyse(network, torch.zeros(2, 3, 32, 32))
    return shuffled_norms(Family(spec, network, structure))


@pytest.mark.parametrize("make", [small, concatenated])
def test_a_random_width_is_the_sub_model_that_would_be_added(make: Callable[[], Family]) -> None:
    family = make()
    any_width = AnyWidth(family).train()
    before = [buffer.clone() for buffer in family.buffers()]
    for width in (0.3125, 0.40625, 0.75):
        added = with_width(family, width).train()
        torch.testing.assert_close(any_width.at(width)(IMAGES), added.at(width)(IMAGES))
    assert all(torch.equal(a, b) for a, b in zip(before, family.buffers(), strict=True))
    with torch.no_grad():
        for parameter in family.parameters():  # as a step of the optimizer does
            parameter.mul_(1.1)
    added = with_width(family, 0.75).train()
    torch.testing.assert_close(any_width.at(0.75)(IMAGES), added.at(0.75)(IMAGES))


def test_one_width_is_drawn_of_each_part_of_the_range_and_all_are() -> None:
    any_width = AnyWidth(small())
    assert any_width.between == [step / 32 for step in range(9, 32) if step != 16]
    drawn = [any_width.draw(2, seed) for seed in range(400)]
    assert drawn == [any_width.draw(2, seed) for seed in range(400)]
    counts = Counter(any_width.widths.ratios[index] for pair in drawn for index in pair)
    assert sorted(counts) == any_width.between
    middle = any_width.widths.index(any_width.between[11])
    assert all(low < middle <= high for low, high in drawn)


@pytest.mark.parametrize("make", [small, concatenated])
def test_normalisation_parameters_get_the_gradient_of_all_widths_that_use_them(
    make: Callable[[], Family],
) -> None:
    family = make()
    any_width = AnyWidth(family).train()
    classifier = nn.Parameter(torch.randn(4, family.dimension))
    config = Config(dataset="folder:x", widths=family.widths.ratios)
    widths = sorted([*family.widths, 0.375, 0.75, 0.875], reverse=True)
    active = [any_width.widths.index(width) for width in widths]
    state = TrainingState(family, [classifier], make_optimizer(family, [classifier], config))
    gradients = NestedGradients(any_width, [classifier], replace(RECIPES["sfsc"], aggregation="sum"))
    labels = torch.arange(8) % 4
    given = Batch(IMAGES, labels, random_order(len(active), 0), active)
    statistics = family_step(state, gradients, Forward(any_width, config), given, config)
    any_width.return_gradients()
    assert torch.isfinite(statistics.loss).nonzero().flatten().tolist() == sorted(active)

    norms = [norm for index in range(len(family.widths)) for norm in family.norms_of(index).values()]
    parameters = [parameter for norm in norms for parameter in norm.parameters()]
    found = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    assert len(found) == len(parameters)
    length = torch.stack([gradient.square().sum() for gradient in found]).sum().sqrt()

    @torch.no_grad()
    def total(distance: float) -> Tensor:
        """Return the sum of the losses after a move along the gradient."""
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.add_(gradient / length, alpha=distance)
        logits = [cosine_logits(any_width.at(width)(IMAGES), classifier, config.scale) for width in widths]
        return torch.stack([evidential_loss(one, labels)[0] for one in logits]).sum()

    slope = (total(0.01) - total(-0.02)) / 0.02
    torch.testing.assert_close(slope, length, rtol=0.02, atol=0)
