"""A small data set that every test may train on: coloured shapes, two cameras that see them differently."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Before anything reads them: threads of small networks wait for each other, in subprocesses, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")

import cv2
import numpy as np
import pytest

from sfsc.images.reading import write_png

# milvus-lite leaves servers behind, whose remarks would stand below the summary.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# A shell that runs the tests in the background has made SIGINT one to ignore, for subprocesses, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

SIDE = 32


def draw(identity: int, camera: int, take: int) -> np.ndarray:
    """(32, 32, 3) uint8: identity decides colour and shape, camera the background, take the place."""
    random = np.random.default_rng([identity, camera, take])
    image = np.full((SIDE, SIDE, 3), (250, 230)[camera], np.uint8)
    colour = tuple(int(v) for v in np.random.default_rng(identity).integers(0, 200, 3))
    x, y = (int(v) for v in random.integers(12, 20, 2))
    if identity % 2:
        cv2.circle(image, (x, y), 8, colour, -1)
    else:
        cv2.rectangle(image, (x - 7, y - 7), (x + 7, y + 7), colour, -1)
    return image


def make_shapes(folder: Path, identities: int = 12, takes: int = 3) -> Path:
    """Write the images and `shapes.csv`; two thirds of the identities are for training, the rest for test."""
    lines = ["path,identity,camera,split"]
    for identity in range(identities):
        for camera in range(2):
            for take in range(takes):
                name = f"{identity:02d}_c{camera}_{take}.png"
                write_png(folder / name, draw(identity, camera, take))
                split = "train" if identity < identities * 2 // 3 else "test"
                lines.append(f"{name},shape{identity:02d},c{camera},{split}")
    (folder / "shapes.csv").write_text("\n".join(lines) + "\n")
    return folder / "shapes.csv"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what commands in this process set for their workers."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The specification of the small data set, csv:PATH."""
    return f"csv:{make_shapes(tmp_path_factory.mktemp('shapes'))}"
