"""Measure the ratios of forward.py and step.py on a GPU, if one is available."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product

import torch
from forward import cells as forward_cells
from forward import variants
from page import parser, section, table
from step import cells as step_cells
from step import memory_cells
from subjects import lively_family, pictures
from trainings import Case

from sfsc.progress import track

EXPLANATION = """
The ratios of the sections above on a GPU, with images of {size}x{size} pixels in batches of {batch}. Times
are measured by CUDA events, so they end when the GPU is done."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--backbones", nargs="+", default=["resnet50", "resnet18"])
    arguments.add_argument("--size", type=int, default=224, help="size of the images in pixels")
    arguments.add_argument("--batch", type=int, default=128, help="images in a batch")
    arguments.add_argument("--seconds", type=float, default=10, help="time for each row")
    arguments.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    arguments.add_argument("--device", default="cuda", help="use cpu to try the script")
    chosen = arguments.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print(section("On a GPU", "No GPU was available."))
        return
    torch._dynamo.config.recompile_limit = 64  # every network below runs the same code
    cases = list(cases_of(chosen))
    forward = [row for case in track(cases, "forward") for row in forward_rows(case, chosen.seconds)]
    steps = [step_row(case, chosen.seconds) for case in track(cases, "steps")]
    print(
        section(
            "On a GPU",
            EXPLANATION.format(size=chosen.size, batch=chosen.batch),
            table(("backbone", "precision", "width", "dense", "inference", "views"), forward),
            table(("backbone", "precision", "dense steps", "family / dense", "memory"), steps),
            device=chosen.device,
        )
    )


def cases_of(chosen: argparse.Namespace) -> Iterator[Case]:
    """Yield every backbone in both precisions, compiled and not."""
    for backbone, compiled in product(chosen.backbones, [False, True] if chosen.compile else [False]):
        for precision in ("float32", "bfloat16"):
            size, batch = chosen.size, chosen.batch
            yield Case(backbone, size, batch, precision=precision, compile=compiled, device=chosen.device)


def name_of(case: Case) -> list[str]:
    """Return the cells that name a case in the tables."""
    return [case.backbone, f"{case.precision}{', compiled' if case.compile else ''}"]


def forward_rows(case: Case, budget: float) -> Iterator[list[str]]:
    """Yield a row for each width."""
    family = lively_family(case.backbone, case.size).to(case.device)
    images = pictures(case.batch, case.size).to(case.device)
    for width in family.widths:
        calls = variants(family, width, images, case.precision, case.compile)
        ratios = forward_cells(calls, budget, ("inference", "views"), case.device)
        yield [*name_of(case), f"{width:g}", *ratios]


def step_row(case: Case, budget: float) -> list[str]:
    """Return the time of the dense steps, and the ratios of the family's time and memory."""
    return [*name_of(case), *step_cells(case, budget)[:2], memory_cells(case)[-1]]


if __name__ == "__main__":
    main()
