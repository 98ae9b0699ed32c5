"""Measure the speed of embedding in the browser, and its agreement with Python for the same file."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import cv2
import numpy as np
import onnxruntime
from page import parser, section, table
from playwright.sync_api import Page, sync_playwright

from sfsc import Family
from sfsc.data import open_dataset
from sfsc.deploy.exporting import export
from sfsc.embedding.exported import ExportedModel
from sfsc.images.reading import decode_bytes
from sfsc.training.config import read_config

EXAMPLE = Path(__file__).parents[1] / "examples" / "browser"
EXPLANATION = """
The page of `examples/browser` runs sub-models of {backbone} ({height} x {width} pixels) in headless Chromium
{chromium}, with onnxruntime-web {web} (WASM, one thread). Python runs the same files with onnxruntime
{python} and one thread. Both embed one image {repeats} times in each of {rounds} rounds, in which all take
turns. Chromium measures times in steps of 0.1 ms. The ratio is the median of the ratios of the rounds."""
AGREEMENT = """
**The same embeddings?** The least cosine between the browser's and Python's embeddings with the same file,
over {images} test images of `{dataset}`, as they are and saved again in other sizes and formats.
*canvas*: a canvas resizes the image (`drawImage` with default smoothing). *example*: `image.js` resizes the
image, with the weights that `sfsc` uses."""
# Loads the models in the page, for the calls below.
PREPARE = """async (names) => {
  const { openModel } = await import("./model.js");
  const { pixelsOf } = await import("./image.js");
  const models = {};
  for (const name of names) {
    const answer = await fetch(name);
    models[name] = await openModel(new Uint8Array(await answer.arrayBuffer()), name);
  }
  const byCanvas = async (file, [height, width]) => {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    const image = await createImageBitmap(file, { colorSpaceConversion: "none" });
    context.drawImage(image, 0, 0, width, height);
    return new Uint8Array(context.getImageData(0, 0, width, height).data.filter((_, place) => place % 4 < 3));
  };
  window.benchmark = { models, ways: { canvas: byCanvas, example: pixelsOf } };
}"""
EMBED = """async ([name, way, data]) => {
  const { models, ways } = window.benchmark;
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const pixels = await ways[way](new File([bytes], "image"), models[name].about.image_size);
  return Array.from(await models[name].embed(pixels));
}"""
TIME = """async ([name, data, repeats]) => {
  const { models, ways } = window.benchmark;
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const pixels = await ways.example(new File([bytes], "image"), models[name].about.image_size);
  const times = [];
  for (let i = 0; i < repeats; i++) {
    const start = performance.now();
    await models[name].embed(pixels);
    times.push(performance.now() - start);
  }
  return times;
}"""
HEADING = ["sub-model", "bytes", "browser, p50", "p95", "Python, p50", "p95", "browser / Python"]


def main() -> None:
    """Print the section."""
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=Path, default=Path("runs/emoji"), help="folder of a trained run")
    arguments.add_argument("--dataset", metavar="KIND:PATH", help="default: the run's own")
    arguments.add_argument("--images", type=int, default=128, help="number of images to compare")
    arguments.add_argument("--rounds", type=int, default=30, help="rounds, in which all take turns")
    arguments.add_argument("--repeats", type=int, default=20, help="embeddings in each round")
    chosen = arguments.parse_args()
    family = Family.load(chosen.run)
    dataset = open_dataset(chosen.dataset or read_config(chosen.run).dataset)
    places = np.linspace(0, len(dataset.query.paths) - 1, chosen.images).astype(int)
    images = [Path(dataset.query.paths[place]).read_bytes() for place in places]
    with tempfile.TemporaryDirectory() as folder:
        site = install(Path(folder, "site"))
        sides = [Native(file) for file in export_all(family, site, dataset.train.paths)]
        with browser(site) as (page, chromium):
            page.evaluate(PREPARE, [side.name for side in sides])
            times = time_all(page, sides, images[0], chosen.rounds, chosen.repeats)
            agreement = [agreement_of(page, sides, form, images) for form in FORMS]
        package = json.loads((site / "node_modules/onnxruntime-web/package.json").read_text())
    explanation = EXPLANATION.format(
        **{"chromium": chromium, "backbone": family.spec.backbone, "web": package["version"]},
        **{"height": family.image_size[0], "width": family.image_size[1], "python": onnxruntime.__version__},
        **vars(chosen),
    )
    compared = AGREEMENT.format(images=len(images), dataset=dataset.source)
    ways = [f"{side.label}, {way}" for side in sides[:2] for way in WAYS]
    print(
        section(
            "In the browser",
            explanation,
            table(HEADING, times),
            compared,
            table(["file", *ways], agreement),
        )
    )


class Native:
    """A sub-model's file, run by Python."""

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self.size = file.stat().st_size
        self.model = ExportedModel.load(file, threads=1)
        self.label = f"{self.model.exported.width:g}, {self.model.exported.form}"

    def embed(self, data: bytes) -> np.ndarray:
        """Return the embedding of an image file, (dim,) float32."""
        return self.model.embed_pixels(decode_bytes(data, "image", self.model.image_size)[None])[0]

    def times(self, data: bytes, repeats: int) -> list[float]:
        """Embed one image `repeats` times, and return the milliseconds of each time."""
        pixels = decode_bytes(data, "image", self.model.image_size)[None]
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.model.embed_pixels(pixels)
            found.append(1000 * (time.perf_counter() - start))
        return found


