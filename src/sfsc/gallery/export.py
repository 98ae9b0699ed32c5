"""Exporting a gallery to a Parquet file."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from sfsc.errors import SfscError
from sfsc.files.writing import replacing
from sfsc.gallery.gallery import Gallery
from sfsc.gallery.imports.tables import DIMENSIONS
from sfsc.gallery.lance_table import TYPES
from sfsc.gallery.store import COLUMNS, EMBEDDING

ROWS_PER_GROUP = 10_000


def export(gallery: Gallery, out: str | Path) -> int:
    """Write all rows of a gallery to a Parquet file, with all columns, and embeddings as float32 of length 1.

    Returns:
        The number of rows.

    Raises:
        SfscError: the gallery is empty, or the file cannot be written. An existing file is then unchanged.
    """
    info, out = gallery.info(), Path(out)
    if info.dimension is None:
        raise SfscError(f"gallery {gallery.name} contains no rows to export")
    fields = {name: TYPES[kind] for name, kind in (COLUMNS | info.attributes).items()}
    schema = pa.schema(
        [*fields.items(), (EMBEDDING, pa.list_(pa.float32(), info.dimension))],
        metadata={DIMENSIONS: json.dumps(info.dimensions)},
    )
    written = 0
    with replacing(out) as file, parquet.ParquetWriter(file, schema) as writer:
        rows = gallery.rows(embeddings=True)
        while group := list(islice(rows, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))
            written += len(group)
    return written
