"""The training log: JSON lines with means over the steps since the previous line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from sfsc.errors import SfscError
from sfsc.files.writing import write_atomic
from sfsc.runs.log import LOG_FILE, log_line
from sfsc.training.distributed import ALONE, World
from sfsc.training.gradients import StepStatistics

OF_A_SUB_MODEL = {"loss", "uncertainty"}  # statistics that a step has of each sub-model that it trains


class TrainingLog:
    """Collects the statistics of steps on their device and writes their means to the log of a run.

    A line contains step, epoch, lr, and the seconds since the run started or resumed. It also contains means
    over all ranks: loss, uncertainty and share of conflicting pairs in the order of the widths, and the share
    of conflicting pairs in each group of parameters in the order of the network. Undefined means are null.
    """

    def __init__(self, run: Path, step: int, world: World = ALONE) -> None:
        """Open the log of a run at a step, and remove later lines, which an interrupted run has left."""
        self.path = run / LOG_FILE
        self.world = world
        world.on_first(lambda: self._cut(step))
        self.started = time.monotonic()
        self.pending: list[tuple[Sequence[int], StepStatistics]] = []

    def add(self, active: Sequence[int], statistics: StepStatistics) -> None:
        """Add the statistics of one step that trained these sub-models, without waiting for the device."""
        self.pending.append((active, statistics))

    def write(self, step: int, epoch: float, lr: float) -> None:
        """Write the means of the statistics that were added since the last line. All ranks must call it.

        Args:
            step: the number of completed steps.
            epoch: the number of completed passes over the images.
            lr: the learning rate.

        Raises:
            SfscError: the disk is full, or a loss is not finite.
        """
        if not self.pending:
            return
        line = {
            "step": step,
            "epoch": round(epoch, 4),
            "lr": lr,
            "seconds": round(time.monotonic() - self.started, 2),
            **{field.name: self._mean(field.name) for field in fields(StepStatistics)},
        }
        trained = {index for active, _ in self.pending for index in active}
        self.pending.clear()
        self.world.on_first(lambda: self._append(line, trained))

    def _mean(self, name: str) -> list[float | None]:
        values = torch.stack([getattr(statistics, name) for _, statistics in self.pending])
        if name in OF_A_SUB_MODEL:
            known = torch.tensor([[i in a for i in range(values.shape[1])] for a, _ in self.pending])
            known = known.to(values.device)
            found = torch.where(known, values, 0.0).sum(0) / known.sum(0)
        else:  # of the steps that trained all sub-models together
            most = max(len(active) for active, _ in self.pending)
            found = values[[len(active) == most for active, _ in self.pending]].mean(0)
        means = self.world.mean(found.cpu()).tolist()
        return [None if math.isnan(value) else round(value, 6) for value in means]

    def _cut(self, step: int) -> None:
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        whole = [line for line in lines if line.endswith(b"}")]  # a crash may have cut off the last line
        kept = [
            line
            for number, line in enumerate(whole, 1)
            if log_line(line, self.path, number).get("step", step) <= step
        ]
        write_atomic(self.path, b"".join(line + b"\n" for line in kept))

    def _append(self, line: dict[str, Any], trained: Collection[int]) -> None:
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise SfscError(
                f"cannot write {self.path}: {error.strerror}; free disk space and continue with --resume"
            ) from None
        losses = [line["loss"][index] for index in trained]
        if not all(loss is not None and math.isfinite(loss) for loss in losses):
            raise SfscError(
                f"the loss is not finite at step {line['step']}: lower lr or clip_norm and train again"
            )
