"""Image files of every kind, written byte by byte where no library writes them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

HEIGHT, WIDTH = 10, 13
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types of PNG
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def pillow_rgb(data: bytes) -> np.ndarray:
    """(height, width, 3) float: a file as Pillow reads it, turned and on white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):  # gray of 16 bits
        gray = np.asarray(image)
        return np.dstack([np.where(gray == image.info.get("transparency"), 255, gray / 257)] * 3)
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def exif(orientation: int, order: str = ">") -> bytes:
    """EXIF data that say nothing but how the image is turned."""
    start = b"MM\0\x2a\0\0\0\x08" if order == ">" else b"II\x2a\0\x08\0\0\0"
    return start + struct.pack(f"{order}HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: np.ndarray, colour: int, depth: int, *chunks: bytes) -> bytes:
    """A PNG file of (height, width, channels) samples, with these chunks before its pixels."""
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + _pack(row, depth, ">") for row in samples)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp(
    rows: bytes,
    bits: int,
    header: int = 40,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
) -> bytes:
    """A BMP file of HEIGHT x WIDTH pixels; with masks, behind a header of 40 bytes or in a longer one."""
    if header == 12:
        info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        fields = (header, WIDTH, HEIGHT, 1, bits, compression, len(rows), 2835, 2835, 0, 0)
        info = struct.pack("<IiiHHIIiiII", *fields) + struct.pack(f"<{len(masks)}I", *masks)
        info = info.ljust(header, b"\0")
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows


def bmp_rows(samples: np.ndarray, bits: int) -> bytes:
    """(height, width, channels) samples as the rows of a BMP file, from the bottom to the top."""
    rows = (_pack(row, bits // samples.shape[2], "<") for row in samples[::-1])
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


def bmps() -> Iterator[tuple[str, bytes]]:
    """BMP files of all kinds, with what kind each is."""
    random = np.random.default_rng(0)
    rgb = random.integers(0, 256, (HEIGHT, WIDTH, 3))
    rgba = np.dstack([rgb, random.integers(0, 256, (HEIGHT, WIDTH))])
    for header in (12, 40, 52, 56, 64, 108, 124):
        for bits in (1, 4, 8):
            palette = random.integers(0, 256, (2**bits, 3 if header == 12 else 4), np.uint8)
            rows = bmp_rows(random.integers(0, 2**bits, (HEIGHT, WIDTH, 1)), bits)
            yield f"{header} {bits} bits", bmp(rows, bits, header, palette=palette.tobytes())
        yield f"{header} 24 bits", bmp(bmp_rows(rgb, 24), 24, header)
        if header == 12:
            continue
        downwards = bytearray(bmp(bmp_rows(rgb, 24), 24, header))
        downwards[22:26] = struct.pack("<i", -HEIGHT)
        yield f"{header} 24 bits downwards", bytes(downwards)
        yield f"{header} 32 bits", bmp(bmp_rows(rgba, 32), 32, header)
        masks = (0xFF0000, 0xFF00, 0xFF)
        if header in (56, 108, 124):
            yield f"{header} alpha", bmp(bmp_rows(rgba, 32), 32, header, 3, (*masks, 0xFF000000))
        yield f"{header} masks", bmp(bmp_rows(rgba, 32), 32, header, 3, masks)
        # 5 bits of white are 248, not 255, for OpenCV; so the samples are small.
        few = bmp_rows(random.integers(0, 2, (HEIGHT, WIDTH, 1)), 16)
        yield f"{header} 16 bits", bmp(few, 16, header)
        yield f"{header} 565", bmp(few, 16, header, 3, (0xF800, 0x7E0, 0x1F))
        palette = random.integers(0, 256, (256, 4), np.uint8).tobytes()
        runs = b"".join(bytes([WIDTH - 4, row, 4, 255 - row, 0, 0]) for row in range(HEIGHT)) + b"\0\1"
        yield f"{header} runs of 8 bits", bmp(runs, 8, header, 1, palette=palette)
        yield f"{header} runs of 4 bits", bmp(runs, 4, header, 2, palette=palette[:64])


def _pack(samples: np.ndarray, depth: int, order: str) -> bytes:
    if depth >= 8:
        return samples.astype(f"{order}u{depth // 8}").tobytes()
    bits = samples.reshape(-1, 1) >> np.arange(depth - 1, -1, -1) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()
