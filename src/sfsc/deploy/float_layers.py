"""Which layers of an int8 model stay in float32: those that cost its embeddings most."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfsc.deploy.quantising import BATCH, Quantiser
from sfsc.embedding.exported import ExportedModel
from sfsc.progress import track

ENOUGH = 0.998  # agreement above which no more layers are kept: docs/benchmarks.md shows what int8 costs then
MOST_KEPT = 1 / 4  # of the layers: with more of them in float32, the file is not worth its name
MOST_PAIRS, MOST_TRIES = 32, 16  # so that the search ends in a time that one can wait for


def quantise(data: bytes, pixels: np.ndarray, path: Path) -> tuple[bytes, int]:
    """The int8 model of a float32 one, with as few layers in float32 as its embeddings need.

    An activation is exact only where the layers at both of its ends are in float32, so layers are tried in
    pairs, as they follow each other: first each pair alone, then together with those that were kept before
    it, best first. A pair stays in float32 if the agreement rises by it, until it is `ENOUGH` or a quarter of
    the layers is kept. Ranges of activations come from every other image, the agreement from those between.

    Args:
        data: an ONNX model that `sfsc export` made.
        pixels: (n, height, width, 3) uint8, of the training split.
        path: what errors name.

    Returns:
        The ONNX model, and how many of its layers are in float32.
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
    """How alike two models rank: the mean correlation of their queries' similarities to one gallery.

    Args:
        expected: (n, dim) float32, of length 1: every other one is a query, those between are the gallery.
        found: the same images by another model; its queries search the same gallery.
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
