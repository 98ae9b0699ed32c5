"""Boxes: parts of images, which the path of an image can name."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import numpy as np

from sfsc.errors import SfscError

# As in W3C Media Fragments URI 1.0; a file with exactly this name comes first.
_FRAGMENT = re.compile(r"#xywh=(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})")
_NUMBERS = re.compile(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*")


class Box(NamedTuple):
    """A rectangle in an image, in pixels of the upright image: the EXIF orientation is applied first.

    Attributes:
        x: the first column.
        y: the first row.
        width: the number of columns.
        height: the number of rows.
    """

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Box:
        """Parse x,y,w,h; raise `SfscError` if the text is something else, or the box is empty."""
        found = _NUMBERS.fullmatch(text)
        box = cls(*map(int, found.groups())) if found else None
        if box is None or not box.width or not box.height:
            raise SfscError(
                f"a box must be x,y,w,h in pixels, with a width and a height above 0, not {text[:100]!r}"
            )
        return box

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"

    def named(self, path: str) -> str:
        """Return the path of this part of the image at a path, for example `photo.jpg#xywh=10,20,64,48`."""
        return f"{path}#xywh={self}"

    def of(self, image: np.ndarray) -> np.ndarray:
        """Return this part of an image, (height, width, 3); raise `ValueError` if it is not inside."""
        height, width = image.shape[:2]
        if not (
            self.width and self.height and self.x + self.width <= width and self.y + self.height <= height
        ):
            raise ValueError(f"the box {self} is not inside the image, which has {width} x {height} pixels")
        return np.ascontiguousarray(image[self.y : self.y + self.height, self.x : self.x + self.width])


def split_box(path: str) -> tuple[str, Box | None]:
    """Split `photo.jpg#xywh=10,20,64,48` into the path of the image and the box; None for the whole image."""
    file, mark, _ = path.rpartition("#xywh=")
    if not mark or os.path.isfile(path):
        return path, None
    found = _FRAGMENT.fullmatch(path[len(file) :])
    return (file, Box(*map(int, found.groups()))) if found else (path, None)
