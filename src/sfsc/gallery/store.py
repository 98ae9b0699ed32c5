"""The `Store` protocol: the contract between a gallery and the storage of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sfsc.errors import SfscError
from sfsc.gallery.conditions import KINDS, Condition, Value

FORMAT = 3  # attributes can have any name; in format 2 they had the names of their columns
BRIDGED_FORMAT = 4  # of a gallery that keeps original embeddings, which earlier versions cannot read
# The columns of every gallery, and their kinds; attributes follow them.
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
MOST_ATTRIBUTES = 500  # per gallery, because every hit contains all of them
EMBEDDING = "embedding"
ORIGINAL = "original-embedding"  # what a bridged row had before; no attribute is stored under such a name
# The attribute of bridged rows: the expected value of 1 - cos(row, embedding of its image by the family).
BRIDGE_ERROR = "bridge_error"
MOST_DIMENSIONS = 65_536

Row = dict[str, Any]
# Maps (n, dim) float32 rows of length 1 to rows of another space and their expected errors, (n,) float32.
Move = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Hit(NamedTuple):
    """A row of the gallery that was found by a search.

    Attributes:
        id: the id of the row.
        path: the path or URI of the image.
        identity: the identity that the image shows, or None if it is unknown.
        camera: the camera of the image, or None if it is unknown.
        width: the width of the sub-model that embedded the row.
        form: the numeric form that the embedding is stored in.
        score: the cosine similarity to the query.
        attributes: the values of the user-defined columns, None where the row has no value.
        probability: the probability that the row shows the identity of the query, or None if the family has
            no thresholds.
        match: whether the hit is a match within the limits of the search, or None.
    """

    id: str
    path: str
    identity: str | None
    camera: str | None
    width: float
    form: str
    score: float
    attributes: Mapping[str, Value | None]
    probability: float | None = None
    match: bool | None = None


HIT_COLUMNS = Hit._fields[:6]


def ranked(hits: Sequence[Hit], top: int) -> list[Hit]:
    """Return the `top` hits with the greatest scores; hits with equal scores are ordered by id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:top]


class Problem(NamedTuple):
    """One thing that is wrong with a gallery.

    Attributes:
        what: the kind of the problem, in the plural and the same for all problems of the kind, for example
            "rows whose embedding is all zeros".
        where: the id of the row, or the name of the file.
        remedy: what to do, the same for all problems of the kind.
    """

    what: str
    where: str
    remedy: str


class StoreUnavailable(SfscError):
    """Raised if a store cannot be read or written at the moment, regardless of the request."""


