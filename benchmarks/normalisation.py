"""Measure what the normalisations of the built-in backbones cost: in training, as ONNX files, and as int8."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import process_time

import torch
from page import parser, section, table
from subjects import BUILT_IN, lively_family, picture_files, pictures
from timing import Call, ratio, take_turns
from torch import Tensor, nn

from sfsc import Family
from sfsc.backbones.normalisation import NORMALISATIONS
from sfsc.deploy import float_layers
from sfsc.deploy.exporting import export
from sfsc.embedding.exported import ExportedModel
from sfsc.progress import track
from sfsc.switchable.inspection import count_multiply_adds

FORMS = ("float32", "int8")
CALIBRATING = 32  # images for the int8 ranges; times do not depend on them
EXPLANATION = """
The normalisations of the built-in backbones are compared, with random weights, at {size}x{size} pixels and
with one thread. *Multiply-adds* are those of the full sub-model, in millions. The other columns are ratios to
BatchNorm, whose calls took turns with the others in one run (medians; processor times, because other load on
the machine interrupts long calls more often): *training* is the forward and backward pass of the full
sub-model for {batch} images, *float32* and *int8* the embedding of one image with onnxruntime, by the full
and by the smallest sub-model, and *bytes* the sizes of the smallest files. Above 1, BatchNorm is faster or
smaller."""


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--backbones", nargs="+", choices=BUILT_IN, default=[*BUILT_IN])
    arguments.add_argument("--size", type=int, default=64, help="size of the images in pixels")
    arguments.add_argument("--batch", type=int, default=64, help="images in a batch of training")
    arguments.add_argument("--seconds", type=float, default=20, help="time for each measurement")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    float_layers.ENOUGH = -1.0  # accept any agreement: with random weights, sensitive layers have no meaning
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in track(chosen.backbones, "backbones") for row in rows_of(name, chosen, folder)]
    heading = ["backbone", "normalisation", "multiply-adds", "training"]
    heading += [f"{form}, {which}" for form in FORMS for which in ("full", "smallest")]
    heading += [f"bytes, {form}" for form in FORMS]
    explanation = EXPLANATION.format(size=chosen.size, batch=chosen.batch)
    print(section("Normalisations", explanation, table(heading, rows)))


def rows_of(backbone: str, chosen: Namespace, folder: str) -> Iterator[list[str]]:
    """Yield the row of each normalisation."""
    families = {name: lively_family(backbone, chosen.size, name) for name in NORMALISATIONS}
    images = pictures(chosen.batch, chosen.size)
    steps = {name: partial(step, family.submodel(1.0).train(), images) for name, family in families.items()}
    ratios, sizes = [to_batch_norm(steps, chosen.seconds)], []
    for form in FORMS:
        for width in (1.0, families["batch"].widths.ratios[0]):
            files = {name: exported(family, width, form, Path(folder)) for name, family in families.items()}
            ratios.append(
                to_batch_norm({name: embedding(path) for name, path in files.items()}, chosen.seconds)
            )
        bytes_of = {name: path.stat().st_size for name, path in files.items()}
        sizes.append({name: size / bytes_of["batch"] for name, size in bytes_of.items()})
    for name, family in families.items():
        count = count_multiply_adds(family.at(1.0), images[:1]) / 1e6
        yield [backbone, name, f"{count:.1f}", *(f"{found[name]:.2f}" for found in (*ratios, *sizes))]


def step(network: nn.Module, images: Tensor) -> None:
    """Compute the gradients of a sub-model in training mode."""
    network.zero_grad()
    network(images).square().sum().backward()


def exported(family: Family, width: float, form: str, folder: Path) -> Path:
    """Export a sub-model, and return the file."""
    spec = family.spec
    path = folder / f"{spec.backbone}-{spec.normalisation}-{form}-{width:g}.onnx"
    export(family, width, path, picture_files(folder, CALIBRATING, spec.image_size[0]), form == "int8")
    return path


def embedding(path: Path) -> Call:
    """Return the embedding of one image by a file with one thread."""
    model = ExportedModel.load(path, threads=1)
    pixels = torch.randint(0, 256, (1, *model.image_size, 3), dtype=torch.uint8).numpy()
    return partial(model.embed_pixels, pixels)


def to_batch_norm(calls: dict[str, Call], budget: float) -> dict[str, float]:
    """Return the ratios of the times of calls to those of BatchNorm's."""
    times = take_turns(calls, budget, clock=process_time)
    return {name: ratio(found, times["batch"]) for name, found in times.items()}


if __name__ == "__main__":
    main()
