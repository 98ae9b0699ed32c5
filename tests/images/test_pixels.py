"""What becomes of every kind of image file: format, depth, transparency and orientation, against Pillow."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfsc.images.header import read_header
from sfsc.images.reading import CorruptImage, decode_bytes
from tests.images.image_files import (
    CHANNELS,
    DEPTHS,
    HEIGHT,
    WIDTH,
    bmp,
    bmp_rows,
    bmps,
    chunk,
    exif,
    pillow_rgb,
    png,
)

KINDS = [(colour, depth) for colour, depths in DEPTHS.items() for depth in depths]
BMPS = dict(bmps())


def decoded(data: bytes) -> np.ndarray:
    return decode_bytes(data, "image", None).astype(float)


def samples_of(colour: int, depth: int) -> np.ndarray:
    return np.random.default_rng(depth).integers(0, 2**depth, (HEIGHT, WIDTH, CHANNELS[colour]))


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float = 2) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 7])
@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_png(colour: int, depth: int, orientation: int | None) -> None:
    chunks = [chunk(b"eXIf", exif(orientation))] if orientation else []
    if colour == 3:
        random = np.random.default_rng(0)
        palette = chunk(b"PLTE", random.integers(0, 256, (2**depth, 3), np.uint8).tobytes())
        opaque = png(samples_of(colour, depth), colour, depth, palette, *chunks)
        assert_close(decoded(opaque), pillow_rgb(opaque), 0)
        chunks += [palette, chunk(b"tRNS", random.integers(0, 256, 2**depth, np.uint8).tobytes())]
    data = png(samples_of(colour, depth), colour, depth, *chunks)
    assert_close(decoded(data), pillow_rgb(data))


@pytest.mark.parametrize("orientation", [1, 8])
@pytest.mark.parametrize(
    ("colour", "depth"), [(colour, depth) for colour, depth in KINDS if colour in (0, 2)]
)
def test_a_transparent_colour_of_png_becomes_white(colour: int, depth: int, orientation: int) -> None:
    samples = samples_of(colour, depth)
    samples[2:5, 3:] = samples[0, 0]
    turned = chunk(b"eXIf", exif(orientation))
    clear = chunk(b"tRNS", samples[0, 0].astype(">u2").tobytes())
    mask = (samples == samples[0, 0]).all(2)
    expected = decoded(png(samples, colour, depth, turned))
    expected[np.rot90(mask) if orientation == 8 else mask] = 255
    assert_close(decoded(png(samples, colour, depth, clear, turned)), expected, 1)


@pytest.mark.parametrize(("colour", "depth"), [(colour, depth) for colour, depth in KINDS if colour != 3])
def test_a_transparent_colour_behind_the_pixels_is_no_mistake(colour: int, depth: int) -> None:
    opaque = png(samples_of(colour, depth), colour, depth)
    assert decoded(opaque[:-12] + chunk(b"tRNS", bytes(6)) + opaque[-12:]).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("lossless", "alpha", "frames", "orientation"),
    [*itertools.product((True, False), (True, False), (1, 2), (1, 6, 7))],
)
def test_webp(lossless: bool, alpha: bool, frames: int, orientation: int) -> None:
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (2, 3, 4 if alpha else 3)), np.ones((8, 8, 1)))
    images = [Image.fromarray(np.roll(pixels, n, 0).astype(np.uint8)) for n in range(frames)]
    file = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:], "exact": True, "quality": 100}
    images[0].save(file, "WEBP", lossless=lossless, exif=exif(orientation, "<"), **more)
    assert_close(decoded(file.getvalue()), pillow_rgb(file.getvalue()))


@pytest.mark.parametrize(
    ("mode", "progressive", "orientation"),
    [*itertools.product(("L", "RGB", "CMYK"), (True, False), range(1, 9))],
)
def test_jpeg(mode: str, progressive: bool, orientation: int) -> None:
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (2, 3, 3)), np.ones((8, 8, 1))).astype(
        np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", progressive=progressive, exif=exif(orientation))
    assert_close(decoded(file.getvalue()), pillow_rgb(file.getvalue()))


@pytest.mark.parametrize("kind", BMPS)
def test_bmp(kind: str) -> None:
    header = read_header(BMPS[kind])
    assert (header.height, header.width) == (HEIGHT, WIDTH)
    assert_close(decoded(BMPS[kind]), pillow_rgb(BMPS[kind]))


@pytest.mark.parametrize("kind", [kind for kind in BMPS if "runs" not in kind])
def test_a_bmp_without_its_last_pixels_is_truncated(kind: str) -> None:
    wrong = bytearray(BMPS[kind][:-4])
    for size in (len(BMPS[kind]), 0):  # some programs write none
        wrong[2:6] = struct.pack("<I", size)
        with pytest.raises(CorruptImage, match="truncated"):
            decoded(bytes(wrong))


def test_a_mask_counts_where_it_is_said_to() -> None:
    """The fourth byte of a pixel is no transparency where no mask says so, whatever is in it."""
    clear = np.zeros((HEIGHT, WIDTH, 4), int)
    rows, masks = bmp_rows(clear, 32), (0xFF0000, 0xFF00, 0xFF)
    assert decoded(bmp(rows, 32, 108, 3, (*masks, 0xFF000000))).min() == 255
    for opaque in (
        bmp(rows, 32),
        bmp(rows, 32, 40, 3, masks),
        bmp(rows, 32, 108, 3, masks),
        bmp(rows, 32, 124),
    ):
        assert decoded(opaque).max() == 0


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_hostile_file_is_corrupt_or_an_image(data: st.DataObject) -> None:
    """Whatever bytes are changed: an image, or CorruptImage; no other error, and no endless loop."""
    files = [*list(BMPS.values())[::7], *HOSTILE]
    content = bytearray(data.draw(st.sampled_from(files)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content), 120) - 1))
        content[place : place + 2] = data.draw(st.binary(min_size=1, max_size=4))
    try:
        assert decode_bytes(bytes(content[: data.draw(st.integers(0, 2000))]), "image", (8, 8)).shape == (
            8,
            8,
            3,
        )
    except CorruptImage as error:
        assert error.reason
        assert "\n" not in error.reason


def _hostile() -> list[bytes]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 4), np.uint8))
    files = []
    for kind, mode, more in (
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"restart_marker_blocks": 1}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGBA", {"exif": exif(3)}),
    ):
        file = io.BytesIO()
        image.convert(mode).save(file, kind, **more)
        files.append(file.getvalue())
    return files


HOSTILE = _hostile()
