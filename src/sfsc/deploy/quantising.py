"""Quantising ONNX models to 8-bit integers, with static ranges and per-channel weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from sfsc.backbones.normalisation import SwitchableWhitening2d
from sfsc.embedding.exported import INPUT

BATCH = 16
LAYERS = ("Conv", "Gemm", "MatMul")
CLASSES = "pkg.torch.onnx.class_hierarchy"  # metadata of a node: the classes of the modules that it is in


class Quantiser:
    """Makes int8 models of one float32 model, with some of its layers kept in float32; a context manager.

    Weights become int8 and activations uint8. The ranges of activations are measured on the images, once for
    all models. `layers` contains, for each node with weights, its name and the names of the nodes that follow
    it up to the next node with weights. Switchable whitening always stays in float32, because its iteration
    multiplies matrices whose entries differ by orders of magnitude.
    """

    def __init__(self, data: bytes, pixels: np.ndarray) -> None:
        """Prepare an ONNX model, `data`, for images `pixels`, (n, height, width, 3) uint8."""
        self._model = onnx.load_from_string(data)
        self._pixels = pixels
        self.layers: list[list[str]] = []
        self._exact = [node.name for node in self._model.graph.node if _whitens(node)]
        for node in self._model.graph.node:
            if node.op_type in LAYERS and not _whitens(node):
                self.layers.append([])
            if self.layers:
                self.layers[-1].append(node.name)
        del self._model.graph.value_info[:]  # shapes stored by the exporter prevent the inference of others

    def __enter__(self) -> Quantiser:
        self._folder = tempfile.TemporaryDirectory()
        self._source = Path(self._folder.name, "float32.onnx")
        onnx.save(self._model, self._source)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def quantise(self, kept: Iterable[int] = ()) -> bytes:
        """Return the model with all `layers` quantised except those at the positions `kept`.

        Every other operator for which onnxruntime has a kernel is quantised, too. Excluding the operators
        between convolutions (additions, clipped activations) may look more careful, but it would use the
        range of a convolution's output before clipping, which costs more accuracy.
        """
        target, ranges = Path(self._folder.name, "int8.onnx"), Path(self._folder.name, "ranges.json")
        quantize_static(
            self._source,
            target,
            _Images(self._pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=[*self._exact, *(name for place in kept for name in self.layers[place])],
            calibration_cache_path=ranges,
        )
        return target.read_bytes()


def _whitens(node: onnx.NodeProto) -> bool:
    """Return whether a node is part of switchable whitening."""
    name = SwitchableWhitening2d.__name__
    return any(entry.key == CLASSES and name in entry.value for entry in node.metadata_props)


class _Images:
    """A CalibrationDataReader of onnxruntime that returns (n, height, width, 3) uint8 images in batches."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.batches = iter(np.array_split(pixels, -(-len(pixels) // BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None after the last one."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}
