"""Measure installations that only embed, with and without torch: size, packages, time to start."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from page import parser, section, table
from timing import ratio, take_turns
from venvs import CONSTRAINTS, OUTSIDE, copy_sources, make, output, pinned

from sfsc import Family
from sfsc.data import decode, open_dataset
from sfsc.deploy.exporting import export
from sfsc.embedding.exported import ExportedModel
from sfsc.training.config import read_config

INSTALLATIONS = ("sfsc", "sfsc[gallery]", "sfsc[train]")
WITH_TORCH = "sfsc[train]"
EXPLANATION = """
Each environment is fresh and was made by `pip install` with the versions of constraints.txt; for
`sfsc[train]`, `pip install {torch}` came first. MB is the size of all files, including pip. An empty process
is `python -c pass`. The commands took turns, each in a fresh process. Times are medians; ratios are relative
to an empty process of the same environment in the same rounds. `sfsc embed` embeds {images} images of
`{dataset}` with the smallest sub-model of {backbone}, from an exported file or, with torch, from the run
folder. The least cosine compares with the embeddings of the exported file in the environment of this
benchmark."""
HEADING = ["installed", "torch", "packages", "MB", "`import sfsc`", "ratio", "`import numpy`, ratio"]
HEADING += ["`sfsc embed`", "ratio", "least cosine"]


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=Path, default=Path("runs/emoji"), help="folder of a trained run")
    arguments.add_argument("--dataset", metavar="KIND:PATH", help="default: the run's own")
    arguments.add_argument("--installations", nargs="+", choices=INSTALLATIONS, default=INSTALLATIONS)
    arguments.add_argument("--images", type=int, default=16, help="number of images to embed")
    arguments.add_argument("--seconds", type=float, default=60.0, help="seconds of measuring")
    chosen = arguments.parse_args()
    family = Family.load(chosen.run)
    dataset = open_dataset(chosen.dataset or read_config(chosen.run).dataset)
    width = family.widths.ratios[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(family, width, folder / "model.onnx", dataset.train.paths)
        paths = dataset.query.paths[: chosen.images]
        (folder / "images").mkdir()
        for number, path in enumerate(paths):
            (folder / "images" / f"{number:03d}{Path(path).suffix}").symlink_to(Path(path).absolute())
        pixels = np.stack([decode(path, family.image_size) for path in paths])
        expected = ExportedModel.load(folder / "model.onnx").embed_pixels(pixels)
        sources = copy_sources(folder / "sources")
        calls: dict[str, dict[str, Callable[[], object]]] = {}
        for name in chosen.installations:
            python = install(folder / name, sources, name)
            model = chosen.run.absolute() if name == WITH_TORCH else folder / "model.onnx"
            calls[name] = calls_of(python, model, folder / "images", folder / f"{name}.npy", width)
        times = take_turns(
            {f"{name} {what}": call for name, inner in calls.items() for what, call in inner.items()},
            chosen.seconds,
        )
        rows = [row_of(name, folder, times, expected) for name in chosen.installations]
    explanation = EXPLANATION.format(
        **{"torch": pinned("torch"), "images": chosen.images, "dataset": dataset.source},
        backbone=family.spec.backbone,
    )
    print(section("Installing what embeds", explanation, table(HEADING, rows)))


def install(folder: Path, sources: Path, name: str) -> Path:
    """Make a fresh environment with sfsc or with one of its extras, and return its Python."""
    first = [[pinned("torch")]] if name == WITH_TORCH else []
    return make(folder, *first, ["--constraint", str(CONSTRAINTS), str(sources) + name.removeprefix("sfsc")])


def calls_of(
    python: Path, model: Path, images: Path, out: Path, width: float
) -> dict[str, Callable[[], object]]:
    """Return the processes that are timed in one environment."""
    sfsc = [python.with_name("sfsc"), "embed", model, images, "--out", out, "--width", f"{width:g}"]
    commands = {
        "empty": [python, "-c", "pass"],
        "sfsc": [python, "-c", "import sfsc"],
        "numpy": [python, "-c", "import numpy"],
        "embed": sfsc,
    }
    return {name: partial(output, *command) for name, command in commands.items()}


def row_of(name: str, folder: Path, times: dict[str, list[float]], expected: np.ndarray) -> list[str]:
    """Return a row of the table."""
    python = folder / name / "bin" / "python"
    packages = json.loads(output(python, "-m", "pip", "list", "--format=json"))
    size = sum(file.lstat().st_size for file in (folder / name).rglob("*") if not file.is_dir())
    empty = times[f"{name} empty"]
    cells = {
        what: (f"{median(found):.2f} s", f"{ratio(found, empty):.1f}")
        for what in ("sfsc", "numpy", "embed")
        for found in [times[f"{name} {what}"]]
    }
    cosines = (np.load(folder / f"{name}.npy") * expected).sum(1)
    return [
        *(f"`{name}`", "yes" if has_torch(python) else "no", str(len(packages)), f"{size / 1e6:,.0f}"),
        *(*cells["sfsc"], cells["numpy"][1], *cells["embed"], f"{cosines.min():.6f}"),
    ]


def has_torch(python: Path) -> bool:
    """Return whether torch can be imported in an environment."""
    return (
        subprocess.run(
            [python, "-c", "import torch"], capture_output=True, check=False, env=OUTSIDE
        ).returncode
        == 0
    )


if __name__ == "__main__":
    main()
