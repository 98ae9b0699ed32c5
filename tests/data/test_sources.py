from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from sfsc.data import Dataset, dataset_sheet, decode, open_dataset, summarise, write_png
from sfsc.errors import SfscError
from tests.data.folders import touch


def paint(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full((12, 10, 3), shade, np.uint8))


def write_omniglot(root: Path, alphabets: dict[str, int], drawers: int = 3) -> list[str]:
    """Write characters into `root`, the unpacked archive; their names in the archive."""
    names = [
        f"{root.name}/{alphabet}/character{c:02}/{c:04}_{d:02}.png"
        for alphabet, characters in alphabets.items()
        for c in range(1, characters + 1)
        for d in range(1, drawers + 1)
    ]
    for shade, name in enumerate(names):
        paint(root.parent / name, shade)
    return names


def pack(root: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*")):
            file.write(path, path.relative_to(root.parent))


def identities_of(dataset: Dataset, split: str) -> set[str]:
    return set(dataset.identities[dataset.splits == split].tolist())


class TestOmniglot:
    def test_packed_and_unpacked_are_the_same(self, tmp_path: Path) -> None:
        write_omniglot(tmp_path / "images_background_small1", {"Greek": 4, "Latin": 3})
        (tmp_path / "packed").mkdir()
        archive = tmp_path / "packed" / "images_background_small1.zip"
        pack(tmp_path / "images_background_small1", archive)
        plain, zipped, one = (
            open_dataset(f"omniglot:{path}") for path in (tmp_path, tmp_path / "packed", archive)
        )
        for other in (zipped, one):
            np.testing.assert_array_equal(plain.identities, other.identities)
            np.testing.assert_array_equal(plain.cameras, other.cameras)
            np.testing.assert_array_equal(plain.splits, other.splits)
            for here, there in zip(plain.paths, other.paths, strict=True):
                np.testing.assert_array_equal(decode(here, None), decode(there, None))

    def test_what_stands_in_two_files_is_taken_once(self, tmp_path: Path) -> None:
        write_omniglot(tmp_path / "images_background_small1", {"Greek": 4, "Latin": 3})
        write_omniglot(tmp_path / "images_background_small2", {"Greek": 4, "Tagalog": 2})
        dataset = open_dataset(f"omniglot:{tmp_path}")
        keys = list(zip(dataset.identities.tolist(), np.asarray(dataset.cameras).tolist(), strict=True))
        assert len(keys) == len(set(keys)) == (4 + 3 + 2) * 3

    def test_half_of_each_alphabet_is_held_out(self, tmp_path: Path) -> None:
        write_omniglot(tmp_path / "images_background", {"Greek": 6, "Latin": 8})
        dataset = open_dataset(f"omniglot:{tmp_path}")
        train, test = identities_of(dataset, "train"), identities_of(dataset, "test")
        assert not train & test
        for alphabet, half in (("Greek", 3), ("Latin", 4)):
            assert sum(name.startswith(alphabet) for name in train) == half
            assert sum(name.startswith(alphabet) for name in test) == half
        # numbers of one version can be compared with those of another only while this stays
        greek = {name for name in test if name.startswith("Greek")}
        assert greek == {"Greek/character01", "Greek/character03", "Greek/character06"}

    def test_a_set_lies_at_any_depth_and_beside_what_systems_leave(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_omniglot(tmp_path / "deep" / "images_background", {"Greek": 4})
        pack(tmp_path / "deep" / "images_background", tmp_path / "images_background.zip")
        touch(tmp_path / "._images_background.zip")
        expected = open_dataset(f"omniglot:{tmp_path / 'images_background.zip'}").identities.tolist()
        for root in (tmp_path, tmp_path / "deep", tmp_path / "deep" / "images_background"):
            assert open_dataset(f"omniglot:{root}").identities.tolist() == expected
        assert capsys.readouterr().err == f"omniglot:{tmp_path}: skipped 1 hidden or system entry\n"

    def test_archives_that_were_packed_with_back_slashes_are_read(self, tmp_path: Path) -> None:
        names = write_omniglot(tmp_path / "images_background", {"Greek": 4})
        with zipfile.ZipFile(tmp_path / "images_background_w.zip", "w") as file:
            for name in names:
                file.writestr(name.replace("/", "\\"), (tmp_path / name).read_bytes())
        dataset = open_dataset(f"omniglot:{tmp_path / 'images_background_w.zip'}")
        assert len(dataset.paths) == len(names)
        assert decode(dataset.paths[0], None).shape == (12, 10, 3)

    def test_a_broken_archive_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "images_background.zip").write_bytes(b"PK torn")
        with pytest.raises(SfscError, match=r"images_background\.zip"):
            open_dataset(f"omniglot:{tmp_path}")


class TestCsv:
    def read(self, tmp_path: Path, text: str) -> Dataset:
        path = tmp_path / "images.csv"
        path.write_bytes(text.encode("utf-8-sig"))
        return open_dataset(f"csv:{path}")

    def test_relative_paths_start_at_the_table(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            paint(tmp_path / "in" / f"{name}.png", 7)
        dataset = self.read(
            tmp_path, f"split,identity,path\ntest,ä,in/a.png\ntest,b,{tmp_path / 'in' / 'b.png'}\n"
        )
        assert [decode(path, None).max() for path in dataset.paths] == [7, 7]
        assert dataset.identities.tolist() == ["ä", "b"]
        assert dataset.cameras is None

    def test_a_printed_set_is_short(self, tmp_path: Path) -> None:
        rows = "".join(f"{number}.png,{number % 3},train\n" for number in range(300))
        dataset = self.read(tmp_path, f"path,identity,split\n{rows}")
        assert repr(dataset) == f"Dataset('csv:{tmp_path / 'images.csv'}', 300 images)"
        assert repr(dataset.train) == "Split(300 images, 3 identities)"

    def test_table_without_training_images_can_be_evaluated(self, tmp_path: Path) -> None:
        dataset = self.read(tmp_path, "path,identity,split,camera\na,x,query,1\nb,x,gallery,2\n")
        assert dataset.query.paths == (str(tmp_path / "a"),)
        assert dataset.gallery.cameras is not None
        assert dataset.gallery.cameras.tolist() == ["2"]
        with pytest.raises(SfscError, match=r"csv:.* has no train images"):
            _ = dataset.train

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("path,identity\na,x\n", r"images\.csv, line 1.*'split'"),
            ("path,identity,split\na,x,train\nb,,train\n", r"images\.csv, line 3, column identity"),
            ("path,identity,split\na,x\n", r"images\.csv, line 2, column split"),
            ("path,identity,split\na,x,trian\n", r"line 2, column split: 'trian'.*train, query"),
            ("path,identity,split,camera\na,x,test,\n", r"line 2, column camera"),
            ("path,identity,split\n", "contains no images"),
        ],
    )
    def test_mistakes_are_placed(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(SfscError, match=message):
            self.read(tmp_path, text)

    def test_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SfscError, match=r"a\.csv is not a csv file"):
            open_dataset(f"csv:{tmp_path / 'a.csv'}")


