"""A `Source`: rows in files of another program, which are read in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sfsc.errors import SfscError
from sfsc.gallery.store import MOST_DIMENSIONS


class Part(NamedTuple):
    """N rows of a source.

    Attributes:
        file: the file that contains them.
        start: the number of the first row in this file, from 0.
        embeddings: (N, dim), of any float dtype.
        columns: the N values of each column; "id" is among them.
    """

    file: Path
    start: int
    embeddings: np.ndarray
    columns: dict[str, list[Any]]

    def row(self, place: int) -> str:
        """Return how a message calls a row."""
        return f"{self.file}: row {self.start + place} (id {self.columns['id'][place]!r})"


@dataclass(frozen=True)
class Source:
    """Rows of embeddings in files.

    Attributes:
        path: the file or folder.
        rows: the number of rows that the files state.
        dimension: the dimension of the first row.
        parts: a function that reads the rows from the start.
        dimensions: the dimensions that the family supports, if the file states them.
    """

    path: Path
    rows: int
    dimension: int
    parts: Callable[[], Iterator[Part]]
    dimensions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise SfscError(f"{self.path} contains no rows to import")
        if not 0 < self.dimension <= MOST_DIMENSIONS:
            raise SfscError(
                f"{self.path} has embeddings of {self.dimension} dimensions: give 1 to {MOST_DIMENSIONS}"
            )
