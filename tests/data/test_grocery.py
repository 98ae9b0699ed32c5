"""The Grocery Store Dataset in a small copy of its layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfsc import SfscError, open_dataset
from tests.data.folders import touch

HEADER = (
    "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
    "Iconic Image Path (str),Product Description Path (str)"
)
PICTURES = "iconic-images-and-descriptions"
LISTS = {
    "classes.csv": f"{HEADER}\n"
    f"Pink-Lady,0,Apple,0,/{PICTURES}/Pink-Lady_Iconic.jpg,/x.txt\n"
    f"Oat-Milk,1,Milk,1,/{PICTURES}/Oat-Milk_Iconic.jpg,/x.txt\n",
    "train.txt": "train/Pink-Lady_001.jpg, 0, 0\ntrain/Oat-Milk_001.jpg, 1, 1\n",
    "val.txt": "val/Pink-Lady_001.jpg, 0, 0\n",
    "test.txt": "test/Oat-Milk_001.jpg, 1, 1\n",
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    root = tmp_path / "GroceryStoreDataset" / "dataset"
    touch(*(root / "train" / name for name in ("Pink-Lady_001.jpg", "Oat-Milk_001.jpg")))
    touch(root / "val" / "Pink-Lady_001.jpg", root / "test" / "Oat-Milk_001.jpg")
    touch(*(root / PICTURES / f"{name}_Iconic.jpg" for name in ("Pink-Lady", "Oat-Milk")))
    for name, text in LISTS.items():
        (root / name).write_text(text)
    return root.parent


@pytest.mark.parametrize("inside", ["", "dataset"])
def test_photos_are_queries_and_the_catalogue_is_the_gallery(clone: Path, inside: str) -> None:
    dataset = open_dataset(f"grocery:{clone / inside}")
    assert dataset.train.identities.tolist() == ["Pink-Lady", "Oat-Milk", "Pink-Lady"]
    assert dataset.query.paths == (str(clone / "dataset/test/Oat-Milk_001.jpg"),)
    assert dataset.query.identities.tolist() == ["Oat-Milk"]
    assert dataset.gallery.identities.tolist() == ["Pink-Lady", "Oat-Milk"]
    pictures = [Path(path).name for path in dataset.gallery.paths]
    assert pictures == ["Pink-Lady_Iconic.jpg", "Oat-Milk_Iconic.jpg"]
    assert dataset.cameras is not None
    assert {*dataset.cameras} == {"photo", "catalogue"}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("classes.csv", None, "classes.csv is missing: clone https://github.com/"),
        ("test.txt", None, "cannot read .*test.txt"),
        ("test.txt", "test/Oat-Milk_001.jpg, 7, 1\n", "line 1: classes.csv has no product 7"),
        ("test.txt", "test/Oat-Milk_001.jpg\n", "test.txt, line 1"),
        ("test.txt", "test/gone.jpg, 1, 1\n", "gone.jpg is missing, and 0 more"),
    ],
)
def test_a_copy_that_is_not_whole_is_refused(clone: Path, name: str, text: str | None, reason: str) -> None:
    file = clone / "dataset" / name
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(SfscError, match=reason):
        open_dataset(f"grocery:{clone}")


def test_it_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SfscError, match="is not a folder"):
        open_dataset(f"grocery:{tmp_path / 'file'}")
