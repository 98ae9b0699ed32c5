"""The `Model` protocol: a trained family, or a file that was exported from one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import numpy as np

from sfsc.decisions.thresholds import Thresholds
from sfsc.errors import SfscError
from sfsc.notation import Size

ONNX = ".onnx"
NAMED = "space"  # begins the fingerprint of a space that only has a name


class Model(Protocol):
    """One or more sub-models that embed images into the same space: a `Family` or an `ExportedModel`."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the family."""

    @property
    def dimension(self) -> int:
        """The dimension of the embeddings."""

    @property
    def dimensions(self) -> tuple[int, ...]:
        """All dimensions that the family supports, ascending; the model computes those up to `dimension`."""

    @property
    def widest(self) -> float:
        """The width of the model's largest sub-model."""

    @property
    def thresholds(self) -> Thresholds | None:
        """What the cosines of the family mean, or None if that is not known.

        Raises:
            SfscError: the file of the thresholds is damaged.
        """

    def check_width(self, width: float) -> None:
        """Raise `SfscError` if the model has no sub-model of this width."""

    def image_size_of(self, width: float) -> Size:
        """Return the (height, width) in pixels of the images that the sub-model of a width embeds.

        Raises:
            SfscError: the model has no sub-model of this width.
        """

    def check_dimension(self, dimension: int) -> None:
        """Raise `SfscError` if the model cannot compute embeddings of this dimension."""

    def embed_pixels(self, images: np.ndarray, width: float, dimension: int | None = None) -> np.ndarray:
        """Embed decoded images with one sub-model.

        Args:
            images: (batch, height, width, 3) uint8 RGB, of size `image_size_of(width)`.
            width: the width of the sub-model.
            dimension: the number of first components to return; by default all.

        Returns:
            (batch, dimension) float32, of length 1.

        Raises:
            SfscError: the images have another shape or dtype, or the model has no such width or dimension.
        """


def same_space(one: str, other: str) -> bool:
    """Return whether two fingerprints denote the same space.

    The fingerprint of a family that was calibrated, or to which widths were added, is that of the trained
    family, a dot, and more digits.
    """
    return one.partition(".")[0] == other.partition(".")[0]


def space_of(fingerprint: str) -> str:
    """Return how a message calls the space of a fingerprint, such as "the family 3d0c1c6a94b9a1f2"."""
    kind, colon, name = fingerprint.partition(":")
    return f"the space {name}" if colon and kind == NAMED else f"the family {fingerprint}"


def named_space(name: str) -> str:
    """Return the fingerprint of the embeddings of a model that only has a name.

    Raises:
        SfscError: the name has other characters than letters, digits, hyphens and underscores.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise SfscError(
            f"a space cannot be named {name[:64]!r}: use 1 to 64 letters, digits, hyphens and underscores"
        )
    return f"{NAMED}:{name}"


def open_model(path: str | Path, allow_code: str | None = None) -> Model:
    """Open a run folder as a family, or an exported file as a sub-model.

    Args:
        path: a run folder, or a .onnx file that `sfsc export` wrote.
        allow_code: as for `Family.load`.

    Raises:
        SfscError: the path is neither, a file is damaged, or the family needs code that is not allowed.

    Example::

        from sfsc.embedding.model import open_model

        model = open_model("phone.onnx")
        print(model.widest, model.dimension, model.fingerprint)
    """
    path = Path(path)
    if path.suffix == ONNX:
        from sfsc.embedding.exported import ExportedModel

        return ExportedModel.load(path)
    if path.is_file():
        raise SfscError(f"{path} is neither a run folder nor a file written by sfsc export")
    from sfsc.family.family import Family

    return Family.load(path, allow_code)
