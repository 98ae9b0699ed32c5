"""The gallery: embeddings of one family with what they show, kept and searched by cosine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.dimensions import check_dimension, shorten
from sfsc.embedding.model import same_space
from sfsc.errors import SfscError, missing_extra
from sfsc.gallery.conditions import EXACT, Condition, Value, kind_of, parse_conditions
from sfsc.gallery.forms import check_form
from sfsc.gallery.milvus_address import is_milvus
from sfsc.gallery.names import check_name
from sfsc.gallery.store import COLUMNS, EMBEDDING, Description, Hit, Row, Store

MOST_ATTRIBUTES = 500  # of a gallery: every hit shows all of them
IDS_PER_CALL = 1000

Where = Sequence[str | Condition]


@dataclass(frozen=True)
class GalleryInfo:
    """What a gallery holds; `dimension` and `fingerprint` are None until the first row is added.

    `attributes` maps the names of the user's columns to text, integer, number or boolean; `dimensions` are
    all in which the family's embeddings stand alone, ascending, none where that is not known; `duplicates`
    are ids that several rows have, which galleries written by several processes of an old version may hold.
    """

    rows: int
    dimension: int | None
    fingerprint: str | None
    rows_by_width: dict[float, int]
    rows_by_form: dict[str, int]
    attributes: dict[str, str]
    dimensions: tuple[int, ...] = ()
    duplicates: tuple[str, ...] = ()


class Gallery(AbstractContextManager["Gallery"]):
    """Rows of one family, which any of its sub-models may have embedded; made by `Gallery.open`.

    One process may search while another adds: a search sees all rows of a finished `add`. An `add` is
    stored as a whole or not at all, and stays stored when it has returned, whatever happens to the process.

    Its rows have the dimension of the first. Where that is one of several in which the family's embeddings
    stand alone, embeddings of a larger one are shortened to it.
    """

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self._store = store

    @classmethod
    def open(cls, path: str | Path, *, create: bool = False) -> Gallery:
        """The gallery in a directory, or in a Milvus collection.

        Args:
            path: a directory; or milvus://HOST:PORT/NAME, milvus+https://HOST:PORT/NAME for one that is
                encrypted, or milvus:///FILE.db/NAME for milvus-lite.
            create: whether it may be missing; a directory may then be empty, too.

        Raises:
            SfscError: there is no gallery, it is damaged or written by a newer sfsc, Milvus cannot be
                reached, or the `gallery` or `milvus` extra is missing.
        """
        return cls(str(path), open_store(str(path), create))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections and memory; nothing must be called after it."""
        self._store.close()

    def add(
        self,
        embeddings: np.ndarray,
        ids: Sequence[str],
        *,
        paths: Sequence[str],
        width: float,
        fingerprint: str,
        identities: Sequence[str | None] | np.ndarray | None = None,
        cameras: Sequence[str | None] | np.ndarray | None = None,
        attributes: Mapping[str, Sequence[Value | None] | np.ndarray] | None = None,
        form: str = "float32",
        dimensions: Sequence[int] = (),
    ) -> int:
        """Store N rows, each in the place of the row of the same id if there is one.

        Args:
            embeddings: (N, dim) float32, finite and not zero, of a sub-model of the family.
            ids: by which rows are known, each once.
            paths: paths or URIs of the images.
            width: of the sub-model.
            fingerprint: of the family.
            identities: what the images show, if known.
            cameras: where they come from, if known.
            attributes: more columns by name, which may be any text but that of another column; each of text,
                integers, numbers or booleans, or None. NaN and infinity count as None. A column of integers
                becomes one of numbers when other numbers come.
            form: in which the embeddings are stored: float32, float16 or int8.
            dimensions: all in which the family's embeddings stand alone, as `Model.dimensions`; those of the
                first rows stay.

        Returns:
            N.

        Raises:
            SfscError: with nothing changed: embeddings of another family than the gallery's, or of a
                dimension that does not fit it; an id given twice, columns of unequal lengths or of another
                kind than before, a name or a value that cannot be stored, or a full disk.
        """
        rows = self._checked(embeddings)
        check_form(form)
        columns: dict[str, list[Any]] = {
            "id": _texts(ids),
            "path": _texts(paths),
            "identity": [None] * len(rows) if identities is None else _texts(identities),
            "camera": [None] * len(rows) if cameras is None else _texts(cameras),
            "width": [float(width)] * len(rows),
            "fingerprint": [fingerprint] * len(rows),
        }
        own, kinds = self._attributes(attributes or {})
        self._check_columns(columns | own, len(rows))
        if not len(rows):
            return 0
        description = self._described(rows.shape[1], fingerprint, kinds, dimensions)
        kinds = {name: description.attributes[name] for name in kinds}
        for name, kind in kinds.items():
            columns[name] = [_number(v, name) for v in own[name]] if kind == "number" else own[name]
        self._store.upsert(self._fitting(rows, description), form, columns, kinds)
        return len(rows)

    def search(
        self,
        embeddings: np.ndarray,
        fingerprint: str,
        top: int = 10,
        where: Where = (),
        exact: bool = True,
    ) -> list[list[Hit]]:
        """For each query the `top` rows of the greatest cosine; equal scores in order of their ids.

        Args:
            embeddings: (Q, dim) float32, finite and not zero, of any sub-model of the family. Those with
                fewer dimensions than the rows have are compared with the first components of all rows; Milvus
                refuses them.
            fingerprint: of the family.
            top: how many rows; fewer where the gallery has fewer.
            where: conditions that all of them fulfil, as `Condition` or as text that `Condition.parse`
                reads: "camera=2", "price<=9.5". Several equalities of one column are alternatives.
            exact: whether every row is compared. Else, in a large gallery, only the rows of some lists are:
                faster, and some of the best may be missing. With conditions, every row is compared.

        Raises:
            SfscError: queries of another family than the gallery's, or of a dimension that does not fit it;
                an unknown column in a condition, or a damaged gallery.
        """
        queries = self._checked(embeddings)
        if top < 1:
            raise SfscError(f"top must be at least 1, not {top}")
        description = self._store.describe()
        if description is None or not len(queries):
            return [[] for _ in queries]
        self._check_family(description, queries.shape[1], fingerprint)
        conditions = self._conditions(where, description)
        queries = self._fitting(queries, description)
        if queries.shape[1] < description.dimension:
            return self._store.search_shortened(queries, top, conditions)
        return self._store.search(queries, top, conditions, exact)

    def delete(self, ids: Iterable[str] = (), where: Where = ()) -> int:
        """Take rows away: those of these ids, or all that fulfil conditions, or both at once.

        Returns:
            How many there were.

        Raises:
            SfscError: neither ids nor conditions are given, or an unknown column is in a condition.
        """
        wanted = _texts([*ids])
        if not wanted and not where:
            raise SfscError(f"gallery {self.name}: say which rows to delete, by ids or conditions")
        description = self._store.describe()
        if description is None:
            return 0
        conditions = self._conditions(where, description)
        parts = [
            [Condition("id", "=", tuple(wanted[start : start + IDS_PER_CALL])), *conditions]
            for start in range(0, len(wanted), IDS_PER_CALL)
        ]
        return sum(self._store.delete(part) for part in parts or [conditions])

    def count(self, where: Where = ()) -> int:
        """Return how many rows fulfil conditions, as in `search`."""
        description = self._store.describe()
        return 0 if description is None else self._store.count(self._conditions(where, description))

    def rows(self, where: Where = (), embeddings: bool = False) -> Iterator[Row]:
        """Every row that fulfils conditions, as a dictionary of its columns, in no order.

        Args:
            where: conditions, as in `search`.
            embeddings: whether "embedding" is among the columns, (dim,) float32 of length 1.
        """
        description = self._store.describe()
        if description is None:
            return
        conditions = self._conditions(where, description)
        for columns, vectors in self._store.rows(conditions, list(description.columns), embeddings):
            rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
            for place, row in enumerate(rows):
                yield row if vectors is None else {**row, EMBEDDING: vectors[place]}

    def column(self, name: str, where: Where = ()) -> Iterator[Any]:
        """Yield the values of one column, of every row that fulfils conditions, in no order.

        Args:
            name: of the column.
            where: conditions, as in `search`.
        """
        description = self._store.describe()
        if description is None:
            return
        for columns, _ in self._store.rows(self._conditions(where, description), [name]):
            yield from columns[name]

    def optimize(self) -> None:
        """Free the room of rows that were replaced or deleted, and make ready for approximate searches.

        Of several rows with one id, only the newest stays.
        """
        if self._store.describe() is not None:
            self._store.optimize()

    def info(self) -> GalleryInfo:
        """What the gallery holds now."""
        description = self._store.describe()
        if description is None:
            return GalleryInfo(0, None, None, {}, {}, {})
        widths: Counter[float] = Counter()
        forms: Counter[str] = Counter()
        for columns, _ in self._store.rows([], ["width", "form"]):
            widths.update(columns["width"])
            forms.update(columns["form"])
        return GalleryInfo(
            rows=widths.total(),
            dimension=description.dimension,
            fingerprint=description.fingerprint,
            rows_by_width=dict(sorted(widths.items())),
            rows_by_form=dict(sorted(forms.items())),
            attributes=dict(description.attributes),
            dimensions=description.dimensions,
            duplicates=tuple(self._store.duplicates()),
        )

    def __len__(self) -> int:
        return self._store.count()

    def check_family(self, dimension: int, fingerprint: str) -> None:
        """Raise `SfscError` unless rows of this dimension and of the gallery's family can be added."""
        if description := self._store.describe():
            self._check_family(description, dimension, fingerprint)
            if dimension < description.dimension:
                raise SfscError(
                    f"gallery {self.name} has rows of {description.dimension} dimensions, these embeddings "
                    f"{dimension}: add longer ones, or make another gallery"
                )

    def _check_family(self, description: Description, dimension: int, fingerprint: str) -> None:
        if not same_space(description.fingerprint, fingerprint):
            raise SfscError(
                f"gallery {self.name} belongs to the family {description.fingerprint}, these embeddings to "
                f"{fingerprint}: use a sub-model of that family, or another gallery"
            )
        own, known = description.dimension, description.dimensions
        if dimension != own and not {dimension, own} <= {*known}:
            stand_alone = f", and its family stands alone in {', '.join(map(str, known))}" if known else ""
            raise SfscError(
                f"gallery {self.name} has {own} dimensions, these embeddings {dimension}{stand_alone}"
            )

    def _fitting(self, embeddings: np.ndarray, description: Description) -> np.ndarray:
        """The embeddings with no more dimensions than the rows."""
        if embeddings.shape[1] <= description.dimension:
            return embeddings
        return self._checked(shorten(embeddings, description.dimension))

    def _described(
        self, dimension: int, fingerprint: str, kinds: Mapping[str, str], dimensions: Sequence[int]
    ) -> Description:
        """The store's description with these attributes; the store is made if it is not there yet."""
        if self._store.describe() is None:
            check_dimension(dimension, dimensions or (dimension,))
            self._store.create(Description(dimension, fingerprint, dimensions=tuple(dimensions)))
        self.check_family(dimension, fingerprint)
        description = self._store.describe()
        assert description is not None
        return self._checked_attributes(description.with_attributes(kinds, self.name))

    def _checked_attributes(self, description: Description) -> Description:
        if len(description.attributes) > MOST_ATTRIBUTES:
            raise SfscError(
                f"gallery {self.name}: a gallery has at most {MOST_ATTRIBUTES} attributes, with these it "
                f"would have {len(description.attributes)}: leave some out"
            )
        return description

    def _attributes(
        self, attributes: Mapping[str, Sequence[Any] | np.ndarray]
    ) -> tuple[dict[str, list[Any]], dict[str, str]]:
        """The attributes that have values, under the names that they are stored by, and their kinds."""
        columns: dict[str, list[Any]] = {}
        for given, values in attributes.items():
            name = check_name(given, (*COLUMNS, EMBEDDING))
            if name in columns:
                raise SfscError(f"gallery {self.name}: attribute {name!r} is given twice")
            columns[name] = _plain(values)
        kinds = {name: kind for name, values in columns.items() if (kind := kind_of(values, name))}
        return columns, kinds

    def _conditions(self, where: Where, description: Description) -> list[Condition]:
        return [condition.typed(description.columns) for condition in parse_conditions(where)]

    def _checked(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings as (N, dim) float32 of length 1."""
        if embeddings.ndim != 2:
            raise SfscError(f"gallery {self.name}: embeddings must be (N, dim), not {embeddings.shape}")
        rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise SfscError(
                f"gallery {self.name}: embeddings hold NaN, infinity or a row of zeros: "
                "check the sub-model and the images"
            )
        return rows / lengths

    def _check_columns(self, columns: Mapping[str, list[Any]], rows: int) -> None:
        for name, values in columns.items():
            if len(values) != rows:
                raise SfscError(f"gallery {self.name}: {rows} embeddings, but {len(values)} of {name}")
            if name in ("id", "path") and None in values:
                raise SfscError(f"gallery {self.name}: every row needs a text as its {name}, one has None")
            _check_storable(values, f"gallery {self.name}: column {name}")
        twice = [name for name, times in Counter(columns["id"]).items() if times > 1]
        if twice:
            raise SfscError(f"gallery {self.name}: id {twice[0]!r} is given twice: every row needs its own")


def open_store(path: str, create: bool) -> Store:
    """The store that a path or a URL names."""
    if is_milvus(path):
        from sfsc.gallery.milvus import MilvusStore

        return MilvusStore(path, create=create)
    try:
        from sfsc.gallery.lance import LanceStore
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "gallery") from error
    return LanceStore(Path(path), create=create)


def _plain(values: Sequence[Any] | np.ndarray) -> list[Any]:
    """The values as Python's own; what is not finite is no value."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in plain]


def _check_storable(values: Sequence[Any], column: str) -> None:
    """Raise `SfscError` for a text that UTF-8 cannot encode, or an integer of more than 64 bits."""
    try:
        "".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeEncodeError as error:
        shown = error.object[max(0, error.start - 20) : error.end + 20]
        raise SfscError(f"{column} has a value that is not Unicode text, near {shown!r}: change it") from None
    large = next((v for v in values if isinstance(v, int) and not -(2**63) <= v < 2**63), None)
    if large is not None:
        raise SfscError(f"{column} has an integer of more than 64 bits, {large}: give it as text")


def _number(value: Any, name: str) -> float | None:
    if isinstance(value, int) and abs(value) > EXACT:
        raise SfscError(f"column {name} holds numbers, and no number equals {value}: give it as text")
    return None if value is None else float(value)


def _texts(values: Sequence[Any] | np.ndarray) -> list[Any]:
    return [None if value is None else str(value) for value in values]
