"""Decoding takes no more memory than the header of a file announces."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfsc.images.header import read_header
from sfsc.images.reading import CorruptImage, decode_bytes

SIDE = 2500
SLACK = 12_000_000  # the file, strips, tables
PEAK = """
import ctypes, sys
from pathlib import Path
from sfsc.images.reading import decode_bytes
data, small = (Path(path).read_bytes() for path in sys.argv[1:])
decode_bytes(small, "small", None)
status = Path("/proc/self/status")
read = lambda name: next(int(l.split()[1]) for l in status.read_text().splitlines() if l.startswith(name))
before = read("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
decode_bytes(data, "image", None)
print(1024 * (read("VmHWM") - before))
"""
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")


def encoded(kind: str, side: int) -> bytes:
    channels = 4 if kind in ("PNG", "WEBP", "turned PNG") else 3
    pixels = np.zeros((side, side, channels), np.uint8)
    pixels[::7, ::5] = 200
    file = io.BytesIO()
    if kind == "PNG of 16 bits":
        import cv2

        return cv2.imencode(".png", np.zeros((side, side, 4), np.uint16))[1].tobytes()
    image = Image.fromarray(pixels)
    if kind == "turned PNG":
        exif = Image.Exif()
        exif[0x112] = 6
        image.save(file, "PNG", exif=exif)
    elif kind == "progressive JPEG":
        image.save(file, "JPEG", progressive=True)
    else:
        image.save(file, kind)
    return file.getvalue()


@linux
@pytest.mark.parametrize(
    "kind", ["JPEG", "progressive JPEG", "PNG", "turned PNG", "PNG of 16 bits", "WEBP", "BMP"]
)
def test_no_more_memory_is_taken_than_announced(tmp_path: Path, kind: str) -> None:
    files = tmp_path / "large", tmp_path / "small"
    for file, side in zip(files, (SIDE, 8), strict=True):
        file.write_bytes(encoded(kind, side))
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, files)], capture_output=True, check=True)
    announced = read_header(files[0].read_bytes()).memory
    assert announced / 3 < int(done.stdout) < announced + SLACK


@pytest.mark.parametrize("kind", ["JPEG", "PNG of 16 bits", "WEBP", "BMP"])
def test_what_would_take_more_is_refused_before_it_is_decoded(kind: str) -> None:
    data = encoded(kind, 100)
    memory = read_header(data).memory
    decode_bytes(data, "image", None, memory)
    with pytest.raises(
        CorruptImage, match="100 x 100 pixels need 0 MB to decode, which is more than the limit"
    ):
        decode_bytes(data, "image", None, memory - 1)


def test_a_jpeg_with_anything_between_its_segments_is_refused() -> None:
    data = encoded("JPEG", 16)
    frame = data.index(b"\xff\xc0")
    assert decode_bytes(data[:frame] + b"\xff" + data[frame:], "fill byte", None).shape == (16, 16, 3)
    for between in (b"\0", b"x", b"\xff\0", data[frame : frame + 19]):
        with pytest.raises(CorruptImage, match="the image data is damaged"):
            decode_bytes(data[:frame] + between + data[frame:], "image", None)


def test_a_png_begins_with_its_header() -> None:
    data = encoded("PNG", 16)
    other = b"\0\0\0\rIDAT" + data[16:33]
    with pytest.raises(CorruptImage, match="damaged"):
        decode_bytes(data[:8] + other + data[8:], "image", None)


def test_a_webp_whose_picture_is_larger_than_its_canvas_is_refused() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (64, 64)).save(file, "WEBP", exif=exif)
    data = bytearray(file.getvalue())
    assert data[12:16] == b"VP8X"
    assert decode_bytes(bytes(data), "image", None).shape == (64, 64, 3)
    data[24:27] = (15).to_bytes(3, "little")
    with pytest.raises(CorruptImage, match="damaged"):
        decode_bytes(bytes(data), "image", None)
