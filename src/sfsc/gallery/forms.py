"""The numeric forms in which embeddings are stored: float32, float16 and int8."""

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
    """Convert embeddings to a numeric form. `decode` reverses this, except for rounding.

    The cosine similarity depends only on directions, so an int8 row needs no scale: its component with the
    largest magnitude becomes 127 or -127.

    Args:
        embeddings: (N, dim) float32, of length 1.
        form: float32, float16 or int8.

    Returns:
        (N, dim) of the dtype of this form.
    """
    if form == "int8":
        return np.rint(embeddings * (127 / np.abs(embeddings).max(axis=1, keepdims=True))).astype(np.int8)
    return embeddings.astype(DTYPES[form], copy=False)


def decode(rows: np.ndarray) -> np.ndarray:
    """Convert rows that `encode` returned to (N, dim) float32 of length 1."""
    return rows if rows.dtype == np.float32 else normalised(rows.astype(np.float32))


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Scale (N, dim) float32 vectors, none of them zero, to length 1."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32, copy=False)
