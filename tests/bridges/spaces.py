"""Spaces of random embeddings, bridges between them, and models that need no training."""

from __future__ import annotations

import numpy as np

from sfsc.bridges.bridge import Bridge, Choice, Space
from sfsc.bridges.fitting import fit
from sfsc.embedding.foreign import ForeignModel
from sfsc.embedding.model import Model

OLD, NEW = Space("last year", "space:last-year", 8), Space("this year", "0123456789abcdef", 12, (6, 12))
SIZE = (16, 16)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def embeddings(count: int, dimension: int = OLD.dimension, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def rotation(size: int, to: int, seed: int = 0) -> np.ndarray:
    """A matrix (size, to) with orthonormal rows, size <= to."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((to, size)))[0].T


def make_bridge(old: Space = OLD, new: Space = NEW, noise: float = 0.0) -> Bridge:
    rows = embeddings(300, old.dimension, seed=1)
    targets = rows @ rotation(old.dimension, new.dimension)
    targets = unit(targets + noise * np.random.default_rng(2).standard_normal(targets.shape))
    maps = fit(rows, targets, "orthogonal"), fit(targets, rows, "relaxed")
    choices = {
        name: Choice(one.kind, one.cosines) for name, one in zip(("forward", "backward"), maps, strict=True)
    }
    return Bridge(old, new, len(rows), choices, maps[0].map, maps[1].map)


def model(dimension: int = 8, fingerprint: str = OLD.fingerprint, seed: int = 0) -> Model:
    """Embeds images by fixed random weights of their pixels, mixed by a network if the seed is odd."""
    weights = np.random.default_rng(seed).standard_normal((SIZE[0] * SIZE[1] * 3, dimension))

    def embed(pixels: np.ndarray) -> np.ndarray:
        rows = (pixels.reshape(len(pixels), -1) / 255 - 0.5) @ weights + 0.01
        return np.tanh(rows) if seed % 2 else rows

    return ForeignModel("drawn", fingerprint, SIZE, embed)