class TestOpenDataset:
    @pytest.mark.parametrize("spec", ["data", "imagenet:data", "folder:", ""])
    def test_unknown_kinds_are_answered_with_the_known(self, spec: str) -> None:
        with pytest.raises(
            SfscError, match="folder, csv, market1501, veri776, msmt17, grocery, omniglot, emoji"
        ):
            open_dataset(spec)

    @pytest.mark.parametrize(
        "kind", ["folder", "csv", "market1501", "veri776", "msmt17", "omniglot", "emoji"]
    )
    def test_missing_path_is_named(self, tmp_path: Path, kind: str) -> None:
        with pytest.raises(SfscError, match="absent"):
            open_dataset(f"{kind}:{tmp_path / 'absent'}")

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.txt")
        with pytest.raises(SfscError, match=r"a\.txt is not a folder"):
            open_dataset(f"folder:{tmp_path / 'a.txt'}")


def make(identities: str, splits: list[str], cameras: str | None = None) -> Dataset:
    return Dataset(
        source="made:up",
        paths=tuple(f"{i}.png" for i in range(len(identities))),
        identities=np.array(list(identities)),
        cameras=None if cameras is None else np.array(list(cameras)),
        splits=np.array(splits),
        image_size=(8, 8),
        mirrors=True,
    )


