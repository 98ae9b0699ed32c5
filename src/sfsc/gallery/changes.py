"""Records of the last changes of a gallery's table, from which other processes follow it in less time.

To follow one changed row by the table itself takes milliseconds: its version is opened, and its fragments are
compared. A record contains the rows of one change. It is written before the change is committed, and counts
only if the manifest of the next version names its transaction. Records only save time: a change whose record
is missing, damaged or of another table is read from the table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import pyarrow as pa

from sfsc.gallery.manifests import Manifest

FOLDER = ".changes"  # hidden, because a folder without its table is not a gallery
KEPT = 16  # records; the record of a version replaces that of the version this many before it
MOST = 1 << 17  # bytes of a record: some 200 rows of 128 dimensions; more rows are read from the table
HEADER = b"change"
CHECKED = 4  # bytes of the checksum that a record ends with
ALONE = pa.ipc.IpcReadOptions(use_threads=False)  # another thread would be waited for on a busy machine
DAMAGE = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)


@dataclass(frozen=True)
class Change:
    """A change of the rows of a table: all rows with certain ids were removed, and maybe others were added.

    Attributes:
        transaction: the UUID of the transaction that commits the change.
        rows: the ids that were removed, in the column `id`. If rows with these ids were added, the other
            columns contain them, as the table has them.
        files: the names of the files of the fragment that the added rows are in, in their order; empty if
            none were added.
    """

    transaction: str
    rows: pa.Table
    files: Sequence[str] = ()


class Changes:
    """The records in the directory of a gallery."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        # What was read last: the table asks for it first, then the index.
        self._last: tuple[Manifest, Manifest, list[Change]] | None = None

    def record(self, before: Manifest, change: Change) -> None:
        """Record a small change of a version, if there is room. Call it before the change is committed."""
        if change.rows.nbytes > MOST:
            return
        header = {"before": before.digest, "transaction": change.transaction, "files": [*change.files]}
        rows = change.rows.replace_schema_metadata({HEADER: json.dumps(header)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        written = sink.getvalue().to_pybytes()
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            self._path(before.version + 1).write_bytes(written + crc32(written).to_bytes(CHECKED))

    def between(self, before: Manifest, after: Manifest) -> list[Change] | None:
        """Return the changes from one version to a later one, or None if not all of them are recorded."""
        if self._last is not None and self._last[:2] == (before, after):
            return self._last[2]
        if not 0 <= after.version - before.version <= KEPT:
            return None
        changes: list[Change] = []
        version = before
        try:
            while version.version < after.version:
                following = after if after.version == version.version + 1 else version.following()
                changes.append(self._read(version, following))
                version = following
        except DAMAGE:
            return None
        if version != after:
            return None
        self._last = before, after, changes
        return changes

    def clear(self) -> None:
        """Remove all records."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, before: Manifest, after: Manifest) -> Change:
        """Return the change between two consecutive versions; raise one of `DAMAGE` if it is not recorded."""
        content = self._path(after.version).read_bytes()
        written = memoryview(content)[:-CHECKED]
        if crc32(written) != int.from_bytes(content[-CHECKED:]):
            raise ValueError("the record is damaged")
        with pa.ipc.open_stream(written, options=ALONE) as stream:
            rows = stream.read_all()
        header = json.loads(rows.schema.metadata[HEADER])
        transaction = str(header["transaction"])
        if header["before"] != before.digest or transaction.encode() not in after.content:
            raise ValueError("the record is of another change")
        return Change(transaction, rows, tuple(header["files"]))

    def _path(self, version: int) -> Path:
        return self._folder / f"{version % KEPT}.arrow"
