from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from sfsc.backbones.builtin import BACKBONES
from sfsc.errors import SfscError
from sfsc.family.embedder import Embedder
from sfsc.family.family import Family
from sfsc.family.spec import FamilySpec
from sfsc.switchable.tracer import analyse
from sfsc.training.aggregation.projection import random_order
from sfsc.training.checkpoint import TrainingState
from sfsc.training.config import Config
from sfsc.training.forward import Forward
from sfsc.training.gradients import Batch, NestedGradients, StepStatistics, family_step
from sfsc.training.losses.evidential import cosine_logits, evidential_loss
from sfsc.training.optimizer import make_optimizer
from sfsc.training.recipes import RECIPES, Recipe
from sfsc.widths import Widths

CLASSES = 40
SFSC = RECIPES["sfsc"]
SUMMED = replace(SFSC, aggregation="sum")


def setting(
    backbone: str = "small", granularity: str = "tensor", recipe: Recipe = SFSC
) -> tuple[Family, nn.Parameter, NestedGradients]:
    torch.manual_seed(0)
    family = Family.create(backbone, image_size=(32, 32)).train()
    classifier = nn.Parameter(torch.randn(CLASSES, 128))
    return family, classifier, NestedGradients(family, [classifier], replace(recipe, granularity=granularity))


def batch(size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size, 3, 32, 32, generator=generator), torch.arange(size) % CLASSES


def run_step(
    family: Family, classifier: nn.Parameter, gradients: NestedGradients, **settings: object
) -> StepStatistics:
    config = Config(dataset="folder:x", **settings)
    state = TrainingState(family, [classifier], make_optimizer(family, [classifier], config))
    given = Batch(*batch(), random_order(4, 0), (3, 2, 1, 0))
    return family_step(state, gradients, Forward(family, config), given, config)


def test_summed_corners_are_the_gradient_of_the_summed_losses() -> None:
    family, classifier, gradients = setting(recipe=SUMMED)
    run_step(family, classifier, gradients)
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


@pytest.mark.parametrize("granularity", ["kernel", "tensor", "layer", "model"])
def test_every_granularity_sets_every_gradient(granularity: str) -> None:
    family, classifier, gradients = setting(granularity=granularity)
    run_step(family, classifier, gradients)
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


def test_kernels_are_the_channels_of_layers_and_reported_by_layer() -> None:
    family, classifier, gradients = setting("resnet18", "kernel")
    parameters = [corners[-1] for corners in family.corners().values()]
    channels = sum(len(p) for p in parameters if p.ndim > 1)
    assert len(gradients.groups.unique()) == channels + CLASSES
    statistics = run_step(family, classifier, gradients)
    layers = {name.rpartition(".")[0] for name in family.corners()}
    assert len(statistics.conflicts_by_group) == len(layers) + 1


def test_a_sub_model_alone_sets_its_own_gradients_only() -> None:
    family, classifier, gradients = setting()
    config = Config(dataset="folder:x", extra_steps=[1, 0, 0])
    state = TrainingState(family, [classifier], make_optimizer(family, [classifier], config))
    before = {name: p.detach().clone() for name, p in family.named_parameters()}
    kept = classifier.detach().clone()
    given = Batch(*batch(), random_order(4, 0), [0])
    statistics = family_step(state, gradients, Forward(family, config), given, config)
    state.optimizer.step()
    assert torch.isfinite(statistics.loss[0])
    assert torch.isnan(statistics.loss[1:]).all()
    assert torch.isnan(statistics.conflicts_by_group).all()
    assert torch.equal(classifier, kept)
    shared = {f"network.{name}": corners[0].shape for name, corners in family.corners().items()}
    for name, parameter in family.named_parameters():
        moved = parameter != before[name]
        if name in shared:
            corner = torch.zeros_like(moved)
            corner[tuple(slice(0, size) for size in shared[name])] = True
            assert not moved[~corner].any(), name
            assert moved.any(), name
        else:
            assert bool(moved.any()) == name.startswith("norms.0."), name
    # The sub-model sees the change at once, in training and in evaluation.
    again = family.eval().embed(batch()[0], 0.25)
    assert not torch.equal(again, _embedded(before, family))


