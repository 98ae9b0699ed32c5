"""Test which backbones can be cut, and whether their sub-models compute what they should."""

from __future__ import annotations

import time

import torch
from page import parser, section, table
from subjects import BACKBONES, lively_embedder, pictures
from torch import Tensor, nn

from sfsc import SfscError, to_switchable
from sfsc.progress import track
from sfsc.switchable.network import Switchable

WIDTHS = (0.25, 0.5, 0.75, 1.0)
EXACT, SORTED = 1e-5, 1e-4
HEADING = (
    "backbone",
    "converts",
    "parameters at 0.25, 0.5, 0.75",
    f"forward = sub-model (to {EXACT:g})",
    f"sorting changes nothing (to {SORTED:g})",
    f"sub-models export (to {EXACT:g})",
)
EXPLANATION = """
Each backbone, at its default size, with its embedding head, random weights and images of {size}x{size}
pixels, is made switchable with `round_to=1`. The table shows the seconds that this takes, the parameters of
the narrow sub-models as shares of the full sub-model's parameters, and the largest differences between
embeddings, relative to the largest entry. *Forward* compares the switched forward pass (with views of the
weights, and as it runs without gradients) with the dense sub-model, over all widths. *Sorting* compares the
full sub-model, whose channels are sorted by importance, with the original network. *Export* compares the
narrow sub-models with their exports by `torch.export` with a dynamic batch."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--backbones", nargs="+", choices=BACKBONES, default=[*BACKBONES], metavar="NAME")
    arguments.add_argument("--size", type=int, default=224, help="size of the images in pixels")
    chosen = arguments.parse_args()
    rows = [[name, *measure(BACKBONES[name], chosen.size)] for name in track(chosen.backbones, "conversion")]
    print(section("Conversion", EXPLANATION.format(size=chosen.size), table(HEADING, rows)))


def measure(backbone: str, size: int) -> list[str]:
    """Return the cells of one backbone."""
    network, images = lively_embedder(backbone, size), pictures(4, size, seed=1)
    with torch.no_grad():
        before = network(images)
    assert difference(before, before.mean(0)) > 0.1, "the embeddings do not depend on the picture"
    start = time.perf_counter()
    try:
        switchable = to_switchable(network, images[:2], WIDTHS, round_to=1)
    except SfscError as error:
        return [f"no: {error}", *["-"] * (len(HEADING) - 2)]
    took = time.perf_counter() - start
    with torch.no_grad():
        sorting = difference(switchable(images), before)
    return [
        f"yes, {took:.0f} s",
        ", ".join(f"{share:.3f}" for share in shares(switchable)),
        verdict(max(against_submodel(switchable, images, width) for width in WIDTHS), EXACT),
        verdict(sorting, SORTED),
        exports(switchable, images),
    ]


def shares(switchable: Switchable) -> list[float]:
    """Return the parameters of each narrow sub-model as shares of the full sub-model's."""
    full = switchable.parameter_count(1.0)
    return [switchable.parameter_count(width) / full for width in WIDTHS[:-1]]


def against_submodel(switchable: Switchable, images: Tensor, width: float) -> float:
    """Return the largest difference between the dense sub-model and both ways to run a width."""
    views, submodel = switchable.at(width), switchable.submodel(width)
    with torch.no_grad():
        expected = submodel(images)
        return max(difference(views(images), expected), difference(switchable(images, width), expected))


def exports(switchable: Switchable, images: Tensor) -> str:
    """Return whether all narrow sub-models can be exported, or the first error."""
    try:
        return verdict(max(export(switchable.submodel(w), images) for w in WIDTHS[:-1]), EXACT)
    except Exception as error:  # torch.export raises errors of many unrelated classes
        return f"no: {str(error).strip().splitlines()[0]}"


@torch.no_grad()
def export(submodel: nn.Module, images: Tensor) -> float:
    """Return the difference that exporting makes; the graph is traced with two images and run with all."""
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(submodel, (images[:2],), dynamic_shapes=({0: batch},))
    return difference(program.module()(images), submodel(images))


def difference(output: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest entry."""
    return ((output - expected).abs().max() / expected.abs().max()).item()


def verdict(found: float, limit: float) -> str:
    """Return yes or no, and the number."""
    return f"{'yes' if found <= limit else 'no'}, {found:.1g}"


if __name__ == "__main__":
    main()
