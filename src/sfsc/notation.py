"""Sub-models as they are written: a width, its depth and the size of its images, as in 0.25/0.5@48."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sfsc.errors import SfscError, one_line
from sfsc.widths import Widths

Size = tuple[int, int]  # (height, width) in pixels

_SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?")


@dataclass(frozen=True)
class Written:
    """A sub-model as a user writes it, such as 0.5, 0.5/0.75, 0.25@48 or 0.25@96x48 (height x width).

    Attributes:
        width: the width.
        height: the height of its images in pixels, or None for the size of the full sub-model's images.
        across: the width of its images in pixels, or None for the aspect ratio of the full sub-model's.
        depth: the share of the residual blocks of each stage that it keeps.
    """

    width: float
    height: int | None = None
    across: int | None = None
    depth: float = 1.0

    @classmethod
    def parse(cls, value: float | str) -> Written:
        """Parse a number, or a text such as "0.25@48" or "0.25/0.5@48".

        Raises:
            SfscError: the image size has another form.
            TypeError, ValueError, OverflowError: the width or the depth is not a number.
        """
        if not isinstance(value, str):
            return cls(float(value))
        ratios, at, size = value.partition("@")
        width, slash, share = ratios.partition("/")
        depth = float(share) if slash else 1.0
        if not at:
            return cls(float(width), depth=depth)
        found = _SIZE.fullmatch(size.strip())
        if not found:
            raise SfscError(
                "an image size is written in pixels behind its width, such as 0.25@48 or 0.25@96x48 (height "
                f"x width), got {one_line(repr(value), 100)}"
            )
        return cls(float(width), int(found[1]), None if found[2] is None else int(found[2]), depth)

    @classmethod
    def of(cls, width: float, size: Size, full: Size, depth: float = 1.0) -> Written:
        """Return a sub-model with images of `size` as it is written in a family with those of `full`."""
        if size == full:
            return cls(width, depth=depth)
        return cls(width, size[0], None if size[1] == in_ratio(size[0], full) else size[1], depth)

    @property
    def value(self) -> float | str:
        """The width as a number or, with a depth or an image size, as the text that `parse` reads."""
        return str(self) if self.suffix else self.width

    def __str__(self) -> str:
        return f"{self.width!r}{self.suffix}"

    @property
    def suffix(self) -> str:
        """What is written behind the width, such as /0.5@48; empty without a depth and an image size."""
        depth = "" if self.depth == 1 else f"/{self.depth!r}"
        size = "" if self.height is None else f"@{self.height}"
        return f"{depth}{size}{'' if self.across is None else f'x{self.across}'}"

    def size(self, full: Size) -> Size:
        """Return the size of its images in a family whose full sub-model embeds images of size `full`."""
        if self.height is None:
            return full
        return self.height, in_ratio(self.height, full) if self.across is None else self.across


def read_written(value: str | Iterable[float | str] | Widths) -> tuple[Written, ...]:
    """Return sub-models from a text such as `"0.25@48,0.5,1.0"`, or a sequence of its parts.

    Raises:
        SfscError: a width is not a number, a width is written twice, an image size has another form, or the
            widths or depths are not valid.
    """
    parts = parsed(value)
    widths = [part.width for part in parts]
    if twice := [part for part in parts if part.suffix and widths.count(part.width) > 1]:
        raise SfscError(f"width {twice[0].width:g} is written twice: {beside(twice[0].width)}")
    check_depths(depths_of(parts), widths)
    Widths(tuple(widths))
    return parts


def parsed(value: str | Iterable[float | str] | Widths) -> tuple[Written, ...]:
    """Return sub-models as `read_written` does, in any order and without a look at the widths.

    Raises:
        SfscError: a width is not a number, or an image size has another form.
    """
    try:
        return tuple(map(Written.parse, value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError, OverflowError):
        raise SfscError(f"widths are numbers such as 0.25,0.5,0.75,1.0, got {value!r}") from None


def sizes_of(written: Sequence[Written], full: Size) -> tuple[tuple[float, Size], ...]:
    """Return the image sizes that differ from that of the full sub-model, by width, narrow first.

    Args:
        written: the sub-models of a family, narrow first.
        full: the (height, width) of the full sub-model's images.

    Raises:
        SfscError: a size exceeds that of the full sub-model, or is written behind width 1 and differs.
    """
    sizes = tuple((one.width, one.size(full)) for one in written if one.size(full) != full)
    check_sizes(sizes, [one.width for one in written], full)
    return sizes


def depths_of(written: Iterable[Written]) -> tuple[tuple[float, float], ...]:
    """Return the depths that are not 1, by width."""
    return tuple((one.width, one.depth) for one in written if one.depth != 1)


def beside(width: float) -> str:
    """Return what to do about a second sub-model of one width, with another depth or image size."""
    return (
        f"each sub-model needs a width of its own, so leave one out, or write {0.998 * width:.3g} for the "
        "other, which keeps nearly the same channels"
    )


def check_depths(depths: Sequence[tuple[float, float]], widths: Sequence[float]) -> None:
    """Raise `SfscError` unless these are depths of narrow sub-models, by width."""
    deep = [width for width, _ in depths]
    if len({*deep}) < len(deep) or not {*deep} <= {*widths}:
        raise SfscError("each of the depths must belong to one width of the family")
    for width, depth in depths:
        if width == 1.0:
            raise SfscError("the full sub-model keeps all blocks: leave the depth behind width 1 out")
        if not 0 < depth <= 1:
            raise SfscError(f"depth {depth:g} of width {width:g} must be a share of the blocks within (0, 1]")


def check_sizes(sizes: Sequence[tuple[float, Size]], widths: Sequence[float], full: Size) -> None:
    """Raise `SfscError` unless these are image sizes of narrow sub-models, by width.

    Args:
        sizes: as `sizes_of` returns them.
        widths: the widths of the family.
        full: the (height, width) of the full sub-model's images.
    """
    sized = [width for width, _ in sizes]
    if len({*sized}) < len(sized) or not {*sized} <= {*widths}:
        raise SfscError("each of the image sizes must belong to one width of the family")
    for width, (height, across) in sizes:
        name = f"image size {height}x{across} of width {width:g}"
        if width == 1.0:
            raise SfscError(
                f"{name}: the full sub-model embeds images of image_size, so set that to change it"
            )
        if not (0 < height <= full[0] and 0 < across <= full[1]):
            raise SfscError(
                f"{name} must be within the full sub-model's, {full[0]}x{full[1]}: choose a smaller one, or "
                "a larger image_size"
            )


def in_ratio(height: int, full: Size) -> int:
    """Return the width of images of this height with the aspect ratio of `full`."""
    return max(1, (2 * height * full[1] + full[0]) // (2 * full[0]))  # rounded, for integers of any size


def name_of(width: float, size: Size, full: Size, depth: float = 1.0) -> str:
    """Return the name of a sub-model, such as 0.5/0.75, or 0.25@48 if its images are not of size `full`."""
    return f"{width:g}{Written.of(width, size, full, depth).suffix}"
