"""Compare exported files with the sub-models that they were made from, and measure what int8 costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from page import parser, section, table
from timing import ratio, take_turns

from sfsc import Family
from sfsc.data import decode, open_dataset
from sfsc.data.dataset import Dataset
from sfsc.deploy.exporting import export
from sfsc.embedding.embedded import Embedded, Embedder, embed_images
from sfsc.embedding.exported import ExportedModel
from sfsc.embedding.image_set import ImageSet
from sfsc.evaluation.evaluate import tested_paths
from sfsc.retrieval.ranking import evaluate_ranking
from sfsc.training.config import read_config

FORMS = {"onnx": (".onnx", False), "pt2": (".pt2", False), "onnx, int8": (".onnx", True)}
EXPLANATION = """
Every sub-model of {run} ({backbone}, `{dataset}`) is exported in every form with images of the training
split. *Cosines* compare with the sub-model's own embeddings, over {images} images of the test split. *In
float32* is the number of layers that int8 export leaves in float32. *mAP* is M(file, 1) in percent: the file
embeds the queries, and the full sub-model in torch embeds the gallery. *Change* is the difference from
queries by the sub-model itself, in percentage points. *Time* is the time for one image, relative to the
float32 ONNX file, with one thread, in turns."""
HEADING = ("width", "file", "bytes", "in float32", "cosine, mean", "least", "mAP", "change", "time")


class File(NamedTuple):
    """An exported file, and a function that embeds (batch, height, width, 3) uint8 images with it."""

    size: int
    float_layers: int | str
    embed: Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=Path, default=Path("runs/emoji"), help="folder of a trained run")
    arguments.add_argument("--dataset", metavar="KIND:PATH", help="default: the run's own")
    arguments.add_argument("--images", type=int, default=500, help="images for the cosines")
    arguments.add_argument("--seconds", type=float, default=5, help="time for each width")
    arguments.add_argument("--workers", type=int, default=2, help="threads that decode images")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    family = Family.load(chosen.run).eval()
    dataset = open_dataset(chosen.dataset or read_config(chosen.run).dataset)
    with TemporaryDirectory() as folder:
        cases = list(product(family.widths, FORMS))
        files = {case: export_file(family, dataset, Path(folder), *case) for case in cases}
    images = embed(family, files, dataset, chosen.workers)
    images_of = {
        width: decode(dataset.query.paths[0], family.image_size_of(width))[None] for width in family.widths
    }
    times = {
        case: value
        for width, image in images_of.items()
        for case, value in timed(files, width, image, chosen.seconds)
    }
    explanation = EXPLANATION.format(
        run=chosen.run.name,
        backbone=family.spec.backbone,
        dataset=dataset.source,
        images=min(chosen.images, len(dataset.query)),
    )
    rows = [
        [f"{case[0]:g}", case[1], *cells(file, *compared(images, dataset, case, chosen.images)), times[case]]
        for case, file in files.items()
    ]
    print(section("Exported files", explanation, table(HEADING, rows)))


def export_file(family: Family, dataset: Dataset, folder: Path, width: float, form: str) -> File:
    """Export a sub-model in one form."""
    suffix, int8 = FORMS[form]
    path = folder / f"{width:g}{form}{suffix}"
    exported = export(family, width, path, dataset.train.paths, int8)
    size = path.stat().st_size
    if suffix == ".onnx":
        kept = exported.float_layers if int8 else "all"
        return File(size, kept, ExportedModel.load(path, threads=1).embed_pixels)
    module = torch.export.load(path).module()
    return File(size, "all", lambda images: module(torch.from_numpy(images)).detach().numpy())


def embed(family: Family, files: dict[tuple[float, str], File], dataset: Dataset, workers: int) -> ImageSet:
    """Embed the test images with the sub-models and the files."""
    paths = sorted({*tested_paths(dataset)})
    embedders = {
        **{width: Embedder.of(family, width) for width in family.widths},
        **{case: Embedder(family.image_size_of(case[0]), file.embed) for case, file in files.items()},
    }
    parts = list(embed_images(embedders, paths, workers))
    return ImageSet(Embedded.join(parts).vectors, {path: row for row, path in enumerate(paths)})


def compared(
    images: ImageSet, dataset: Dataset, case: tuple[float, str], count: int
) -> tuple[np.ndarray, float, float]:
    """Return the cosines between a file's embeddings of some images and torch's, and the mAP of both."""
    queries, gallery = images.of(dataset.query.paths), images.of(dataset.gallery.paths)[1.0]
    own, found = queries[case[0]], queries[case]
    spread = np.linspace(0, len(own) - 1, min(count, len(own))).astype(int)
    accuracies = [
        evaluate_ranking(side, gallery, dataset.query, dataset.gallery).mean_ap for side in (found, own)
    ]
    return (found * own).sum(1)[spread], *accuracies


def cells(file: File, cosines: np.ndarray, found: float, own: float) -> list[str]:
    """Return the cells of one file."""
    return [
        *(f"{file.size:,}", f"{file.float_layers}", f"{cosines.mean():.5f}", f"{cosines.min():.5f}"),
        *(f"{100 * found:.2f}", f"{100 * (found - own):+z.2f}"),
    ]


def timed(
    files: dict[tuple[float, str], File], width: float, image: np.ndarray, budget: float
) -> Iterator[tuple[tuple[float, str], str]]:
    """Yield the time for one image in each form, relative to the float32 ONNX file."""
    times = take_turns({form: partial(files[width, form].embed, image) for form in FORMS}, budget)
    for form in FORMS:
        yield (width, form), f"{ratio(times[form], times['onnx']):.2f}"


if __name__ == "__main__":
    main()
