"""Test whether other runtimes can read exported files, and whether they compute the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from page import parser, section, table
from venvs import make, output, pinned

from sfsc import Family
from sfsc.data import decode, open_dataset
from sfsc.deploy.exporting import export
from sfsc.embedding.exported import ExportedModel
from sfsc.training.config import read_config

EXPLANATION = """
The smallest sub-model of {backbone} is exported and run by runtimes that read or convert the file, each in a
fresh environment, with {images} test images of `{dataset}`. The cosines compare with the embeddings of the
ONNX file of the same form in onnxruntime. The code is in `benchmarks/platforms.py`."""
HEADING = ["runtime", "version", "reads", "least cosine", "mean"]
# The script in the other environment: `images` are (n, height, width, 3) uint8, `embed` returns (n, dim).
FRAME = """
import os, sys
import numpy as np
os.chdir(os.path.dirname(__file__))
images = np.load("pixels.npy")
{code}
np.save(sys.argv[1], embed(images))
"""
OPENVINO = """
import openvino
compiled = openvino.Core().compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
def embed(images):
    return compiled(images)[0]
"""
EXECUTORCH = """
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
program = torch.export.load("{file}")
program = torch.export.export(program.module(), (torch.from_numpy(images[:1]),))
lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
with open("phone.pte", "wb") as file:
    lowered.write_to_file(file)
method = Runtime.get().load_program("phone.pte").load_method("forward")
def embed(images):
    return np.concatenate([method.execute([torch.from_numpy(one[None])])[0].numpy().copy() for one in images])
"""
LITERT = """
import litert_torch
import torch
from ai_edge_litert.interpreter import Interpreter
program = torch.export.load("{file}")
litert_torch.convert(program.module(), (torch.from_numpy(images[:1]),)).export("phone.tflite")
interpreter = Interpreter("phone.tflite")
interpreter.allocate_tensors()
def embed(images):
    found = []
    for one in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], one[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].copy())
    return np.array(found)
"""
# By package: the name of the runtime, whether it needs torch, its code, and the files that it runs.
RUNTIMES = {
    "openvino": ("OpenVINO", False, OPENVINO, ["float32.onnx", "int8.onnx"]),
    "executorch": ("ExecuTorch, XNNPACK", True, EXECUTORCH, ["float32.pt2"]),
    "litert-torch": ("LiteRT", True, LITERT, ["float32.pt2"]),
}


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=Path, default=Path("runs/emoji"), help="folder of a trained run")
    arguments.add_argument("--dataset", metavar="KIND:PATH", help="default: the run's own")
    arguments.add_argument("--images", type=int, default=256, help="number of images to embed")
    arguments.add_argument("--packages", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    chosen = arguments.parse_args()
    family = Family.load(chosen.run)
    dataset = open_dataset(chosen.dataset or read_config(chosen.run).dataset)
    places = np.linspace(0, len(dataset.query.paths) - 1, chosen.images).astype(int)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.stack([decode(dataset.query.paths[place], family.image_size) for place in places])
        np.save(folder / "pixels.npy", pixels)
        for file in ("float32.onnx", "int8.onnx", "float32.pt2"):
            width, int8 = family.widths.ratios[0], file.startswith("int8")
            export(family, width, folder / file, dataset.train.paths, int8)
        rows = [row for package in chosen.packages for row in rows_of(package, folder, pixels)]
    explanation = EXPLANATION.format(
        backbone=family.spec.backbone, images=len(pixels), dataset=dataset.source
    )
    print(section("Other runtimes", explanation, table(HEADING, rows)))


def rows_of(package: str, folder: Path, pixels: np.ndarray) -> Iterator[list[str]]:
    """Yield a row of the table for each file that the runtime of a package runs."""
    runtime, torch, code, files = RUNTIMES[package]
    needs = [pinned("torch")] if torch else []
    python = make(folder / package, needs, [*needs, package, "numpy"])
    version = output(python, "-c", f"import importlib.metadata as m; print(m.version('{package}'))").strip()
    for file in files:
        script, found = folder / "embed.py", folder / "found.npy"
        script.write_text(FRAME.format(code=code.format(file=file)))
        output(python, script, found)
        form, suffix = file.split(".")
        expected = ExportedModel.load(folder / f"{form}.onnx").embed_pixels(pixels)
        cosines = (np.load(found) * expected).sum(1)
        yield [runtime, version, f".{suffix}, {form}", f"{cosines.min():.5f}", f"{cosines.mean():.5f}"]


if __name__ == "__main__":
    main()
