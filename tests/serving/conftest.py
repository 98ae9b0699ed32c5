"""A tiny untrained family and a gallery of drawn shapes, served."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sfsc.data import open_dataset
from sfsc.decisions.thresholds import THRESHOLDS_FILE
from sfsc.evaluation.thresholds import fit_thresholds
from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.indexing import index
from sfsc.serving import create_app

WIDTHS = (0.25, 0.5, 1.0)
CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    Family.create("small", WIDTHS, 16, (32, 32), nested_dims=(4, 8)).save(folder)
    return folder


@pytest.fixture(scope="session")
def indexed(run: Path, shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of 24 shapes, written by the full sub-model, that no test changes."""
    return stored_by(run, shapes, tmp_path_factory.mktemp("indexed") / "gallery")


def stored_by(run: Path, images: str, folder: Path) -> Path:
    """Write the images into a new gallery with the full sub-model of a run, and return its folder."""
    with Gallery.open(folder, create=True) as gallery:
        index(Family.load(run), images, gallery, 1.0, workers=0)
    return folder


@pytest.fixture(scope="session")
def sure(run: Path, shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with thresholds."""
    folder = Path(shutil.copytree(run, tmp_path_factory.mktemp("sure") / "run"))
    thresholds = fit_thresholds(Family.load(folder), open_dataset(shapes), workers=0)
    thresholds.save(folder / THRESHOLDS_FILE)
    return folder


@pytest.fixture
def stored(indexed: Path, tmp_path: Path) -> Path:
    """A copy of the gallery, to change."""
    return Path(shutil.copytree(indexed, tmp_path / "gallery"))


@pytest.fixture(scope="session")
def client(run: Path, indexed: Path) -> Iterator[TestClient]:
    """For requests that change nothing."""
    with TestClient(create_app(run, indexed, hosts=["testserver"])) as client:
        yield client


@pytest.fixture
def writer(run: Path, stored: Path) -> Iterator[TestClient]:
    """A service whose gallery may be changed."""
    with TestClient(create_app(run, stored, hosts=["testserver"])) as client:
        yield client


@pytest.fixture(scope="session")
def picture(shapes: str) -> Path:
    """An image of the gallery."""
    return Path(shapes.partition(":")[2]).parent / "08_c0_0.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, for tests `in_browser`."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # milliseconds; other processes may keep the machine busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving(run: Path, gallery: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service as a process of its own, and its address."""
    command = [sys.executable, "-m", "sfsc", "serve", str(run), "--gallery", str(gallery), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
