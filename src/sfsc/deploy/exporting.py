"""Exporting sub-models, each to one file with a graph that contains everything from pixels to embeddings."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfsc.bridges.bridge import Bridge, Space
from sfsc.bridges.space_map import SpaceMap
from sfsc.decisions.thresholds import Thresholds
from sfsc.embedding.exported import INPUT, Exported, ExportedModel, as_metadata
from sfsc.errors import SfscError, missing_extra
from sfsc.family.embedder import Embedder
from sfsc.family.family import Family
from sfsc.files.writing import write_atomic
from sfsc.images.reading import decode
from sfsc.switchable.inspection import count_multiply_adds

SUFFIXES = (".onnx", ".pt2")
OUTPUT = "embeddings"
LEAST_COSINE = 0.9999  # between the embeddings of a file and those of its sub-model
BATCHES = (1, 7)  # batch sizes in which they are compared
CALIBRATING, FEWEST_CALIBRATING = 512, 32  # images that int8 uses, and the minimum that it needs

Made = tuple[bytes, Exported]  # the content of a file, and its metadata


class Graph(nn.Module):
    """The graph of an exported file.

    Maps (batch, height, width, 3) uint8 RGB images to (batch, dim) float32 embeddings of length 1. They are
    those of the sub-model after `end`, which can shorten them or map them into another space.

    Colours are normalised before the layout changes, with a mean and a deviation for every pixel of a row.
    With only three values per operation, onnxruntime would take longer for this than for many convolutions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, submodel: Embedder, width: int, end: nn.Module | None = None) -> None:
        """Make the graph of a sub-model for images of `width` pixels."""
        super().__init__()
        self.submodel = submodel
        self.end = nn.Identity() if end is None else end
        self.register_buffer("mean", 255 * submodel.mean.flatten().expand(width, 3))
        self.register_buffer("std", 255 * submodel.std.flatten().expand(width, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Embed images."""
        normalised = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        # Contiguous, because the mean of a map in another layout would be exported as an indirect copy.
        return self.end(self.submodel.embed_normalised(normalised.contiguous()))


class Shorten(nn.Module):
    """Returns the first components of embeddings, normalised."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, embeddings: Tensor) -> Tensor:
        """Shorten embeddings, (batch, dim)."""
        return F.normalize(embeddings[:, : self.dimension])


class Cross(nn.Module):
    """Maps embeddings into another space, as a `SpaceMap` does."""

    matrix: Tensor
    shift: Tensor
    inner: Tensor
    bias: Tensor
    outer: Tensor

    def __init__(self, space_map: SpaceMap) -> None:
        super().__init__()
        for name, array in space_map.arrays().items():
            self.register_buffer(name, torch.tensor(array))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map embeddings, (batch, dim)."""
        mapped = embeddings @ self.matrix + self.shift
        if len(self.bias):
            mapped = mapped + torch.relu(embeddings @ self.inner + self.bias) @ self.outer
        return F.normalize(mapped)


def export(
    family: Family,
    width: float,
    out: str | Path,
    images: Sequence[str],
    int8: bool = False,
    dimension: int | None = None,
    bridge: Bridge | None = None,
) -> Exported:
    """Export one sub-model to a file, after checking that the file computes the same embeddings.

    The file carries the thresholds of the family for queries of this sub-model, if they were fitted.

    Args:
        family: a family in evaluation mode.
        width: the width of the sub-model.
        out: FILE.onnx, or FILE.pt2 for torch.export.
        images: paths of images on which the file and the sub-model are compared. For `int8`, use images of
            the training split, because they also determine the ranges of the activations; up to 512 of them
            are used, and at least 32 are required.
        int8: whether to compute with 8-bit integers, with weights quantised per channel. Layers in which this
            would cost too much accuracy stay in float32 (see `sfsc.deploy.float_layers`). ONNX only.
        dimension: the number of first components that the file returns; by default all.
        bridge: a bridge from an old model to this family. The file then returns embeddings in the old model's
            space, which search its galleries, and has its fingerprint.

    Returns:
        The metadata of the file.

    Raises:
        SfscError: the family has no such width or dimension, the suffix is unknown, there are too few images,
            an image cannot be read, the embeddings differ, the thresholds of the run are of another family,
            the bridge leads elsewhere,
            or onnx is not installed. No file is written.

    Example::

        from sfsc.deploy.exporting import export

        family = sfsc.Family.load("runs/photos")
        images = sfsc.open_dataset("folder:photos").train.paths
        exported = export(family, 0.25, "phone.onnx", images, int8=True)
        print(exported.parameters, exported.multiply_adds)
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise SfscError(f"{out} must end in {' or '.join(SUFFIXES)}")
    if int8 and out.suffix != ".onnx":
        raise SfscError(f"int8 is only available for ONNX files: {out} must end in .onnx")
    needed, used = (FEWEST_CALIBRATING, CALIBRATING) if int8 else (max(BATCHES), max(BATCHES))
    if len(images) < needed:
        raise SfscError(f"{len(images)} images are too few to make and check this file: pass {used}")
    size = family.image_size_of(width)
    if dimension is not None:
        family.check_dimension(dimension)
    thresholds = None if bridge else family.thresholds
    if thresholds is not None:
        thresholds.check(family.fingerprint)
    end, space = _end_of(family, dimension, bridge)
    submodel = cast(Embedder, family.submodel(width))
    exported = Exported(
        fingerprint=space.fingerprint,
        width=width,
        dimension=space.dimension,
        image_size=size,
        form="int8" if int8 else "float32",
        version=version("sfsc"),
        dimensions=space.dimensions,
        parameters=family.parameter_count(width),
        multiply_adds=count_multiply_adds(submodel, torch.zeros(1, 3, *size)),
        depth=family.depth_of(width),
    )
    graph = Graph(submodel, size[1], end).eval()
    pixels = _spread(images, size, used)
    to_bytes = _to_pt2 if out.suffix == ".pt2" else _to_int8_onnx if int8 else _to_float_onnx
    data, exported = to_bytes(graph, exported, thresholds, pixels, out)
    write_atomic(out, data)
    return exported


def _end_of(family: Family, dimension: int | None, bridge: Bridge | None) -> tuple[nn.Module, Space]:
    """Return what follows the sub-model in the graph, and the space of its embeddings."""
    if bridge is None:
        end = nn.Identity() if dimension is None else Shorten(dimension)
        return end, Space("", family.fingerprint, dimension or family.dimension, family.dimensions)
    if dimension is not None:
        raise SfscError("a bridge returns all components of the old space: leave out the dimension")
    bridge.check_new(family.fingerprint, "the family")
    return Cross(bridge.backward), replace(bridge.old, dimensions=(bridge.old.dimension,))


def _spread(images: Sequence[str], size: tuple[int, int], count: int) -> np.ndarray:
    """Decode images that are spread evenly over the list: (n, height, width, 3) uint8."""
    chosen = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    return np.stack([decode(images[place], size) for place in chosen])


def _to_float_onnx(
    graph: Graph, exported: Exported, thresholds: Thresholds | None, pixels: np.ndarray, out: Path
) -> Made:
    from sfsc.deploy.slimming import slim

    data = slim(_to_onnx(graph, exported, thresholds))
    _compare(graph, ExportedModel.of(data, out).embed_pixels, pixels, out)
    return data, exported


def _to_int8_onnx(
    graph: Graph, exported: Exported, thresholds: Thresholds | None, pixels: np.ndarray, out: Path
) -> Made:
    """Quantise the model; `quantise` compares it with the sub-model itself."""
    data = _to_onnx(graph, exported, thresholds)
    from sfsc.deploy.float_layers import quantise
    from sfsc.deploy.slimming import slim

    with _quiet():
        data, kept = quantise(data, pixels, out)
    exported = replace(exported, float_layers=kept)
    data = slim(_described(data, exported, thresholds))
    ExportedModel.of(data, out)  # raises an error if onnxruntime cannot run the file
    return data, exported


def _to_onnx(graph: Graph, exported: Exported, thresholds: Thresholds | None) -> bytes:
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise missing_extra(str(error.name), "export") from error
    del onnxscript  # only used by torch
    height, width = exported.image_size
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return _described(model.SerializeToString(), exported, thresholds)


def _described(data: bytes, exported: Exported, thresholds: Thresholds | None) -> bytes:
    """Return the ONNX model with our metadata and no other metadata."""
    import onnx

    model = onnx.load_from_string(data)
    onnx.helper.set_model_props(model, as_metadata(exported, thresholds))
    described: bytes = model.SerializeToString()
    return described


def _to_pt2(
    graph: Graph, exported: Exported, thresholds: Thresholds | None, pixels: np.ndarray, out: Path
) -> Made:
    batch = torch.export.Dim("batch")
    program = torch.export.export(graph, (torch.from_numpy(pixels[:2]),), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    extra = {f"{key}.json": text for key, text in as_metadata(exported, thresholds).items()}
    torch.export.save(program, file, extra_files=extra)
    module = torch.export.load(io.BytesIO(file.getvalue())).module()
    _compare(graph, lambda images: module(torch.from_numpy(images)).detach().numpy(), pixels, out)
    return file.getvalue(), exported


@torch.inference_mode()
def _compare(graph: Graph, embed: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, out: Path) -> None:
    """Raise `SfscError` if a file does not compute the same embeddings as its sub-model."""
    for batch in BATCHES:
        images = pixels[:batch]
        expected = graph.end(graph.submodel(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)).numpy()
        least = float((embed(images) * expected).sum(1).min())
        if not least >= LEAST_COSINE:
            raise SfscError(
                f"{out} was not written: with {batch} images, its embeddings differ from the sub-model's "
                f"(cosine {least:.5f}, must be at least {LEAST_COSINE}): please report the backbone"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of torch and onnxruntime that a user can do nothing about."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
