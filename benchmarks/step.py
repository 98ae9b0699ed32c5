"""Compare a training step of a family with the steps of the dense networks that it replaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from statistics import median

from page import parser, section, table
from timing import ratio, take_turns
from trainings import CLASSES, WIDTHS, Case, Training, trainings

from sfsc.progress import track

POINTS = "0.25@48,0.5/0.5,0.75,1"  # an image size and a depth
CASES = ["resnet18@64", f"resnet18@64:{POINTS}", "resnet18@128", "efficientnet_lite0@64"]
EXPLANATION = """
A step of a family with the recipe `sfsc` and granularity `tensor` is compared with the steps of four dense
networks, one for each sub-model, with a classifier and an optimizer each. All use the same batch of {batch}
images of {classes} identities; the family and the four networks take turns. A step consists of forward pass,
loss, backward pass, aggregation (only for the family), clipping and AdamW. Values are medians over the
rounds. The difference of the ratio from 1 is split into parts, as shares of the dense steps' time: computing
Gram matrices, weights and weighted sum of the gradients, clipping and AdamW (below 0, because there is one
optimizer instead of four), forward and backward passes. The aim is at most 1.10. Both sides do the same
forward and backward passes, so about 1.0 is the best possible value."""
MEMORY = """
The peak memory of tensors in a step, including weights and optimizer, is compared with that of the full dense
network alone. The aim is at most 1.5. Only the bytes of live tensors are counted: unlike the process's
resident memory, they are the same in every run."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--cases", nargs="+", default=CASES, help="cases as BACKBONE@PIXELS or BACKBONE@PIXELS:WIDTHS"
    )
    arguments.add_argument("--batch", type=int, default=64, help="images in a batch")
    arguments.add_argument("--seconds", type=float, default=60, help="time for each row")
    chosen = arguments.parse_args()
    cases = list(cases_of(chosen.cases, chosen.batch))
    rows = [[*case.name(), *cells(case, chosen.seconds)] for case in track(cases, "steps")]
    memory = [[*case.name(), *memory_cells(case)] for case in track(cases, "memory")]
    parts = ("Gram matrices", "weights and sum", "clipping and AdamW", "forward and backward")
    print(
        section(
            "Training step",
            EXPLANATION.format(batch=chosen.batch, classes=CLASSES),
            table(("backbone", "images", "widths", "dense", "family / dense", *parts), rows),
            MEMORY,
            table(("backbone", "images", "widths", "dense", "family", "family / dense"), memory),
        )
    )


def cases_of(texts: Iterable[str], batch: int) -> Iterator[Case]:
    """Yield the cases in the texts; networks with depthwise convolutions have both memory layouts."""
    for text in texts:
        backbone, _, rest = text.partition("@")
        size, _, widths = rest.partition(":")
        case = Case(backbone, int(size), batch, widths=widths or WIDTHS)
        yield case
        if backbone.startswith("efficientnet"):
            yield replace(case, channels_last=True)


def cells(case: Case, budget: float) -> list[str]:
    """Return the time of the dense steps, the family's ratio to it, and the parts of its excess over 1."""
    family, dense = trainings(case)
    times = take_turns({"family": family, "dense": lambda: each(dense)}, budget, case.device)
    total = ratio(times["family"], times["dense"])
    updates = zip(family.updating, *(step.updating for step in dense), strict=True)
    saved = [own - sum(others) for own, *others in updates]
    # The first round is not counted.
    parts = [ratio(part[1:], times["dense"]) for part in (family.gram, family.combining, saved)]
    shown = [*parts, total - 1 - sum(parts)]
    return [f"{median(times['dense']):.2f} s", f"{total:.2f}", *(f"{part:+.3f}" for part in shown)]


def each(steps: Iterable[Training]) -> None:
    """Do one step of each training."""
    for step in steps:
        step()


def memory_cells(case: Case) -> list[str]:
    """Return the peaks of the full dense network and of the family, in MiB, and their ratio."""
    family, dense = trainings(case)
    peaks = [training.peak_bytes() for training in (dense[-1], family)]
    return [*(f"{peak / 2**20:.0f} MiB" for peak in peaks), f"{peaks[1] / peaks[0]:.2f}"]


if __name__ == "__main__":
    main()
