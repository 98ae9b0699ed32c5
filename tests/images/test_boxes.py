"""Parts of images: upright first, then the box, then the size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfsc.errors import SfscError
from sfsc.images.boxes import Box, split_box
from sfsc.images.reading import CorruptImage, absolute, decode, write_png

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    write_png(tmp_path / "photo.png", PIXELS)
    return str(tmp_path / "photo.png")


def test_a_part_is_named_by_the_path_and_decoded_alone(photo: str) -> None:
    part = Box(5, 10, 20, 12).named(photo)
    assert part == f"{photo}#xywh=5,10,20,12"
    assert split_box(part) == (photo, Box(5, 10, 20, 12))
    assert absolute(part) == part
    assert np.array_equal(decode(part, None), PIXELS[10:22, 5:25])
    assert decode(part, (8, 8)).shape == (8, 8, 3)
    assert np.array_equal(decode(Box(0, 0, 40, 30).named(photo), None), PIXELS)


def test_the_orientation_is_applied_before_the_box(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(PIXELS, -1)
    whole = decode(str(tmp_path / "turned.png"), None)
    assert np.array_equal(whole, upright)
    part = decode(Box(1, 2, 25, 35).named(str(tmp_path / "turned.png")), None)
    assert np.array_equal(part, upright[2:37, 1:26])


def test_a_file_with_this_name_comes_first(tmp_path: Path) -> None:
    odd = tmp_path / "a.png#xywh=0,0,1,1"
    write_png(odd, PIXELS)
    assert split_box(str(odd)) == (str(odd), None)
    assert np.array_equal(decode(str(odd), None), PIXELS)


@pytest.mark.parametrize("box", [Box(30, 0, 11, 5), Box(0, 0, 5, 31), Box(40, 30, 1, 1), Box(0, 0, 0, 5)])
def test_a_box_outside_of_the_image_is_refused(photo: str, box: Box) -> None:
    with pytest.raises(CorruptImage, match="is not inside the image, which has 40 x 30 pixels"):
        decode(box.named(photo), None)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "-1,0,5,5", "1,2,0,4", "1.5,2,3,4", "1" * 10 + ",1,1,1"]
)
def test_what_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(SfscError, match="a box must be x,y,w,h in pixels"):
        Box.parse(text)


def test_spaces_in_a_box_do_not_matter() -> None:
    assert Box.parse(" 1, 2,3 ,4 ") == Box(1, 2, 3, 4)
