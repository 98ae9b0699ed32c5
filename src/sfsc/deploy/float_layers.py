"""Quantising a model to int8, with the layers that hurt its embeddings most kept in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfsc.deploy.quantising import BATCH, Quantiser
from sfsc.embedding.exported import ExportedModel
from sfsc.progress import track

ENOUGH = (
    0.998  # agreement at which no more layers are kept; docs/benchmarks.md shows the accuracy of int8 then
)
MOST_KEPT = 1 / 4  # maximum share of layers in float32; beyond it, the model is hardly int8 any more
MOST_PAIRS, MOST_TRIES = 32, 16  # bounds the time of the search


def quantise(data: bytes, pixels: np.ndarray, path: Path) -> tuple[bytes, int]:
    """Quantise a float32 model to int8, with as few layers in float32 as its embeddings need.

    An activation is exact only if the layers on both sides are in float32. Layers are therefore tried in
    pairs of consecutive layers: first each pair alone, then, best first, each pair together with those that
    are kept already. A pair is kept in float32 if it increases the agreement, until the agreement reaches
    `ENOUGH` or a quarter of the layers is kept. Every other image determines the ranges of the activations,
    and the remaining images determine the agreement.

    Args:
        data: an ONNX model that `sfsc export` made.
        pixels: (n, height, width, 3) uint8 images of the training split.
        path: the path of the file, for error messages.

    Returns:
        The ONNX model, and the number of its layers in float32.
    """
    held = pixels[1::2]
    expected = _embed(data, held, path)
    with Quantiser(data, pixels[::2]) as quantiser:

        def attempt(kept: set[int]) -> tuple[float, bytes]:
            model = quantiser.quantise(kept)
            return agreement(expected, _embed(model, held, path)), model

        kept = set[int]()
        reached, best = attempt(kept)
        if reached >= ENOUGH:
            return best, 0
        layers = len(quantiser.layers)
        pairs = [{place, place + 1} for place in range(0, layers - 1, -(-layers // MOST_PAIRS))]
        alone = [attempt(pair)[0] for pair in track(pairs, "int8: layers to keep")]
        for place in np.argsort(alone)[::-1][:MOST_TRIES]:
            more = kept | pairs[place]
            if len(more) <= max(2, layers * MOST_KEPT):
                found, model = attempt(more)
                if found > reached:
                    reached, best, kept = found, model, more
            if reached >= ENOUGH:
                break
        return best, len(kept)


def agreement(expected: np.ndarray, found: np.ndarray) -> float:
    """Compute how similarly two models rank: the mean correlation of their query-gallery similarities.

    Args:
        expected: (n, dim) float32 of length 1. Every other row is a query, and the remaining rows are the
            gallery.
        found: embeddings of the same images by another model. Its queries search the same gallery.
    """
    gallery = expected[1::2].T
    one, other = (queries[::2] @ gallery for queries in (expected, found))
    one, other = (scores - scores.mean(1, keepdims=True) for scores in (one, other))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(1) / np.maximum(norms, 1e-12)).mean())


def _embed(data: bytes, pixels: np.ndarray, path: Path) -> np.ndarray:
    model = ExportedModel.of(data, path)
    return np.concatenate(
        [model.embed_pixels(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    )