def install(site: Path) -> Path:
    """Copy the example, install its npm packages, and return its folder."""
    shutil.copytree(EXAMPLE, site, ignore=shutil.ignore_patterns("node_modules", "*.onnx"))
    subprocess.run(["npm", "install", "--ignore-scripts"], cwd=site, check=True, capture_output=True)
    return site


def export_all(family: Family, site: Path, images: Sequence[str]) -> Iterator[Path]:
    """Export the smallest sub-model as int8 and as float32, and the full one; yield the files."""
    widths = family.widths.ratios
    for name, width, int8 in (
        ("int8", widths[0], True),
        ("small", widths[0], False),
        ("full", widths[-1], False),
    ):
        file = site / f"{name}.onnx"
        export(family, width, file, images, int8)
        yield file


@contextmanager
def browser(site: Path) -> Iterator[tuple[Page, str]]:
    """Open the example's page in Chromium; yield the page and Chromium's version."""
    handler = partial(Silent, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        Thread(target=server.serve_forever, daemon=True).start()
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}")
        yield page, chromium.version
        chromium.close()
        server.shutdown()


class Silent(SimpleHTTPRequestHandler):
    """Serves files without logging requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def time_all(page: Page, sides: Sequence[Native], image: bytes, rounds: int, repeats: int) -> list[list[str]]:
    """Return a row of the table for each file.

    Every other round runs backwards. The first round is not counted.
    """
    calls: dict[tuple[str, str], Callable[[], list[float]]] = {}
    for side in sides:
        calls[side.label, "browser"] = partial(page.evaluate, TIME, [side.name, encoded(image), repeats])
        calls[side.label, "Python"] = partial(side.times, image, repeats)
    for call in calls.values():
        call()
    times: dict[tuple[str, str], list[list[float]]] = {key: [] for key in calls}
    order = list(calls)
    for _ in range(rounds):
        for key in order:
            times[key].append(calls[key]())
        order.reverse()
    rows = []
    for side in sides:
        here, there = times[side.label, "browser"], times[side.label, "Python"]
        ratio = median(median(a) / median(b) for a, b in zip(here, there, strict=True))
        rows.append([side.label, f"{side.size:,}", *percentiles(here), *percentiles(there), f"{ratio:.1f}"])
    return rows


def percentiles(times: list[list[float]]) -> list[str]:
    """Return the median and the 95th percentile."""
    return [f"{value:.2f} ms" for value in np.percentile(np.concatenate(times), [50, 95])]


def agreement_of(page: Page, sides: Sequence[Native], form: str, images: Sequence[bytes]) -> list[str]:
    """Return a row of the table: the least cosines of files in one form, by both small sub-models."""
    files = [FORMS[form](image) for image in images]
    row = [form]
    for side in sides[:2]:
        expected = [side.embed(file) for file in files]
        for way in WAYS:
            found = [page.evaluate(EMBED, [side.name, way, encoded(file)]) for file in files]
            row.append(f"{np.sum(np.multiply(found, expected), axis=1).min():.5f}")
    return row


def encoded(data: bytes) -> str:
    """Return the data as base64 text, which can be passed to a page."""
    return base64.b64encode(data).decode()


def written(image: bytes, suffix: str, size: tuple[int, int], fading: bool = False) -> bytes:
    """Encode the image in another format and (width, height); it may fade to transparent at the left."""
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
    if fading:
        alpha = np.linspace(0, 255, size[0]).astype(np.uint8)[None, :, None]
        pixels = np.dstack([pixels, np.broadcast_to(alpha, (size[1], size[0], 1))])
    return cv2.imencode(suffix, pixels)[1].tobytes()


WAYS = ("canvas", "example")
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda image: image,
    "JPEG, 200 x 150": lambda image: written(image, ".jpg", (200, 150)),
    "PNG, 640 x 480": lambda image: written(image, ".png", (640, 480)),
    "PNG, 48 x 40": lambda image: written(image, ".png", (48, 40)),
    "PNG, 200 x 150, fading": lambda image: written(image, ".png", (200, 150), fading=True),
}


if __name__ == "__main__":
    main()
