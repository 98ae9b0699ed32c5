"""A structure as text, which is stored with a network's weights so that the network is analysed only once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn

from sfsc.errors import one_line
from sfsc.files.json_text import parse_json
from sfsc.files.schema import conform
from sfsc.switchable.convert import size_attributes
from sfsc.switchable.structure import ChannelGroup, Layout, Structure

# The index of a layout in the list, by name and by dimension or attribute.
Places = Mapping[str, Mapping[str, int]]


class _Stored(TypedDict):
    groups: list[tuple[int, int]]
    layouts: list[tuple[list[int], list[int]]]
    parameters: Places
    sizes: Places
    stages: NotRequired[list[list[str]]]


def structure_to_text(structure: Structure) -> str:
    """Return a structure as JSON. Equal layouts are stored once and referred to by their index."""
    places: dict[str, int] = {}

    def place(layout: Layout) -> int:
        text = json.dumps([layout.groups.tolist(), layout.units.tolist()], separators=(",", ":"))
        return places.setdefault(text, len(places))

    parameters = {
        name: {str(dimension): place(layout) for dimension, layout in layouts.items()}
        for name, layouts in structure.layouts.items()
    }
    sizes = {
        name: {attribute: place(layout) for attribute, layout in layouts.items()}
        for name, layouts in structure.sizes.items()
    }
    groups = json.dumps([[group.size, group.channels] for group in structure.groups])
    return (
        f'{{"groups": {groups}, "layouts": [{", ".join(places)}], '
        f'"parameters": {json.dumps(parameters)}, "sizes": {json.dumps(sizes)}, '
        f'"stages": {json.dumps(structure.stages)}}}'
    )


def structure_from_text(text: str, network: nn.Module) -> Structure:
    """Return the structure of a network from the text that `structure_to_text` returned.

    Raises:
        ValueError: the text is not a structure, or is that of another network.
    """
    stored: _Stored = conform(parse_json(text), _Stored)
    groups = [ChannelGroup(*pair) for pair in stored["groups"]]
    if not groups or any(min(group.size, group.channels) < 1 for group in groups):
        raise ValueError("a group of channels is empty")
    layouts = [_layout(*pair, groups) for pair in stored["layouts"]]
    state = network.state_dict()
    by_dimension: dict[str, dict[int, Layout]] = {}
    for name, dimension, layout in _placed(stored["parameters"], layouts):
        by_dimension.setdefault(name, {})[_dimension(dimension, layout, state.get(name))] = layout
    modules = dict(network.named_modules())
    sizes: dict[str, dict[str, Layout]] = {}
    for name, attribute, layout in _placed(stored["sizes"], layouts):
        if name not in modules or attribute not in size_attributes(modules[name], [layout]):
            raise ValueError(f"{name}.{attribute} is not a size of a module")
        sizes.setdefault(name, {})[attribute] = layout
    stages = tuple(map(tuple, stored.get("stages", [])))
    if unknown := [name for stage in stages for name in stage if name not in modules]:
        raise ValueError(f"block {one_line(unknown[0], 100)} is not a module")
    return Structure(groups, by_dimension, sizes, stages)


def _layout(groups: list[int], units: list[int], known: list[ChannelGroup]) -> Layout:
    if len(groups) != len(units) or not groups:
        raise ValueError("a layout lacks groups or units")
    for group, unit in zip(groups, units, strict=True):
        if not -1 <= group < len(known) or not 0 <= unit < (known[group].size if group >= 0 else 1):
            raise ValueError("a layout names a unit that does not exist")
    return Layout(torch.tensor(groups), torch.tensor(units))


def _placed(positions: Places, layouts: list[Layout]) -> list[tuple[str, str, Layout]]:
    found = [(name, key, place) for name, places in positions.items() for key, place in places.items()]
    if any(not 0 <= place < len(layouts) for _, _, place in found):
        raise ValueError("a layout is missing")
    return [(name, key, layouts[place]) for name, key, place in found]


def _dimension(text: str, layout: Layout, tensor: Tensor | None) -> int:
    dimension = int(text) if text.isdecimal() and len(text) < 3 else -1
    if tensor is None or not 0 <= dimension < tensor.ndim or tensor.shape[dimension] != len(layout.groups):
        raise ValueError("a layout does not fit a dimension of its parameter")
    return dimension
