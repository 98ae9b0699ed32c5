"""The gallery's store on one machine: a LanceDB table in a directory."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.errors import SfscError, missing_extra

TABLE = "gallery"
FIELDS = ["id", "path", "identity", "camera", "width"]
# Every add leaves a fragment behind; compacted this often, 2,000 small adds take 24 s instead of 220 s.
ADDS_PER_COMPACTION = 64


class LanceStore:
    """A `Store` in the directory `path`; fingerprint and dimension are in the schema of the table.

    With `create` the directory may be missing or empty; without, it stays as it is and must hold the table.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        self._opened: Any = None
        with self._reported("opened"):
            self._check_directory(create)
            lancedb = _imported("lancedb")
            self._database = lancedb.connect(path, read_consistency_interval=timedelta(0))
        if self.family() is None and not create:
            raise SfscError(f"{path} is not a gallery: nothing was ever stored in it")

    def family(self) -> tuple[int, str] | None:
        """See `Store`."""
        table = self._table()
        if table is None:
            return None
        with self._reported("read"):
            schema = table.schema
        fingerprint = (schema.metadata or {}).get(b"fingerprint")
        if fingerprint is None:
            raise SfscError(f"{self._path} is not a gallery: its table is damaged or of another program")
        return schema.field("embedding").type.list_size, fingerprint.decode()

    def create(self, dimension: int, fingerprint: str) -> None:
        """See `Store`."""
        with self._reported("written"):
            schema = _schema(dimension, fingerprint)
            self._opened = self._database.create_table(TABLE, schema=schema, exist_ok=True)

    def upsert(self, embeddings: np.ndarray, columns: dict[str, list[Any]]) -> None:
        """See `Store`."""
        arrow = _imported("pyarrow")
        table = self._table()
        with self._reported("written"):
            flat = arrow.array(embeddings.reshape(-1))
            vectors = arrow.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
            rows = arrow.table({**columns, "embedding": vectors}, schema=table.schema)
            table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            if table.version % ADDS_PER_COMPACTION == 0:
                table.optimize()

    def search(self, embeddings: np.ndarray, top: int) -> list[list[dict[str, Any]]]:
        """See `Store`."""
        with self._reported("read"):
            return self._ranked(embeddings, top, limit=top + 1)

    def widths(self) -> list[float]:
        """See `Store`."""
        table = self._table()
        with self._reported("read"):
            return [] if table is None else table.search().select(["width"]).to_arrow()["width"].to_pylist()

    def count(self) -> int:
        """See `Store`."""
        table = self._table()
        with self._reported("read"):
            return 0 if table is None else table.count_rows()

    def _check_directory(self, create: bool) -> None:
        path = self._path
        found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if not path.exists() and not create:
            raise SfscError(f"gallery {path} does not exist: add embeddings to it first, or check the path")
        if (path.exists() and not path.is_dir()) or found - {f"{TABLE}.lance"}:
            raise SfscError(f"{path} is not a gallery, but holds other files: choose another directory")

    def _table(self) -> Any:
        """The table; None before its creation was committed."""
        if self._opened is None:
            directory = self._path / f"{TABLE}.lance"
            with self._reported("read"):
                if any(directory.glob("_versions/*.manifest")) or any(directory.glob("data/*")):
                    self._opened = self._database.open_table(TABLE)
        return self._opened

    def _ranked(self, embeddings: np.ndarray, top: int, limit: int) -> list[list[dict[str, Any]]]:
        """Order `limit` > `top` rows; fetch more for a query whose last hit ties with all that follow."""
        ranking = []
        for query, rows in zip(embeddings, self._nearest(embeddings, limit), strict=True):
            ordered = sorted(rows, key=lambda row: (-row["score"], row["id"]))
            if len(rows) == limit and ordered[-1]["score"] == ordered[top - 1]["score"]:
                ranking += self._ranked(query[None], top, 4 * limit)
            else:
                ranking.append(ordered[:top])
        return ranking

    def _nearest(self, embeddings: np.ndarray, limit: int) -> list[list[dict[str, Any]]]:
        search = self._table().search(embeddings, vector_column_name="embedding")
        flat = search.distance_type("cosine").bypass_vector_index()
        found = flat.select([*FIELDS, "_distance"]).limit(limit).to_arrow().to_pylist()
        hits: list[list[dict[str, Any]]] = [[] for _ in embeddings]
        for row in found:
            hits[row.get("query_index", 0)].append(
                {**{name: row[name] for name in FIELDS}, "score": 1 - row["_distance"]}
            )
        return hits

    @contextmanager
    def _reported(self, action: str) -> Iterator[None]:
        """Turn what lance and the file system raise into one line that names the directory."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            cause = re.sub(r", /\S+\.rs:\d+:\d+$", "", str(error).partition("\n")[0])
            raise SfscError(
                f"gallery {self._path} cannot be {action} ({cause}): "
                "check the disk, or restore the directory from a copy"
            ) from error


def _imported(package: str) -> Any:
    """A package of the `gallery` extra, imported late: it takes seconds."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise missing_extra(package, "gallery") from error


def _schema(dimension: int, fingerprint: str) -> Any:
    arrow = _imported("pyarrow")
    text, number = arrow.string(), arrow.float64()
    return arrow.schema(
        [
            arrow.field("id", text, nullable=False),
            arrow.field("path", text, nullable=False),
            arrow.field("identity", text),
            arrow.field("camera", text),
            arrow.field("width", number, nullable=False),
            arrow.field("fingerprint", text, nullable=False),
            arrow.field("embedding", arrow.list_(arrow.float32(), dimension), nullable=False),
        ],
        metadata={"fingerprint": fingerprint},
    )
