"""An installation without torch, made by pip: it embeds as this environment does, indexes and searches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sfsc import Family
from sfsc.data import decode
from sfsc.deploy.exporting import export
from sfsc.embedding.exported import ExportedModel
from sfsc.images.reading import write_png
from tests.conftest import draw

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "200"}


class Installation:
    """An environment of its own with sfsc and some of its extras."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self.programs = folder / "venv" / "bin"
        self.sources = folder / "sources"  # a copy: pip leaves traces where it builds
        shutil.copytree(ROOT / "src", self.sources / "src", ignore=shutil.ignore_patterns("*.egg-info"))
        for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
            shutil.copy(ROOT / name, self.sources)

    def install(self, extra: str = "") -> None:
        """Install sfsc; `extra` is empty, or one of the extras in brackets."""
        constraints = self.sources / "constraints.txt"
        self.run("python", "-m", "pip", "install", "--constraint", constraints, f"{self.sources}{extra}")

    def run(self, program: str, *arguments: object, code: int = 0) -> str:
        """What a program prints there, on both streams, once it has ended with this code."""
        command = [self.programs / program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        printed = done.stdout + done.stderr
        assert done.returncode == code, printed
        return printed


@pytest.mark.long
def test_what_embeds_is_installed_without_torch(tmp_path: Path) -> None:
    for number in range(12):
        write_png(tmp_path / "images" / f"{number:02d}.png", draw(number, 0, 0))
    paths = sorted(map(str, (tmp_path / "images").iterdir()))
    model, vectors, gallery = tmp_path / "model.onnx", tmp_path / "vectors.npy", tmp_path / "gallery"
    export(Family.create("small", (0.25, 1.0), 16, (32, 32)).eval(), 0.25, model, paths)

    there = Installation(tmp_path)
    there.install()
    assert "No module named 'torch'" in there.run("python", "-c", "import torch", code=1)
    there.run("sfsc", "embed", model, tmp_path / "images", "--out", vectors)
    expected = ExportedModel.load(model).embed_pixels(np.stack([decode(path, (32, 32)) for path in paths]))
    np.testing.assert_allclose(np.load(vectors), expected, atol=1e-6)
    assert vectors.with_suffix(".txt").read_text().splitlines() == paths
    refusal = there.run("sfsc", "index", model, tmp_path / "images", "--gallery", gallery, code=2)
    assert "pip install 'sfsc[gallery]'" in refusal

    there.install("[gallery]")
    assert "12 images, 16 dimensions" in there.run(
        "sfsc", "index", model, tmp_path / "images", "--gallery", gallery
    )
    found = there.run("sfsc", "search", model, paths[3], "--gallery", gallery, "--top", 1)
    assert "1.000" in found
    assert "03.png" in found
    assert "No module named 'torch'" in there.run("python", "-c", "import torch", code=1)
