"""The state that a run starts or continues from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sfsc.data.dataset import Split
from sfsc.family.family import Family
from sfsc.training.checkpoint import LastStep, TrainingState, read_checkpoint, restore
from sfsc.training.classifier import initialise
from sfsc.training.config import Config
from sfsc.training.distributed import World
from sfsc.training.losses.simplex import simplex
from sfsc.training.old.space import OldSpace
from sfsc.training.optimizer import make_optimizer
from sfsc.training.teacher import TEACHER_FOLDER, Teacher


def starting_state(
    config: Config,
    run: Path,
    images: Split,
    device: torch.device,
    world: World,
    teacher: Teacher | OldSpace | None,
) -> LastStep:
    """Return the state of the run's checkpoint, or a new one; it is the same on all ranks.

    Raises:
        SfscError: the weights cannot be loaded, or the checkpoint is damaged or belongs to other settings.
    """
    own = isinstance(teacher, Teacher)  # its weights fit the family's backbone
    weights = str(run / TEACHER_FOLDER) if own else str(config.weights)
    weights = weights if world.first else "none"
    family = equalise(world.on_all(lambda: new_family(config, weights)), world).to(device)
    classifiers = _classifiers(config, int(images.labels().max()) + 1, device, teacher)
    state = TrainingState(family, classifiers, make_optimizer(family, classifiers, config))
    checkpoint = world.on_first(lambda: read_checkpoint(run))
    if checkpoint is None:
        if teacher is None and config.classifier == "learned":
            initialise(classifiers, family, images, config, world)
        return LastStep(state, 0)
    world.on_all(lambda: restore(checkpoint, state))
    return LastStep(state, checkpoint.step)


def _classifiers(
    config: Config, classes: int, device: torch.device, teacher: Teacher | OldSpace | None
) -> list[nn.Parameter]:
    """Return a classifier that is not trained, or classifiers that are not initialised."""
    if teacher:
        return [nn.Parameter(teacher.classifier, requires_grad=False)]
    if config.classifier == "d-simplex":
        return [nn.Parameter(simplex(classes, config.embedding_dim).to(device), requires_grad=False)]
    count = len(config.widths) if config.method.classifiers == "own" else 1
    empty = torch.empty(classes, config.embedding_dim, device=device)
    return [nn.Parameter(empty.clone()) for _ in range(count)]


def new_family(config: Config, weights: str) -> Family:
    """Create an untrained family from the settings; `weights` may be "none" for random weights."""
    assert config.image_size is not None
    return Family.create(
        backbone=config.backbone,
        widths=config.widths,
        embedding_dim=config.embedding_dim,
        image_size=config.image_size,
        weights=None if weights == "none" else weights,
        seed=config.seed,
        keep=config.keep,
        round_to=config.round_to,
        shared=config.method.shared,
        nested_dims=config.nested_dims,
        normalisation=config.normalisation,
    )


def equalise(family: Family, world: World) -> Family:
    """Set the weights and statistics of a family to those on rank 0, and return it."""
    if world.size > 1:
        family.load_state_dict(world.on_first(family.state_dict))
    return family
