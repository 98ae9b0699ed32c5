"""Compare the switched forward pass with that of a dense sub-model."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from statistics import median

import torch
from page import parser, section, table
from subjects import lively_family, pictures
from timing import ratio, take_turns
from torch import Tensor

from sfsc import Family
from sfsc.progress import track

BACKBONES = {"ResNet-50": "resnet50", "MobileNetV2": "transformers:mobilenet_v2"}
EXPLANATION = """
The table compares the time in which a family embeds images of {size}x{size} pixels with that of a dense
sub-model with its own weights, whose milliseconds are given. Ratios are medians over calls that took turns in
one run. *Inference* is `Switchable.at(width)` and a forward pass without gradients, as in `Family.embed`.
*Views* is the network of views of the full weights that training uses, also without gradients. *Dense again*
is another copy of the dense sub-model, whose distance from 1 is noise. The aim is at most 1.05."""
CHANNELS_LAST = """
The same with images and weights in the memory format `torch.channels_last`, at batch {batch}. *Dense,
contiguous* is the dense sub-model in the default format: above 1, channels-last is faster."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--backbones", nargs="+", choices=BACKBONES, default=[*BACKBONES])
    arguments.add_argument("--size", type=int, default=224, help="size of the images in pixels")
    arguments.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="images in a batch")
    arguments.add_argument("--seconds", type=float, default=10, help="time for each row")
    chosen = arguments.parse_args()
    families = {name: lively_family(BACKBONES[name], chosen.size) for name in chosen.backbones}
    cases = list(product(chosen.batches, families.items()))
    rows = [row for case in track(cases, "forward") for row in default_rows(chosen, *case)]
    last = [row for case in track(families.items(), "channels-last") for row in last_rows(chosen, case)]
    print(
        section(
            "Switched forward pass",
            EXPLANATION.format(size=chosen.size),
            table(("backbone", "batch", "width", "dense", "inference", "views", "dense again"), rows),
            CHANNELS_LAST.format(batch=chosen.batches[-1]),
            table(("backbone", "width", "dense", "inference", "views", "dense, contiguous"), last),
        )
    )


def default_rows(chosen: Namespace, batch: int, case: tuple[str, Family]) -> Iterable[list[str]]:
    """Yield a row for each width."""
    name, family = case
    images = pictures(batch, chosen.size)
    for width in family.widths:
        calls = variants(family, width, images)
        calls["again"] = partial(family.submodel(width), images)
        yield [name, f"{batch}", f"{width:g}", *cells(calls, chosen.seconds, ("inference", "views", "again"))]


def last_rows(chosen: Namespace, case: tuple[str, Family]) -> Iterable[list[str]]:
    """Yield a row for each width, in channels-last."""
    name, family = case
    images = pictures(chosen.batches[-1], chosen.size)
    turned = copy.deepcopy(family).to(memory_format=torch.channels_last)
    for width in family.widths:
        calls = variants(turned, width, images.contiguous(memory_format=torch.channels_last))
        calls["contiguous"] = partial(family.submodel(width), images)
        yield [name, f"{width:g}", *cells(calls, chosen.seconds, ("inference", "views", "contiguous"))]


def variants(
    family: Family, width: float, images: Tensor, precision: str = "float32", compiled: bool = False
) -> dict[str, Callable[[], object]]:
    """Return the forward passes to compare, for a family in evaluation mode."""
    with torch.enable_grad():
        views = family.at(width)
    with torch.no_grad():
        dense, packed = family.submodel(width), family.at(width)
    runs = [
        partial(run, torch.compile(n) if compiled else n, images, precision) for n in (dense, views, packed)
    ]
    return {"dense": runs[0], "views": runs[1], "inference": lambda: (family.at(width), runs[2]())}


def run(network: Callable[[Tensor], object], images: Tensor, precision: str) -> None:
    """Run one forward pass."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        network(images)


@torch.no_grad()
def cells(
    calls: dict[str, Callable[[], object]], budget: float, over_dense: Iterable[str], device: str = "cpu"
) -> list[str]:
    """Return the milliseconds of the dense forward pass, and the ratios of the given calls to it."""
    times = take_turns(calls, budget, device)
    ratios = [f"{ratio(times[name], times['dense']):.2f}" for name in over_dense]
    return [f"{1000 * median(times['dense']):.1f} ms", *ratios]


if __name__ == "__main__":
    main()
