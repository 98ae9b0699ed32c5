"""Sub-models of random widths, which a joint step trains besides those of the family.

This is the sandwich rule (Yu and Huang, Universally Slimmable Networks, ICCV 2019): each step trains the
narrowest and the full sub-model, and some of random widths between them. Afterwards, a sub-model of any width
works as soon as its BatchNorm statistics have been estimated.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn

from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.notation import Size, read_written
from sfsc.switchable.convert import Gathered, lend_norms
from sfsc.switchable.network import Switchable
from sfsc.switchable.stages import is_within
from sfsc.training.config import Config
from sfsc.widths import Widths

STEPS = 32  # random widths are multiples of 1/32, so that each sub-network is built once


class AnyWidth(Switchable):
    """The sub-networks of a family, and those of all multiples of 1/32 above its narrowest width.

    The sub-networks that the family lacks take its image sizes and depths in turn. For each block, such a
    sub-network uses the first entries of the normalisation parameters of the next wider sub-model that has
    this block, as a sub-model does that is added to the trained family. It has no running statistics, so it
    works in training mode only.
    """

    def __init__(self, family: Family) -> None:
        """Build the sub-networks on the weights of a family, whose own sub-networks remain in use."""
        self._family = [family]  # a list, because a module would become a part of this one
        self.between = between(family.widths)
        depths = {family.depth_of(width) for width in family.widths}
        sizes = {family.image_size_of(width) for width in family.widths}
        kinds = itertools.cycle(itertools.product(sorted(sizes), sorted(depths)))
        self._kinds = dict(zip(self.between, kinds, strict=False))
        widths = Widths(tuple(sorted([*family.widths, *self.between])))
        super().__init__(family.network, family.structure, widths, family.round_to)

    def image_size_of(self, width: float) -> Size:
        """Return the (height, width) in pixels of a sub-network's images."""
        [family] = self._family
        return self._kinds[width][0] if width in self._kinds else family.image_size_of(width)

    def draw(self, number: int, seed: int) -> list[int]:
        """Return the indices of random widths, increasing: one of each of `number` parts of the range."""
        generator = np.random.default_rng(seed)
        parts = np.array_split(self.between, number)
        return [self.widths.index(float(generator.choice(part))) for part in parts]

    @torch.no_grad()
    def return_gradients(self) -> None:
        """Add the gradients of lent normalisation parameters to those of the parameters they are parts of."""
        for lent in self._lent:
            if (gradient := lent.part.grad) is not None:
                whole = torch.zeros_like(lent.whole) if lent.whole.grad is None else lent.whole.grad
                kept = lent.positions.get(0, torch.arange(len(whole))).to(whole.device)
                lent.whole.grad, lent.part.grad = whole.index_add(0, kept, gradient), None

    def _check_distinct(self) -> None:
        """Accept widths that keep the same channels, because a random width may be rounded to another."""

    def _divide(self) -> None:
        [family] = self._family
        own = dict(zip(family.widths.narrow, family.norms, strict=True))
        self._lent: list[Gathered] = []
        self.norms = nn.ModuleList(own.get(width) or self._borrow(width) for width in self.widths.narrow)

    def _borrow(self, width: float) -> nn.ModuleDict:
        """Return the normalisation layers of a sub-network that the family lacks."""
        [family] = self._family
        index = self.widths.index(width)
        layers: dict[str, nn.Module] = {}
        for place, wider in enumerate(family.widths):
            if wider < width:
                continue
            new = {
                name: norm
                for name, norm in family.norms_of(place).items()
                if name not in layers and not is_within(name, self.left_out[index])
            }
            norms, lent = lend_norms(new, self.structure, family.counts[place], self.counts[index])
            layers |= norms
            self._lent += lent
        return nn.ModuleDict({name.replace(".", "/"): norm for name, norm in layers.items()})

    def _depth(self, width: float) -> float:
        [family] = self._family
        return self._kinds[width][1] if width in self._kinds else family.depth_of(width)

    def _build(self) -> None:
        super()._build()
        [family] = self._family
        for index, width in enumerate(family.widths.narrow):
            place = self.widths.index(width)
            self._narrow[place], self._gathered[place] = family._narrow[index], family._gathered[index]
        self._copied = [lent for lent in self._lent if lent.copied]

    def at(self, width: float) -> nn.Module:
        """Return the live sub-network of this width, as `Switchable.at` does."""
        for lent in self._copied:
            lent.renew()
        return super().at(width)


def between(widths: Widths) -> list[float]:
    """Return the multiples of 1/32 between the narrowest width and 1 that are not widths themselves."""
    grid = [step / STEPS for step in range(1, STEPS)]
    return [ratio for ratio in grid if ratio > widths.ratios[0] and ratio not in widths.ratios]


def check_random_widths(config: Config) -> None:
    """Raise `SfscError` if random widths are asked for and cannot be trained with the other settings."""
    if not config.random_widths:
        return
    method, widths = config.method, Widths(tuple(one.width for one in read_written(config.widths)))
    possible = len(between(widths))
    if not method.shared or method.classifiers == "own":
        raise SfscError(
            f"recipe {config.recipe} has a network or a classifier for each width, so it cannot train random "
            "widths: set random_widths to 0, or choose another recipe, such as sfsc"
        )
    if config.compile:
        raise SfscError(
            "random widths would be compiled one by one: set compile to false or random_widths to 0"
        )
    if config.random_widths > possible:
        raise SfscError(
            f"random_widths is {config.random_widths}, but there are {possible} random widths above "
            f"{widths.ratios[0]:g}: lower random_widths, or begin with a narrower width"
        )
