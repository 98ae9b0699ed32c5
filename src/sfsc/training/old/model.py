"""The `OldModel` protocol: a trained network, or a table of the embeddings that it computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from sfsc.embedding.embedded import Embedded, Embedder, embed_images
from sfsc.embedding.model import ONNX, Model, open_model
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.runs.paths import CONFIG_FILE, FAMILY_FILE, split_width
from sfsc.training.old.table import OldTable


class OldModel(Protocol):
    """A model that is not trained any more, and whose embeddings are known or can be computed."""

    @property
    def name(self) -> str:
        """How the user calls it."""

    @property
    def fingerprint(self) -> str:
        """What identifies it: the fingerprint of its family, or a digest of the table."""

    @property
    def dimension(self) -> int:
        """The dimension of its embeddings."""

    def check(self, paths: Sequence[str]) -> None:
        """Raise `SfscError` if the embedding of a readable image is not known."""

    def embed(self, paths: Sequence[str], workers: int = 2) -> np.ndarray:
        """Return the embeddings of images, (len(paths), dimension) float32, of length 1.

        Raises:
            SfscError: an image cannot be read, or its embedding is not known.
        """


@dataclass(frozen=True)
class OldNetwork:
    """A sub-model of a trained family, or an exported file.

    Attributes:
        name: how the user calls it.
        model: the family or the file.
        width: the width of the sub-model.
    """

    name: str
    model: Model
    width: float

    @property
    def fingerprint(self) -> str:
        """See `OldModel`."""
        return self.model.fingerprint

    @property
    def dimension(self) -> int:
        """See `OldModel`."""
        return self.model.dimension

    def check(self, paths: Sequence[str]) -> None:
        """See `OldModel`; every image can be embedded."""

    def embed(self, paths: Sequence[str], workers: int = 2) -> np.ndarray:
        """See `OldModel`."""
        embedder = {None: Embedder.of(self.model, self.width)}
        embedded = Embedded.join([*embed_images(embedder, paths, workers, "embedding by the old model")])
        if bad := embedded.corrupt:
            raise SfscError(f"{len(bad)} of {len(paths)} images cannot be read, the first: {bad[0]}")
        return embedded.vectors[None]


def open_old(name: str, allow_code: str | None = None, device: torch.device | None = None) -> OldModel:
    """Open an old model.

    Args:
        name: a run folder (its full sub-model), RUN:WIDTH, a .onnx file that `sfsc export` wrote, or a table
            of embeddings: a .npy file with a file of paths, or Parquet, as `sfsc embed` writes them.
        allow_code: as for `Family.load`.
        device: where a family computes; by default on the CPU.

    Raises:
        SfscError: there is no such model, it is damaged, or it needs code that is not allowed.
    """
    text, width = split_width(name)
    path = Path(text)
    if not path.exists():
        raise SfscError(f"there is no old model {name}: name a run folder, an exported file or a table")
    is_run = path.is_dir() and ((path / FAMILY_FILE).exists() or (path / CONFIG_FILE).exists())
    if not is_run and path.suffix != ONNX:
        if width:
            raise SfscError(f"old model {name}: a table of embeddings has no widths: leave out {width}")
        return OldTable.open(path)
    model = open_model(path, allow_code)
    chosen = float(width[1:]) if width else model.widest
    model.check_width(chosen)
    if isinstance(model, Family) and device is not None:
        model = model.to(device)
    return OldNetwork(name, model, chosen)
