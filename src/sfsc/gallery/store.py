"""What a gallery asks of the place where its rows are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from sfsc.errors import SfscError
from sfsc.gallery.conditions import Condition, Value

FORMAT = 3  # in which attributes have any names; in the second one, those of their columns
# The columns that every gallery has, and their kinds; attributes come after.
COLUMNS = {
    "id": "text",
    "path": "text",
    "identity": "text",
    "camera": "text",
    "width": "number",
    "form": "text",
    "fingerprint": "text",
    "time": "number",
}
EMBEDDING = "embedding"
MOST_DIMENSIONS = 65_536

Row = dict[str, Any]


class Hit(NamedTuple):
    """A row of the gallery that answers a query.

    `score` is the cosine; `width` the sub-model that wrote the row, `form` the numeric form that it is stored
    in; `attributes` what the user said of it, None where nothing.
    """

    id: str
    path: str
    identity: str | None
    camera: str | None
    width: float
    form: str
    score: float
    attributes: Mapping[str, Value | None]


HIT_COLUMNS = Hit._fields[:6]


def ranked(hits: Sequence[Hit], top: int) -> list[Hit]:
    """The first `top` by their scores; of equal scores, by their ids."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:top]


class StoreUnavailable(SfscError):
    """A store that cannot be read or written now, whatever was asked of it."""


@dataclass(frozen=True)
class Description:
    """What is the same for all rows: dimension, fingerprint, the kinds of the attributes, the format.

    `dimensions` are all in which the family's embeddings stand alone, ascending; none where that is unknown.
    """

    dimension: int
    fingerprint: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    dimensions: tuple[int, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """All columns with their kinds."""
        return {**COLUMNS, **self.attributes}

    def with_attributes(self, kinds: Mapping[str, str], name: str) -> Description:
        """Return the description once rows with attributes of these kinds are added to the gallery `name`.

        Numbers and integers together are numbers.

        Raises:
            SfscError: an attribute is of another kind.
        """
        attributes = dict(self.attributes)
        for attribute, kind in kinds.items():
            known = attributes.setdefault(attribute, kind)
            if {known, kind} == {"integer", "number"}:
                attributes[attribute] = "number"
            elif kind != known:
                raise SfscError(
                    f"gallery {name}: column {attribute} is {known}, these values are {kind}: "
                    "give them as such, or under another name"
                )
        return replace(self, attributes=attributes)

    def to_json(self) -> dict[str, Any]:
        """The description as `from_json` reads it."""
        return {**asdict(self), "attributes": dict(self.attributes)}

    @classmethod
    def from_json(cls, values: Any, name: str) -> Description:
        """The description of the gallery of this name.

        Raises:
            SfscError: it was written by a newer sfsc, or by another program.
        """
        try:
            if values["format"] > FORMAT:
                raise SfscError(f"gallery {name} was written by a newer sfsc: upgrade to read it")
            description = cls(
                dimension=values["dimension"],
                fingerprint=values["fingerprint"],
                attributes=dict(values["attributes"]),
                format=values["format"],
                dimensions=tuple(values.get("dimensions", ())),
            )
            description.fingerprint.encode()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SfscError(f"{name} is not a gallery: its table is of another program") from error
        sizes = (description.dimension, *description.dimensions)
        if not all(type(size) is int and 0 < size <= MOST_DIMENSIONS for size in sizes):
            raise SfscError(f"gallery {name} is damaged: it says that rows have {sizes[0]!r} dimensions")
        return description


class Store(Protocol):
    """Where rows are: the columns of a `Description`, and the embedding.

    Every method raises `StoreUnavailable`, naming the store, where it cannot be read or written.
    """

    def describe(self) -> Description | None:
        """The description that is stored; None before `create`."""

    def create(self, description: Description) -> None:
        """Make the empty store of a family."""

    def upsert(
        self,
        embeddings: np.ndarray,
        form: str,
        columns: Mapping[str, Sequence[Any]],
        attributes: Mapping[str, str],
    ) -> None:
        """Write (N, dimension) float32 rows of length 1, each in the place of that of the same id.

        All of them are written, with new attributes, or nothing is changed.

        Args:
            embeddings: N rows.
            form: in which they are stored.
            columns: the N values of each column that they have, attributes included.
            attributes: the kinds of these attributes.

        Raises:
            SfscError: an attribute is of another kind in the rows that there are, or a value cannot be
                stored.
        """

    def delete(self, where: Sequence[Condition]) -> int:
        """Take away the rows that fulfil all conditions; return how many there were."""

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[Hit]]:
        """For each of (Q, dimension) float32 of length 1, the rows of greatest cosine among those wanted.

        Args:
            queries: Q of them.
            top: how many rows for each, fewer where there are fewer.
            where: conditions, all of which a row fulfils.
            exact: whether no better row may be missing.

        Returns:
            For each query its rows, as `ranked` orders them.
        """

    def search_shortened(self, queries: np.ndarray, top: int, where: Sequence[Condition]) -> list[list[Hit]]:
        """As an exact `search`, by the cosine between queries and as many first components of the rows.

        Args:
            queries: (Q, k) float32 of length 1, with fewer components than rows.
            top: as for `search`.
            where: as for `search`.

        Raises:
            SfscError: the store compares whole embeddings only.
        """

    def rows(
        self, where: Sequence[Condition], columns: Sequence[str], embeddings: bool = False
    ) -> Iterator[tuple[dict[str, list[Any]], np.ndarray | None]]:
        """The rows that fulfil all conditions, in parts: columns and, if wanted, (N, dimension) float32."""

    def count(self, where: Sequence[Condition] = ()) -> int:
        """The number of rows that fulfil all conditions."""

    def duplicates(self) -> list[str]:
        """Return the ids that several rows have, sorted; there are none but in galleries of old versions."""

    def optimize(self) -> None:
        """Free what old rows take, remove all but the newest row of each id, and make ready for searches."""

    def close(self) -> None:
        """Let go of connections and memory."""
