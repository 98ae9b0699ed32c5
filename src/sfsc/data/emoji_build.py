"""Building the emoji data set: emoji as drawn by eight vendors.

Identity = emoji (its codepoints), camera = vendor. npm fetches the drawings, in eight packages of its
registry, and this module renders them.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from sfsc.data import npm
from sfsc.data.emoji import MARKER, TABLE
from sfsc.data.emoji_codepoints import IconSet, assign, base, has_skin_tone
from sfsc.errors import SfscError, missing_extra
from sfsc.files.writing import read_json
from sfsc.images.reading import as_png
from sfsc.progress import track

VENDORS = {
    "emojione": "1.2.3",
    "emojione-v1": "1.2.3",
    "fluent-emoji-flat": "1.2.6",
    "fxemoji": "1.2.2",
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "openmoji": "1.2.29",
    "twemoji": "1.2.5",
}
# The output of `npm view @iconify-json/VENDOR@VERSION dist.integrity`.
INTEGRITY = {
    "emojione": "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfe"
    "Ui4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    "emojione-v1": "sha512-UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8"
    "UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==",
    "fluent-emoji-flat": "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUl"
    "PlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    "fxemoji": "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZN"
    "QqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    "noto": "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    "noto-v1": "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsY"
    "GMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    "openmoji": "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/Wqfk"
    "QIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
    "twemoji": "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZ"
    "B5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
}
MIN_VENDORS = 4
RENDER_SIZE = 128


class Drawing(NamedTuple):
    """One emoji of one vendor, as SVG."""

    codepoints: str
    vendor: str
    svg: str

    @property
    def path(self) -> str:
        """The path of the image, relative to the data set."""
        return f"images/{self.vendor}/{self.codepoints}.png"


@dataclass(frozen=True)
class _Package:
    icons: dict[str, Any]
    info: dict[str, Any]
    characters: dict[str, str]

    def icon_set(self) -> IconSet:
        shown = [name for name, icon in self.icons["icons"].items() if not icon.get("hidden")]
        drawings = {name: name for name in shown}
        for alias, entry in self.icons.get("aliases", {}).items():
            # Other keys rotate or mirror the parent, which gives a drawing that the vendor did not make.
            if entry.keys() == {"parent"} and entry["parent"] in drawings:
                drawings[alias] = drawings[entry["parent"]]
        return IconSet(drawings, self.characters)

    def svg(self, name: str) -> str:
        icon = self.icons["icons"][name]
        default = {"left": 0, "top": 0, "width": 16, "height": 16}
        box = " ".join(str(icon.get(key, self.icons.get(key, value))) for key, value in default.items())
        body = icon["body"].replace("currentColor", "#000000")
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" width="{RENDER_SIZE}" height="{RENDER_SIZE}">{body}</svg>'
        )


def build_emoji(out: Path, size: int = 64, skin_tones: bool = False, test_share: float = 0.3) -> Path:
    """Build the emoji data set in a folder, unless the folder already contains the complete data set.

    The data set is built in a sibling folder `out.partial`, which is renamed at the end. After an interrupted
    build, this folder keeps the downloads. Two builds with the same settings are identical byte by byte.

    Args:
        out: the folder.
        size: the side of the square images in pixels.
        skin_tones: whether to include the skin-tone variants, each as an identity of its own.
        test_share: the approximate share of the identities for testing. All variants of an emoji are in the
            same split.

    Returns:
        The folder `out`.

    Raises:
        SfscError: `out` contains something else or a build with other settings, npm is missing or fails, a
            package differs from the known one, or resvg-py is not installed.
    """
    settings = {"size": size, "skin_tones": skin_tones, "test_share": test_share, "packages": VENDORS}
    if _is_complete(out, settings):
        return out
    _resvg()
    partial = out.with_name(out.name + ".partial")
    packages = _download(partial / "packages")
    shutil.rmtree(partial / "images", ignore_errors=True)
    drawings = _write_images(partial, list(_choose(packages, skin_tones)), size)
    _write_table(partial / TABLE, drawings, test_share)
    _write_attribution(partial / "ATTRIBUTION.md", packages, size)
    (partial / MARKER).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    if hasattr(os, "sync"):  # not on Windows
        os.sync()  # once for all images, before the folder gets its final name
    partial.replace(out)
    return out


def _is_complete(out: Path, settings: Mapping[str, object]) -> bool:
    marker = out / MARKER
    if marker.is_file():
        if read_json(marker) != settings:
            raise SfscError(f"{out} contains an emoji build with other settings: choose another folder")
        return True
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SfscError(f"{out} exists and is not an emoji build: choose another folder")
    return False


def _download(folder: Path) -> dict[str, _Package]:
    folder.mkdir(parents=True, exist_ok=True)
    packages = {}
    for vendor, version in track(VENDORS.items(), "fetching the packages"):
        archive = folder / f"iconify-json-{vendor}-{version}.tgz"
        npm.fetch(f"@iconify-json/{vendor}@{version}", INTEGRITY[vendor], archive)
        packages[vendor] = _read_package(archive)
    return packages


def _read_package(archive: Path) -> _Package:
    try:
        with tarfile.open(archive) as tar:
            icons, info, characters = (
                _read_json(tar, f"package/{name}.json") for name in ("icons", "info", "chars")
            )
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise SfscError(
            f"{archive} is not a readable icon package: delete it and run the command again"
        ) from error
    return _Package(icons, info, characters)


def _read_json(tar: tarfile.TarFile, name: str) -> dict[str, Any]:
    member = tar.extractfile(name)
    if member is None:
        raise KeyError(name)
    return json.load(member)


def _choose(packages: Mapping[str, _Package], skin_tones: bool) -> Iterator[Drawing]:
    """Yield the drawings of all emoji that enough vendors have, in a fixed order."""
    drawn = assign({vendor: package.icon_set() for vendor, package in packages.items()})
    vendors_of = Counter(codepoints for icons in drawn.values() for codepoints in icons)
    for vendor, icons in sorted(drawn.items()):
        for codepoints, name in sorted(icons.items()):
            if vendors_of[codepoints] >= MIN_VENDORS and (skin_tones or not has_skin_tone(codepoints)):
                yield Drawing(codepoints, vendor, packages[vendor].svg(name))


def _write_images(folder: Path, drawings: list[Drawing], size: int) -> list[Drawing]:
    """Render all drawings, write the usable ones, and return these sorted by identity and vendor."""
    fit: dict[Drawing, np.ndarray] = {}
    seen: set[tuple[str, bytes]] = set()
    for drawing, image in zip(drawings, _render_all(drawings, size), strict=True):
        look = (drawing.vendor, image.tobytes())
        if look not in seen and not _near_blank(image):
            seen.add(look)
            fit[drawing] = image
    vendors_of = Counter(drawing.codepoints for drawing in fit)
    kept = sorted(drawing for drawing in fit if vendors_of[drawing.codepoints] >= MIN_VENDORS)
    for drawing in kept:
        path = folder / drawing.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_png(fit[drawing]))
    return kept


def _render_all(drawings: list[Drawing], size: int) -> Iterator[np.ndarray]:
    svgs = [drawing.svg for drawing in drawings]
    with ProcessPoolExecutor() as pool:
        images = pool.map(render, svgs, [size] * len(svgs), chunksize=64)
        yield from track(images, "rendering", total=len(svgs))


def render(svg: str, size: int) -> np.ndarray:
    """Render a drawing on white, larger, and reduce it with Lanczos to (size, size, 3) uint8 RGB."""
    # Fonts differ between machines, so system fonts would make the images differ too.
    png = _resvg().svg_to_bytes(
        svg_string=svg, width=RENDER_SIZE, height=RENDER_SIZE, background="#ffffff", skip_system_fonts=True
    )
    large = np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB), np.float64)
    half = _reduce_rows(large, size)
    small = _reduce_rows(half.swapaxes(0, 1), size).swapaxes(0, 1)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def _reduce_rows(image: np.ndarray, target: int) -> np.ndarray:
    """Resize (height, width, 3) float64 to (target, width, 3) with an antialiasing Lanczos-3 filter."""
    source = len(image)
    scale = source / target
    widening = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale - 0.5
    first = np.ceil(centres - 3 * widening).astype(int)
    taps = first[:, None] + np.arange(int(np.ceil(6 * widening)))
    distance = (taps - centres[:, None]) / widening
    inside = (np.abs(distance) < 3) & (taps >= 0) & (taps < source)
    weights = np.where(inside, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("yt,ytwc->ywc", weights, image[np.clip(taps, 0, source - 1)])


def _near_blank(image: np.ndarray) -> bool:
    """Return whether fewer than 1% of the pixels differ visibly from white."""
    return bool((image.min(axis=2) < 240).mean() < 0.01)


def _resvg() -> Any:
    try:
        return importlib.import_module("resvg_py")
    except ImportError as error:
        raise missing_extra("resvg-py", "emoji") from error


def _write_table(path: Path, drawings: list[Drawing], test_share: float) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "identity", "camera", "split"])
        for drawing in drawings:
            split = _split(drawing.codepoints, test_share)
            writer.writerow([drawing.path, drawing.codepoints, drawing.vendor, split])


def _split(codepoints: str, test_share: float) -> str:
    digest = int.from_bytes(sha256(base(codepoints).encode()).digest()[:8])
    return "test" if digest < test_share * 2**64 else "train"


def _write_attribution(path: Path, packages: Mapping[str, _Package], size: int) -> None:
    lines = [
        "# Where the images come from",
        "",
        f"Each image is a drawing of one of these sets, rendered on white at {size} x {size} pixels and",
        "otherwise unchanged. Each remains under the licence of its set.",
        "",
    ]
    for vendor, package in packages.items():
        author, licence = package.info["author"], package.info["license"]
        version = f" {package.info['version']}" if "version" in package.info else ""
        lines += [
            f"- images/{vendor}: {package.info['name']}{version}",
            f"  (npm package @iconify-json/{vendor} {VENDORS[vendor]})",
            f"  by {author['name']}, {author.get('url', '')}",
            f"  licence {licence['title']} ({licence.get('spdx', '')}), {licence.get('url', '')}",
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
