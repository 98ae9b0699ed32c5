"""Which JPEG files are whole: those are decoded as OpenCV does it, all others are corrupt."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfsc.images.reading import CorruptImage, decode_bytes

END = b"\xff\xd9"
FORMS: dict[str, dict[str, object]] = {
    "plain": {},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_blocks": 3},
    "progressive": {"progressive": True},
    "progressive restarts": {"progressive": True, "restart_marker_rows": 1},
}
PICTURES: dict[str, Callable[[int, int], np.ndarray]] = {
    "noise": lambda h, w: np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8),
    "white": lambda h, w: np.full((h, w, 3), 255, np.uint8),
    "gray": lambda h, w: np.full((h, w, 3), 128, np.uint8),
    "mostly white": lambda h, w: cv2.circle(
        np.full((h, w, 3), 255, np.uint8), (w // 2, h // 4), 9, (9, 99, 200), -1
    ),
    "ramp": lambda h, w: np.dstack([np.add.outer(np.arange(h), np.arange(w)).astype(np.uint8)] * 3),
}


def jpeg(picture: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return decode_bytes(data, "image.jpg", None)


def third(data: bytes) -> int:
    return len(data) // 3


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zeros at the end": lambda data: data[: third(data)] + bytes(len(data) - third(data) - 2) + END,
    "zeros in the last quarter": lambda data: (
        data[: -third(data) * 3 // 4] + bytes(third(data) * 3 // 4 - 2) + END
    ),
    "cut, with an end marker": lambda data: data[: third(data)] + END,
    "cut": lambda data: data[: third(data)],
    "cut near the end": lambda data: data[: -len(data) // 20],
    "cut, and the whole": lambda data: data[: third(data)] + data,
    "a part is missing": lambda data: data[: third(data)] + data[2 * third(data) :],
    "a part is there twice": lambda data: data[: 2 * third(data)] + data[third(data) :],
    "another file in the middle": lambda data: (
        data[: third(data)] + jpeg(PICTURES["ramp"](64, 64)) + data[third(data) :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("form", FORMS)
def test_damage_is_found(form: str, damage: str) -> None:
    data = DAMAGES[damage](jpeg(PICTURES["noise"](120, 150), **FORMS[form]))
    with pytest.raises(CorruptImage, match=r"truncated|damaged"):
        decoded(data)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*PICTURES]),
    st.sampled_from([*FORMS]),
    st.sampled_from(["L", "RGB", "CMYK"]),
    st.sampled_from([0, 1, 2]),
    st.integers(1, 100),
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
)
def test_what_is_whole_is_decoded_as_by_opencv(
    picture: str, form: str, mode: str, subsampling: int, quality: int, size: tuple[int, int]
) -> None:
    options = {**FORMS[form], "quality": quality} | ({"subsampling": subsampling} if mode == "RGB" else {})
    data = jpeg(PICTURES[picture](*size), mode, **options)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    without_end = data.removesuffix(END)
    for whole in (
        data,
        without_end,
        without_end + b"\xff",
        data + b"film\xff\xda",
        without_end + bytes(9) + END,
    ):
        np.testing.assert_array_equal(decoded(whole), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["plain", "optimised", "restarts"]), st.integers(60, 20_000), st.sampled_from([b"", END])
)
def test_a_cut_is_found_wherever_it_is(form: str, missing: int, end: bytes) -> None:
    data = jpeg(PICTURES["noise"](96, 96), **FORMS[form]).removesuffix(END)
    with pytest.raises(CorruptImage, match=r"truncated|damaged"):
        decoded(data[: -min(missing, len(data) - 3)] + end)


@pytest.mark.parametrize("end", [b"", END])
@pytest.mark.parametrize("form", ["plain", "optimised", "restarts"])
def test_a_cut_within_a_pair_of_bytes_is_found(form: str, end: bytes) -> None:
    """0xFF in coded data is followed by a zero, without which it could be the beginning of a marker."""
    data = jpeg(PICTURES["noise"](96, 96), **FORMS[form]).removesuffix(END)
    cuts = [place + 1 for place in range(700, len(data) - 60) if data[place : place + 2] == b"\xff\0"]
    assert cuts
    for cut in cuts:
        with pytest.raises(CorruptImage, match=r"truncated|damaged"):
            decoded(data[:cut] + end)


@pytest.mark.parametrize("padding", [bytes(3000), b"\xff" * 3000])
@pytest.mark.parametrize("form", ["plain", "optimised", "restarts"])
def test_padding_behind_a_whole_picture_is_none_of_it(form: str, padding: bytes) -> None:
    data = jpeg(PICTURES["noise"](64, 64), **FORMS[form])
    for end in (b"", END):
        np.testing.assert_array_equal(decoded(data.removesuffix(END) + padding + end), decoded(data))


def test_lost_and_repeated_scans_are_found() -> None:
    data = jpeg(PICTURES["noise"](64, 64), progressive=True)
    headers = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    tables = [data.find(b"\xff\xc4", before, header) for before, header in pairwise(headers)]
    starts = [table if table > 0 else header for table, header in zip(tables, headers[1:], strict=True)]
    assert len(starts) == 9
    altered = [data[:start] + data[end:] for start, end in pairwise(starts)]
    altered += [data[:end] + data[start:] for start, end in pairwise(starts)]
    altered += [data[:start] + END for start in starts]
    for one in altered:
        with pytest.raises(CorruptImage, match="damaged"):
            decoded(one)


@pytest.mark.parametrize("order", [b"\xd1\xd0", b"\xd0\xd2", b"\xd0\xd0"])
def test_restart_markers_out_of_order_are_found(order: bytes) -> None:
    data = jpeg(PICTURES["noise"](32, 48), restart_marker_blocks=2)
    assert data.count(b"\xff\xd0") == data.count(b"\xff\xd1") == 1
    first, second = data.index(b"\xff\xd0"), data.index(b"\xff\xd1")
    changed = bytearray(data)
    changed[first + 1], changed[second + 1] = order
    with pytest.raises(CorruptImage, match="damaged"):
        decoded(bytes(changed))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8" + b"\xff\xfe\0\2" * 20_000,
        b"\xff\xd8" + b"\xff\xda\0\6\1\1\0\0" * 20_000,
        b"\xff\xd8" + b"\xff\xda\0\6\xff\1\0\0" * 20_000,
        b"\xff\xd8" + b"\xff" * 200_000,
        b"\xff\xd8\xff" + b"\0" * 200_000,
        b"\xff\xd8\xff\xc2\0\xff",
        b"\xff\xd8\xff\xc2\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xda\0\3\1",
    ],
)
def test_files_that_are_made_to_keep_a_reader_busy_are_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptImage, match=r"truncated|damaged"):
        decoded(content)