@dataclass(frozen=True)
class Description:
    """The properties that all rows share: dimension, fingerprint, kinds of the attributes, and format.

    `dimensions` are the dimensions that the family supports, ascending; empty if they are unknown.
    `bridged_from` is the fingerprint of the space from which a bridge moved rows, while the gallery keeps
    their original embeddings, and empty otherwise.
    """

    dimension: int
    fingerprint: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    dimensions: tuple[int, ...] = ()
    bridged_from: str = ""

    @property
    def columns(self) -> dict[str, str]:
        """All columns with their kinds."""
        return {**COLUMNS, **self.attributes}

    def with_attributes(self, kinds: Mapping[str, str], name: str) -> Description:
        """Return the description after rows with attributes of these kinds are added to the gallery `name`.

        A column with both integers and numbers is a column of numbers.

        Raises:
            SfscError: an attribute already has another kind, or there are too many attributes.
        """
        attributes = dict(self.attributes)
        for attribute, kind in kinds.items():
            known = attributes.setdefault(attribute, kind)
            if {known, kind} == {"integer", "number"}:
                attributes[attribute] = "number"
            elif kind != known:
                raise SfscError(
                    f"gallery {name}: column {attribute} has type {known}, but the values have type "
                    f"{kind}: convert them, or use another name"
                )
        if len(attributes) > MOST_ATTRIBUTES:
            raise SfscError(
                f"gallery {name}: a gallery has at most {MOST_ATTRIBUTES} attributes, but with these it "
                f"would have {len(attributes)}: leave some out"
            )
        return replace(self, attributes=attributes)

    def moved(self, to: Description, name: str) -> Description:
        """Return the description of the gallery `name` after its rows are moved into another space.

        Raises:
            SfscError: the gallery still keeps the originals of an earlier move, or has another attribute with
                the name of the expected error.
        """
        if self.bridged_from:
            raise SfscError(
                f"gallery {name} keeps the embeddings that it had before it was upgraded by a bridge: remove "
                f"them first with sfsc gallery upgrade {name} --drop-originals"
            )
        described = self.with_attributes({BRIDGE_ERROR: "number"}, name)
        return replace(
            described,
            dimension=to.dimension,
            fingerprint=to.fingerprint,
            dimensions=to.dimensions,
            bridged_from=self.fingerprint,
            format=BRIDGED_FORMAT,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the description as values that `from_json` reads."""
        values = {**asdict(self), "attributes": dict(self.attributes)}
        return values if self.bridged_from else {k: v for k, v in values.items() if k != "bridged_from"}

    @classmethod
    def from_json(cls, values: Any, name: str) -> Description:
        """Return the description of the gallery with this name.

        Raises:
            SfscError: the description was written by a newer sfsc or by another program.
        """
        try:
            if values["format"] > BRIDGED_FORMAT:
                raise SfscError(f"gallery {name} was written by a newer sfsc: upgrade sfsc to read it")
            description = cls(
                dimension=values["dimension"],
                fingerprint=values["fingerprint"],
                attributes=dict(values["attributes"]),
                format=values["format"],
                dimensions=tuple(values.get("dimensions", ())),
                bridged_from=values.get("bridged_from", ""),
            )
            description.fingerprint.encode()
            description.bridged_from.encode()
            known = set(description.attributes.values()) <= KINDS.keys()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SfscError(f"{name} is not a gallery: another program wrote its table") from error
        sizes = (description.dimension, *description.dimensions)
        if not all(type(size) is int and 0 < size <= MOST_DIMENSIONS for size in sizes):
            raise SfscError(f"gallery {name} is damaged: it states that rows have {sizes[0]!r} dimensions")
        if not known:
            raise SfscError(
                f"gallery {name} is damaged: it has attributes of no kind among {', '.join(KINDS)}"
            )
        return description


class Store(Protocol):
    """Storage of rows: the columns of a `Description`, and the embedding.

    Every method raises `StoreUnavailable`, with the name of the store, if it cannot be read or written.
    """

    def describe(self) -> Description | None:
        """Return the stored description, or None before `create`."""

    def create(self, description: Description) -> None:
        """Create the empty store of a family."""

    def upsert(
        self,
        embeddings: np.ndarray,
        form: str,
        columns: Mapping[str, Sequence[Any]],
        attributes: Mapping[str, str],
        keep_originals: bool = False,
    ) -> None:
        """Write N rows; a row replaces the stored row with the same id.

        Either all rows and new attributes are written, or nothing is changed.

        Args:
            embeddings: (N, dimension) float32 of length 1.
            form: the numeric form in which they are stored.
            columns: the N values of each column, including attributes.
            attributes: the kinds of the attributes.
            keep_originals: whether a row keeps the original embedding of the row that it replaces, if that
                has one and is stored in the same form.

        Raises:
            SfscError: the stored rows have an attribute with another kind, or a value cannot be stored.
        """

    def move(self, to: Description, move: Move, token: str) -> int:
        """Move all rows into another space at once, and return their number.

        Every row gets its expected error as the attribute `BRIDGE_ERROR`, and keeps its original embedding.
        Other processes read the old rows until all are moved. After an interruption, the same call continues.

        Args:
            to: the dimension, the fingerprint and the dimensions of the other space.
            move: maps the rows.
            token: a text that identifies the map, because only parts by the same map are continued.

        Raises:
            SfscError: the rows cannot be moved; the store is then unchanged.
        """

    def move_again(self, dimension: int, move: Move, token: str) -> int:
        """Replace bridged rows by what `move` maps their originals to, and return their number.

        Other rows stay as they are. Otherwise, it is as `move`.

        Args:
            dimension: the dimension of the originals.
            move: maps the originals.
            token: as for `move`.
        """

    def originals(
        self, where: Sequence[Condition], dimension: int
    ) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield the rows that fulfil all conditions and keep their original embeddings, in parts.

        A part is their ids, their originals, (N, dimension) float32 of length 1, and their embeddings.
        """

    def drop_originals(self) -> int:
        """Remove the original embeddings that `move` kept, and return the number of rows."""

    def delete(self, where: Sequence[Condition]) -> int:
        """Delete the rows that fulfil all conditions; return how many were deleted."""

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[Hit]]:
        """Find the rows with the greatest cosine similarity to each query.

        Args:
            queries: (Q, dimension) float32 of length 1.
            top: the maximum number of rows for each query.
            where: conditions that every returned row fulfils.
            exact: whether the best rows must be found without exception.

        Returns:
            The rows for each query, ordered as by `ranked`.
        """

    def search_shortened(self, queries: np.ndarray, top: int, where: Sequence[Condition]) -> list[list[Hit]]:
        """Search exactly with queries that are shorter than the rows, using the first components of the rows.

        Args:
            queries: (Q, k) float32 of length 1, with k smaller than the dimension of the rows.
            top: as for `search`.
            where: as for `search`.

        Raises:
            SfscError: the store can only compare full embeddings.
        """

    def rows(
        self, where: Sequence[Condition], columns: Sequence[str], embeddings: bool = False
    ) -> Iterator[tuple[dict[str, list[Any]], np.ndarray | None]]:
        """Yield the rows that fulfil all conditions, in parts.

        A part is a dictionary of columns and, if `embeddings` is true, an (N, dimension) float32 array.
        """

    def count(self, where: Sequence[Condition] = ()) -> int:
        """Return the number of rows that fulfil all conditions."""

    def duplicates(self) -> list[str]:
        """Return the ids that several rows share, sorted; only galleries of old versions contain any."""

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with the stored rows and files, which are read in parts."""

    def backup(self, out: Path) -> int:
        """Copy all rows into a new folder, and return their number; see `Gallery.backup`."""

    def optimize(self, keep: float | None = None) -> None:
        """Free the space of old rows, keep only the newest row of each id, and renew the search index.

        `keep` is as for `Gallery.optimize`.
        """

    def refresh(self) -> None:
        """Bring the search index up to date if much has changed."""

    def close(self) -> None:
        """Release connections and memory."""
