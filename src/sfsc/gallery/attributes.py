"""Tables with attributes of images: reading them from CSV files, and matching their rows with images."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfsc.data.table import check_distinct, read_table
from sfsc.errors import SfscError
from sfsc.images.names import printable

# The attributes of each image, by its absolute path.
Attributes = Mapping[str, Mapping[str, Any]]

PATH = "path"
BOOLEANS = {"true": True, "false": False}
NOT_FINITE = frozenset({"nan", "inf", "-inf", "+inf", "infinity", "-infinity", "+infinity"})
MOST_DIGITS = 17  # float64 cannot represent all digits of longer numbers
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_SCIENTIFIC = re.compile(r"-?[1-9](?:\.[0-9]+)?e[-+][0-9]{2,3}")


@dataclass(frozen=True)
class AttributeTable:
    """A table with attributes of images, made by `read_attributes`.

    Attributes:
        path: the path of the table.
        lines: the line number of each row, by the absolute path of its image.
        attributes: the attributes of each image, by the same paths.
    """

    path: Path
    lines: Mapping[str, int]
    attributes: Attributes

    def match(self, images: Sequence[str]) -> tuple[Attributes, list[str]]:
        """Match the rows of the table with images.

        A row belongs to the image at its path. If there is no such image, the row belongs to the only image
        whose path differs only in backslashes, the encoding of accents, or letter case. It then matches no
        image if that image has its own row, or if several rows match it in this way.

        Args:
            images: the absolute paths of the images.

        Returns:
            The attributes of all images that have a row, and remarks for the user, each a line of text.
        """
        rows = {image: image for image in images if image in self.attributes}
        for loosen in (_with_slashes, _with_plain_accents, _without_capitals):
            left = _by_form(self.attributes.keys() - rows.values(), loosen)
            free = _by_form((image for image in images if image not in rows), loosen)
            for form in left.keys() & free.keys():
                if len(left[form]) == len(free[form]) == 1:
                    rows[free[form][0]] = left[form][0]
        return {image: self.attributes[row] for image, row in rows.items()}, self._remarks(images, rows)

    def _remarks(self, images: Sequence[str], rows: Mapping[str, str]) -> list[str]:
        used = set(rows.values())
        unlike = sorted(self.lines[row] for image, row in rows.items() if image != row)
        unused = [row for row in self.lines if row not in used]
        bare = [image for image in images if image not in rows]
        remarks = []
        if unlike:
            remarks.append(
                f"{len(unlike)} of {len(self.lines)} rows differ from their image in slashes, accents or "
                f"letter case, the first in line {unlike[0]}"
            )
        if unused:
            first = f"line {self.lines[unused[0]]}, {unused[0]}"
            remarks.append(f"{len(unused)} of {len(self.lines)} rows match no image, the first: {first}")
        if bare:
            remarks.append(f"{len(bare)} of {len(images)} images have no row, the first: {bare[0]}")
        return [printable(f"{self.path}: {remark}") for remark in remarks]


def read_attributes(path: Path) -> AttributeTable:
    """Read the attributes of images from a CSV file.

    The column "path" contains the paths of the images; relative paths start at the folder of the file. The
    values of any other column become integers, numbers or booleans if all of them can be converted without
    loss, and stay text otherwise. Empty values are None. NaN and infinity are None if all other values are
    integers, numbers or booleans.

    Raises:
        SfscError: the file does not exist, has no column "path" or has no rows, a line or the name of a
            column is invalid, or two rows belong to one image.
    """
    rows = read_table(path, [PATH], None)
    if not rows:
        raise SfscError(f"{path}: there is no row below the header line")
    for row in rows:
        if not row.values[PATH]:
            raise SfscError(f"{path}, line {row.line}, column {PATH}: is empty")
    images = [os.path.abspath(path.parent / row.values[PATH]) for row in rows]
    lines = [row.line for row in rows]
    check_distinct(path, zip(lines, images, strict=True))
    columns = {name: _typed([row.values[name] for row in rows]) for name in rows[0].values if name != PATH}
    attributes = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return AttributeTable(
        path,
        dict(zip(images, lines, strict=True)),
        dict(zip(images, attributes or [{}] * len(images), strict=True)),
    )


def _by_form(paths: Iterable[str], loosen: Callable[[str], str]) -> dict[str, list[str]]:
    forms = defaultdict(list)
    for path in paths:
        forms[loosen(path)].append(path)
    return forms


def _with_slashes(path: str) -> str:
    return os.path.abspath(path.replace("\\", "/"))


def _with_plain_accents(path: str) -> str:
    return unicodedata.normalize("NFC", _with_slashes(path))


def _without_capitals(path: str) -> str:
    return unicodedata.normalize("NFC", _with_plain_accents(path).casefold())


def _typed(texts: Sequence[str]) -> list[Any]:
    """Return the values of a column as integers, numbers, booleans or texts, with None for empty values."""
    said = {text for text in texts if text and text.lower() not in NOT_FINITE}
    for read in (_integers, _numbers, _booleans):
        values = read(said)
        if values is not None:
            return [values.get(text) for text in texts]
    return [text or None for text in texts]


def _integers(texts: set[str]) -> dict[str, int] | None:
    """Parse texts as integers; return None if one has another notation or does not fit in 64 bits."""
    if not all(_INTEGER.fullmatch(text) and len(text) <= 20 for text in texts):
        return None
    values = {text: int(text) for text in texts}
    return values if all(-(2**63) <= value < 2**63 for value in values.values()) else None


def _numbers(texts: set[str]) -> dict[str, float] | None:
    """Parse texts as float64; return None if one is not a number or loses digits, or if two become equal."""
    if not all(_is_number(text) for text in texts):
        return None
    values = {text: float(text) for text in texts}
    return values if len(set(values.values())) == len(values) else None


def _is_number(text: str) -> bool:
    if _SCIENTIFIC.fullmatch(text):
        return text == repr(float(text))  # as programs write numbers; 1e5 may be an article number
    if not _DECIMAL.fullmatch(text):
        return False
    whole, point, _ = text.partition(".")
    return len(text.strip("-").replace(".", "")) <= MOST_DIGITS and (
        bool(point) or int(whole) == int(float(whole))
    )


def _booleans(texts: set[str]) -> dict[str, bool] | None:
    return {text: BOOLEANS[text] for text in texts} if texts <= BOOLEANS.keys() else None
