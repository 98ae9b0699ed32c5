"""Measure what a sub-model saves on a phone: the smallest as an int8 file, and the full one with torch."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time

import onnx
import safetensors.torch
import torch
from page import met, parser, section, table
from subjects import BACKBONES, lively_family, picture_files
from timing import ratio, take_turns

from sfsc import Family, open_dataset
from sfsc.deploy import float_layers
from sfsc.deploy.exporting import export
from sfsc.deploy.profiling import accuracies_of
from sfsc.embedding.embedded import Embedder
from sfsc.embedding.exported import ExportedModel
from sfsc.progress import track
from sfsc.training.config import read_config

FASTER, SMALLER = 20, 50
UNTRAINED = ["resnet50", "efficientnet_lite0", "transformers:mobilenet_v2"]
BLOTS = 32  # images for the int8 ranges of untrained families; times do not depend on them
INTRODUCTION = """
Embedding one image with one thread: the smallest sub-model of {backbone} ({height}x{width} pixels, run
`{run}`) as an int8 file with onnxruntime is compared with the full sub-model in float32 with torch, as
`Family.embed_pixels` runs it. Sizes are those of the int8 file and of a safetensors file with the full
sub-model's weights. M is the mAP, in percent, of queries in the gallery of the full sub-model's float32
file, on `{dataset}`."""
LIMIT = """
The full sub-model has {fewer:.1f} times as many parameters as the smallest one. With one byte for each
parameter instead of four, the file of the smallest could be at most {limit:.1f} times smaller. Of its
{size:,} bytes, {weights:.0%} are int8 weights, {biases:.0%} are biases and scales of the channels, and the
rest is the graph."""
FACTORS = """
The table splits the factor, for the run and for untrained families at {size}x{size} pixels: how much faster
onnxruntime is than torch, the smallest sub-model than the full one, and int8 than float32 (below 1: slower).
Milliseconds and ratios are medians of calls that took turns in one run, so that no model finds its weights
in the caches. Times are processor times and not wall-clock times, because other load on the machine
interrupts a long call more often than a short one."""


@dataclass(frozen=True)
class Subject:
    """The measurements of a family's smallest and full sub-models, by form and width.

    Attributes:
        name: the name of the family in the table.
        seconds: the seconds of each round; "torch" is the full sub-model with torch.
        bytes: the size of each file; "torch" is the safetensors file of the full sub-model.
    """

    name: str
    seconds: dict[str, list[float]]
    bytes: dict[str, int]

    def faster(self, call: str, than: str) -> float:
        """Return how many times faster one call is than another."""
        return ratio(self.seconds[than], self.seconds[call])

    @property
    def smaller(self) -> float:
        """How many times smaller the smallest file is than the full weights."""
        return self.bytes["torch"] / self.bytes["int8 small"]

    def cells(self) -> list[str]:
        """Return the row of the table of factors."""
        names = ("torch", "float32 full", "float32 small", "int8 small")
        times = [f"{1000 * median(self.seconds[name]):.2f}" for name in names]
        factors = [
            self.faster("float32 full", "torch"),
            self.faster("float32 small", "float32 full"),
            self.faster("int8 small", "float32 small"),
            self.faster("int8 full", "float32 full"),
            self.faster("int8 small", "torch"),
        ]
        return [self.name, *times, *(f"{factor:.1f}" for factor in factors), f"{self.smaller:.1f}"]


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=Path, default=Path("runs/emoji"), help="folder of a trained run")
    arguments.add_argument("--backbones", nargs="*", choices=BACKBONES, default=UNTRAINED, help="not trained")
    arguments.add_argument("--size", type=int, default=224, help="image size of untrained families")
    arguments.add_argument("--seconds", type=float, default=20, help="time for each family")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(report(chosen, Path(folder)))


def report(chosen: Namespace, folder: Path) -> str:
    """Return the section."""
    family, config = Family.load(chosen.run), read_config(chosen.run)
    dataset = open_dataset(config.dataset)
    run = measured(str(chosen.run), family, dataset.train.paths, folder / "run", chosen)
    small, full = (
        ExportedModel.load(folder / "run" / f"{name}.onnx") for name in ("int8 small", "float32 full")
    )
    models = {"small": small, "full": full}
    embedders = {name: Embedder.of(model, model.widest) for name, model in models.items()}
    found = accuracies_of(embedders, full, dataset)
    subjects = [run, *untrained(chosen, folder)]
    height, width = family.image_size
    introduction = {"backbone": family.spec.backbone, "run": chosen.run}
    introduction |= {"height": height, "width": width, "dataset": dataset.source}
    heading = ["family", "torch, full", "onnx, full", "onnx, smallest", "int8, smallest"]
    heading += [
        "onnx / torch",
        "smallest / full",
        "int8 / float32, smallest",
        "int8 / float32, full",
        "in all",
        "smaller",
    ]
    return section(
        "The smallest against the full",
        INTRODUCTION.format(**introduction),
        table(("figure", "wanted", "found", ""), aims(run, found)),
        LIMIT.format(**shares(family, folder / "run" / "int8 small.onnx")),
        FACTORS.format(size=chosen.size),
        table(heading, (subject.cells() for subject in subjects)),
    )


def aims(run: Subject, accuracies: dict[str, float]) -> Iterator[list[str]]:
    """Yield the rows of the table of aims, and those of the accuracies."""
    faster = run.faster("int8 small", "torch")
    yield ["times faster", f"{FASTER} or more", f"{faster:.1f}", met(faster >= FASTER)]
    yield ["times smaller", f"{SMALLER} or more", f"{run.smaller:.1f}", met(run.smaller >= SMALLER)]
    for name, label in (("small", "M(smallest int8, full)"), ("full", "M(full, full)")):
        yield [label, "", f"{100 * accuracies[name]:.1f}", ""]


def untrained(chosen: Namespace, folder: Path) -> Iterator[Subject]:
    """Yield the measurements of families with random weights, at a common image size."""
    float_layers.ENOUGH = -1.0  # accept any agreement: with random weights, sensitive layers have no meaning
    images = picture_files(folder, BLOTS, chosen.size)
    for name in track(chosen.backbones, "untrained"):
        yield measured(name, lively_family(BACKBONES[name], chosen.size), images, folder / name, chosen)


def measured(name: str, family: Family, images: Sequence[str], folder: Path, chosen: Namespace) -> Subject:
    """Export a family's smallest and full sub-models in both forms, and time them in turns."""
    height, width = family.image_size
    pixels = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8).numpy()
    calls = {"torch": partial(family.embed_pixels, pixels, 1.0)}
    weights = {key: value.contiguous() for key, value in family.submodel(1.0).state_dict().items()}
    sizes = {"torch": len(safetensors.torch.save(weights))}
    for form in ("float32", "int8"):
        for label, of_width in (("full", 1.0), ("small", family.widths.ratios[0])):
            path = folder / f"{form} {label}.onnx"
            export(family, of_width, path, images, form == "int8")
            calls[path.stem] = partial(ExportedModel.load(path, threads=1).embed_pixels, pixels)
            sizes[path.stem] = path.stat().st_size
    return Subject(name, take_turns(calls, chosen.seconds, clock=process_time), sizes)


def shares(family: Family, file: Path) -> dict[str, float]:
    """Return what limits the size of the smallest sub-model's file, and what the file contains."""
    fewer = family.parameter_count(1.0) / family.parameter_count(family.widths.ratios[0])
    tensors = onnx.load(file).graph.initializer
    weights = sum(
        len(t.raw_data) for t in tensors if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    )
    every = sum(len(t.raw_data) for t in tensors)
    size = file.stat().st_size
    return {
        "fewer": fewer,
        "limit": 4 * fewer,
        "size": size,
        "weights": weights / size,
        "biases": (every - weights) / size,
    }


if __name__ == "__main__":
    main()