def _embedded(weights: dict[str, torch.Tensor], family: Family) -> torch.Tensor:
    with torch.no_grad():
        for name, parameter in family.named_parameters():
            parameter.copy_(weights[name])
    return family.embed(batch()[0], 0.25)


def test_projection_moves_the_gradient_where_sub_models_conflict() -> None:
    family, classifier, gradients = setting(recipe=SUMMED)
    run_step(family, classifier, gradients)
    summed = {name: p.grad.clone() for name, p in family.named_parameters()}
    family, classifier, gradients = setting()
    run_step(family, classifier, gradients)
    shared = set(family.corners())
    names = dict(family.named_parameters())
    moved = [n for n in names if not torch.allclose(names[n].grad, summed[n], rtol=1e-3, atol=1e-7)]
    assert any(name.removeprefix("network.") in shared for name in moved)
    norms = [n for n in names if n.removeprefix("network.") not in shared]
    assert not set(norms) & set(moved), "a sub-model's own parameters never conflict"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_held_amount_to_at_most_twice_the_parameters(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, classifier, gradients = setting(backbone)
    held = []
    aggregate = gradients.aggregate

    def count(order: torch.Tensor) -> torch.Tensor:
        held.append(gradients.held_elements())
        return aggregate(order)

    monkeypatch.setattr(gradients, "aggregate", count)
    run_step(family, classifier, gradients)
    parameters = sum(p.numel() for p in family.parameters()) + classifier.numel()
    storage = {
        g.untyped_storage().data_ptr(): g.untyped_storage().nbytes() // 4
        for g in [p.grad for p in family.parameters()]
    }
    assert 1.5 * parameters < held[0] <= 2.0 * parameters
    assert sum(storage.values()) <= sum(p.numel() for p in family.parameters())


def test_bfloat16_trains_with_float32_losses() -> None:
    family, classifier, gradients = setting()
    statistics = run_step(family, classifier, gradients, precision="bfloat16")
    assert statistics.loss.dtype == torch.float32
    assert torch.isfinite(statistics.loss).all()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in family.parameters())


def test_statistics_are_per_width() -> None:
    family, classifier, gradients = setting()
    statistics = run_step(family, classifier, gradients)
    for values in (statistics.loss, statistics.uncertainty, statistics.conflicts):
        assert values.shape == (4,)
    assert ((statistics.uncertainty > 0) & (statistics.uncertainty <= 1)).all()
    assert ((statistics.conflicts >= 0) & (statistics.conflicts <= 1)).all()


def test_the_memory_layout_does_not_change_the_result() -> None:
    losses = []
    for channels_last in (False, True):
        family, classifier, gradients = setting("efficientnet_lite0")
        statistics = run_step(family, classifier, gradients, channels_last=channels_last)
        losses.append(statistics.loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("round_to", "channels_last"), [(1, [False, True, True, True]), (8, [True] * 4)])
def test_layers_that_break_in_the_channels_last_layout_keep_the_other(
    round_to: int, channels_last: list[bool]
) -> None:
    # The strided 1x1 convolutions of `small` have 2 channels at the smallest width, but for rounding.
    family = Family.create("small", widths=(0.125, 0.5, 0.75, 1.0), round_to=round_to, image_size=(32, 32))
    config = Config(dataset="folder:x", channels_last=True)
    formats = Forward(family, config).formats.values()
    assert [form == torch.channels_last for form in formats] == channels_last
    classifier = nn.Parameter(torch.randn(CLASSES, 128))
    gradients = NestedGradients(family.train(), [classifier], SFSC)
    assert torch.isfinite(run_step(family, classifier, gradients, channels_last=True).loss).all()


