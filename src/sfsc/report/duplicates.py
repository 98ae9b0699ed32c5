"""Groups of duplicates as a table of comma-separated values, or as a page of pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from sfsc.errors import SfscError, missing_extra
from sfsc.files.writing import write_atomic
from sfsc.gallery.duplicates import Copy
from sfsc.images.names import as_text
from sfsc.report.html import data_uri

try:
    from jinja2 import Environment, StrictUndefined
except ImportError as error:
    raise missing_extra("jinja2", "train") from error

MOST_GROUPS, MOST_ROWS = 500, 24  # that a page shows
COLUMNS = ("group", "score", "width", "form", "identity", "id", "path")


def check_out(out: Path) -> None:
    """Raise `SfscError` unless the name of a file says how to write groups."""
    if out.suffix not in (".csv", ".html"):
        raise SfscError(f"{out}: duplicates are written as .csv, a table, or .html, a page of pictures")


def write_duplicates(groups: Sequence[Sequence[Copy]], out: Path, gallery: str, limit: str) -> None:
    """Write groups of duplicates into a .csv or .html file, atomically.

    Args:
        groups: the groups that `find_duplicates` returned.
        out: the file. A page shows the first 500 groups, and the first 24 rows of each.
        gallery: the name of the gallery.
        limit: what the rows of a group have in common, in words.

    Raises:
        SfscError: the file has another suffix, or cannot be written.
    """
    check_out(out)
    text = _table(groups) if out.suffix == ".csv" else _page(groups, gallery, limit)
    write_atomic(out, as_text(text).encode())


def _table(groups: Sequence[Sequence[Copy]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, group in enumerate(groups, 1):
        for row in group:
            values = (row.width, row.form, row.identity or "", row.id, row.path)
            writer.writerow([number, f"{row.score:.6f}", *values])
    return text.getvalue()


def _page(groups: Sequence[Sequence[Copy]], gallery: str, limit: str) -> str:
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"data_uri": data_uri, "width": "{:g}".format}
    files = resources.files("sfsc.report")
    return jinja.from_string(files.joinpath("duplicates.html").read_text("utf-8")).render(
        style=files.joinpath("style.css").read_text("utf-8"),
        gallery=gallery,
        limit=limit,
        groups=groups,
        shown=groups[:MOST_GROUPS],
        most=MOST_ROWS,
    )
