"""examples/browser in a real browser: what it embeds, what it finds, and what it says when that fails."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest

from sfsc.data import open_dataset
from sfsc.deploy.exporting import export
from sfsc.embedding.exported import ExportedModel
from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.searching import search
from sfsc.images.reading import decode_bytes
from tests.conftest import draw
from tests.serving.conftest import in_browser, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NPM = shutil.which("npm")
NOBODY = "http://127.0.0.1:9/"
EXAMPLE = Path(__file__).parents[2] / "examples" / "browser"
PIXELS = """async ([data, size]) => {
  const { pixelsOf } = await import("./image.js");
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return Array.from(await pixelsOf(new File([bytes], "image"), size));
}"""
pytestmark = [
    pytest.mark.slow,
    in_browser,
    pytest.mark.skipif(NPM is None, reason="there is no npm on this machine"),
]


@pytest.fixture(scope="module")
def example(run: Path, shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as its README sets it up, beside a model that searches the gallery and one of strangers."""
    folder = tmp_path_factory.mktemp("example") / "browser"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "*.onnx"))
    assert NPM is not None
    subprocess.run([NPM, "install", "--ignore-scripts"], cwd=folder, check=True, capture_output=True)
    images = open_dataset(shapes).train.paths
    export(Family.load(run), 0.25, folder / "model.onnx", images, int8=True)
    stranger = Family.create("small", (0.25, 1.0), 16, (32, 32), seed=1).eval()
    export(stranger, 0.25, folder / "stranger.onnx", images)
    return folder


