"""The gallery's store on a Milvus cluster, or in one file with milvus-lite."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.errors import SfscError, missing_extra
from sfsc.gallery.conditions import EQUALITIES, Condition, Value
from sfsc.gallery.forms import decode, encode
from sfsc.gallery.milvus_address import Address
from sfsc.gallery.names import column_of
from sfsc.gallery.problems import CHECKED, column_problems, vector_problems
from sfsc.gallery.store import (
    COLUMNS,
    EMBEDDING,
    FORMAT,
    HIT_COLUMNS,
    Description,
    Hit,
    Move,
    Problem,
    StoreUnavailable,
    ranked,
)

try:
    from pymilvus import DataType, MilvusClient
    from pymilvus.exceptions import MilvusException
except ImportError as error:
    raise missing_extra("pymilvus", "milvus") from error

PROPERTY = "sfsc.gallery"
LISTS, PROBES = 1024, 32  # lists of the index, and lists to probe; probing all lists is an exact search
TEXT_BYTES = 4096  # maximum size of a text in a column that every gallery has
ROWS_PER_CALL = 10_000  # about 6 MB at 128 dimensions
MOST_HITS = 16_384  # the maximum that Milvus returns for one query
SECONDS = 10.0
NULLABLE = ("identity", "camera")
RPC_ERRORS: tuple[type[Exception], ...] = (MilvusException, OSError, ValueError)


class MilvusStore:
    """A `Store` in a collection. The description is a property of the collection.

    Embeddings are rounded to their numeric form but stored as float32: rows in smaller forms are compatible
    with other stores, but do not take less space. Attributes are dynamic fields.
    """

    def __init__(self, url: str, *, create: bool) -> None:
        """Connect to an address that `Address.parse` accepts."""
        self._address = Address.parse(url)
        self._url, self._name = url, self._address.collection
        with self._reported("opened"):
            self._client = MilvusClient(self._address.uri, timeout=SECONDS, **self._address.connection())
        if self.describe() is None and not create:
            raise SfscError(f"gallery {url} does not exist: add embeddings to it first, or check the address")
        with self._reported("opened"):
            if self._client.has_collection(self._name):
                self._make_searchable()

    def _existing(self) -> Description:
        description = self.describe()
        assert description is not None, "the gallery reads rows only if the collection exists"
        return description

    def describe(self) -> Description | None:
        """See `Store`."""
        with self._reported("read"):
            if not self._client.has_collection(self._name):
                return None
            properties = self._client.describe_collection(self._name)["properties"]
        if PROPERTY not in properties:
            raise SfscError(f"{self._url} is not a gallery: another program created its collection")
        try:
            stored = json.loads(properties[PROPERTY])
        except (ValueError, RecursionError):
            stored = None
        return Description.from_json(stored, self._url)

    def create(self, description: Description) -> None:
        """See `Store`."""
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
        for name, kind in COLUMNS.items():
            if kind == "text":
                more = {"is_primary": True} if name == "id" else {"nullable": name in NULLABLE}
                schema.add_field(name, DataType.VARCHAR, max_length=TEXT_BYTES, **more)
            else:
                schema.add_field(name, DataType.DOUBLE)
        schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=description.dimension)
        with self._reported("written"):
            self._client.create_collection(
                self._name,
                schema=schema,
                consistency_level="Strong",
                properties={PROPERTY: json.dumps(description.to_json())},
            )
            self._make_searchable()

    def _make_searchable(self) -> None:
        """Index and load the collection if needed, because its creation may have been interrupted."""
        if not self._client.list_indexes(self._name):
            index = MilvusClient.prepare_index_params()
            index.add_index(EMBEDDING, index_type="IVF_FLAT", metric_type="COSINE", params={"nlist": LISTS})
            self._client.create_index(self._name, index)
        self._client.load_collection(self._name)

    def upsert(
        self,
        embeddings: np.ndarray,
        form: str,
        columns: Mapping[str, Sequence[Any]],
        attributes: Mapping[str, str],
        keep_originals: bool = False,
    ) -> None:
        """See `Store`; more than 10,000 rows are written in several parts instead of all at once."""
        description = self._existing()
        extended = description.with_attributes(attributes, self._url)
        rounded = decode(encode(embeddings, form))
        fields = {_field(name, description): values for name, values in columns.items()}
        now = time.time()
        if extended != description:
            self._store_description(extended)
        try:
            with self._reported("written"):
                for start in range(0, len(rounded), ROWS_PER_CALL):
                    rows = [
                        {
                            **{name: values[place] for name, values in fields.items()},
                            **{"form": form, "time": now, EMBEDDING: rounded[place]},
                        }
                        for place in range(start, min(start + ROWS_PER_CALL, len(rounded)))
                    ]
                    self._client.upsert(self._name, rows)
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                self._store_description(description)
            raise

    def _store_description(self, description: Description) -> None:
        with self._reported("written"):
            stored = {PROPERTY: json.dumps(description.to_json())}
            self._client.alter_collection_properties(self._name, stored)

    def move(self, to: Description, move: Move, token: str) -> int:
        """See `Store`. Milvus cannot do this, so it always raises `SfscError`."""
        raise SfscError(
            f"gallery {self._url}: a collection of Milvus cannot be upgraded in place: write its rows with "
            "`sfsc gallery export`, import them into a folder, and upgrade that gallery"
        )

    def move_again(self, dimension: int, move: Move, token: str) -> int:
        """See `Store`; a collection never has any bridged rows."""
        return 0

    def originals(
        self, where: Sequence[Condition], dimension: int
    ) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """See `Store`; a collection never has any."""
        yield from ()

    def drop_originals(self) -> int:
        """See `Store`; a collection never has any."""
        return 0

    def delete(self, where: Sequence[Condition]) -> int:
        """See `Store`."""
        description, deleted = self._existing(), self.count(where)
        with self._reported("written"):
            self._client.delete(self._name, filter=_expression(where, description))
        return deleted

    def search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool
    ) -> list[list[Hit]]:
        """See `Store`."""
        description = self._existing()
        found = self._search(queries, top, where, exact or bool(where), top + 1)
        return [ranked([_hit(entity, description) for entity in entities], top) for entities in found]

    def search_shortened(self, queries: np.ndarray, top: int, where: Sequence[Condition]) -> list[list[Hit]]:
        """See `Store`. Milvus cannot do this, so it always raises `SfscError`."""
        raise SfscError(
            f"gallery {self._url}: Milvus compares whole embeddings, and these queries have only "
            f"{queries.shape[1]} dimensions: send as many as the gallery has, or create a smaller gallery"
        )

    def _search(
        self, queries: np.ndarray, top: int, where: Sequence[Condition], exact: bool, limit: int
    ) -> list[list[dict[str, Any]]]:
        """Return at least `top` entities and, if `exact`, all that tie with the `top`-th."""
        with self._reported("read"):
            found = self._client.search(
                self._name,
                data=queries.tolist(),
                limit=min(limit, MOST_HITS),
                filter=_expression(where, self._existing()),
                output_fields=["*"],
                search_params={"params": {"nprobe": LISTS if exact else PROBES}},
                consistency_level="Strong",
            )
        result: list[list[dict[str, Any]]] = []
        for query, hits in zip(queries, found, strict=True):
            tied = len(hits) == limit < MOST_HITS and hits[-1]["distance"] == hits[top - 1]["distance"]
            result += self._search(query[None], top, where, exact, 4 * limit) if exact and tied else [hits]
        return result

    def rows(
        self, where: Sequence[Condition], columns: Sequence[str], embeddings: bool = False
    ) -> Iterator[tuple[dict[str, list[Any]], np.ndarray | None]]:
        """See `Store`."""
        description = self._existing()
        fields = {
            name: _field(name, description) for name in [*columns, *([EMBEDDING] if embeddings else [])]
        }
        with self._reported("read"):
            found = self._client.query_iterator(
                self._name,
                batch_size=ROWS_PER_CALL,
                filter=_expression(where, description),
                output_fields=[*fields.values()],
            )
            while part := found.next():
                values = {name: [row.get(fields[name]) for row in part] for name in columns}
                vectors = [row[EMBEDDING] for row in part] if embeddings else None
                yield values, None if vectors is None else np.array(vectors, np.float32)
            found.close()

    def count(self, where: Sequence[Condition] = ()) -> int:
        """See `Store`."""
        with self._reported("read"):
            if not self._client.has_collection(self._name):
                return 0
            filtered = _expression(where, self._existing())
            return int(
                self._client.query(self._name, filter=filtered, output_fields=["count(*)"])[0]["count(*)"]
            )

    def duplicates(self) -> list[str]:
        """See `Store`. There are none, because the id is the primary key of the collection."""
        return []

    def problems(self) -> Iterator[Problem]:
        """See `Store`."""
        description = self._existing()
        for columns, vectors in self.rows([], CHECKED, embeddings=True):
            assert vectors is not None
            yield from column_problems(columns, description)
            yield from vector_problems(columns["id"], vectors)

    def backup(self, out: Path) -> int:
        """See `Store`. It always raises `SfscError`, because Milvus has tools of its own."""
        raise SfscError(
            f"gallery {self._url} is not in a folder: back it up with milvus-backup, or write its rows into "
            "a file with `sfsc gallery export`"
        )

    def optimize(self, keep: float | None = None) -> None:
        """See `Store`."""
        with self._reported("written"):
            self._client.flush(self._name)
            self._client.compact(self._name)

    def refresh(self) -> None:
        """See `Store`; Milvus keeps its indexes up to date."""

    def close(self) -> None:
        """See `Store`."""
        with suppress(*RPC_ERRORS):
            self._client.close()

    @contextmanager
    def _reported(self, action: str) -> Iterator[None]:
        """Convert errors of Milvus into one line that names the gallery and contains no secrets."""
        try:
            yield
        except RPC_ERRORS as error:
            cause = self._address.without_secrets(str(getattr(error, "message", error))).partition("\n")[0]
            raise StoreUnavailable(
                f"gallery {self._url} cannot be {action} ({cause}): check that Milvus runs there"
            ) from None  # the error itself may quote the token


def _hit(found: Mapping[str, Any], description: Description) -> Hit:
    entity = found["entity"]
    fixed = {name: entity.get(name) for name in HIT_COLUMNS}
    attributes = {name: entity.get(_field(name, description)) for name in description.attributes}
    return Hit(**fixed, score=float(found["distance"]), attributes=attributes)


def _field(name: str, description: Description) -> str:
    """Return the field of a column; in format 2, attributes that are identifiers have fields of that name."""
    plain = name in COLUMNS or name == EMBEDDING
    plain = plain or (description.format < FORMAT and re.fullmatch(r"[A-Za-z_]\w*", name) is not None)
    return name if plain else column_of(name)


def _expression(where: Sequence[Condition], description: Description) -> str:
    return " and ".join(_expression_of(one, _field(one.column, description)) for one in where)


def _expression_of(condition: Condition, field: str) -> str:
    values = [_literal(value) for value in condition.values if value is not None]
    if condition.operator not in EQUALITIES:
        return f"{field} {condition.operator} {values[0]}"
    among = f"{field} in [{', '.join(values)}]"
    if condition.operator == "!=":
        return " and ".join([f"{field} is not null", *([f"not ({among})"] if values else [])])
    either = ([among] if values else []) + ([f"{field} is null"] if None in condition.values else [])
    return f"({' or '.join(either)})"


def _literal(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)
