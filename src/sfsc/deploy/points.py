"""Points: the sub-models that a family could have, and what each would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from sfsc.family.family import Family
from sfsc.notation import Size, in_ratio
from sfsc.switchable.inspection import layers_of
from sfsc.switchable.stages import is_within, left_out
from sfsc.training.norm_statistics import with_width

STEPS = 32  # ratios are multiples of 1/32, as those of random widths in training
SHARES = (1.0, 0.875, 0.75, 0.625, 0.5)  # heights of images, as shares of the full sub-model's
PIXELS = 4  # heights are rounded to multiples of this
FARTHEST = 0.375  # change of a ratio by a mutation

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """A sub-model that a family could have.

    Attributes:
        ratios: the channel ratio of each group of channels, in the order of `Structure.groups`.
        size: the (height, width) in pixels of its images.
        depth: the share of the residual blocks of each stage that it keeps.
    """

    ratios: tuple[float, ...]
    size: Size
    depth: float = 1.0


@dataclass(frozen=True)
class Costs:
    """What a sub-model costs for one image, in each convolution and linear layer.

    Attributes:
        calls: (layers,) float64, how often the layer uses its weights: once for each position of its output.
        weights: (layers,) float64, the number of weights.
        values: (layers,) float64, the number of values that the layer returns.
    """

    calls: np.ndarray
    weights: np.ndarray
    values: np.ndarray

    @property
    def multiply_adds(self) -> np.ndarray:
        """The multiply-adds: (layers,) float64."""
        return self.calls * self.weights


class Space:
    """The points of a family. No ratio is below the narrowest trained width.

    Of all ratios that keep the same channels of a group, points have the smallest, so equal sub-models are
    equal points.

    Attributes:
        narrowest: the smallest ratio.
        sizes: the image sizes that the backbone can process, of those that are tried: the family's own, and
            `SHARES` of the full sub-model's. The last one is the full sub-model's.
        depths: the depths of the trained sub-models, increasing to 1.
    """

    def __init__(self, family: Family) -> None:
        """List the ratios and image sizes of a family, which is in evaluation mode."""
        widths = family.spec.trained().widths
        grid = [step / STEPS for step in range(1, STEPS + 1) if step / STEPS > widths.ratios[0]]
        ratios = sorted({*widths, *grid}, reverse=True)
        self.family, self.narrowest = family, widths.ratios[0]
        self._choices = [
            sorted({group.kept(ratio, family.round_to): ratio for ratio in ratios}.items())
            for group in family.structure.groups
        ]
        self._shapes = {
            name: tuple(cast(Tensor, module.weight).shape) for name, module in layers_of(family).items()
        }
        calls = {size: self._count_calls(size) for size in self._tried()}
        self._calls = {size: found for size, found in sorted(calls.items()) if found is not None}
        self.sizes = [*self._calls]
        self.depths = sorted({family.depth_of(width) for width in widths})
        self._trained = {
            self.uniform(width, family.image_size_of(width), family.depth_of(width)): width
            for width in widths
        }

    def _tried(self) -> set[Size]:
        full, spec = self.family.image_size, self.family.spec
        heights = {PIXELS * round(share * full[0] / PIXELS) for share in SHARES}
        tried = {(height, in_ratio(height, full)) for height in heights if 0 < height < full[0]}
        return tried | {spec.image_size_of(width) for width in spec.trained().widths}

    def _count_calls(self, size: Size) -> np.ndarray | None:
        """Return how often each layer uses its weights for one image; None if the size is impossible."""
        found = dict.fromkeys(self._shapes, 0.0)

        def count(name: str, output: Tensor) -> None:
            found[name] += output.numel() / self._shapes[name][0]

        hooks = [
            module.register_forward_hook(lambda _, __, output, name=name: count(name, output))
            for name, module in layers_of(self.family).items()
        ]
        try:
            with torch.no_grad():
                self.family.at(1.0)(torch.zeros(1, 3, *size))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return None
        finally:
            for hook in hooks:
                hook.remove()
        return np.array([*found.values()])

    def point(self, ratios: Sequence[float], size: Size, depth: float = 1.0) -> Point:
        """Return the point with these ratios, or the next larger ones that there are."""
        counts = self.family.structure.counts(ratios, self.family.round_to)
        pairs = zip(counts, self._choices, strict=True)
        return Point(tuple(next(r for kept, r in own if kept >= count) for count, own in pairs), size, depth)

    def uniform(self, width: float, size: Size, depth: float = 1.0) -> Point:
        """Return the point that has one width everywhere."""
        return self.point([width] * len(self._choices), size, depth)

    def trained(self) -> dict[Point, float]:
        """Return the points of the trained sub-models with their widths."""
        return self._trained

    def drawn(self, random: np.random.Generator) -> Point:
        """Return a random point: mutations of one that has one width everywhere."""
        width = random.uniform(self.narrowest, 1.0)
        size = self.sizes[random.integers(len(self.sizes))]
        depth = self.depths[random.integers(len(self.depths))]
        point = self.uniform(width, size, depth)
        return self.mutated(self.mutated(point, random), random)

    def mutated(self, point: Point, random: np.random.Generator) -> Point:
        """Return a point with other ratios in consecutive groups, and perhaps another size and depth."""
        start, end = sorted(random.integers(len(point.ratios) + 1, size=2).tolist())
        groups, change = np.arange(len(point.ratios)), random.uniform(-FARTHEST, FARTHEST)
        moved = np.array(point.ratios) + change * ((start <= groups) & (groups < end))
        size, depth = _near(self.sizes, point.size, random), _near(self.depths, point.depth, random)
        return self.point(np.clip(moved, self.narrowest, 1.0).tolist(), size, depth)

    def crossed(self, first: Point, second: Point, random: np.random.Generator) -> Point:
        """Return a point with the first groups of one point and the last ones of another."""
        cut = int(random.integers(len(first.ratios) + 1))
        other = (first, second)[random.integers(2)]
        return replace(other, ratios=first.ratios[:cut] + second.ratios[cut:])

    def width_of(self, point: Point) -> float:
        """Return the width of a point as an added sub-model: a number of three digits that the family lacks.

        It is close to the square root of the point's share of the full sub-model's multiply-adds, with images
        of one size: the width of the network whose groups all have one ratio, and that costs the same.
        """
        full = self.uniform(1.0, self.sizes[-1])
        own, whole = (
            self.costs(one).multiply_adds.sum() for one in (replace(full, ratios=point.ratios), full)
        )
        near = sorted(range(1, 1000), key=lambda step: abs(step / 1000 - (own / whole) ** 0.5))
        return next(step / 1000 for step in near if step / 1000 not in self.family.widths.ratios)

    def build(self, point: Point) -> tuple[Family, float]:
        """Return a family with the sub-model of a point, and its width there.

        A point that was trained is the trained sub-model, in the family itself. Others are added to a copy,
        and still lack BatchNorm statistics of their own.
        """
        trained = self.trained().get(point)
        if trained is not None:
            return self.family, trained
        width = self.width_of(point)
        return with_width(self.family, width, point.size, point.depth, point.ratios), width

    def costs(self, point: Point) -> Costs:
        """Count what a point costs."""
        counts = self.family.structure.counts(point.ratios, self.family.round_to)
        gone = left_out(self.family.structure.stages, point.depth)
        shapes = []
        for name, whole in self._shapes.items():
            cut = self.family.structure.layouts.get(f"{name}.weight", {})
            kept = {dimension: len(layout.kept(counts)) for dimension, layout in cut.items()}
            shapes.append([kept.get(dimension, length) for dimension, length in enumerate(whole)])
        used = np.array([not is_within(name, gone) for name in self._shapes])
        calls = used * self._calls[point.size]
        weights = used * np.array([float(np.prod(shape)) for shape in shapes])
        return Costs(calls, weights, calls * np.array([shape[0] for shape in shapes]))


def _near(choices: Sequence[T], chosen: T, random: np.random.Generator) -> T:
    """Return one of the choices, which is mostly the same and otherwise the one before or behind it."""
    if len(choices) == 1:
        return chosen
    place = choices.index(chosen) + random.choice((-1, 0, 0, 0, 0, 1))
    return choices[int(np.clip(place, 0, len(choices) - 1))]
