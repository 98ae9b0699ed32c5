"""Widths: the channel ratios of a family's sub-models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sfsc.errors import SfscError


@dataclass(frozen=True)
class Widths:
    """The channel ratios of a family's sub-models, increasing to 1.0 (the full sub-model).

    Raises:
        SfscError: the ratios are empty, do not increase, lie outside (0, 1] or do not end in 1.0.

    Example::

        widths = sfsc.Widths.of("0.25,0.5,1.0")
        assert widths.narrow == (0.25, 0.5)
    """

    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in zip(self.ratios, self.ratios[1:], strict=False))
        if not self.ratios or not increasing or self.ratios[0] <= 0 or self.ratios[-1] != 1.0:
            raise SfscError(f"widths must increase within (0, 1] and end in 1.0, got {self}")

    @classmethod
    def of(cls, value: str | Sequence[float] | Widths) -> Widths:
        """Return widths from a text such as `"0.25,0.5,1.0"`, a sequence of ratios, or another `Widths`.

        Raises:
            SfscError: the value contains something that is not a number, or the ratios are invalid.
        """
        if isinstance(value, Widths):
            return value
        try:
            return cls(tuple(float(r) for r in (value.split(",") if isinstance(value, str) else value)))
        except (TypeError, ValueError, OverflowError):
            raise SfscError(f"widths are numbers such as 0.25,0.5,0.75,1.0, got {value!r}") from None

    def index(self, width: float) -> int:
        """Return the position of `width`; raise `SfscError` if the family has no such width."""
        if width not in self.ratios:
            raise SfscError(f"width {width:g} is not one of this family's widths: {self}")
        return self.ratios.index(width)

    @property
    def narrow(self) -> tuple[float, ...]:
        """The ratios below 1.0."""
        return self.ratios[:-1]

    def __iter__(self) -> Iterator[float]:
        return iter(self.ratios)

    def __len__(self) -> int:
        return len(self.ratios)

    def __str__(self) -> str:
        return ", ".join(f"{ratio:g}" for ratio in self.ratios)


def cut(channels: int, width: float) -> int:
    """Return how many of `channels` channels a sub-model of this width uses: ceil(width * channels)."""
    return math.ceil(width * channels - 1e-9)
