"""What a sub-model on a phone saves: the smallest as an int8 file, beside the full one with torch."""

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
from subjects import BACKBONES, lively_family, pictures
from timing import ratio, take_turns

from sfsc import Family, open_dataset
from sfsc.deploy import float_layers
from sfsc.deploy.exporting import export
from sfsc.deploy.profiling import accuracies_of
from sfsc.embedding.exported import ExportedModel
from sfsc.images.reading import write_png
from sfsc.progress import track
from sfsc.training.config import read_config

FASTER, SMALLER = 20, 50
UNTRAINED = ["resnet50", "efficientnet_lite0", "transformers:mobilenet_v2"]
BLOTS = 32  # images, from which ranges of untrained families are taken: times do not depend on them
INTRODUCTION = """
Embedding one image with one thread: the smallest sub-model of {backbone} ({height}x{width} pixels, run
`{run}`) as an int8 file with onnxruntime, beside the full one in float32 with torch, as
`Family.embed_pixels` runs it. Sizes are those of the int8 file and of a safetensors file with the full
sub-model's weights. M is the mAP, in percent, of queries in the gallery of the full sub-model's float32
file, on `{dataset}`."""
LIMIT = """
The smallest sub-model has one in {fewer:.1f} of the full one's parameters: with one byte for each instead of
four, its file could be {limit:.1f} times smaller at best. Of its {size:,} bytes, {weights:.0%} are int8
weights, {biases:.0%} biases and scales of the channels, and the rest is the graph."""
FACTORS = """
Where the factor comes from, for the run, and for untrained families at {size}x{size} pixels: how much faster
onnxruntime is than torch, the smallest sub-model than the full one, and int8 than float32 (below 1: slower).
Milliseconds and ratios are medians, of calls that took turns in one run, so that no model finds its weights
in the caches. Times are those of the processor, not of the clock, for a long call is interrupted more often
than a short one where a machine does other things, too."""


@dataclass(frozen=True)
class Subject:
    """A family's smallest and full sub-models: seconds of each round, and bytes, by form and width.

    `seconds` has torch's for the full one under "torch", `bytes` its safetensors' there.
    """

    name: str
    seconds: dict[str, list[float]]
    bytes: dict[str, int]

    def faster(self, call: str, than: str) -> float:
        """The ratio of times."""
        return ratio(self.seconds[than], self.seconds[call])

    @property
    def smaller(self) -> float:
        """The ratio of sizes: of the full weights, and of the smallest file."""
        return self.bytes["torch"] / self.bytes["int8 small"]

    def cells(self) -> list[str]:
        """The row of the table of factors."""
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
    arguments.add_argument("--backbones", nargs="*", choices=BACKBONES, default=UNTRAINED, help="untrained")
    arguments.add_argument("--size", type=int, default=224, help="of the untrained families' images")
    arguments.add_argument("--seconds", type=float, default=20, help="time for each family")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(report(chosen, Path(folder)))


def report(chosen: Namespace, folder: Path) -> str:
    """The section."""
    family, config = Family.load(chosen.run), read_config(chosen.run)
    dataset = open_dataset(config.dataset)
    run = measured(str(chosen.run), family, dataset.train.paths, folder / "run", chosen)
    small, full = (
        ExportedModel.load(folder / "run" / f"{name}.onnx") for name in ("int8 small", "float32 full")
    )
    found = accuracies_of({"small": small.embed_pixels, "full": full.embed_pixels}, full, dataset)
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
    """The rows of the table of aims, and what becomes of accuracy."""
    faster = run.faster("int8 small", "torch")
    yield ["times faster", f"{FASTER} or more", f"{faster:.1f}", met(faster >= FASTER)]
    yield ["times smaller", f"{SMALLER} or more", f"{run.smaller:.1f}", met(run.smaller >= SMALLER)]
    for name, label in (("small", "M(smallest int8, full)"), ("full", "M(full, full)")):
        yield [label, "", f"{100 * accuracies[name]:.1f}", ""]


def untrained(chosen: Namespace, folder: Path) -> Iterator[Subject]:
    """Families of random weights, at a size that is usual elsewhere."""
    float_layers.ENOUGH = -1.0  # any agreement is: no search for layers that random weights make sensitive
    images = []
    for number, picture in enumerate(pictures(BLOTS, chosen.size)):
        path = folder / f"{number}.png"
        write_png(path, (255 * picture.permute(1, 2, 0)).byte().numpy())
        images.append(str(path))
    for name in track(chosen.backbones, "untrained"):
        yield measured(name, lively_family(BACKBONES[name], chosen.size), images, folder / name, chosen)


def measured(name: str, family: Family, images: Sequence[str], folder: Path, chosen: Namespace) -> Subject:
    """Export a family's smallest and full sub-models in both forms, and run them in turns."""
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
    """What limits the size of the smallest sub-model's file, and what it holds."""
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
