"""ONNX models with integers of 8 bits: static ranges, weights per channel."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from sfsc.deploy.runtime import INPUT

BATCH = 16


class _Images:
    """Hands out images, (n, height, width, 3) uint8, in batches, as onnxruntime's CalibrationDataReader."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.batches = iter(np.array_split(pixels, -(-len(pixels) // BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


def quantise(data: bytes, pixels: np.ndarray) -> bytes:
    """The same model with weights as int8 and activations as uint8; its metadata stay.

    Every operator is quantised that onnxruntime has a kernel for. Leaving out those between convolutions
    (additions, clipped activations) looks more careful, but takes the range of a convolution's output before
    it is clipped, which costs more.

    Args:
        data: an ONNX model.
        pixels: (n, height, width, 3) uint8, from which the ranges of activations are taken.
    """
    model = onnx.load_from_string(data)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    del model.graph.value_info[:]  # shapes that the exporter has noted stop the inference of others
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        options: dict[str, Any] = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8}
        quantize_static(
            source, target, _Images(pixels), quant_format=QuantFormat.QDQ, per_channel=True, **options
        )
        quantised = onnx.load(target)
    del quantised.metadata_props[:]
    onnx.helper.set_model_props(quantised, properties)
    return quantised.SerializeToString()
