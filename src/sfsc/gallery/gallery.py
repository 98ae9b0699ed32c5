"""The `Gallery`: embeddings of one family with their metadata, stored and searched by cosine similarity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.dimensions import check_dimension, shorten
from sfsc.embedding.model import same_space, space_of
from sfsc.errors import SfscError
from sfsc.gallery.conditions import Condition, Value, parse_conditions
from sfsc.gallery.forms import check_form
from sfsc.gallery.info import GalleryInfo, summary
from sfsc.gallery.opening import open_store
from sfsc.gallery.problems import Verification, summarise
from sfsc.gallery.store import EMBEDDING, Description, Hit, Move, Row, Store
from sfsc.gallery.values import attribute_columns, check_columns, exact_number, texts, unit_rows

IDS_PER_CALL = 1000

Where = Sequence[str | Condition]


class Gallery(AbstractContextManager["Gallery"]):
    """A set of rows, each with an embedding by any sub-model of one family. Create it with `Gallery.open`.

    One process can search while another adds rows: a search sees all rows of every finished `add`. An `add`
    is stored completely or not at all. Once it has returned, its rows are stored durably.

    All rows have the dimension of the first row. If the family supports several dimensions, longer embeddings
    are shortened to it.

    Example::

        gallery = sfsc.Gallery.open("galleries/photos", create=True)
        sfsc.index(family, "photos", gallery, width=1.0)
        hits = sfsc.search(family, "query.jpg", gallery, width=0.25, where=["camera=2"])
    """

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self._store = store

    @classmethod
    def open(
        cls, path: str | Path, *, create: bool = False, maintain: bool = False, memory: float = math.inf
    ) -> Gallery:
        """Open the gallery in a directory or in a Milvus collection.

        Args:
            path: a directory, milvus://HOST:PORT/NAME, milvus+https://HOST:PORT/NAME for an encrypted
                connection, or milvus:///FILE.db/NAME for milvus-lite.
            create: whether to create the gallery if it is missing or the directory is empty.
            maintain: whether to follow the changes of other processes, and to renew the search index when
                much has changed, in threads of their own, as a program that keeps the gallery open for long
                should. Otherwise searches follow the changes; call `refresh` after many of them.
            memory: the maximum number of bytes of rows and index that stay in memory; what does not fit is
                read from the disk. Milvus ignores it.

        Raises:
            SfscError: the gallery does not exist, is damaged or was written by a newer sfsc, Milvus cannot be
                reached, or the `gallery` or `milvus` extra is not installed.

        Example::

            with sfsc.Gallery.open("galleries/photos") as gallery:
                print(len(gallery), gallery.info().fingerprint)
        """
        return cls(str(path), open_store(str(path), create, maintain, memory))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release connections and memory. The gallery cannot be used afterwards."""
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
        keep_originals: bool = False,
    ) -> int:
        """Store N rows; a row replaces the stored row with the same id.

        Args:
            embeddings: (N, dim) float32 by a sub-model of the family, finite and not zero.
            ids: the id of each row, without duplicates.
            paths: the path or URI of each image.
            width: the width of the sub-model.
            fingerprint: the fingerprint of the family.
            identities: the identity that each image shows, if known.
            cameras: the camera of each image, if known.
            attributes: additional columns by name. The values of a column are all text, integers, numbers or
                booleans, or None. NaN and infinity are stored as None. A column of integers becomes a column
                of numbers when other numbers are added.
            form: the numeric form in which the embeddings are stored: float32, float16 or int8.
            dimensions: the dimensions that the family supports, as `Model.dimensions`. The gallery keeps
                those that were given with its first rows.
            keep_originals: whether rows that replace bridged ones keep the original embeddings of these. Set
                it only if the rows are of the same images.

        Returns:
            The number of rows, N.

        Raises:
            SfscError: the embeddings belong to another family or have a dimension that does not fit the
                gallery, an id is given twice, columns differ in length or have another kind than before, a
                name or a value cannot be stored, or the disk is full. The gallery is then unchanged.
        """
        rows = unit_rows(embeddings, self.name)
        check_form(form)
        columns: dict[str, list[Any]] = {
            "id": texts(ids),
            "path": texts(paths),
            "identity": [None] * len(rows) if identities is None else texts(identities),
            "camera": [None] * len(rows) if cameras is None else texts(cameras),
            "width": [float(width)] * len(rows),
            "fingerprint": [fingerprint] * len(rows),
        }
        own, kinds = attribute_columns(attributes or {}, self.name)
        check_columns(columns | own, len(rows), self.name)
        if not len(rows):
            return 0
        description = self._described(rows.shape[1], fingerprint, kinds, dimensions)
        kinds = {name: description.attributes[name] for name in kinds}
        for name, kind in kinds.items():
            columns[name] = [exact_number(v, name) for v in own[name]] if kind == "number" else own[name]
        self._store.upsert(self._fitting(rows, description), form, columns, kinds, keep_originals)
        return len(rows)

    def search(
        self,
        embeddings: np.ndarray,
        fingerprint: str,
        top: int = 10,
        where: Where = (),
        exact: bool = True,
    ) -> list[list[Hit]]:
        """Find the rows with the greatest cosine similarity to each query.

        Args:
            embeddings: (Q, dim) float32 by any sub-model of the family, finite and not zero. A query with
                fewer dimensions than the rows is compared with the first components of every row. Milvus does
                not support this.
            fingerprint: the fingerprint of the family.
            top: the maximum number of hits for each query.
            where: conditions that every hit fulfils, as `Condition` or as text for `Condition.parse`, for
                example "camera=2" or "price<=9.5". Several equalities on one column are alternatives.
            exact: whether to compare every row. If False, a large gallery compares only a part of its rows,
                which is faster but may miss some of the best hits.

        Returns:
            For each query a list of hits, best first; hits with equal scores are ordered by id.

        Raises:
            SfscError: the queries belong to another family or have a dimension that does not fit the gallery,
                a condition names an unknown column, or the gallery is damaged.
        """
        queries = unit_rows(embeddings, self.name)
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

    def move(self, to: Description, move: Move, token: str) -> int:
        """Move all rows into another space in place, as `sfsc.bridges.upgrading.upgrade_gallery` does.

        Searches find the old rows until all rows are moved in one step. Other writers wait. If the process is
        killed, nothing is lost, and the same call continues.

        Args:
            to: the dimension, the fingerprint and the dimensions of the other space.
            move: maps (n, dim) float32 rows of length 1 to rows of the other space, and their expected
                errors, (n,) float32.
            token: a text that identifies the map.

        Returns:
            The number of rows.

        Raises:
            SfscError: the gallery is empty, keeps the originals of an earlier move, or is on Milvus. It is
                then unchanged.
        """
        if self._store.describe() is None:
            raise SfscError(f"gallery {self.name} contains no rows to upgrade")
        return self._store.move(to, move, token)

    def move_again(self, dimension: int, move: Move, token: str) -> int:
        """Move bridged rows again, from their originals, as `sfsc.bridges.upgrading.refit_gallery` does.

        Rows that are not bridged, or that keep no original, stay as they are. Otherwise, it is as `move`.

        Args:
            dimension: the dimension of the originals.
            move: maps (n, dimension) float32 originals of length 1 to rows, and their expected errors.
            token: a text that identifies the map.

        Returns:
            The number of rows that were moved again.

        Raises:
            SfscError: the gallery keeps no originals.
        """
        self._check_originals("to move again")
        return self._store.move_again(dimension, move, token)

    def originals(
        self, dimension: int, where: Where = ()
    ) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield the rows that keep the embedding that they had before a bridge moved them, in parts.

        A part is the ids of n rows, their originals, (n, dimension) float32 of length 1, and their
        embeddings, (n, dim) float32 of length 1. There are no parts if the gallery keeps no originals.

        Args:
            dimension: the dimension of the originals.
            where: conditions, as for `search`.
        """
        if description := self._store.describe():
            yield from self._store.originals(self._conditions(where, description), dimension)

    def drop_originals(self) -> int:
        """Remove the embeddings that bridged rows had before they were moved; return the number of rows."""
        self._check_originals("to remove")
        return self._store.drop_originals()

    def delete(self, ids: Iterable[str] = (), where: Where = ()) -> int:
        """Delete rows by their ids, by conditions, or by both, which deletes the rows that match both.

        Returns:
            The number of deleted rows.

        Raises:
            SfscError: neither ids nor conditions are given, or a condition names an unknown column.
        """
        wanted = texts([*ids])
        if not wanted and not where:
            raise SfscError(f"gallery {self.name}: give ids or conditions to select the rows to delete")
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
        """Return the number of rows that fulfil conditions, given as for `search`."""
        description = self._store.describe()
        return 0 if description is None else self._store.count(self._conditions(where, description))

    def rows(self, where: Where = (), embeddings: bool = False) -> Iterator[Row]:
        """Yield every row that fulfils conditions, as a dictionary of its columns, in no particular order.

        Args:
            where: conditions, as for `search`.
            embeddings: whether to include the column "embedding", (dim,) float32 of length 1.
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
        """Yield the values of one column for every row that fulfils conditions, in no particular order.

        Args:
            name: the name of the column.
            where: conditions, as for `search`.
        """
        description = self._store.describe()
        if description is None:
            return
        for columns, _ in self._store.rows(self._conditions(where, description), [name]):
            yield from columns[name]

    def optimize(self, keep: float | None = None) -> None:
        """Free the space of replaced and deleted rows, and renew the search index.

        If several rows share an id, only the newest one is kept.

        Args:
            keep: the seconds for which old versions of the gallery are kept, now and by all later writers,
                because other processes may still read them; by default as before, and 60 at first. Milvus
                ignores it.
        """
        if self._store.describe() is not None:
            self._store.optimize(keep)

    def refresh(self) -> None:
        """Bring the search index up to date if much has changed, so that the next search need not do it."""
        if self._store.describe() is not None:
            self._store.refresh()

    def describe(self) -> Description | None:
        """Return what all rows share: dimension, fingerprint and attributes; None before the first row."""
        return self._store.describe()

    def info(self) -> GalleryInfo:
        """Return a summary of the gallery."""
        return summary(self._store)

    def verify(self) -> Verification:
        """Check all rows and files of the gallery.

        Every embedding must have the size of its form, be finite, not zero and normalised. Ids must be
        unique, every width within (0, 1], every form known, every fingerprint that of the family, and every
        file readable. Rows are read in parts, so that the memory stays bounded: 8 bytes for each row, and one
        part. Other processes can write to the gallery meanwhile.

        Returns:
            The number of rows, and what was found; `findings` is empty if the gallery is sound.

        Raises:
            SfscError: the gallery cannot be opened or read at all.

        Example::

            for finding in gallery.verify().findings:
                print(finding.count, finding.what, finding.first, finding.remedy)
        """
        found = () if self._store.describe() is None else summarise(self._store.problems())
        return Verification(len(self), found)

    def backup(self, out: str | Path) -> int:
        """Copy all rows, as they are at one moment, into a new folder, from which `restore` can restore them.

        Other processes can write to the gallery meanwhile. If the backup is interrupted, the folder is no
        complete backup, and the same call continues.

        Args:
            out: a folder that is missing or empty, or contains an interrupted backup.

        Returns:
            The number of rows in the backup.

        Raises:
            SfscError: the gallery has no rows or is damaged, the folder contains a backup or other files, or
                the disk is full; a gallery on Milvus is backed up with the tools of Milvus.

        Example::

            gallery.backup("backups/monday")
        """
        if self._store.describe() is None:
            raise SfscError(f"gallery {self.name} contains no rows to back up")
        return self._store.backup(Path(out))

    def __len__(self) -> int:
        return self._store.count()

    def check_family(self, dimension: int, fingerprint: str) -> None:
        """Raise `SfscError` unless rows of this dimension and family can be added."""
        if description := self._store.describe():
            self._check_family(description, dimension, fingerprint)
            if dimension < description.dimension:
                raise SfscError(
                    f"gallery {self.name} has rows of {description.dimension} dimensions, but the embeddings "
                    f"have {dimension}: add longer embeddings, or create another gallery"
                )

    def _check_family(self, description: Description, dimension: int, fingerprint: str) -> None:
        if not same_space(description.fingerprint, fingerprint):
            other = space_of(fingerprint).removeprefix("the family ")
            raise SfscError(
                f"gallery {self.name} belongs to {space_of(description.fingerprint)}, but the embeddings "
                f"belong to {other}: use a sub-model of that family, another gallery, or a bridge "
                "(sfsc bridge)"
            )
        own, known = description.dimension, description.dimensions
        if dimension != own and not {dimension, own} <= {*known}:
            stand_alone = f"; its family supports dimensions {', '.join(map(str, known))}" if known else ""
            raise SfscError(
                f"gallery {self.name} has {own} dimensions, but the embeddings have {dimension}{stand_alone}"
            )

    def _check_originals(self, purpose: str) -> None:
        description = self._store.describe()
        if description is None or not description.bridged_from:
            raise SfscError(f"gallery {self.name} has no original embeddings {purpose}")

    def _fitting(self, embeddings: np.ndarray, description: Description) -> np.ndarray:
        """Return the embeddings, shortened to the dimension of the rows if they are longer."""
        if embeddings.shape[1] <= description.dimension:
            return embeddings
        return unit_rows(shorten(embeddings, description.dimension), self.name)

    def _described(
        self, dimension: int, fingerprint: str, kinds: Mapping[str, str], dimensions: Sequence[int]
    ) -> Description:
        """Return the store's description with these attributes; create the store if it does not exist."""
        if self._store.describe() is None:
            check_dimension(dimension, dimensions or (dimension,))
            self._store.create(Description(dimension, fingerprint, dimensions=tuple(dimensions)))
        self.check_family(dimension, fingerprint)
        description = self._store.describe()
        assert description is not None
        return description.with_attributes(kinds, self.name)

    def _conditions(self, where: Where, description: Description) -> list[Condition]:
        return [condition.typed(description.columns) for condition in parse_conditions(where)]
