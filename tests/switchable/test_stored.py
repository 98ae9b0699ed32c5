"""Structures as text: what is read is what was written, and nothing that does not fit the network."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from sfsc.switchable.stored import structure_from_text, structure_to_text
from sfsc.switchable.structure import Structure
from sfsc.switchable.tracer import analyse
from sfsc.switchable.verify import settle
from tests.switchable.networks import SMALL_NETWORKS, small_network


def settled(network: nn.Module) -> Structure:
    structure, graph = analyse(network, torch.zeros(2, 3, 32, 32))
    return settle(network, structure, graph, [structure.counts(0.5)])


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_what_is_read_is_what_was_written(name: str) -> None:
    network = small_network(name)
    structure = settled(network)
    text = structure_to_text(structure)
    read = structure_from_text(text, network)
    assert read.groups == structure.groups
    assert structure_to_text(read) == text
    for width in (0.25, 0.5):
        counts = structure.counts(width)
        for parameter, layouts in structure.layouts.items():
            for dimension, layout in layouts.items():
                assert torch.equal(read.layouts[parameter][dimension].kept(counts), layout.kept(counts))


@pytest.fixture(scope="module")
def stored() -> tuple[nn.Module, dict[str, Any]]:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    return network, json.loads(structure_to_text(settled(network)))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("groups",), []),
        (("groups", 0), [0, 1]),
        (("groups", 0), [10**30, 1]),
        (("layouts", 0), [[0, 0], [0]]),
        (("layouts", 0, 0, 0), 7),
        (("layouts", 0, 1, 0), 4),
        (("layouts", 0, 1, 0), -1),
        (("layouts",), []),
        (("parameters", "0.weight"), {"9": 0}),
        (("parameters", "0.weight"), {"1": 0}),
        (("parameters", "0.weight"), {"x": 0}),
        (("parameters", "nowhere"), {"0": 0}),
        (("sizes", "0"), {"forward": 0}),
        (("sizes", "nowhere"), {"heads": 0}),
        (("sizes",), 3),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(
    stored: tuple[nn.Module, dict[str, Any]], place: tuple[Any, ...], value: Any
) -> None:
    network, content = stored
    changed = json.loads(json.dumps(content))
    *path, last = place
    part = changed
    for step in path:
        part = part[step]
    part[last] = value
    assert structure_from_text(json.dumps(content), network)
    with pytest.raises(ValueError, match=r"."):
        structure_from_text(json.dumps(changed), network)
