"""The steps of a run."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from sfsc.data.dataset import Split
from sfsc.errors import SaidElsewhere, SfscError
from sfsc.family.family import Family
from sfsc.interruption import INTERRUPTS, Stopped, held
from sfsc.progress import track
from sfsc.training.aggregation.projection import random_order
from sfsc.training.checkpoint import LastStep, TrainingState, read_checkpoint, restore, save_checkpoint
from sfsc.training.classifier import initialise
from sfsc.training.config import Config
from sfsc.training.distributed import RankLost, World
from sfsc.training.forward import Forward
from sfsc.training.gradients import Batch, NestedGradients, family_step
from sfsc.training.interruption import Interruption
from sfsc.training.loading import augment, identity_batches, identity_share, load_batches
from sfsc.training.log import TrainingLog
from sfsc.training.optimizer import make_optimizer, set_learning_rate
from sfsc.training.teacher import TEACHER_FOLDER, Teacher


class Training:
    """The steps of one rank, from the run's checkpoint to the end, and what is written on the way."""

    def __init__(
        self,
        config: Config,
        run: Path,
        images: Split,
        mirrors: bool,
        device: torch.device,
        world: World,
        teacher: Teacher | None = None,
    ) -> None:
        self.config = config
        self.run_folder = run
        self.paths, self.labels = images.paths, images.labels()
        self.mirrors = mirrors
        self.device = device
        self.world = world
        self.teach = Forward(teacher.family, config, world) if teacher else None
        self.batches = world.on_all(lambda: all_batches(self.labels, config, world))
        self.state, self.start = _prepare(config, run, images, device, world, teacher)
        self.last = LastStep(self.state, self.start)
        self.phases = config.method.phases(len(config.widths))
        self.gradients = NestedGradients(
            self.state.family, self.state.classifiers, config.method, config.granularity, world
        )
        self.forward = Forward(self.state.family, config, world)
        self.log = TrainingLog(run, self.start, world)

    def run(self, interruption: Interruption) -> Family:
        """Take all steps that are left, and return the family; after a signal, take no further step.

        Raises:
            SfscError: training was interrupted, by a signal or because a rank is gone; there is a checkpoint
                of the last step then. Or what is written could not be, or the loss is no longer finite.
        """
        size = self.state.family.spec.image_size
        batches = self.batches * len(self.phases)
        loaded = load_batches(self.paths, batches[self.last.step :], size, self.config.workers)
        with closing(loaded):
            lost = False
            steps = track(loaded, "training", total=len(batches), completed=self.last.step)
            try:
                for step, pixels in enumerate(steps, self.last.step):
                    self.step(step, pixels)
                    if interruption.signal and self.last.step < len(batches):
                        break
            except RankLost:
                lost = True
            except INTERRUPTS:  # asked a second time: the step under way is given up
                pass
            interruption.answer()
            if lost or self.last.step < len(batches):
                self.leave(None if lost else interruption.signal)
        return self.state.family

    def step(self, step: int, pixels: Tensor) -> None:
        """Take one step with this rank's images, (batch, 3, height, width) uint8, and write what is due."""
        config, state = self.config, self.state
        phase, within = divmod(step, len(self.batches))
        lr = set_learning_rate(state.optimizer, within, len(self.batches), config)
        if within == 0 or step == self.start:
            self.enter(phase)
        statistics = family_step(
            state, self.gradients, self.forward, self.batch(phase, within, pixels), config
        )
        for parameters in self.gradients.networks():
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        with self.whole():
            state.optimizer.step()
            self.last.complete(step + 1)
        self.log.add(statistics)
        self.write(lr)

    def enter(self, phase: int) -> None:
        """Make ready for the steps of a phase: what it does not train is frozen."""
        family, active = self.state.family, self.phases[phase]
        family.train()
        for index, width in enumerate(family.widths):
            family.at(width).train(index in active)
        self.state.optimizer.zero_grad()

    def batch(self, phase: int, within: int, pixels: Tensor) -> Batch:
        """What a step is given: every phase sees the same images, altered alike."""
        config, world = self.config, self.world
        seed = config.seed * 1_000_003 + within
        pictures = self.move(pixels).float() / 255
        pictures = augment(pictures, self.mirrors, seed, config.augment, world.rank, world.size)
        torch.manual_seed(seed * world.size + world.rank)  # for backbones with dropout
        active = self.phases[phase]
        return Batch(
            images=pictures,
            labels=self.move(torch.from_numpy(self.labels[self.batches[within]])),
            order=random_order(len(config.widths), seed),
            active=active,
            target=self.target(pictures, active),
            progress=within / len(self.batches),
        )

    @torch.no_grad()
    def target(self, pictures: Tensor, active: Sequence[int]) -> Tensor | None:
        """What a frozen network makes of a batch: the teacher, or a full sub-model trained before."""
        if self.teach is not None:
            return self.teach(pictures, 1.0)
        return None if len(self.config.widths) - 1 in active else self.forward(pictures, 1.0)

    def write(self, lr: float) -> None:
        """Write the log and the checkpoint where they are due."""
        config, done, steps = self.config, self.last.step, len(self.batches) * len(self.phases)
        if done % config.log_every == 0 or done % len(self.batches) == 0:
            active = self.phases[(done - 1) // len(self.batches)]
            self.log.write(done, done * config.epochs / len(self.batches), lr, active)
        if done % config.checkpoint_every == 0 or done == steps:
            self.world.on_first(lambda: save_checkpoint(self.run_folder, self.state, done))

    def leave(self, asked: signal.Signals | None) -> NoReturn:
        """Save the last completed step, by one of the ranks that are left, and raise why training ends.

        The reason is the signal or, without a signal, a lost rank.
        """
        reason = f"stopped by {asked.name}" if asked else "a rank ended or stopped answering"
        if not self.world.speaks():
            raise SaidElsewhere(reason)
        self.last.return_to()
        if self.run_folder.exists():  # where machines share no folder, only rank 0 has one
            with self.whole():
                save_checkpoint(self.run_folder, self.state, self.last.step)
        steps = len(self.batches) * len(self.phases)
        where, how = f"{reason} after step {self.last.step} of {steps}", "continue with --resume"
        raise Stopped(asked, where, how) if asked else SfscError(f"{where}: {how}")

    def whole(self) -> AbstractContextManager[object]:
        """A context that no signal ends halfway; among several ranks, signals are only ever noted."""
        return held() if self.world.size == 1 else nullcontext()

    def move(self, tensor: Tensor) -> Tensor:
        """The tensor on the training device; CUDA devices are not waited for."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def _prepare(
    config: Config, run: Path, images: Split, device: torch.device, world: World, teacher: Teacher | None
) -> tuple[TrainingState, int]:
    """A new state, or that of the run's checkpoint, and the number of steps done; the same on all ranks."""
    weights = str(run / TEACHER_FOLDER) if teacher else str(config.weights)
    weights = weights if world.first else "none"
    family = equalise(world.on_all(lambda: new_family(config, weights)), world).to(device)
    classes = int(images.labels().max()) + 1
    count = len(config.widths) if config.method.classifiers == "own" else 1
    if teacher:
        classifiers = [nn.Parameter(teacher.classifier, requires_grad=False)]
    else:
        empty = torch.empty(classes, config.embedding_dim, device=device)
        classifiers = [nn.Parameter(empty.clone()) for _ in range(count)]
    state = TrainingState(family, classifiers, make_optimizer(family, classifiers, config))
    checkpoint = world.on_first(lambda: read_checkpoint(run))
    if checkpoint is None:
        if teacher is None:
            initialise(classifiers, family, images, config, world)
        return state, 0
    world.on_all(lambda: restore(checkpoint, state))
    return state, checkpoint.step


def new_family(config: Config, weights: str) -> Family:
    """An untrained family of the settings, with these weights, or random ones where they are "none"."""
    assert config.image_size is not None
    source = None if weights == "none" else weights
    return Family.create(
        config.backbone,
        config.widths,
        config.embedding_dim,
        config.image_size,
        source,
        config.seed,
        config.keep,
        config.round_to,
        config.method.shared,
        config.nested_dims,
    )


def equalise(family: Family, world: World) -> Family:
    """The family, with the weights and statistics that rank 0's has."""
    if world.size > 1:
        family.load_state_dict(world.on_first(family.state_dict))
    return family


def all_batches(labels: np.ndarray, config: Config, world: World) -> list[np.ndarray]:
    """The image indices of this rank, (P K / ranks,) int64, for every step of the whole run.

    Args:
        labels: (N,) int64, of all training images.
        config: for P, K, the seed and the number of epochs.
        world: whose ranks share each batch.

    Raises:
        SfscError: there are fewer than P identities, or the ranks cannot share P evenly.
    """
    p, k = config.identities_per_batch, config.images_per_identity
    batches = [
        batch
        for epoch in range(config.epochs)
        for batch in identity_batches(labels, p, k, config.seed, epoch)
    ]
    return identity_share(batches, p, world.rank, world.size)