class TestDataset:
    def test_labels_are_dense_and_sorted_by_identity(self) -> None:
        labels = make("dbbadx", ["train"] * 5 + ["test"]).train.labels()
        assert labels.dtype == np.int64
        assert labels.tolist() == [2, 1, 1, 0, 2]

    def test_test_images_are_query_and_gallery(self) -> None:
        dataset = make("aabb", ["query", "gallery", "test", "test"])
        assert dataset.query.paths == ("0.png", "2.png", "3.png")
        assert dataset.gallery.paths == ("1.png", "2.png", "3.png")

    def test_unknown_split(self) -> None:
        with pytest.raises(SfscError, match="made:up: split 'val'"):
            make("ab", ["train", "val"])

    @pytest.mark.parametrize("split", ["query", "gallery"])
    def test_missing_split_says_what_to_mark(self, split: str) -> None:
        with pytest.raises(SfscError, match=f"made:up has no {split} images.*{split} or test"):
            getattr(make("ab", ["train", "train"]), split)

    def test_select_keeps_all_columns_aligned(self) -> None:
        split = make("abc", ["test"] * 3, "123").query.select(np.array([True, False, True]))
        assert split.paths == ("0.png", "2.png")
        assert split.identities.tolist() == ["a", "c"]
        assert split.cameras is not None
        assert split.cameras.tolist() == ["1", "3"]


def test_summary_counts_each_split_and_camera() -> None:
    rows = summarise(make("aabbc", ["train"] * 4 + ["test"], "11121"))
    assert [tuple(row.values()) for row in rows] == [
        ("train", "all", 4, 2, 2),
        ("train", "1", 3, 2, 1),
        ("train", "2", 1, 1, 1),
        ("test", "all", 1, 1, 1),
        ("test", "1", 1, 1, 1),
    ]


def test_sheet_shows_different_cameras_first(tmp_path: Path) -> None:
    for i, shade in enumerate((10, 60, 110)):
        paint(tmp_path / "in" / f"{i}.png", shade)
    table = tmp_path / "a.csv"
    rows = ["in/0.png,x,test,1", "in/1.png,x,test,1", "in/2.png,x,test,2"]
    table.write_text("\n".join(["path,identity,split,camera", *rows]))
    sheet = dataset_sheet(open_dataset(f"csv:{table}"), images=2)
    solid = {shade for shade in (10, 60, 110) if (sheet == shade).all(axis=2).sum() > 5000}
    assert solid == {10, 110}


def test_sheet_copes_with_long_names_and_no_cameras(tmp_path: Path) -> None:
    for i in range(3):
        paint(tmp_path / ("name" * 20 + str(i)) / "a.png", 100)
    sheet = dataset_sheet(open_dataset(f"folder:{tmp_path}"))
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert (sheet[:, -104:-8] == 100).all(axis=2).sum() == 3 * 96 * 96


