"""The ids of rows in a text file, one per line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sfsc.errors import SfscError

LONGEST_LINE = 1 << 16  # bytes


def read_ids(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, without line ends.

    Raises:
        SfscError: the file cannot be read, or a line is empty, too long or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number in range(1, 2**63):
                line = file.readline(LONGEST_LINE)
                if not line:
                    return
                yield _id_of(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, path, number)
    except OSError as error:
        raise SfscError(f"cannot read the ids in {path}: {error.strerror}") from error


def matched(path: Path, rows: int, source: Path, size: int) -> Iterator[list[str]]:
    """Yield the ids of the rows of a source, in parts of `size`.

    Raises:
        SfscError: the file does not contain one line per row, or cannot be read.
    """
    ids = read_ids(path)
    for start in range(0, rows, size):
        part = [*islice(ids, min(size, rows - start))]
        if len(part) < min(size, rows - start):
            raise SfscError(f"{path} has {start + len(part)} lines, but {source} has {rows} rows: {_REMEDY}")
        yield part
    if next(ids, None) is not None:
        raise SfscError(f"{path} has more than {rows} lines, but {source} has {rows} rows: {_REMEDY}")


_REMEDY = "write one id per line"


def _id_of(line: bytes, path: Path, number: int) -> str:
    text = line.removesuffix(b"\n").removesuffix(b"\r")
    if not text or len(line) == LONGEST_LINE:
        size = "empty" if not text else f"longer than {LONGEST_LINE} bytes"
        raise SfscError(f"{path}: line {number} is {size}: {_REMEDY}")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise SfscError(f"{path}: line {number} is not UTF-8: convert the file") from None
