from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from sfsc.data import CorruptImage, decode, write_png
from sfsc.images.reading import MAX_PIXELS


@pytest.fixture
def picture() -> np.ndarray:
    """(24, 16, 3) uint8 RGB in blocks, so that JPEG changes little."""
    blocks = np.random.default_rng(0).integers(0, 256, (3, 2, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, *options: int) -> str:
    """Write BGR(A) or gray pixels as cv2 understands them."""
    assert cv2.imwrite(str(path), pixels, list(options))
    return str(path)


def oriented_jpeg(picture: np.ndarray, orientation: int) -> bytes:
    """A JPEG whose EXIF header says how to turn it."""
    jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    tiff = b"MM\0\x2a\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def png(width: int, height: int) -> bytes:
    """A tiny file that claims to be a picture of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_written_png_is_read_back_and_written_the_same(tmp_path: Path, picture: np.ndarray) -> None:
    write_png(tmp_path / "a.png", picture)
    write_png(tmp_path / "b.png", picture)
    np.testing.assert_array_equal(decode(str(tmp_path / "a.png"), None), picture)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".jpg", ".JPEG"])
def test_formats_agree(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", picture[..., ::-1])
    close = np.abs(decode(path, None).astype(int) - picture) <= 12
    assert close.mean() > 0.9


@pytest.mark.parametrize(("suffix", "top"), [(".png", 255), (".webp", 255), (".png", 65535)])
def test_transparency_is_laid_on_white(tmp_path: Path, picture: np.ndarray, suffix: str, top: int) -> None:
    alpha = np.tile(np.linspace(0, 1, picture.shape[1]), (picture.shape[0], 1))[..., None]
    bgra = np.dstack([picture[..., ::-1] / 255, alpha]) * top
    lossless = (cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ()
    path = save(tmp_path / f"a{suffix}", bgra.round().astype(np.min_scalar_type(top)), *lossless)
    assert np.abs(decode(path, None) - (picture * alpha + 255 * (1 - alpha))).max() <= 1.5


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_grayscale_becomes_rgb(tmp_path: Path, depth: type) -> None:
    gray = np.arange(256, dtype=depth).reshape(16, 16)
    path = save(tmp_path / "a.png", gray * (np.iinfo(depth).max // 255))
    np.testing.assert_array_equal(decode(path, None), np.dstack([gray] * 3))


def test_exif_orientation_is_applied(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(oriented_jpeg(picture, 6))
    turned = np.rot90(picture, -1).astype(int)
    decoded = decode(str(path), None)
    assert decoded.shape == turned.shape
    assert (np.abs(decoded - turned) <= 12).mean() > 0.9


def test_size_is_height_width_and_shrinking_averages(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", noise)
    path = str(tmp_path / "a.png")
    assert decode(path, (7, 31)).shape == (7, 31, 3)
    means = noise.reshape(3, 8, 2, 8, 3).mean(axis=(1, 3))
    assert np.abs(decode(path, (3, 2)) - means).max() <= 0.51


def test_member_of_an_archive(tmp_path: Path, picture: np.ndarray) -> None:
    write_png(tmp_path / "a.png", picture)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "sub/a.png")
    np.testing.assert_array_equal(decode(f"{tmp_path}/a.zip::sub/a.png", None), picture)
    for missing in ("a.zip::other.png", "other.zip::a.png"):
        with pytest.raises(CorruptImage, match=missing):
            decode(f"{tmp_path}/{missing}", None)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("left", [0, 5, 0.3, 0.7, -9])
def test_truncated_image_is_corrupt(tmp_path: Path, suffix: str, left: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    whole = Path(save(path, noise)).read_bytes()
    path.write_bytes(whole[: int(left * len(whole)) if 0 < left < 1 else int(left)])
    with pytest.raises(CorruptImage, match=r"truncated|empty|not a"):
        decode(str(path), None)


def test_jpeg_truncated_behind_its_thumbnail_is_corrupt(tmp_path: Path, picture: np.ndarray) -> None:
    jpeg = oriented_jpeg(picture, 1)
    thumbnail = b"\xff\xe2" + struct.pack(">H", len(jpeg) + 2) + jpeg
    with_thumbnail = jpeg[:2] + thumbnail + jpeg[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(with_thumbnail)
    assert decode(str(path), None).shape == picture.shape
    path.write_bytes(with_thumbnail[:-40])
    with pytest.raises(CorruptImage, match="truncated"):
        decode(str(path), None)


def test_jpeg_with_something_behind_its_end_is_read(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(oriented_jpeg(picture, 1) + b"film\xff\xdafilm")
    assert decode(str(path), None).shape == picture.shape


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not a JPEG"),
        (png(60_000, 60_000), str(MAX_PIXELS)),
        (png(8, 8), "damaged"),
    ],
)
def test_broken_file_is_named_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(CorruptImage, match=reason) as caught:
        decode(str(path), (8, 8))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert caught.value.path == str(path)


def test_missing_file_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptImage, match="no such file"):
        decode(str(tmp_path / "a.png"), None)


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(CorruptImage("a.png", "torn")))
    assert (str(error), error.path) == ("a.png: torn", "a.png")
