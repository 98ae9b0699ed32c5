"""Models that sfsc did not train: an ONNX file with one image input, or a function of the user."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.dimensions import check_dimension
from sfsc.embedding.exported import MOST_DIMENSIONS, MOST_PIXELS, open_session
from sfsc.errors import SfscError, first_line
from sfsc.images.batches import as_pixels
from sfsc.notation import Size

CODE = "python:"
# How a file wants its colours: normalised as usual for ImageNet, from 0 to 1, or from 0 to 255.
COLOURS = ("imagenet", "fraction", "bytes")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Embed = Callable[[np.ndarray], np.ndarray]  # (n, height, width, 3) uint8 RGB to (n, dim) floats of any length


class ForeignModel:
    """A `Model` with one sub-model, of width 1, whose embeddings are in a space of their own."""

    widest = 1.0
    thresholds = None

    def __init__(self, name: str, fingerprint: str, image_size: Size, embed: Embed) -> None:
        """Use a function that embeds images, after one black image has shown that it works.

        Raises:
            SfscError: the function does not return one embedding for one image.
        """
        self.name, self.fingerprint, self.image_size = name, fingerprint, image_size
        self._embed = embed
        self.dimension = 0
        self.dimension = self._run(np.zeros((1, *image_size, 3), np.uint8)).shape[1]
        self.dimensions: tuple[int, ...] = (self.dimension,)

    def check_width(self, width: float) -> None:
        """See `Model`."""
        if width != self.widest:
            raise SfscError(f"{self.name} has one width, 1, not {width:g}")

    def image_size_of(self, width: float) -> Size:
        """See `Model`."""
        self.check_width(width)
        return self.image_size

    def check_dimension(self, dimension: int) -> None:
        """See `Model`."""
        check_dimension(dimension, self.dimensions)

    def embed_pixels(
        self, images: np.ndarray, width: float = 1.0, dimension: int | None = None
    ) -> np.ndarray:
        """See `Model`."""
        self.check_width(width)
        if dimension is not None:
            self.check_dimension(dimension)
        pixels = as_pixels(images, self.image_size)
        if not len(pixels):
            return np.empty((0, self.dimension), np.float32)
        rows = self._run(pixels)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise SfscError(
                f"{self.name} embeds an image as NaN, infinity or zeros: check how it wants its colours"
            )
        return np.asarray(rows / lengths)

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            rows = np.asarray(self._embed(pixels), np.float32)
        except SfscError:
            raise
        except Exception as error:  # models of others raise arbitrary errors
            raise SfscError(f"{self.name} cannot embed images: {first_line(error)}") from error
        sizes = (len(pixels), self.dimension) if self.dimension else (len(pixels), *rows.shape[1:2])
        if rows.ndim != 2 or rows.shape != sizes or not 0 < rows.shape[1] <= MOST_DIMENSIONS:
            raise SfscError(
                f"{self.name} returns shape {rows.shape} for {len(pixels)} images: (n, dim) is wanted"
            )
        return rows


def open_onnx(data: bytes, path: Path, colours: str = "imagenet", threads: int = 0) -> ForeignModel:
    """Open an ONNX file with one input for images, from its bytes.

    The input is (batch, 3, height, width) or (batch, height, width, 3), uint8 or float32, and of a fixed
    height and width. The first output is the embedding, (batch, dim), of any length.

    Args:
        data: the content of the file.
        path: the path of the file.
        colours: how the file wants its colours; those of uint8 are always from 0 to 255.
        threads: the number of threads that compute; 0 uses all cores.

    Raises:
        SfscError: the file cannot be run, or has other inputs.
    """
    if colours not in COLOURS:
        raise SfscError(f"unknown colours {colours!r}; choose one of {', '.join(COLOURS)}")
    session, _, inputs, _ = open_session(data, path, threads)
    wanted = (
        "one input (batch, 3, height, width) or (batch, height, width, 3) of float32 or uint8 is required"
    )
    if len(inputs) != 1:
        raise SfscError(f"{path} has {len(inputs)} inputs: {wanted}")
    [(name, type_, shape)] = inputs
    first = len(shape) == 4 and shape[1] == 3
    if type_ not in ("tensor(float)", "tensor(uint8)") or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise SfscError(f"{path} has an input of {type_} and shape {shape}: {wanted}")
    height, width = shape[2:] if first else shape[1:3]
    if (
        not all(isinstance(size, int) and size > 0 for size in (height, width))
        or height * width > MOST_PIXELS
    ):
        raise SfscError(
            f"{path} takes images of {height} x {width} pixels: export it again with a fixed size"
        )
    colours = "bytes" if type_ == "tensor(uint8)" else colours
    dtype = np.uint8 if type_ == "tensor(uint8)" else np.float32
    embed = partial(_run_onnx, session, name, shape[0] == 1, first, colours, dtype)
    digest = hashlib.sha256(f"{colours}:".encode() + data).hexdigest()
    return ForeignModel(str(path), digest[:16], (height, width), embed)


def _run_onnx(
    session: Any, name: str, single: bool, first: bool, colours: str, dtype: Any, pixels: np.ndarray
) -> np.ndarray:
    images = pixels if colours == "bytes" else pixels.astype(np.float32) / 255
    if colours == "imagenet":
        images = (images - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2) if first else images, dtype)
    batches = [image[None] for image in images] if single else [images]
    return np.concatenate([session.run(None, {name: batch})[0] for batch in batches])


def open_function(name: str, allow_code: str | None) -> ForeignModel:
    """Open python:package.module:function.

    The function takes no arguments and returns two things: the (height, width) of the images, and a function
    that maps (n, height, width, 3) uint8 RGB to (n, dim) floats.

    Raises:
        SfscError: the function is not allowed, does not exist, or returns something else.
    """
    code = name.removeprefix(CODE)
    if code != allow_code:
        raise SfscError(
            f"{name} is code: if you trust that function, allow it with --allow-code {code}, or "
            f"allow_code={code!r} in Python"
        )
    from sfsc.backbones.sources import find_function

    try:
        (height, width), embed = find_function(code)()
        size = int(height), int(width)
    except SfscError:
        raise
    except Exception as error:  # user code can raise any error
        raise SfscError(
            f"{name} must return ((height, width), function of images): {first_line(error)}"
        ) from error
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise SfscError(f"{name} wants images of {size[0]} x {size[1]} pixels: give sizes that fit in memory")
    return ForeignModel(name, hashlib.sha256(name.encode()).hexdigest()[:16], size, embed)