@contextmanager
def static(folder: Path) -> Iterator[str]:
    """The origin of a server of plain files, as `python3 -m http.server` is one."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def origin(example: Path) -> Iterator[str]:
    with static(example) as origin:
        yield origin


@pytest.fixture(scope="module")
def address(run: Path, indexed: Path, origin: str) -> Iterator[str]:
    """A service that the page may use, with a key."""
    with serving(run, indexed, "--allow-origin", origin, "--api-key", "secret") as (_, address):
        yield address


@pytest.fixture
def page(browser: sync_api.Browser, origin: str, address: str) -> Iterator[sync_api.Page]:
    """The page with its model, pointed to the service; it may ask only those two."""
    page = browser.new_page()
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url.removeprefix("blob:")))
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(origin)
    sync_api.expect(page.locator("#about")).to_contain_text("Width 0.25, int8")
    page.get_by_label("Address").fill(address)
    page.get_by_label("API key").fill("secret")
    yield page
    page.close()
    assert failures == []
    assert [url for url in asked if not url.startswith((f"{origin}/", f"{address}/", NOBODY))] == []


def expect_problem(page: sync_api.Page, text: str) -> None:
    """The page says so in one line, and shows nothing found."""
    problem = page.get_by_role("alert")
    sync_api.expect(problem).to_contain_text(text)
    assert "\n" not in problem.text_content()
    sync_api.expect(page.locator("#hits li")).to_have_count(0)


def found(page: sync_api.Page) -> list[float]:
    sync_api.expect(page.locator("#status")).to_contain_text(re.compile(r"12 images, found in [\d.]+ ms"))
    return [float(text) for text in page.locator("#hits b").all_inner_texts()]


def test_it_finds_what_the_library_finds(
    page: sync_api.Page, example: Path, indexed: Path, picture: Path
) -> None:
    page.set_input_files("#image", picture)
    scores = found(page)
    model = ExportedModel.load(example / "model.onnx")
    hits = search(model, picture, Gallery.open(indexed), 0.25, 12)
    assert scores == pytest.approx([hit.score for hit in hits], abs=0.005)
    assert page.locator("#embedding").inner_text().startswith("Embedded in ")
    first = page.locator("#hits img").first
    sync_api.expect(first).to_have_js_property("naturalWidth", 32)  # its image has arrived
    assert first.get_attribute("alt") == f"{hits[0].identity}, {hits[0].camera}"


def test_another_file_of_the_family_can_be_opened(
    page: sync_api.Page, run: Path, shapes: str, picture: Path, tmp_path: Path
) -> None:
    page.set_input_files("#image", picture)
    narrow = found(page)
    export(Family.load(run), 1.0, tmp_path / "full.onnx", open_dataset(shapes).train.paths)
    page.set_input_files("#model", tmp_path / "full.onnx")
    sync_api.expect(page.locator("#about")).to_contain_text("Width 1, float32")
    sync_api.expect(page.locator("#hits b").first).to_have_text("1.000")
    assert found(page) != narrow


def test_what_is_wrong_is_said_in_one_line(page: sync_api.Page, example: Path, picture: Path) -> None:
    page.set_input_files("#image", files("note.txt", b"not an image"))
    expect_problem(page, "note.txt is not an image that this browser can read.")
    page.set_input_files("#image", picture)
    found(page)
    page.set_input_files("#model", files("note.onnx", b"hello"))
    expect_problem(page, "note.onnx is not a model of sfsc: make one with sfsc export.")
    damaged = (example / "model.onnx").read_bytes().replace(b"Conv", b"Corn")
    page.set_input_files("#model", files("damaged.onnx", damaged))
    expect_problem(page, "damaged.onnx cannot be run by onnxruntime-web")
    page.set_input_files("#model", example / "stranger.onnx")
    expect_problem(page, "belongs to the family")
    page.set_input_files("#model", example / "model.onnx")
    found(page)


def files(name: str, data: bytes) -> sync_api.FilePayload:
    return {"name": name, "mimeType": "", "buffer": data}


def test_a_service_that_refuses_or_is_not_there(page: sync_api.Page, origin: str, picture: Path) -> None:
    page.set_input_files("#image", picture)
    found(page)
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Search again").click()
    expect_problem(page, "this service wants its API key")
    page.get_by_label("Address").fill(NOBODY)
    page.get_by_role("button", name="Search again").click()
    expect_problem(
        page,
        f"No answer from {NOBODY} for this page: start sfsc serve RUN --gallery GALLERY "
        f"--allow-origin {origin}",
    )
    page.get_by_label("Address").fill(origin)  # which serves files
    page.get_by_role("button", name="Search again").click()
    expect_problem(page, f"{origin}/ is not sfsc serve: it answers 501.")


def test_a_page_that_was_not_allowed_gets_no_answer(
    browser: sync_api.Browser, example: Path, address: str, picture: Path
) -> None:
    with static(example) as origin:
        page = browser.new_page()
        page.goto(origin)
        page.get_by_label("Address").fill(address)
        page.get_by_label("API key").fill("secret")
        page.set_input_files("#image", picture)
        expect_problem(page, f"--allow-origin {origin}")
        page.close()


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("model.onnx", "model.onnx is not beside this page: write it with sfsc export"),
        ("node_modules", "onnxruntime-web is not here: run npm install"),
    ],
)
def test_what_is_not_installed_is_named(
    browser: sync_api.Browser, example: Path, tmp_path: Path, missing: str, text: str
) -> None:
    folder = shutil.copytree(example, tmp_path / "browser", ignore=shutil.ignore_patterns(missing))
    with static(Path(folder)) as origin:
        page = browser.new_page()
        page.goto(origin)
        expect_problem(page, text)
        page.close()


def test_it_is_used_by_keyboard_and_fits_a_phone(page: sync_api.Page, picture: Path) -> None:
    page.bring_to_front()  # pages of other tests are open, and only the page in front opens a chooser
    page.set_viewport_size({"width": 360, "height": 740})
    with page.expect_file_chooser() as chooser:
        page.get_by_label("Choose an image").press("Enter")
    chooser.value.set_files(picture)
    scores = found(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with page.expect_response("**/search/embedding"):
        page.get_by_label("Address").press("Enter")
    assert found(page) == scores


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [
        (".png", (32, 32, 3)),
        (".png", (97, 131, 3)),
        (".jpg", (600, 451, 3)),  # read in several bands
        (".png", (20, 24, 3)),
        (".png", (20, 99, 3)),
        (".png", (97, 131, 4)),
    ],
)
def test_pixels_are_those_of_sfsc(page: sync_api.Page, suffix: str, shape: tuple[int, int, int]) -> None:
    """With any size, also where one side grows and the other shrinks, and with transparency."""
    height, width, channels = shape
    image = cv2.resize(draw(3, 0, 0), (width, height), interpolation=cv2.INTER_CUBIC)
    fading = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8)[:, None], (height, width, 1))
    data = cv2.imencode(suffix, np.dstack([image, fading])[..., :channels])[1].tobytes()
    for size in ((32, 32), (48, 16)):
        shown = page.evaluate(PIXELS, [base64.b64encode(data).decode(), size])
        expected = decode_bytes(data, "image", size)
        np.testing.assert_allclose(np.reshape(shown, expected.shape), expected, atol=1)
