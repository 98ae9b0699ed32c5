"""What can be wrong with a gallery: the checks of rows in memory, and their summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sfsc.embedding.model import same_space
from sfsc.gallery.forms import DTYPES
from sfsc.gallery.store import Description, Problem

MOST_NAMED = 5  # ids or files that a finding names
CHECKED = ("id", "width", "form", "fingerprint")  # the columns that `column_problems` needs
PART_BYTES = 1 << 24
MOST_ROWS = 10_000
# Rounding to float16 changes the length of an embedding by at most one part in two thousand.
TOLERANCE = 1e-2

AGAIN = "delete these rows and index their images again"


@dataclass(frozen=True)
class Finding:
    """All problems of one kind.

    Attributes:
        what: what was found, in the plural.
        count: how often it was found.
        first: the ids of the first rows, or the names of the first files.
        remedy: what to do about it.
    """

    what: str
    count: int
    first: tuple[str, ...]
    remedy: str


class Verification(NamedTuple):
    """The result of `Gallery.verify`: the number of rows of the gallery, and what is wrong with them."""

    rows: int
    findings: tuple[Finding, ...]


def rows_per_part(dimension: int) -> int:
    """Return the number of rows whose float32 embeddings take at most 16 MiB."""
    return max(1, min(MOST_ROWS, PART_BYTES // (4 * dimension)))


def summarise(problems: Iterable[Problem]) -> tuple[Finding, ...]:
    """Count problems of the same kind, and keep the names of the first of each."""
    found: dict[str, Finding] = {}
    for what, where, remedy in problems:
        known = found.get(what, Finding(what, 0, (), remedy))
        first = (*known.first, where)[:MOST_NAMED]
        found[what] = Finding(what, known.count + 1, first, remedy)
    return tuple(found.values())


def column_problems(columns: Mapping[str, Sequence[Any]], description: Description) -> Iterator[Problem]:
    """Yield what is wrong with the columns `CHECKED` of N rows."""
    for id_, width, form, fingerprint in zip(*(columns[name] for name in CHECKED), strict=True):
        if not isinstance(width, float) or not 0 < width <= 1:
            yield Problem("rows whose width is not between 0 and 1", str(id_), AGAIN)
        if form not in DTYPES:
            yield Problem("rows with an unknown numeric form", str(id_), AGAIN)
        if not isinstance(fingerprint, str) or not same_space(fingerprint, description.fingerprint):
            yield Problem("rows of another family", str(id_), AGAIN)


def vector_problems(ids: Sequence[Any], vectors: np.ndarray) -> Iterator[Problem]:
    """Yield what is wrong with stored embeddings, (N, dim) float32, float16 or int8.

    Sound float32 and float16 rows have the length 1. The largest component of a sound int8 row is 127.
    """
    finite = np.isfinite(vectors).all(axis=1)
    largest = np.abs(np.where(finite[:, None], vectors, 0).astype(np.float64)).max(axis=1)
    if vectors.dtype == np.int8:
        even = largest == 127
    else:
        lengths = np.linalg.norm(np.where(finite[:, None], vectors, 0).astype(np.float64), axis=1)
        even = np.abs(lengths - 1) <= TOLERANCE
    zero = finite & (largest == 0)
    kinds = {
        "rows whose embedding contains NaN or infinity": ~finite,
        "rows whose embedding is all zeros": zero,
        "rows whose embedding is not normalised": finite & ~zero & ~even,
    }
    for what, mask in kinds.items():
        for place in np.flatnonzero(mask):
            yield Problem(what, str(ids[int(place)]), AGAIN)
