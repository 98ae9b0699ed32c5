"""Reading the fragments of a table in a separate process, because Lance aborts at some damaged files.

Run as `python -P -m sfsc.gallery.lance_reading DIRECTORY`, with the names of fragments as JSON on standard
input. It prints a line for every part that could be read, and a line for every fragment.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from sfsc.gallery.lance_table import LanceTable, Snapshot
from sfsc.gallery.problems import rows_per_part
from sfsc.gallery.store import EMBEDDING

DAMAGE = (OSError, RuntimeError, ValueError, pa.ArrowException)
PART, READ, DAMAGED = "part", "read", "damaged"

# The names of the files of a fragment. A writer never changes a file.
Key = tuple[str, ...]


def fragments_of(snapshot: Snapshot) -> dict[Key, Any]:
    """Return the fragments of a snapshot."""
    return {tuple(files_of(fragment)): fragment for fragment in snapshot.dataset.get_fragments()}


def files_of(fragment: Any) -> dict[str, int | None]:
    """Return the files of a fragment with their sizes in bytes, where they are known."""
    files = {f"data/{file.path}": file.file_size_bytes for file in fragment.metadata.files}
    deletions = fragment.metadata.deletion_file
    return files if deletions is None else {**files, fragment.deletion_file(): None}


def parts_of(snapshot: Snapshot, fragment: Any) -> Iterator[pa.RecordBatch]:
    """Yield all columns of the rows of a fragment in parts, with embeddings as bytes.

    Raises:
        Exception: one of `DAMAGE`, if the files cannot be read.
    """
    columns = [*snapshot.columns.values(), EMBEDDING]
    size = rows_per_part(snapshot.description.dimension)
    for batch in fragment.scanner(columns=columns, batch_size=size).to_batches():
        batch.validate(full=True)
        yield batch


def count_parts(snapshot: Snapshot, fragments: Iterable[Any]) -> int:
    """Return the number of parts of fragments that contain no deleted rows, or more than that."""
    size = rows_per_part(snapshot.description.dimension)
    return sum(math.ceil(fragment.metadata.physical_rows / size) for fragment in fragments)


def read_apart(directory: Path, keys: Iterable[Key], readable: set[Key]) -> Iterator[None]:
    """Read fragments in other processes, and add those that can be read to `readable`; yield at each part."""
    left = [*keys]
    while left:
        # -P: modules in the working folder are not imported.
        command = [sys.executable, "-P", "-m", __name__, str(directory)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, text=True, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(left))
            process.stdin.close()
            yield from taken(map(str.strip, process.stdout), left, readable)
        del left[:1]  # the process ended while it read this one


def taken(lines: Iterable[str], left: list[Key], readable: set[Key]) -> Iterator[None]:
    """Yield for every part in `results`; take fragments from `left`, and add those that were read."""
    for line in lines:
        if line == PART:
            yield
            continue
        key = left.pop(0)
        if line == READ:
            readable.add(key)


def results(directory: Path, keys: Iterable[Key]) -> Iterator[str]:
    """Read fragments, and yield `PART` for every part and the result for every fragment.

    Fragments that are gone count as damaged.
    """
    snapshot = LanceTable(directory).snapshot()
    fragments = {} if snapshot is None else fragments_of(snapshot)
    for key in keys:
        result = DAMAGED
        if snapshot is not None and key in fragments:
            try:
                for _ in parts_of(snapshot, fragments[key]):
                    yield PART
                result = READ
            except DAMAGE:
                pass
        yield result


if __name__ == "__main__":
    for line in results(Path(sys.argv[1]), [tuple(key) for key in json.load(sys.stdin)]):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
