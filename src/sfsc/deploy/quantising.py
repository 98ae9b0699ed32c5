"""ONNX models with integers of 8 bits: static ranges, weights per channel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from sfsc.embedding.exported import INPUT

BATCH = 16
LAYERS = ("Conv", "Gemm", "MatMul")


class Quantiser:
    """Makes int8 models of one float32 model, with some of its layers left in float32; a context manager.

    Weights become int8, activations uint8. The range of an activation is that of the images, and is taken
    once, for the first model. `layers` are the names of nodes: of each that has weights, and of those after
    it, up to the next.
    """

    def __init__(self, data: bytes, pixels: np.ndarray) -> None:
        """`data` is an ONNX model, `pixels` (n, height, width, 3) uint8."""
        self._model = onnx.load_from_string(data)
        self._pixels = pixels
        self.layers: list[list[str]] = []
        for node in self._model.graph.node:
            if node.op_type in LAYERS:
                self.layers.append([])
            if self.layers:
                self.layers[-1].append(node.name)
        del self._model.graph.value_info[:]  # shapes that the exporter has noted stop the inference of others

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
        """The model with integers in all `layers` but those `kept`, which are places in that list.

        Every other operator is quantised that onnxruntime has a kernel for. Leaving out those between
        convolutions (additions, clipped activations) looks more careful, but takes the range of a
        convolution's output before it is clipped, which costs more.
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
            nodes_to_exclude=[name for place in kept for name in self.layers[place]],
            calibration_cache_path=ranges,
        )
        return target.read_bytes()


class _Images:
    """Hands out images, (n, height, width, 3) uint8, in batches, as onnxruntime's CalibrationDataReader."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.batches = iter(np.array_split(pixels, -(-len(pixels) // BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}
