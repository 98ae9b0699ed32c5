"""The images of a source, whatever names them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sfsc.data.image_paths import images_of
from sfsc.errors import SfscError
from tests.data.folders import ODD_NAMES, touch

ROWS = {"a.png": "train", "b.png": "query", "c.png": "gallery", "d.png": "test"}


def write_table(folder: Path, splits: set[str]) -> str:
    rows = [f"{name},of {name},c,{split}" for name, split in ROWS.items() if split in splits]
    (folder / "t.csv").write_text("\n".join(["path,identity,camera,split", *rows]))
    return f"csv:{folder / 't.csv'}"


@pytest.mark.parametrize(
    ("splits", "wanted", "taken"),
    [
        ("train query gallery test", "train", "a"),
        ("train query gallery test", "gallery", "cd"),
        ("train query gallery test", "query", "bd"),
        ("train", "gallery", "a"),
        ("test", "train", "d"),
        ("query gallery", "train", "bc"),
        ("train query", "gallery", "ab"),
    ],
)
def test_a_data_set_gives_the_part_that_is_wanted_or_all(
    tmp_path: Path, splits: str, wanted: str, taken: str
) -> None:
    found = images_of(write_table(tmp_path, set(splits.split())), wanted)
    assert found.paths == tuple(str(tmp_path / f"{name}.png") for name in taken)
    assert found.identities is not None
    assert found.identities.tolist() == [f"of {name}.png" for name in taken]
    assert found.cameras is not None
    assert found.cameras.tolist() == ["c"] * len(taken)


def test_a_folder_and_an_image_and_a_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "deep" / "b.png", tmp_path / "in" / ".c.png")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("x.png", b"")
    monkeypatch.chdir(tmp_path)
    assert images_of("in", "train").paths == (f"{tmp_path}/in/a.png", f"{tmp_path}/in/deep/b.png")
    assert images_of(Path("in/a.png"), "train").paths == (f"{tmp_path}/in/a.png",)
    assert images_of("z.zip::x.png", "train").paths == (f"{tmp_path}/z.zip::x.png",)


def test_what_exists_comes_before_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "folder:x" / "a.png", tmp_path / "x" / "id" / "b.png")
    monkeypatch.chdir(tmp_path)
    assert images_of("folder:x", "train").paths == (f"{tmp_path}/folder:x/a.png",)
    assert images_of("folder:./x", "train").paths == (f"{tmp_path}/x/id/b.png",)


@pytest.mark.parametrize("name", ["absent", "a" * 5000, "a\0b", "csv", "absent.zip::a.png"])
def test_nothing_of_this_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(SfscError, match="does not exist"):
        images_of(f"{tmp_path}/{name}", "train")
    with pytest.raises(SfscError, match=r"does not exist|is not a data set|has at most"):
        images_of(f"folder:{tmp_path}/{name}", "train")


def test_names_that_no_table_can_hold_are_skipped_and_named(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ODD_NAMES))
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    found = images_of(tmp_path, "train")
    assert len(found.paths) == len(ODD_NAMES)
    kept = found.storable()
    assert {Path(path).name for path in kept.paths} == set(ODD_NAMES[1:])
    assert [Path(error.path).name for error in kept.skipped] == ["gone", ODD_NAMES[0]]
    assert str(kept.skipped[1]).endswith("caf\\xe9.png: the path is not valid UTF-8: rename it")
    assert kept.storable() == kept


def test_what_is_known_of_images_stays_with_them(tmp_path: Path) -> None:
    names = ["a", os.fsdecode(b"\xe9"), "b"]
    touch(*(tmp_path / "train" / name / "0.png" for name in names))
    kept = images_of(f"folder:{tmp_path}", "train").storable()
    assert [Path(path).parent.name for path in kept.paths] == ["a", "b"]
    assert np.asarray(kept.identities).tolist() == ["a", "b"]
