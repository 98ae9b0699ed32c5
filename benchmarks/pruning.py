"""Compare the shapes of sub-models with those that torch-pruning finds by another analysis."""

from __future__ import annotations

import copy
import math
from importlib.metadata import version

import torch
import torch_pruning
from page import parser, section, table
from subjects import BACKBONES, EMBEDDING_DIM, pictures
from torch import Tensor, nn

from sfsc import SfscError, to_switchable
from sfsc.backbones.sources import find_backbone
from sfsc.errors import first_line
from sfsc.family.embedder import Embedder
from sfsc.progress import track
from sfsc.switchable.network import Switchable

WIDTHS = (0.25, 0.5, 0.75)
EXPLANATION = """
Each backbone has its default size and its embedding head; images have {size}x{size} pixels. torch-pruning
{version} (DepGraph, Fang et al., CVPR 2023) removes the last channels of every group that it finds, so that
ceil(r C) of C channels remain, except in the layer that computes the embedding. The shapes of all parameters
are compared with those of our sub-model of width r, `round_to=1`. A unit is a set of channels that we cut
together, such as a head of attention or a group of a grouped convolution."""
KNOWN = {".downsample.": "four slices of the map become one, and torch-pruning cuts two of them"}


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--backbones", nargs="+", choices=BACKBONES, default=[*BACKBONES], metavar="NAME")
    arguments.add_argument("--size", type=int, default=224, help="size of the images in pixels")
    chosen = arguments.parse_args()
    rows = [[name, *compare(BACKBONES[name], chosen.size)] for name in track(chosen.backbones, "pruning")]
    explanation = EXPLANATION.format(size=chosen.size, version=version("torch-pruning"))
    heading = ("backbone", "parameters", *(f"{width:g}" for width in WIDTHS), "notes")
    print(section("Channel counts", explanation, table(heading, rows)))


def compare(backbone: str, size: int) -> list[str]:
    """Return the cells of one backbone."""
    torch.manual_seed(0)
    network = Embedder.build(find_backbone(backbone), (size, size), EMBEDDING_DIM).eval()
    images = pictures(2, size)
    try:
        switchable = to_switchable(network, images, [*WIDTHS, 1.0], round_to=1)
    except SfscError as error:
        return ["-"] * (1 + len(WIDTHS)) + [f"sfsc: {error}"]
    cells, notes = [], dict[str, str]()
    for width in WIDTHS:
        cell, found = compare_at(network, switchable, images, width)
        cells.append(cell)
        notes = {**found, **notes}
    return [f"{len(list(network.parameters()))}", *cells, "; ".join(notes.values())]


def compare_at(
    network: Embedder, switchable: Switchable, images: Tensor, width: float
) -> tuple[str, dict[str, str]]:
    """Return the cell of one width, and notes about it by subject."""
    try:
        pruned = prune_tail(network, images, width)
    except Exception as error:  # torch-pruning raises errors of many unrelated classes
        return "-", {"failed": f"torch-pruning at {width:g}: `{type(error).__name__}: {first_line(error)}`"}
    theirs, ours = shapes(pruned), shapes(switchable.at(width))
    different = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    notes: dict[str, str] = {}
    for reason, names in by_reason(switchable, different).items():
        example = f"`{names[0]}` is {ours.get(names[0])}, theirs {theirs.get(names[0])}"
        notes[reason] = f"{reason}: {len(names)} at {width:g}, where {example}"
    try:
        pruned(images)
    except RuntimeError as error:
        notes["runs"] = f"their network of {width:g} does not run: `{first_line(error)}`"
    return (f"{len(different)} differ" if different else "equal"), notes


def by_reason(switchable: Switchable, names: list[str]) -> dict[str, list[str]]:
    """Return the names of parameters with different shapes, by the reason for the difference."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        sizes = unit_sizes(switchable, name)
        known = next((reason for part, reason in KNOWN.items() if part in name), "for no known reason")
        units = f"whole units of {', '.join(map(str, sorted(sizes)))} channels"
        reasons.setdefault(units if sizes else known, []).append(name)
    return reasons


def prune_tail(network: Embedder, images: Tensor, width: float) -> nn.Module:
    """Return a copy without the last channels of every group that torch-pruning finds."""
    pruned = copy.deepcopy(network)
    graph = torch_pruning.DependencyGraph().build_dependency(pruned, images, verbose=False)
    for group in graph.get_all_groups(ignored_layers=[pruned.linear]):
        channels = len(group[0].idxs)
        group.prune([*range(math.ceil(width * channels), channels)])
    return pruned


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters by name."""
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def unit_sizes(switchable: Switchable, name: str) -> set[int]:
    """Return the numbers of channels in a unit, if more than 1, for the groups of a parameter."""
    structure = switchable.structure
    layouts = structure.layouts.get(name, {}).values()
    groups = {int(group) for layout in layouts for group in layout.groups.unique() if group >= 0}
    return {structure.groups[group].channels for group in groups} - {1}


if __name__ == "__main__":
    main()
