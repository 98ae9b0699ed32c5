"""Folders of identities: the layouts that are read, and those that are explained."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sfsc.data import Dataset, open_dataset
from sfsc.errors import SfscError
from tests.data.folders import touch


def identities_of(dataset: Dataset, split: str) -> set[str]:
    return set(dataset.identities[dataset.splits == split].tolist())


class TestFolder:
    def test_identity_folders_are_halved_the_same_way_each_time(self, tmp_path: Path) -> None:
        touch(*(tmp_path / f"id{i}" / f"{j}.JPG" for i in range(9) for j in range(2)))
        touch(tmp_path / "id0" / "notes.txt")
        dataset, again = (open_dataset(f"folder:{tmp_path}") for _ in range(2))
        np.testing.assert_array_equal(dataset.splits, again.splits)
        train, test = identities_of(dataset, "train"), identities_of(dataset, "test")
        assert (len(train), len(test)) == (5, 4)
        assert not train & test
        assert len(dataset.paths) == 18
        assert dataset.cameras is None

    def test_adding_images_moves_no_identity(self, tmp_path: Path) -> None:
        touch(*(tmp_path / f"id{i}" / "0.png" for i in range(8)))
        before = identities_of(open_dataset(f"folder:{tmp_path}"), "test")
        touch(*(tmp_path / f"id{i}" / "1.png" for i in range(8)))
        assert identities_of(open_dataset(f"folder:{tmp_path}"), "test") == before

    @pytest.mark.parametrize("splits", [("train", "query", "gallery"), ("train", "test")])
    def test_split_folders(self, tmp_path: Path, splits: tuple[str, ...]) -> None:
        touch(*(tmp_path / split / f"{split}{i}" / "a.png" for split in splits for i in range(2)))
        dataset = open_dataset(f"folder:{tmp_path}")
        for split in splits:
            assert identities_of(dataset, split) == {f"{split}0", f"{split}1"}
        assert len(dataset.query) == len(dataset.gallery) == 2

    def test_a_folder_beside_the_split_folders_is_named(self, tmp_path: Path) -> None:
        touch(tmp_path / "train" / "a" / "1.png", tmp_path / "val" / "a" / "1.png")
        with pytest.raises(SfscError, match="val"):
            open_dataset(f"folder:{tmp_path}")

    def test_one_identity_is_too_few_to_train(self, tmp_path: Path) -> None:
        touch(tmp_path / "only" / "a.png")
        dataset = open_dataset(f"folder:{tmp_path}")
        with pytest.raises(SfscError, match=r"folder:.* only one training identity.*only"):
            _ = dataset.train

    def test_no_images(self, tmp_path: Path) -> None:
        with pytest.raises(SfscError, match=r"folder:.* contains no images"):
            open_dataset(f"folder:{tmp_path}")


class TestLevels:
    """A level of folders too many or too few is read and said, or explained."""

    def said(self, capsys: pytest.CaptureFixture[str]) -> str:
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        return err

    @pytest.mark.parametrize("split", ["", "train/"])
    def test_folders_within_an_identity_are_its_own(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
    ) -> None:
        names = ["cat/1.png", "cat/2023/may/2.png", "dog/2023/1.png", "dog/.thumbnails/1.png"]
        touch(*(tmp_path / f"{split}{name}" for name in names))
        dataset = open_dataset(f"folder:{tmp_path}")
        assert sorted(dataset.identities.tolist()) == ["cat", "cat", "dog"]
        said = self.said(capsys)
        assert "2 of 3 images are in subfolders of an identity, such as cat/2023/may" in said
        assert "skipped 1 hidden or system entry" in said

    def test_images_beside_the_folders_of_identities_are_counted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        touch(*(tmp_path / name for name in ("a/1.png", "b/1.png", "loose.png", "free.png")))
        assert len(open_dataset(f"folder:{tmp_path}").paths) == 2
        assert "skipped 2 of 4 images that are not in the folder of an identity, such as" in self.said(capsys)

    @pytest.mark.parametrize("names", [["a.png", "b.png"], ["train/a.png", "test/b.png"]])
    def test_images_without_folders_of_identities_are_explained(
        self, tmp_path: Path, names: list[str]
    ) -> None:
        touch(*(tmp_path / name for name in names))
        with pytest.raises(SfscError, match="contains 2 images, but no folders of identities: put"):
            open_dataset(f"folder:{tmp_path}")

    def test_an_identity_may_have_the_name_of_a_split(self, tmp_path: Path) -> None:
        touch(*(tmp_path / name / "1.png" for name in ("car", "train", "tram")))
        assert set(open_dataset(f"folder:{tmp_path}").identities.tolist()) == {"car", "train", "tram"}

    def test_splits_may_be_written_large(self, tmp_path: Path) -> None:
        touch(*(tmp_path / split / identity / "1.png" for split in ("Train", "TEST") for identity in "ab"))
        dataset = open_dataset(f"folder:{tmp_path}")
        assert identities_of(dataset, "train") == identities_of(dataset, "test") == {"a", "b"}

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["cat/train/1.png", "cat/test/2.png", "dog/train/1.png"], r"test is inside cat: .*test/cat"),
            (["animals/train/cat/1.png", "animals/test/dog/2.png"], r"use folder:.*/animals$"),
            (["training/cat/1.png", "validation/cat/2.png"], "training contains folders: if it is a split"),
            (["train/cat/1.png", "val/cat/2.png"], "val is next to train, a split: move"),
            (["train/cat/1.png", "cat/2.png"], "cat is next to train, a split: move"),
        ],
    )
    def test_splits_at_another_level_are_explained(
        self, tmp_path: Path, names: list[str], message: str
    ) -> None:
        touch(*(tmp_path / name for name in names))
        with pytest.raises(SfscError, match=message):
            open_dataset(f"folder:{tmp_path}")

    def test_folders_of_operating_systems_are_no_identities(self, tmp_path: Path) -> None:
        touch(*(tmp_path / name / "1.png" for name in ("cat", "dog", "@eaDir", "lost+found", ".cache")))
        assert set(open_dataset(f"folder:{tmp_path}").identities.tolist()) == {"cat", "dog"}

    def test_a_split_may_be_a_link_to_another(self, tmp_path: Path) -> None:
        touch(*(tmp_path / "query" / identity / "1.png" for identity in "ab"))
        (tmp_path / "gallery").symlink_to(tmp_path / "query")
        dataset = open_dataset(f"folder:{tmp_path}")
        assert len(dataset.query) == len(dataset.gallery) == 2

    def test_names_that_are_not_utf_8_are_written_as_escapes(self, tmp_path: Path) -> None:
        touch(*(tmp_path / os.fsdecode(name) / "1.png" for name in (b"caf\xe9", b"a\nb", b"c")))
        dataset = open_dataset(f"folder:{tmp_path}")
        assert set(dataset.identities.tolist()) == {"caf\\xe9", "a\nb", "c"}
        assert all(Path(path).exists() for path in dataset.paths)
