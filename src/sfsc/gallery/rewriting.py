"""Rewriting all rows of a gallery's table at once: rows of another space, or rows without their originals.

The new rows are written beside the old ones, in parts that are noted in a file, and one commit replaces the
old rows. A process that was killed leaves the old rows, and the same call continues after the last part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sfsc.errors import SfscError
from sfsc.files.schema import conform
from sfsc.files.writing import read_json, write_json
from sfsc.gallery.lance_table import METADATA, TYPES, LanceTable, Snapshot, stored_description
from sfsc.gallery.names import column_of
from sfsc.gallery.packing import packed_in_forms, unpacked
from sfsc.gallery.store import BRIDGE_ERROR, COLUMNS, EMBEDDING, ORIGINAL, Description, Move
from sfsc.gallery.upkeep import index_columns, remove_old_versions, room_permitting
from sfsc.interruption import going_on
from sfsc.progress import track

PROGRESS = ".rewriting.json"  # in the folder of the gallery
ROWS_PER_PART, ROWS_PER_BATCH = 100_000, 1 << 13
FORMAT = 1
ERROR_COLUMN = column_of(BRIDGE_ERROR, "number")

Change = Callable[[pa.RecordBatch], dict[str, pa.Array]]  # the columns of a batch that change


def rewrite(
    table: LanceTable,
    snapshot: Snapshot,
    description: Description,
    token: str,
    change: Change = lambda _: {},
) -> int:
    """Write all rows again as a description says, and replace the old ones in one commit.

    Call it only inside `LanceTable.writing`.

    Args:
        table: the table.
        snapshot: its current version.
        description: what the rows have in common afterwards. If `bridged_from` is empty, the originals are
            left out.
        token: a text that identifies what is done to the rows.
        change: `moving` or `moving_again`; by default embeddings stay as they are.

    Returns:
        The number of rows.
    """
    import lance

    dataset = table.renamed(snapshot)
    before = table.snapshot()
    assert before is not None, "the table exists"
    schema = _schema(dataset.schema, description)
    done = _Done(
        table.directory / PROGRESS, hashlib.sha256(before.manifest.content + token.encode()).hexdigest()
    )
    parts = [
        (fragment, start)
        for fragment in dataset.get_fragments()
        for start in range(0, fragment.count_rows(), ROWS_PER_PART)
    ]
    with going_on("the gallery is as it was; run the same command again to continue"):
        for fragment, start in track(parts[len(done) :], "rewriting rows", len(parts) - len(done)):
            done.add(_written(fragment, start, dataset, schema, change))
    overwrite = lance.LanceOperation.Overwrite(schema, done.fragments())
    written = lance.LanceDataset.commit(dataset.uri, overwrite, read_version=dataset.version)
    done.forget()
    with room_permitting():
        index_columns(written)
        remove_old_versions(written, unfinished=True)
    return int(written.count_rows())


class _Done:
    """The parts that were written, noted in a file for one version of the table and one change."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._parts: list[list[dict[str, Any]]] = []
        with suppress(SfscError, ValueError):
            noted = conform(read_json(path), dict[str, Any]) if path.exists() else {}
            if (noted.get("format"), noted.get("key")) == (FORMAT, key):
                self._parts = conform(noted.get("parts"), list[list[dict[str, Any]]])

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, fragments: list[dict[str, Any]]) -> None:
        """Note a part."""
        self._parts.append(fragments)
        write_json(self._path, {"format": FORMAT, "key": self._key, "parts": self._parts})

    def fragments(self) -> list[Any]:
        """Return the fragments of all parts."""
        from lance.fragment import FragmentMetadata

        return [FragmentMetadata.from_json(json.dumps(one)) for part in self._parts for one in part]

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def _schema(before: pa.Schema, description: Description) -> pa.Schema:
    """Return the columns of the rewritten table."""
    attributes = {column_of(name, kind): TYPES[kind] for name, kind in description.attributes.items()}
    fields = [before.field(name) for name in COLUMNS]
    fields += [pa.field(name, type_) for name, type_ in attributes.items()]
    fields += [pa.field(ORIGINAL, pa.large_binary())] if description.bridged_from else []
    return pa.schema([*fields, before.field(EMBEDDING)], {METADATA: stored_description(description)})


def moving(before: Description, after: Description, move: Move) -> Change:
    """Return what maps the embeddings of all rows, and keeps them as the originals."""

    def change(batch: pa.RecordBatch) -> dict[str, pa.Array]:
        mapped, errors = move(unpacked(batch, before.dimension))
        if ERROR_COLUMN in batch.schema.names:  # rows that were bridged before are further away now
            errors = errors + np.nan_to_num(batch[ERROR_COLUMN].to_numpy(zero_copy_only=False))
        return {
            ORIGINAL: batch[EMBEDDING],
            EMBEDDING: packed_in_forms(mapped, batch["form"].to_numpy(zero_copy_only=False)),
            ERROR_COLUMN: pa.array(errors.astype(np.float64)),
            "fingerprint": pa.array([after.fingerprint] * len(batch)),
        }

    return change


def moving_again(dimension: int, move: Move) -> Change:
    """Return what replaces bridged rows by what `move` maps their originals to."""

    def change(batch: pa.RecordBatch) -> dict[str, pa.Array]:
        bridged = pc.and_(batch[ERROR_COLUMN].is_valid(), batch[ORIGINAL].is_valid())
        rows = batch.filter(bridged)
        if not len(rows):
            return {}
        mapped, errors = move(unpacked(rows, dimension, ORIGINAL))
        new = packed_in_forms(mapped, rows["form"].to_numpy(zero_copy_only=False))
        return {
            EMBEDDING: pc.replace_with_mask(batch[EMBEDDING], bridged, new),
            ERROR_COLUMN: pc.replace_with_mask(
                batch[ERROR_COLUMN], bridged, pa.array(errors.astype(np.float64))
            ),
        }

    return change


def _written(
    fragment: Any, start: int, dataset: Any, schema: pa.Schema, change: Change
) -> list[dict[str, Any]]:
    """Write a part of a fragment into new files, and return their descriptions."""
    from lance.fragment import write_fragments

    names = [name for name in (*schema.names,) if name in dataset.schema.names]
    rows = min(ROWS_PER_PART, fragment.count_rows() - start)
    scanner = fragment.scanner(columns=names, offset=start, limit=rows, batch_size=ROWS_PER_BATCH)
    batches: Iterator[pa.RecordBatch] = (
        _changed(batch, schema, change) for batch in scanner.to_batches() if len(batch)
    )
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    made = write_fragments(reader, dataset.uri, schema=schema, mode="overwrite")
    if sum(one.physical_rows for one in made) != rows:
        raise SfscError("rows were not written as expected: run the same command again")
    return [json.loads(json.dumps(one.to_json())) for one in made]


def _changed(batch: pa.RecordBatch, schema: pa.Schema, change: Change) -> pa.RecordBatch:
    """Return the rows of a batch in the columns of the rewritten table."""
    arrays = {name: batch[name] for name in batch.schema.names} | change(batch)
    columns = [
        arrays[name] if name in arrays else pa.nulls(len(batch), schema.field(name).type)
        for name in schema.names
    ]
    return pa.record_batch(columns, schema)
