"""The network that a family learns from: a full one, trained first and alone, then frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.training.checkpoint import CHECKPOINT_FILE, read_checkpoint
from sfsc.training.config import Config
from sfsc.training.distributed import World

TEACHER_FOLDER = "teacher"


@dataclass(frozen=True)
class Teacher:
    """A trained full network and its classifier, (classes, dim); nothing changes them."""

    family: Family
    classifier: Tensor

    @classmethod
    def of(cls, run: Path, family: Family, device: torch.device, world: World) -> Teacher:
        """The teacher of a run, from its trained family and, on rank 0, the folder of its own training.

        Raises:
            SfscError: the folder's checkpoint is gone or damaged.
        """
        checkpoint = world.on_first(lambda: read_checkpoint(run / TEACHER_FOLDER))
        if checkpoint is None:
            raise SfscError(
                f"{run / TEACHER_FOLDER} lacks {CHECKPOINT_FILE}, which contains the classifier: "
                "train into a new folder"
            )
        return cls(family.to(device).eval(), checkpoint.tensors["classifier.0"].to(device))


def teacher_config(config: Config) -> Config:
    """The settings of the teacher's own training: the family's, but for what takes several widths."""
    single = {"recipe": "sfsc", "widths": (1.0,), "aggregation": "sum"}
    return config.model_copy(update={**single, "influence": 0.0, "asymmetric": 0.0, "alignment": 0.0})
