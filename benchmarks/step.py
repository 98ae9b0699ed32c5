"""What a training step of a family costs over the steps of the dense networks that it replaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median

from page import parser, section, table
from timing import ratio, take_turns
from trainings import CLASSES, Case, Training, trainings

from sfsc.progress import track

CASES = ["resnet18@64", "resnet18@128", "efficientnet_lite0@64"]
EXPLANATION = """
A step of a family with the recipe `sfsc`, granularity `tensor`, against the steps of four dense networks, one
of each width, with a classifier and an optimizer each; all on the same batch of {batch} images of {classes}
identities, the family and the four in turns. A step is forward pass, loss, backward pass, aggregation (the
family's alone), clipping and AdamW. Medians over the rounds. What is above 1 is split into its parts, as
shares of the dense steps' time: computing Gram matrices, weights and weighted sum of the gradients, clipping
and AdamW (less than 0: one optimizer instead of four), forward and backward passes. The aim is 1.10 at most;
both sides do the same forward and backward passes, so that 1.0 is about what can be reached."""
MEMORY = """
The largest amount of memory that tensors take in a step, weights and optimizer included, against that of the
full dense network alone. The aim is 1.5 at most. Counted are the bytes of live tensors: they are the same in
every run, unlike the process's resident memory."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--cases", nargs="+", default=CASES, help="backbones @ sizes of the images, in pixels"
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
            table(("backbone", "images", "dense", "family / dense", *parts), rows),
            MEMORY,
            table(("backbone", "images", "dense", "family", "family / dense"), memory),
        )
    )


def cases_of(texts: Iterable[str], batch: int) -> Iterator[Case]:
    """What the texts name; networks with depthwise convolutions in both memory layouts."""
    for text in texts:
        backbone, _, size = text.partition("@")
        yield Case(backbone, int(size), batch)
        if backbone.startswith("efficientnet"):
            yield Case(backbone, int(size), batch, channels_last=True)


def cells(case: Case, budget: float) -> list[str]:
    """The time of the dense steps, the ratio of the family's to it, and what is above 1 in its parts."""
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
    """Do a step of each."""
    for step in steps:
        step()


def memory_cells(case: Case) -> list[str]:
    """The peaks of the full dense network and of the family, in MiB, and their ratio."""
    family, dense = trainings(case)
    peaks = [training.peak_bytes() for training in (dense[-1], family)]
    return [*(f"{peak / 2**20:.0f} MiB" for peak in peaks), f"{peaks[1] / peaks[0]:.2f}"]


if __name__ == "__main__":
    main()
