"""Reading tables in csv files, with error messages that name the line."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sfsc.errors import SfscError
from sfsc.images.names import printable

DELIMITERS = ",;\t"
MOST_HEADER = 1 << 16  # characters


class Row(NamedTuple):
    """A row of a table: the number of its first line, and its values by column."""

    line: int
    values: dict[str, str]


def read_table(path: Path, needed: Sequence[str], optional: Sequence[str] | None = ()) -> list[Row]:
    """Read a csv file in UTF-8 with values separated by commas, semicolons or tabs.

    Spaces around names and values are removed. Lines without values are skipped.

    Args:
        path: the file; its first line contains the names of the columns.
        needed: columns that the file must have.
        optional: columns that are also read if the file has them; None for all columns.

    Raises:
        SfscError: the file cannot be read, a column is missing, a column that is read has no name or the same
            name as another one, or a line has more or fewer values than there are columns.
    """
    text = _read_text(path)
    delimiter, columns = _read_header(path, text, needed)
    used = columns if optional is None else [*needed, *(name for name in optional if name in columns)]
    _check_names(path, columns, used)
    lines = _split(path, text, delimiter)
    next(lines)
    return [
        Row(line, _pick(f"{path}, line {line}", columns, used, values))
        for line, values in lines
        if any(values)
    ]


def read_columns(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read a file of values separated by commas that has no header, as `read_table` does.

    Args:
        path: the file.
        columns: the names of its columns, in order.

    Raises:
        SfscError: the file cannot be read, or a line has more or fewer values than there are columns.
    """
    lines = _split(path, _read_text(path), ",")
    return [
        Row(line, _pick(f"{path}, line {line}", columns, columns, values))
        for line, values in lines
        if any(values)
    ]


def check_distinct(table: Path, images: Iterable[tuple[int, str]]) -> None:
    """Raise `SfscError` if a table names an image twice, even if its path is written differently.

    Args:
        table: the file.
        images: the line number and the path of the image of each row.
    """
    lines: dict[str, int] = {}
    for line, image in images:
        first = lines.setdefault(os.path.abspath(image), line)
        if first != line:
            what = f"names the image of line {first} again, {image}"
            raise SfscError(printable(f"{table}, line {line}: {what}: keep one line"))


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SfscError(f"cannot read {path}: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise SfscError(
            f"{path} is not a csv file in UTF-8, line {line} is in another encoding: save it as UTF-8, which "
            "Excel calls CSV UTF-8"
        ) from None


def _read_header(path: Path, text: str, needed: Sequence[str]) -> tuple[str, list[str]]:
    """Return the delimiter that finds the most needed columns in the first line, and all column names."""
    beginning = text[:MOST_HEADER]
    headers = []
    for delimiter in DELIMITERS:
        names = next(csv.reader(io.StringIO(beginning, newline=""), delimiter=delimiter), [])
        headers.append((delimiter, [name.strip() for name in names]))
    delimiter, columns = max(headers, key=lambda header: (len({*needed} & {*header[1]}), len(header[1])))
    for name in needed:
        if name not in columns:
            raise SfscError(
                f"{path}, line 1: there is no column {name!r}, only {', '.join(map(repr, columns))}"
            )
    return delimiter, columns


def _check_names(path: Path, columns: Sequence[str], used: Sequence[str]) -> None:
    read, before = set(used), set[str]()
    for place, name in enumerate(columns):
        if name in read and not name:
            raise SfscError(
                f"{path}, line 1: column {place + 1} has no name: add a name, or remove the column"
            )
        if name in read and name in before:
            raise SfscError(
                f"{path}, line 1: there are two columns {name!r}: rename one of them, or remove it"
            )
        before.add(name)


def _split(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the values of each row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for values in reader:
            yield line, [value.strip() for value in values]
            line = reader.line_num + 1
    except csv.Error as error:
        raise SfscError(f"{path}, line {line}: cannot be read ({error}): check its quotes") from None


def _pick(place: str, columns: Sequence[str], used: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Return the values of the columns in `used`."""
    counts = f"there are {len(values)} values for {len(columns)} columns"
    if any(values[len(columns) :]):
        raise SfscError(f"{place}: {counts}: put quotes around a value that contains a delimiter")
    found = dict(zip(columns, values, strict=False))
    for name in used:
        if name not in found:
            raise SfscError(f"{place}, column {printable(name)}: is missing: {counts}")
    return {name: found[name] for name in used}
