"""Sub-models as they are written: which image sizes are read, and what they become in a family."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfsc import Config, SfscError
from sfsc.notation import Written, depths_of, name_of, read_written, sizes_of
from sfsc.widths import Widths


def test_sizes_stand_behind_widths() -> None:
    written = read_written("0.25@48, 0.5@96x40,0.75,1")
    assert [one.value for one in written] == ["0.25@48", "0.5@96x40", 0.75, 1.0]
    assert read_written([one.value for one in written]) == written
    assert sizes_of(written, (128, 64)) == ((0.25, (48, 24)), (0.5, (96, 40)))
    assert [one.width for one in read_written(Widths())] == [0.25, 0.5, 0.75, 1.0]


def test_the_size_of_the_full_sub_model_is_not_special() -> None:
    assert sizes_of(read_written("0.25@32,0.5@32x32,1@32"), (32, 32)) == ()


sizes = st.integers(1, 200)


@given(sizes, sizes, sizes, sizes)
def test_a_name_says_the_size(height: int, across: int, full_height: int, full_across: int) -> None:
    """What a family calls a sub-model is what a user can write."""
    size, full = (height, across), (full_height, full_across)
    assert Written.parse(name_of(0.25, size, full)).size(full) == size


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (
            "0.5@48,0.5@64,1",
            "^width 0.5 is written twice: each sub-model needs a width of its own.* 0.499 for the other",
        ),
        ("0.5@48,0.5,1", "^width 0.5 is written twice"),
        ("0.5@,1", r"^an image size is written in pixels behind its width, such as 0\.25@48 .* got '0\.5@'$"),
        ("0.5@4.5,1", "^an image size is written in pixels"),
        ("0.5@12x,1", "^an image size is written in pixels"),
        ("0.5@-3,1", "^an image size is written in pixels"),
        ("0.5@9999999,1", "^an image size is written in pixels"),
        ("half@48,1", "^widths are numbers such as"),
        ("0.5@48", "^widths must increase within"),
        (7, "^widths are numbers such as"),
    ],
)
def test_what_is_no_size(widths: str, message: str) -> None:
    with pytest.raises(SfscError, match=message):
        read_written(widths)
    with pytest.raises(SfscError, match=message):
        Config(dataset="folder:x", widths=widths)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ("0.5@65,1", "^image size 65x33 of width 0.5 must be within the full sub-model's, 64x32"),
        ("0.5@20x33,1", "^image size 20x33 of width 0.5 must be within"),
        ("0.5@0,1", "^image size 0x1 of width 0.5 must be within"),
        ("0.5,1@32", "^image size 32x16 of width 1: the full sub-model embeds images of image_size"),
    ],
)
def test_sizes_that_do_not_fit(widths: str, message: str) -> None:
    with pytest.raises(SfscError, match=message):
        sizes_of(read_written(widths), (64, 32))


def test_settings_keep_what_was_written() -> None:
    config = Config(dataset="folder:x", widths="0.25@48,0.5,1")
    assert config.widths == ("0.25@48", 0.5, 1.0)
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_depths_stand_between_widths_and_sizes() -> None:
    written = read_written("0.25/0.5@48, 0.5/0.75,0.75/1,1")
    assert [one.value for one in written] == ["0.25/0.5@48", "0.5/0.75", 0.75, 1.0]
    assert read_written([one.value for one in written]) == written
    assert depths_of(written) == ((0.25, 0.5), (0.5, 0.75))
    assert name_of(0.25, (48, 48), (96, 96), 0.5) == "0.25/0.5@48"


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_what_is_written_is_read_again(depth: float) -> None:
    [one, _] = read_written([str(Written(0.25, depth=depth)), 1.0])
    assert one.depth == depth


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ("0.5/0,1", r"^depth 0 of width 0\.5 must be a share of the blocks within"),
        ("0.5/1.5,1", r"^depth 1\.5 of width 0\.5"),
        ("0.5/nan,1", "^depth nan of width"),
        ("0.5,1/0.5", "^the full sub-model keeps all blocks"),
        ("0.5/0.5,0.5,1", "^width 0.5 is written twice"),
        ("0.5/half,1", "^widths are numbers such as"),
        ("0.5/,1", "^widths are numbers such as"),
        ("0.5@48/0.5,1", "^an image size is written in pixels"),
    ],
)
def test_what_is_no_depth(widths: str, message: str) -> None:
    with pytest.raises(SfscError, match=message):
        read_written(widths)
    with pytest.raises(SfscError, match=message):
        Config(dataset="folder:x", widths=widths)