class TestResplit:
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Dataset:
        write_omniglot(tmp_path / "images_background_small1", {"Greek": 16, "Latin": 16})
        return open_dataset(f"omniglot:{tmp_path}")

    def test_validation_tests_on_training_identities(self, dataset: Dataset) -> None:
        view = open_dataset(f"validation:{dataset.source}")
        assert identities_of(view, "train") | identities_of(view, "test") == identities_of(dataset, "train")
        assert not identities_of(view, "train") & identities_of(view, "test")
        assert len(identities_of(view, "test")) == 4
        assert view.source == f"validation:{dataset.source}"
        assert set(view.paths) == set(dataset.train.paths)

    def test_half_trains_on_the_first_identities(self, dataset: Dataset) -> None:
        view = open_dataset(f"half:{dataset.source}")
        trained = sorted(identities_of(dataset, "train"))
        assert identities_of(view, "train") == {*trained[: len(trained) // 2]}
        assert identities_of(view, "test") == identities_of(dataset, "test")

    def test_target_takes_its_training_images_from_the_test_identities(self, dataset: Dataset) -> None:
        view = open_dataset(f"target:{dataset.source}")
        assert identities_of(view, "train") | identities_of(view, "test") == identities_of(dataset, "test")
        assert not identities_of(view, "train") & identities_of(view, "test")
        assert len(identities_of(view, "train")) == 3

    def test_they_keep_images_with_their_labels(self, dataset: Dataset) -> None:
        known = dict(zip(dataset.paths, zip(dataset.identities, dataset.cameras, strict=True), strict=True))
        for kind in ("validation", "half", "target"):
            view = open_dataset(f"{kind}:{dataset.source}")
            for path, *labels in zip(view.paths, view.identities, view.cameras, strict=True):
                assert tuple(labels) == known[path]

    @pytest.mark.parametrize("name", ["validation:", "cameras:", "cameras:a/b/c", "cameras:a/b/c:"])
    def test_a_view_of_nothing_is_refused(self, name: str) -> None:
        with pytest.raises(SfscError, match=f"'{name}' is not a data set"):
            open_dataset(name)


class TestCameras:
    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        """Every camera sees a training identity, and test identities as queries, gallery and both."""
        rows = [
            f"{split}{camera}.png,{split},{split.rstrip('s')},{camera}"
            for split in ("train", "trains", "query", "gallery", "test")
            for camera in "abc"
        ]
        path = tmp_path / "images.csv"
        path.write_text("\n".join(["path,identity,split,camera", *rows]))
        return path

    def test_each_part_has_its_own_cameras(self, table: Path) -> None:
        view = open_dataset(f"cameras:a,b/b/c:csv:{table}")
        names = [Path(path).stem for path in view.paths]
        assert dict(zip(names, view.splits.tolist(), strict=True)) == {
            **dict.fromkeys(["traina", "trainb", "trainsa", "trainsb"], "train"),
            **dict.fromkeys(["queryb", "testb"], "query"),
            **dict.fromkeys(["galleryc", "testc"], "gallery"),
        }
        assert not identities_of(view, "train") & (
            identities_of(view, "query") | identities_of(view, "gallery")
        )

    def test_cameras_of_both_parts_see_queries_that_are_gallery_images(self, table: Path) -> None:
        view = open_dataset(f"cameras:a/b,c/c:csv:{table}")
        assert identities_of(view, "test") == {"test"}
        assert [Path(path).stem for path in view.query.paths] == ["queryb", "queryc", "testb", "testc"]
        assert [Path(path).stem for path in view.gallery.paths] == ["galleryc", "testc"]

    def test_all_cameras_are_the_whole_data_set(self, table: Path) -> None:
        whole = open_dataset(f"csv:{table}")
        view = open_dataset(f"cameras:a,b,c/a,b,c/a,b,c:csv:{table}")
        assert (view.paths, view.splits.tolist()) == (whole.paths, whole.splits.tolist())

    def test_views_can_be_combined(self, table: Path) -> None:
        view = open_dataset(f"cameras:a/b/c:target:csv:{table}")
        assert view.source == f"cameras:a/b/c:target:csv:{table}"
        assert set(view.splits.tolist()) <= {"train", "query", "gallery"}

    @pytest.mark.parametrize(
        ("cameras", "message"),
        [
            ("a/b", "name three lists of cameras, as in cameras:c1,c2/c3/c4:KIND:PATH"),
            ("a/b/d", "there is no camera 'd'; the cameras are a, b, c"),
            ("a//c", "there is no camera ''; the cameras are a, b, c"),
        ],
    )
    def test_mistakes_are_named(self, table: Path, cameras: str, message: str) -> None:
        with pytest.raises(SfscError, match=message):
            open_dataset(f"cameras:{cameras}:csv:{table}")

    def test_a_data_set_without_cameras_has_no_such_view(self, tmp_path: Path) -> None:
        (tmp_path / "images.csv").write_text("path,identity,split\na,x,train\n")
        with pytest.raises(SfscError, match=r"images\.csv has no cameras to choose from"):
            open_dataset(f"cameras:a/b/c:csv:{tmp_path / 'images.csv'}")
