"""Exporting sub-models: one file for each, with everything in its graph that makes an embedding of pixels."""

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

from sfsc.embedding.exported import INPUT, PROPERTY, Exported, ExportedModel
from sfsc.errors import SfscError, missing_extra
from sfsc.family.embedder import Embedder
from sfsc.family.family import Family
from sfsc.files.writing import write_atomic
from sfsc.images.reading import decode
from sfsc.switchable.inspection import count_multiply_adds

SUFFIXES = (".onnx", ".pt2")
OUTPUT = "embeddings"
LEAST_COSINE = 0.9999  # of a file's embedding with that of the sub-model that it was made from
BATCHES = (1, 7)  # in which they are compared

Made = tuple[bytes, Exported]  # a file's content, and what it says of itself
CALIBRATING, FEWEST_CALIBRATING = 512, 32  # images that int8 is made with


class Graph(nn.Module):
    """(batch, height, width, 3) uint8 RGB images to (batch, dim) float32 embeddings of length 1.

    Colours are normalised before the change of layout, by a mean and a deviation for every pixel of a row:
    over the three numbers of one pixel at a time onnxruntime takes longer than over many a convolution. With
    a dimension, the first components alone make the embedding, of length 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, submodel: Embedder, width: int, dimension: int | None = None) -> None:
        """Of images of this width in pixels."""
        super().__init__()
        self.submodel = submodel
        self.dimension = dimension
        self.register_buffer("mean", 255 * submodel.mean.flatten().expand(width, 3))
        self.register_buffer("std", 255 * submodel.std.flatten().expand(width, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Embed."""
        normalised = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        # Contiguous: of a map in another layout the mean is exported as an indirect copy.
        return self.shorten(self.submodel.embed_normalised(normalised.contiguous()))

    def shorten(self, embeddings: Tensor) -> Tensor:
        """The first components of the sub-model's own embeddings, of length 1."""
        return embeddings if self.dimension is None else F.normalize(embeddings[:, : self.dimension])


def export(
    family: Family,
    width: float,
    out: str | Path,
    images: Sequence[str],
    int8: bool = False,
    dimension: int | None = None,
) -> Exported:
    """Write one sub-model into a file, once it was seen to embed as the sub-model does.

    Args:
        family: in evaluation mode.
        width: of the sub-model.
        out: FILE.onnx, or FILE.pt2 for torch.export.
        images: paths of images that it is compared on; with `int8`, of the training split, from which the
            ranges of activations are taken. Some 512 of them are used, 32 are needed.
        int8: compute with integers of 8 bits, weights per channel, but for layers that this would cost too
            much (see `sfsc.deploy.float_layers`); of ONNX files only.
        dimension: how many of the embeddings' first components it returns; by default all.

    Returns:
        What the file says of itself.

    Raises:
        SfscError: not one of the family's widths or dimensions, another suffix, too few images, one that
            cannot be read, embeddings that differ, or no onnx; nothing is written then.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise SfscError(f"{out} must end in {' or '.join(SUFFIXES)}")
    if int8 and out.suffix != ".onnx":
        raise SfscError(f"int8 is for ONNX files: {out} must end in .onnx")
    needed, used = (FEWEST_CALIBRATING, CALIBRATING) if int8 else (max(BATCHES), max(BATCHES))
    if len(images) < needed:
        raise SfscError(f"{len(images)} images are too few to make and check this file with: give {used}")
    family.check_width(width)
    if dimension is not None:
        family.check_dimension(dimension)
    submodel = cast(Embedder, family.submodel(width))
    exported = Exported(
        fingerprint=family.fingerprint,
        width=width,
        dimension=dimension or family.dimension,
        image_size=family.image_size,
        form="int8" if int8 else "float32",
        version=version("sfsc"),
        dimensions=family.dimensions,
        parameters=family.parameter_count(width),
        multiply_adds=count_multiply_adds(submodel, torch.zeros(1, 3, *family.image_size)),
    )
    graph = Graph(submodel, family.image_size[1], dimension).eval()
    pixels = _spread(images, family.image_size, used)
    to_bytes = _to_pt2 if out.suffix == ".pt2" else _to_int8_onnx if int8 else _to_float_onnx
    data, exported = to_bytes(graph, exported, pixels, out)
    write_atomic(out, data)
    return exported


def _spread(images: Sequence[str], size: tuple[int, int], count: int) -> np.ndarray:
    """(n, height, width, 3) uint8, of images from all over the list."""
    chosen = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    return np.stack([decode(images[place], size) for place in chosen])


def _to_float_onnx(graph: Graph, exported: Exported, pixels: np.ndarray, out: Path) -> Made:
    from sfsc.deploy.slimming import slim

    data = slim(_to_onnx(graph, exported))
    _compare(graph, ExportedModel.of(data, out).embed_pixels, pixels, out)
    return data, exported


def _to_int8_onnx(graph: Graph, exported: Exported, pixels: np.ndarray, out: Path) -> Made:
    """Quantise the model; `quantise` compares it with the sub-model itself."""
    data = _to_onnx(graph, exported)
    from sfsc.deploy.float_layers import quantise
    from sfsc.deploy.slimming import slim

    with _quiet():
        data, kept = quantise(data, pixels, out)
    exported = replace(exported, float_layers=kept)
    data = slim(_described(data, exported))
    ExportedModel.of(data, out)  # raises where onnxruntime cannot run it
    return data, exported


def _to_onnx(graph: Graph, exported: Exported) -> bytes:
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise missing_extra(str(error.name), "export") from error
    del onnxscript  # only torch needs it
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
    return _described(model.SerializeToString(), exported)


def _described(data: bytes, exported: Exported) -> bytes:
    """The ONNX model with what it says of itself, and nothing else."""
    import onnx

    model = onnx.load_from_string(data)
    onnx.helper.set_model_props(model, {PROPERTY: exported.to_text()})
    described: bytes = model.SerializeToString()
    return described


def _to_pt2(graph: Graph, exported: Exported, pixels: np.ndarray, out: Path) -> Made:
    batch = torch.export.Dim("batch")
    program = torch.export.export(graph, (torch.from_numpy(pixels[:2]),), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{PROPERTY}.json": exported.to_text()})
    module = torch.export.load(io.BytesIO(file.getvalue())).module()
    _compare(graph, lambda images: module(torch.from_numpy(images)).detach().numpy(), pixels, out)
    return file.getvalue(), exported


@torch.inference_mode()
def _compare(graph: Graph, embed: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, out: Path) -> None:
    """Raise `SfscError` where what a file computes is not what its sub-model does."""
    for batch in BATCHES:
        images = pixels[:batch]
        expected = graph.shorten(graph.submodel(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)).numpy()
        least = float((embed(images) * expected).sum(1).min())
        if not least >= LEAST_COSINE:
            raise SfscError(
                f"{out} is not written: with {batch} images, its embeddings differ from the sub-model's "
                f"(cosine {least:.5f}, allowed is {LEAST_COSINE}): report the backbone"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of torch and onnxruntime on their own work: nothing that a user can change."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