def count_compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What is given to torch.compile from now on; nothing is compiled."""
    compiled: list[nn.Module] = []

    def note(network: nn.Module) -> nn.Module:
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", note)
    return compiled


def test_each_sub_model_is_compiled_once_and_asked_for_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = count_compiled(monkeypatch)
    family, _, _ = setting()
    asked: list[float] = []
    at = family.at
    monkeypatch.setattr(family, "at", lambda width: asked.append(width) or at(width))
    forward = Forward(family, Config(dataset="folder:x", compile=True))
    for _ in range(2):
        for width in family.widths:
            forward(batch()[0], width)
    assert asked == [*family.widths] * 2
    assert [id(network) for network in compiled] == [id(at(width)) for width in family.widths]


def test_nothing_is_compiled_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = count_compiled(monkeypatch)
    family, _, _ = setting()
    Forward(family, Config(dataset="folder:x"))(batch()[0], 0.5)
    assert compiled == []


@pytest.mark.long
def test_a_compiled_family_trains_alike_and_is_saved_alike(tmp_path: Path) -> None:
    weights, losses = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        family = Family.create("small", (0.5, 1.0), image_size=(32, 32)).train()
        classifier = nn.Parameter(torch.randn(CLASSES, 128))
        config = Config(
            dataset="folder:x", widths=(0.5, 1.0), compile=compiled, optimizer="sgd", lr=1e-4, clip_norm=1
        )
        state = TrainingState(family, [classifier], make_optimizer(family, [classifier], config))
        gradients = NestedGradients(family, [classifier], SFSC)
        forward = Forward(family, config)
        for step in range(3):
            given = Batch(*batch(), random_order(2, step), (1, 0))
            statistics = family_step(state, gradients, forward, given, config)
            nn.utils.clip_grad_norm_(state.parameters(), config.clip_norm)
            state.optimizer.step()
        losses.append(statistics.loss)
        family.save(tmp_path / str(compiled))
        loaded = Family.load(tmp_path / str(compiled))
        assert loaded.fingerprint == family.fingerprint
        assert {type(m) for m in family.submodel(0.5).modules()} == {
            type(m) for m in loaded.network.modules()
        }
        weights.append(loaded.state_dict())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-4)


def test_what_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(images: torch.Tensor) -> torch.Tensor:
        raise TorchDynamoException("InvalidCxxCompiler: no working C++ compiler\nmore\nand more")

    monkeypatch.setattr(torch, "compile", lambda network: fail)
    family, _, _ = setting()
    forward = Forward(family, Config(dataset="folder:x", compile=True))
    with pytest.raises(SfscError, match=r"cannot be compiled .* compiler\): train without compile") as caught:
        forward(batch()[0], 0.5)
    assert "\n" not in str(caught.value)


class Concatenated(nn.Module):
    """The second convolution sees the first's output behind the stem's; a third parameter is unused."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 1)
        self.second = nn.Conv2d(32, 24, 1)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return self.second(torch.cat([x, self.first(x).relu()], 1))


def test_gradients_behind_a_concatenation_arrive_where_they_belong() -> None:
    torch.manual_seed(0)
    network = Embedder(Concatenated(), 24, 8, (0.5,) * 3, (0.5,) * 3).train()
    spec = FamilySpec("python:networks:concatenated", Widths(), 8, (32, 32), round_to=1)
    structure, _ = analyse(network, torch.zeros(2, 3, 32, 32))
    family = Family(spec, network, structure).train()
    classifier = nn.Parameter(torch.randn(CLASSES, 8))
    gradients = NestedGradients(family, [classifier], SUMMED)
    images, labels = batch()
    weight = family.network.backbone.second.weight
    expected = torch.zeros_like(weight)
    for counts, width in zip(family.counts, family.widths, strict=True):
        part = family.at(width).backbone.second.weight
        loss, _ = evidential_loss(cosine_logits(family.at(width)(images), classifier, 10.0), labels)
        (gradient,) = torch.autograd.grad(loss, [part])
        rows, columns = (
            structure.layouts["backbone.second.weight"][dimension].kept(counts) for dimension in (0, 1)
        )
        expected[rows[:, None], columns] += gradient
    run_step(family, classifier, gradients)
    torch.testing.assert_close(weight.grad, expected)
    assert family.network.backbone.unused.grad.tolist() == [0, 0, 0]
