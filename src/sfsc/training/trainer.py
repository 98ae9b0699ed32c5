"""The steps of a run, and the batches that they are taken with."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from sfsc.errors import SaidElsewhere, SfscError
from sfsc.family.family import Family
from sfsc.interruption import INTERRUPTS, Stopped, held
from sfsc.progress import track
from sfsc.training.aggregation.projection import random_order
from sfsc.training.checkpoint import LastStep, save_checkpoint
from sfsc.training.config import Config
from sfsc.training.distributed import RankLost, World
from sfsc.training.forward import Forward
from sfsc.training.gradients import Batch, NestedGradients, family_step
from sfsc.training.images import TrainingImages
from sfsc.training.interruption import Interruption
from sfsc.training.loading import augment, identity_batches, load_batches, rank_share, unlabelled_batches
from sfsc.training.log import TrainingLog
from sfsc.training.old.space import OldSpace
from sfsc.training.optimizer import set_learning_rate
from sfsc.training.random_widths import AnyWidth
from sfsc.training.teacher import Teacher


class Training:
    """The steps of one rank, from the last completed step to the end, with logs and checkpoints."""

    def __init__(
        self,
        config: Config,
        run: Path,
        images: TrainingImages,
        mirrors: bool,
        last: LastStep,
        world: World,
        teacher: Teacher | OldSpace | None = None,
        old: OldSpace | None = None,
    ) -> None:
        """Make ready for the steps that are left.

        Args:
            config: the settings.
            run: the run folder.
            images: the training images, with and without labels.
            mirrors: whether the images may be mirrored.
            last: the state after the last completed step, on the training device.
            world: the ranks that train together.
            teacher: the trained network whose embeddings are the target, for recipes that have one.
            old: the old model that the family becomes compatible with, on the training device.
        """
        self.config = config
        self.run_folder = run
        self.images, self.labels = images, images.labelled.labels()
        self.mirrors = mirrors
        self.world = world
        self.last, self.state, self.start = last, last.state, last.step
        self.device = self.state.family.network.mean.device
        self.old = old
        self.teacher = teacher if isinstance(teacher, Teacher) else None
        self.teach = Forward(self.teacher.family, config, world) if self.teacher else None
        self.clean = teacher.embeddings if isinstance(teacher, OldSpace) else None
        self.batches = world.on_all(lambda: all_batches(images, config, world))
        self.labelled = config.identities_per_batch * config.images_per_identity // world.size
        self.phases = config.method.phases(len(config.widths))
        family = self.state.family
        self.any_width = AnyWidth(family) if config.random_widths else None
        self.trained = self.any_width or family
        # The indices of the family's sub-models among those that are trained.
        self.listed = [self.trained.widths.index(width) for width in family.widths]
        self.gradients = NestedGradients(self.trained, self.state.classifiers, config.method, world)
        self.forward = Forward(self.trained, config, world)
        self.log = TrainingLog(run, self.start, world)

    def run(self, interruption: Interruption) -> Family:
        """Take all steps that are left, and return the family. After a signal, take no further step.

        Raises:
            SfscError: training was interrupted by a signal or by the loss of a rank, after a checkpoint of
                the last step was saved; a file cannot be written; or the loss is not finite.
        """
        size = self.state.family.spec.image_size
        if self.teacher and len(self.config.cycle) > 1:
            self.clean = self.teacher.embed(self.images.paths, self.config.workers).to(self.device)
        batches = self.batches * len(self.phases)
        loaded = load_batches(self.images.paths, batches[self.last.step :], size, self.config.workers)
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
            except INTERRUPTS:  # the second signal gives up the current step
                pass
            interruption.answer()
            if lost or self.last.step < len(batches):
                self.leave(None if lost else interruption.signal)
        return self.state.family

    def step(self, step: int, pixels: Tensor) -> None:
        """Take one step with this rank's images, (batch, 3, height, width) uint8; write logs when due."""
        config, state = self.config, self.state
        phase, within = divmod(step, len(self.batches))
        lr = set_learning_rate(state.optimizer, within, len(self.batches), config)
        if within == 0 or step == self.start:
            self.enter(phase)
        state.optimizer.zero_grad()
        with self.seeded(within):
            batch = self.batch(phase, within, pixels)
            statistics = family_step(state, self.gradients, self.forward, batch, config)
            if self.any_width:
                self.any_width.return_gradients()
        for parameters in self.gradients.networks():
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        with self.whole():
            state.optimizer.step()
            self.last.complete(step + 1)
        logged = [place for place, index in enumerate(self.listed) if index in batch.active]
        self.log.add(logged, statistics.of(self.listed))
        self.write(lr)

    def enter(self, phase: int) -> None:
        """Begin a phase: freeze what it does not train."""
        family, active = self.state.family, self.phases[phase]
        self.trained.train()
        for index, width in enumerate(family.widths):
            family.at(width).train(index in active)

    def batch(self, phase: int, within: int, pixels: Tensor) -> Batch:
        """Return the batch of a step; every phase gets the same images with the same augmentation."""
        config, seed = self.config, self.seed(within)
        pictures = self.augmented(self.move(pixels).float() / 255, seed)
        alone = config.cycle[within % len(config.cycle)]
        joint = alone is None and (self.teach is not None or self.clean is None)
        active = [self.listed[index] for index in (self.phases[phase] if alone is None else [alone])]
        if self.any_width and alone is None:
            active = sorted([*active, *self.any_width.draw(config.random_widths, seed)], reverse=True)
        indices = self.move(torch.from_numpy(self.batches[within]))
        labels = torch.from_numpy(self.labels[self.batches[within][: self.labelled]])
        return Batch(
            images=pictures,
            labels=self.move(labels),
            order=random_order(len(active), seed),
            active=active,
            target=self.target(pictures, active) if joint else self.known(indices),
            progress=within / len(self.batches),
            old=None if self.old is None else self.old.batch(indices[: self.labelled]),
        )

    def augmented(self, images: Tensor, seed: int) -> Tensor:
        """Return the images of a batch changed at random, those with labels apart from those without.

        The former then change as they do in a batch without the latter, however many ranks share it.
        """
        config, rank, ranks = self.config, self.world.rank, self.world.size
        kinds = images.split([self.labelled, len(images) - self.labelled])
        changed = [
            augment(kind, self.mirrors, seed, config.augment, rank, ranks, config.random_erasing)
            for kind in kinds
            if len(kind)
        ]
        return torch.cat(changed)

    def seed(self, within: int) -> int:
        """Return the seed of a step of each phase."""
        return self.config.seed * 1_000_003 + within

    @contextmanager
    def seeded(self, within: int) -> Iterator[None]:
        """Seed the global generators, which dropout draws from, and restore them afterwards."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed(within) * self.world.size + self.world.rank)
            yield

    @torch.no_grad()
    def target(self, pictures: Tensor, active: Sequence[int]) -> Tensor | None:
        """Return the embeddings of a batch by a frozen network: the teacher or the full sub-model."""
        if self.teach is not None:
            return self.teach(pictures, 1.0)
        return None if self.listed[-1] in active else self.forward(pictures, 1.0)

    def known(self, indices: Tensor) -> Tensor | None:
        """Return the teacher's embeddings of training images without augmentation, or None without a teacher.

        For a narrow sub-model alone, a forward pass of the teacher would cost more than its own step. A
        teacher that was trained elsewhere always has these embeddings.
        """
        return None if self.clean is None else self.clean[indices]

    def write(self, lr: float) -> None:
        """Write the log and the checkpoint if they are due."""
        config, done, steps = self.config, self.last.step, len(self.batches) * len(self.phases)
        if done % config.log_every == 0 or done % len(self.batches) == 0:
            self.log.write(done, done * config.epochs / len(self.batches), lr)
        if done % config.checkpoint_every == 0 or done == steps:
            self.world.on_first(lambda: save_checkpoint(self.run_folder, self.state, done))

    def leave(self, asked: signal.Signals | None) -> NoReturn:
        """Save the last completed step on one of the remaining ranks, and raise the reason for the end.

        The reason is the signal `asked` or, if it is None, a lost rank.
        """
        reason = f"stopped by {asked.name}" if asked else "a rank ended or stopped answering"
        if not self.world.speaks():
            raise SaidElsewhere(reason)
        self.last.return_to()
        if self.run_folder.exists():  # only rank 0 has one if machines share no folder
            with self.whole():
                save_checkpoint(self.run_folder, self.state, self.last.step)
        steps = len(self.batches) * len(self.phases)
        where, how = f"{reason} after step {self.last.step} of {steps}", "continue with --resume"
        raise Stopped(asked, where, how) if asked else SfscError(f"{where}: {how}")

    def whole(self) -> AbstractContextManager[object]:
        """Return a context that no signal interrupts; with several ranks, no signal ever interrupts."""
        return held() if self.world.size == 1 else nullcontext()

    def move(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to the training device, without waiting for CUDA devices."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def all_batches(images: TrainingImages, config: Config, world: World) -> list[np.ndarray]:
    """Return the positions of this rank's images for every step of the run's phases.

    Each is (P K / ranks,) int64 and, with images without labels, (unlabelled_per_batch / ranks,) more behind
    them. With extra steps, a phase has as many steps together as without, and the others between them.

    Args:
        images: all training images.
        config: the settings, with P, K, the seed and the number of epochs.
        world: the ranks that share each batch.

    Raises:
        SfscError: there are fewer than P identities, or the ranks cannot share a batch evenly.
    """
    p, k = config.identities_per_batch, config.images_per_identity
    labels = images.labelled.labels()
    batches = [
        batch
        for epoch in range(config.epochs * len(config.cycle))
        for batch in identity_batches(labels, p, k, config.seed, epoch)
    ]
    batches = rank_share(batches, "identities_per_batch", p, world.rank, world.size)
    if not images.unlabelled:
        return batches
    count = config.unlabelled_per_batch
    drawn = unlabelled_batches(len(images.unlabelled), count, len(batches), config.seed)
    shares = rank_share(drawn, "unlabelled_per_batch", count, world.rank, world.size)
    return [np.concatenate([b, len(labels) + share]) for b, share in zip(batches, shares, strict=True)]
