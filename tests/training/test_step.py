import pytest
import torch
from torch import nn

from sfsc.aggregation.projection import random_order
from sfsc.losses.evidential import cosine_logits, evidential_loss
from sfsc.recipes import RECIPES, Recipe
from sfsc.switchable.backbones import BACKBONES
from sfsc.switchable.family import Family
from sfsc.training.checkpoint import TrainingState
from sfsc.training.config import Config
from sfsc.training.optimizer import make_optimizer
from sfsc.training.step import NestedGradients, StepStatistics, family_step

CLASSES = 40


def setting(
    backbone: str = "small", granularity: str = "tensor", classes: int = CLASSES
) -> tuple[Family, nn.Parameter, NestedGradients]:
    torch.manual_seed(0)
    family = Family.create(backbone, image_size=(32, 32)).train()
    classifier = nn.Parameter(torch.randn(classes, 128))
    return family, classifier, NestedGradients(family, classifier, granularity)


def batch(size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size, 3, 32, 32, generator=generator), torch.arange(size) % CLASSES


def plain_sum(grams: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return torch.ones(grams.shape[:-1])


def run_step(
    family: Family, classifier: nn.Parameter, gradients: NestedGradients, recipe: Recipe, **settings: object
) -> StepStatistics:
    config = Config(dataset="folder:x", **settings)
    state = TrainingState(family, classifier, make_optimizer(family, classifier, config))
    return family_step(state, gradients, *batch(), recipe, config, random_order(4, 0))


def test_summed_corners_are_the_gradient_of_the_summed_losses() -> None:
    family, classifier, gradients = setting()
    run_step(family, classifier, gradients, Recipe(evidential_loss, plain_sum))
    images, labels = batch()
    # An independent route: full-size weights cut inside the graph, one backward over the sum.
    full = dict(family.network.named_parameters())
    total = torch.zeros(())
    for width in family.widths:
        network = family.at(width)
        parts = {}
        for name, part in network.named_parameters():
            source = full[name] if name in family.corners() else part
            parts[name] = source[tuple(slice(0, size) for size in part.shape)]
        embeddings = torch.func.functional_call(network, parts, images)
        total = total + evidential_loss(cosine_logits(embeddings, classifier, 10.0), labels)[0]
    parameters = [*family.parameters(), classifier]
    for parameter, expected in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("granularity", ["tensor", "layer", "model"])
def test_every_granularity_sets_every_gradient(granularity: str) -> None:
    family, classifier, gradients = setting(granularity=granularity)
    run_step(family, classifier, gradients, RECIPES["sfsc"])
    for parameter in [*family.parameters(), classifier]:
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
        assert torch.isfinite(parameter.grad).all()
    assert gradients.held_elements() == 0


def test_granularities_group_parameters_as_they_say() -> None:
    counts = {g: int(setting(granularity=g)[2].groups.max()) + 1 for g in ("tensor", "layer", "model")}
    family = setting("resnet18")[0]
    shared = len(family.corners()) + 1  # and the classifier
    assert counts["model"] == 1
    assert int(setting("resnet18")[2].groups.max()) + 1 == shared
    assert counts["layer"] <= counts["tensor"]


def test_projection_moves_the_gradient_where_sub_models_conflict() -> None:
    family, classifier, gradients = setting()
    run_step(family, classifier, gradients, Recipe(evidential_loss, plain_sum))
    summed = {name: p.grad.clone() for name, p in family.named_parameters()}
    run_step(family, classifier, gradients, RECIPES["sfsc"])
    shared = set(family.corners())
    names = dict(family.named_parameters())
    moved = [n for n in names if not torch.allclose(names[n].grad, summed[n], rtol=1e-3, atol=1e-7)]
    assert any(name.removeprefix("network.") in shared for name in moved)
    norms = [n for n in names if n.removeprefix("network.") not in shared]
    assert not set(norms) & set(moved), "a sub-model's own parameters never conflict"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_held_amount_to_at_most_twice_the_parameters(backbone: str) -> None:
    family, classifier, gradients = setting(backbone)
    held = []

    def count(grams: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        held.append(gradients.held_elements())
        return plain_sum(grams, order)

    run_step(family, classifier, gradients, Recipe(evidential_loss, count))
    parameters = sum(p.numel() for p in family.parameters()) + classifier.numel()
    storage = {
        g.untyped_storage().data_ptr(): g.untyped_storage().nbytes() // 4
        for g in [p.grad for p in family.parameters()]
    }
    assert 1.5 * parameters < held[0] <= 2.0 * parameters
    assert sum(storage.values()) <= sum(p.numel() for p in family.parameters())


def test_bfloat16_trains_with_float32_losses() -> None:
    family, classifier, gradients = setting()
    statistics = run_step(family, classifier, gradients, RECIPES["sfsc"], precision="bfloat16")
    assert statistics.loss.dtype == torch.float32
    assert torch.isfinite(statistics.loss).all()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in family.parameters())


def test_statistics_are_per_width() -> None:
    family, classifier, gradients = setting()
    statistics = run_step(family, classifier, gradients, RECIPES["sfsc"])
    for values in (statistics.loss, statistics.uncertainty, statistics.conflicts):
        assert values.shape == (4,)
    assert ((statistics.uncertainty > 0) & (statistics.uncertainty <= 1)).all()
    assert ((statistics.conflicts >= 0) & (statistics.conflicts <= 1)).all()


def test_the_memory_layout_does_not_change_the_result() -> None:
    losses = []
    for channels_last in (False, True):
        family, classifier, gradients = setting("efficientnet_lite0")
        statistics = run_step(family, classifier, gradients, RECIPES["sfsc"], channels_last=channels_last)
        losses.append(statistics.loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
