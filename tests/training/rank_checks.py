"""What ranks do for test_distributed.py: `torchrun rank_checks.py FOLDER` writes their answers there."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.training.aggregation.projection import random_order
from sfsc.training.batch_norm import SynchronisedBatchNorm
from sfsc.training.checkpoint import TrainingState
from sfsc.training.config import Config
from sfsc.training.distributed import World, joined
from sfsc.training.forward import Forward
from sfsc.training.gradients import Batch, NestedGradients, family_step
from sfsc.training.optimizer import make_optimizer

BATCH, CLASSES, STEPS = 8, 6, 6
NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(5), (BATCH, 5)),
    "2d": (lambda: nn.BatchNorm2d(5, eps=1e-3), (BATCH, 5, 4, 3)),
    "cumulative": (lambda: nn.BatchNorm2d(5, momentum=None), (BATCH, 5, 4, 3)),
    "without weights": (lambda: nn.BatchNorm2d(5, affine=False), (BATCH, 5, 4, 3)),
    "without statistics": (lambda: nn.BatchNorm1d(5, track_running_stats=False), (BATCH, 5)),
    "one image each": (lambda: nn.BatchNorm1d(5), (2, 5)),
}


def normalise(name: str, world: World, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """This rank's share of two batches through a layer: the second's gradients, the statistics after both."""
    make, shape = NORMS[name]
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = make()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter)
    share = world.share(shape[0])
    for _ in range(2):
        whole = torch.randn(shape, generator=generator) * 3 + 10
        slope = torch.randn(shape, generator=generator)[share]
        batch = whole[share].to(dtype).requires_grad_()
        if world.size > 1:
            with SynchronisedBatchNorm():
                output = layer(batch)
        else:
            output = layer(batch)
    names = ["input", *dict(layer.named_parameters())]
    gradients = torch.autograd.grad((output.float() * slope).sum(), [batch, *layer.parameters()])
    answers = {f"gradient of {n}": g for n, g in zip(names, gradients, strict=True)}
    return {"output": output.detach(), **answers, **{n: b.clone() for n, b in layer.named_buffers()}}


def take_steps(
    world: World, granularity: str, dtype: torch.dtype, steps: int = STEPS, **settings: Any
) -> dict[str, Tensor]:
    """The weights after some steps on batches of which each rank has its share."""
    config = Config.make(
        {"dataset": "none", "granularity": granularity, "optimizer": "sgd", "lr": 3e-4, **settings}
    )
    family = Family.create("small", embedding_dim=16, image_size=(16, 16)).to(dtype).train()
    generator = torch.Generator().manual_seed(1)
    classifier = nn.Parameter(torch.randn(CLASSES, 16, generator=generator).to(dtype))
    state = TrainingState(family, [classifier], make_optimizer(family, [classifier], config))
    gradients = NestedGradients(family, [classifier], config.method, world)
    forward = Forward(family, config, world)
    share = world.share(BATCH)
    for step in range(steps):
        images = torch.rand(BATCH, 3, 16, 16, generator=generator).to(dtype)[share]
        labels = torch.randint(CLASSES, (BATCH,), generator=generator)[share]
        order = random_order(len(config.widths), step)
        family_step(state, gradients, forward, Batch(images, labels, order, (3, 2, 1, 0)), config)
        nn.utils.clip_grad_norm_(state.parameters(), config.clip_norm)
        state.optimizer.step()
    weights = {name: tensor.clone() for name, tensor in family.state_dict().items()}
    return {**weights, "classifier": classifier.detach()}


def kinds(world: World) -> set[str]:
    """The layers of a sub-model that is copied after a step, and of a copy of the family."""
    config = Config.make({"dataset": "none"})
    family = Family.create("small", embedding_dim=16, image_size=(16, 16)).train()
    forward = Forward(family, config, world)
    forward(torch.rand(4, 3, 16, 16), 0.5)
    networks = [family.submodel(0.5), copy.deepcopy(family)]
    return {f"{type(m).__module__}.{type(m).__name__}" for network in networks for m in network.modules()}


def refused(function: Callable[[], object]) -> tuple[str, str]:
    """The name and the line of the error that a function raises."""
    try:
        function()
    except SfscError as error:
        return type(error).__name__, str(error)
    raise AssertionError("nothing was raised")


def stop(message: str) -> None:
    """Raise an error."""
    raise SfscError(message)


def averages(world: World) -> tuple[list[Tensor], list[Tensor]]:
    """This rank's tensors and the means of all ranks'."""
    generator = torch.Generator().manual_seed(world.rank)
    tensors = [torch.randn(shape, generator=generator) for shape in [(3, 4), (), (5,), (2, 3, 3)]]
    means, arrival = world.average([tensors[0].T, *tensors[1:]])  # of any strides
    arrival()
    return [tensors[0].T, *tensors[1:]], means


def answers(world: World) -> dict[str, Any]:
    """All answers of one rank."""
    found: dict[str, Any] = {
        "rank": world.rank,
        "joined again": joined_again(),
        "gather": world.gather([world.rank, 10 + world.rank][: 1 + world.rank]),
        "on_first": world.on_first(lambda: {"said by": world.rank}),
        "refused by the first": refused(lambda: world.on_first(lambda: stop("no"))),
        "refused by the second": refused(
            lambda: world.on_all(lambda: stop("not here") if world.rank == 1 else None)
        ),
        "on_all": world.on_all(lambda: world.rank),
        "mean": world.mean(torch.tensor([1.0, 2.0]) * world.rank),
        "averages": averages(world),
        "speaks": world.speaks(),
        "kinds": kinds(world),
        "norms": {name: normalise(name, world) for name in NORMS},
        "bfloat16": normalise("2d", world, torch.bfloat16),
        "own statistics": take_steps(world, "tensor", torch.float32, 2, sync_batch_norm=False),
    }
    for granularity in ("kernel", "tensor", "layer", "model"):
        for dtype in (torch.float64, torch.float32):
            found[f"steps {granularity} {dtype}"] = take_steps(world, granularity, dtype)
    return found


def joined_again() -> tuple[int, int]:
    """Rank and size as seen within a world that is joined."""
    with joined() as again:
        return again.rank, again.size


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined() as ranks:
        torch.save(answers(ranks), Path(sys.argv[1]) / f"rank{ranks.rank}.pt")
