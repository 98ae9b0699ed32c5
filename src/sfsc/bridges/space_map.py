"""`SpaceMap`: a map from one space of embeddings into another, with an expected error for each row."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from sfsc.errors import SfscError

KINDS = ("orthogonal", "relaxed", "residual")
LEAST_ERROR, MOST_ERROR = 1e-6, 2.0


@dataclass(frozen=True)
class SpaceMap:
    """Maps rows x of length 1 to u / |u| with u = x W + b + max(0, x A + a) B.

    A linear map has h = 0 hidden units. The expected error of a row is exp(x v + s |u| + c): the expected
    value of 1 - cos(mapped row, embedding of the same image by the other model). All arrays are float32.

    Attributes:
        matrix: W, (from, to).
        shift: b, (to,).
        inner: A, (from, h).
        bias: a, (h,).
        outer: B, (h, to).
        error: v, s and c in one array, (from + 2,).
    """

    matrix: np.ndarray
    shift: np.ndarray
    inner: np.ndarray
    bias: np.ndarray
    outer: np.ndarray
    error: np.ndarray

    @classmethod
    def linear(cls, matrix: np.ndarray, shift: np.ndarray) -> SpaceMap:
        """Return a linear map, whose expected error is not known yet."""
        size, to = matrix.shape
        none = np.zeros((size, 0)), np.zeros(0), np.zeros((0, to))
        return cls.of(matrix, shift, *none, np.zeros(size + 2))

    @classmethod
    def of(cls, *arrays: np.ndarray) -> SpaceMap:
        """Return a map with these arrays, as float32."""
        return cls(*(np.ascontiguousarray(array, np.float32) for array in arrays))

    @property
    def dimensions(self) -> tuple[int, int]:
        """The dimensions of the rows before and after the map."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], dimensions: tuple[int, int]) -> SpaceMap:
        """Return the map that has these arrays.

        Raises:
            ValueError: an array is missing or has a shape that does not fit the dimensions.
        """
        size, to = dimensions
        hidden = len(arrays["bias"]) if arrays.get("bias") is not None and arrays["bias"].ndim == 1 else 0
        expected: dict[str, tuple[int, ...]] = {
            "matrix": (size, to),
            "shift": (to,),
            "inner": (size, hidden),
            "bias": (hidden,),
            "outer": (hidden, to),
            "error": (size + 2,),
        }
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != expected:
            raise ValueError(f"its arrays do not map {size} to {to} dimensions")
        return cls(**arrays)

    def raw(self, rows: np.ndarray) -> np.ndarray:
        """Return u for (n, from) float32 rows of length 1: (n, to) float32."""
        hidden = np.maximum(rows @ self.inner + self.bias, 0)
        return np.asarray(rows @ self.matrix + self.shift + hidden @ self.outer)

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map rows of length 1.

        Args:
            rows: (n, from) float32 of length 1.

        Returns:
            (n, to) float32 of length 1, and the expected errors, (n,) float32 within [1e-6, 2].

        Raises:
            SfscError: a row is mapped to no direction.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            mapped = self.raw(rows)
            lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 1e-12)).all():
            raise SfscError("the bridge maps a row to no direction: fit it again on more images")
        logs = features(rows, lengths) @ self.error
        errors = np.exp(np.clip(logs, np.log(LEAST_ERROR), np.log(MOST_ERROR)))
        return mapped / lengths, errors.astype(np.float32)


def features(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return what the logarithm of the expected error is linear in: (n, from + 2) of the dtype of the rows.

    These are the row itself, the length |u|, (n, 1), which is small where a regression is unsure, and 1.
    """
    return np.hstack([rows, lengths, np.ones_like(lengths)])
