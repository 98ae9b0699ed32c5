"""Numeric forms: how embeddings are stored, and what is computed with them after."""

from __future__ import annotations

from typing import Any

import numpy as np

from sfsc.errors import SfscError

DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "int8": np.int8}


def check_form(form: str) -> str:
    """Return the form; raise `SfscError` if its name is unknown."""
    if form not in DTYPES:
        raise SfscError(f"unknown numeric form {form!r}; choose one of {', '.join(DTYPES)}")
    return form


def encode(embeddings: np.ndarray, form: str) -> np.ndarray:
    """Store embeddings in a form; `decode` turns them back, but for what is rounded.

    Only directions matter to a cosine, so an int8 row needs no scale: its largest component becomes 127.

    Args:
        embeddings: (N, dim) float32, of length 1.
        form: float32, float16 or int8.

    Returns:
        (N, dim) of that dtype.
    """
    if form == "int8":
        return np.rint(embeddings * (127 / np.abs(embeddings).max(axis=1, keepdims=True))).astype(np.int8)
    return embeddings.astype(DTYPES[form], copy=False)


def decode(rows: np.ndarray) -> np.ndarray:
    """(N, dim) float32 of length 1, from what `encode` returned."""
    return rows if rows.dtype == np.float32 else normalised(rows.astype(np.float32))


def normalised(vectors: np.ndarray) -> np.ndarray:
    """(N, dim) float32 vectors of any length, none of them zero, brought to length 1."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32, copy=False)
