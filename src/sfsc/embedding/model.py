"""What embeds images: a trained family, or a file that was exported from one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from sfsc.errors import SfscError

ONNX = ".onnx"


class Model(Protocol):
    """Sub-models that embed into one space."""

    @property
    def fingerprint(self) -> str:
        """Of the family."""

    @property
    def dimension(self) -> int:
        """Of the embeddings."""

    @property
    def dimensions(self) -> tuple[int, ...]:
        """All in which the family's embeddings stand alone, ascending; those up to `dimension` it makes."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that it embeds."""

    @property
    def widest(self) -> float:
        """The width of the largest sub-model that it has."""

    def check_width(self, width: float) -> None:
        """Raise `SfscError` where it has no sub-model of this width."""

    def check_dimension(self, dimension: int) -> None:
        """Raise `SfscError` where it makes no embeddings of this dimension."""

    def embed_pixels(self, images: np.ndarray, width: float, dimension: int | None = None) -> np.ndarray:
        """Embed with one sub-model.

        Args:
            images: (batch, height, width, 3) uint8 RGB, of `image_size`.
            width: of the sub-model.
            dimension: how many of the first components to return; by default all.

        Returns:
            (batch, dimension) float32, of length 1.

        Raises:
            SfscError: images of another shape or dtype, or a width or dimension that it does not have.
        """


def same_space(one: str, other: str) -> bool:
    """Whether two fingerprints are of one space: what calibration made of a family has more after a dot."""
    return one.partition(".")[0] == other.partition(".")[0]


def open_model(path: str | Path, allow_code: str | None = None) -> Model:
    """The family of a run folder, or the sub-model of an exported file; `allow_code` as for `Family.load`.

    Raises:
        SfscError: it is neither, damaged, or needs code that is not allowed.
    """
    path = Path(path)
    if path.suffix == ONNX:
        from sfsc.embedding.exported import ExportedModel

        return ExportedModel.load(path)
    if path.is_file():
        raise SfscError(f"{path} is neither a run folder nor a file that sfsc export wrote")
    from sfsc.family.family import Family

    return Family.load(path, allow_code)
