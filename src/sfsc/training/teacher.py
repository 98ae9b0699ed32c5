"""The teacher of a family: a full network that is trained first, alone, and then frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfsc.embedding.embedded import Embedder, embed_images
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.training.checkpoint import CHECKPOINT_FILE, read_checkpoint
from sfsc.training.config import Config
from sfsc.training.distributed import World

TEACHER_FOLDER = "teacher"


@dataclass(frozen=True)
class Teacher:
    """A trained full network and its classifier, (classes, dim). Both are frozen."""

    family: Family
    classifier: Tensor

    @classmethod
    def of(cls, run: Path, family: Family, device: torch.device, world: World) -> Teacher:
        """Return the teacher of a run from its trained family. Rank 0 reads its classifier from the run.

        Raises:
            SfscError: the teacher's checkpoint is missing or damaged.
        """
        checkpoint = world.on_first(lambda: read_checkpoint(run / TEACHER_FOLDER))
        if checkpoint is None:
            raise SfscError(
                f"{run / TEACHER_FOLDER} lacks {CHECKPOINT_FILE}, which contains the classifier: "
                "train into a new folder"
            )
        return cls(family.to(device).eval(), checkpoint.tensors["classifier.0"].to(device))

    def embed(self, paths: Sequence[str], workers: int) -> Tensor:
        """Return the embeddings of images, (len(paths), dim) float32 on the CPU, with a progress bar."""
        embedder = {1.0: Embedder.of(self.family, 1.0)}
        parts = embed_images(embedder, paths, workers, "embedding by the teacher")
        return torch.from_numpy(np.concatenate([part.vectors[1.0] for part in parts]))


def teacher_config(config: Config) -> Config:
    """Return the settings that train the teacher: the family's, except those for several widths."""
    single = {"recipe": "sfsc", "widths": (1.0,), "aggregation": "sum", "extra_steps": (), "random_widths": 0}
    alone = {"influence": 0.0, "asymmetric": 0.0, "alignment": 0.0, "unlabelled": None}
    return config.model_copy(update={**single, **alone})
