"""Re-identification sets as they are shipped, packed again and unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfsc.data import open_dataset
from sfsc.errors import SfscError
from tests.data.folders import touch

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000301_01.jpg", "0007_c3s3_077419_03.jpg"],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c6s4_000001_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "0000_c4s1_000151_01.jpg",
        "0001_c2s1_001051_00.jpg",
        "0003_c1s4_000001_00.jpg",
        "Thumbs.db",
    ],
}


def write_market(root: Path) -> None:
    touch(*(root / folder / name for folder, names in MARKET.items() for name in names))


class TestMarket1501:
    def test_junk_is_dropped_and_distractors_stay_in_the_gallery(self, tmp_path: Path) -> None:
        write_market(tmp_path)
        dataset = open_dataset(f"market1501:{tmp_path}")
        assert [len(part) for part in (dataset.train, dataset.query, dataset.gallery)] == [3, 2, 3]
        assert "-1" not in dataset.identities
        assert dataset.gallery.identities.tolist() == ["0000", "0001", "0003"]
        assert dataset.gallery.cameras is not None
        assert dataset.gallery.cameras.tolist() == ["c4", "c2", "c1"]
        assert "0000" not in dataset.query.identities
        assert dataset.image_size == (256, 128)

    def test_a_name_that_does_not_parse_is_named(self, tmp_path: Path) -> None:
        write_market(tmp_path)
        touch(tmp_path / "query" / "holiday.jpg")
        with pytest.raises(SfscError, match=r"holiday\.jpg"):
            open_dataset(f"market1501:{tmp_path}")

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        touch(tmp_path / "bounding_box_train" / "0002_c1s1_000451_03.jpg")
        with pytest.raises(SfscError, match="query is missing"):
            open_dataset(f"market1501:{tmp_path}")


def write_veri(root: Path) -> None:
    files = {
        "image_train": ["0002_c002_00030600_0.jpg", "0003_c001_00030600_1.jpg"],
        "image_query": ["0005_c003_00078120_0.jpg"],
        "image_test": ["0005_c004_00078120_0.jpg", "0006_c004_00078121_0.jpg"],
    }
    touch(*(root / folder / name for folder, names in files.items() for name in names))


def write_msmt(root: Path, folders: tuple[str, str] = ("train", "test")) -> None:
    lists = {
        "list_train.txt": (folders[0], ["0000/0000_000_01_0303morning_0015_0.jpg 0"]),
        "list_val.txt": (folders[0], ["0001/0001_000_05_0303noon_0034_1.jpg 1"]),
        "list_query.txt": (folders[1], ["0000/0000_000_02_0303morning_0015_0.jpg 0"]),
        "list_gallery.txt": (folders[1], ["0000/0000_001_14_0303morning_0015_0.jpg 0"]),
    }
    for name, (folder, lines) in lists.items():
        touch(*(root / folder / line.split(" ")[0] for line in lines))
        (root / name).write_text("\n".join(lines) + "\n")


class TestVehicles:
    def test_names_say_identity_and_camera(self, tmp_path: Path) -> None:
        write_veri(tmp_path)
        dataset = open_dataset(f"veri776:{tmp_path}")
        assert [len(part) for part in (dataset.train, dataset.query, dataset.gallery)] == [2, 1, 2]
        assert dataset.gallery.identities.tolist() == ["0005", "0006"]
        assert dataset.query.cameras is not None
        assert dataset.query.cameras.tolist() == ["c003"]

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SfscError, match=r"image_train is missing: VeRi-776 has the folders"):
            open_dataset(f"veri776:{tmp_path}")


class TestMsmt17:
    @pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
    def test_lists_say_what_is_where(self, tmp_path: Path, folders: tuple[str, str]) -> None:
        write_msmt(tmp_path, folders)
        dataset = open_dataset(f"msmt17:{tmp_path}")
        assert dataset.train.identities.tolist() == ["train/0000", "train/0001"]
        assert dataset.gallery.identities.tolist() == dataset.query.identities.tolist() == ["test/0000"]
        assert dataset.gallery.cameras is not None
        assert dataset.gallery.cameras.tolist() == ["14"]
        assert all(Path(path).exists() for path in dataset.paths)

    def test_what_is_wrong_is_named(self, tmp_path: Path) -> None:
        write_msmt(tmp_path)
        (tmp_path / "list_query.txt").write_text("somewhere.jpg 0\n")
        with pytest.raises(SfscError, match=r"list_query\.txt, line 1: somewhere\.jpg is not like"):
            open_dataset(f"msmt17:{tmp_path}")
        (tmp_path / "list_val.txt").unlink()
        with pytest.raises(SfscError, match=r"lacks list_val.txt"):
            open_dataset(f"msmt17:{tmp_path}")


class TestAsShipped:
    """What comes out of the archives: lists, folders around them, and what operating systems add."""

    def test_names_of_market_that_end_twice_belong_to_it(self, tmp_path: Path) -> None:
        write_market(tmp_path)
        touch(tmp_path / "query" / "1488_c1s6_023021_00.jpg.jpg", tmp_path / "query" / "Thumbs.db")
        dataset = open_dataset(f"market1501:{tmp_path}")
        assert dataset.query.identities.tolist() == ["0001", "0003", "1488"]

    @pytest.mark.parametrize("around", ["Market-1501-v15.09.15", "Market/Market-1501-v15.09.15"])
    def test_a_folder_around_the_set_is_looked_into(self, tmp_path: Path, around: str) -> None:
        write_market(tmp_path / around)
        touch(tmp_path / "__MACOSX" / around / "bounding_box_train" / "._0002_c1s1_000451_03.jpg")
        assert len(open_dataset(f"market1501:{tmp_path}").train) == 3
        assert len(open_dataset(f"market1501:{tmp_path / around}").train) == 3

    def test_two_copies_are_told_apart(self, tmp_path: Path) -> None:
        write_msmt(tmp_path / "MSMT17_V1")
        write_msmt(tmp_path / "MSMT17_V2", ("mask_train_v2", "mask_test_v2"))
        with pytest.raises(SfscError, match=r"more than once: name .*MSMT17_V1 or .*MSMT17_V2"):
            open_dataset(f"msmt17:{tmp_path}")

    def test_lists_of_veri_say_what_belongs_to_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_veri(tmp_path)
        (tmp_path / "name_train.txt").write_bytes(b"0002_c002_00030600_0.jpg\r\n\r\n")
        (tmp_path / "name_query.txt").write_text("0005_c003_00078120_0.jpg 3 5\n")
        dataset = open_dataset(f"veri776:{tmp_path}")
        assert dataset.paths[0] == str(tmp_path / "image_train" / "0002_c002_00030600_0.jpg")
        assert [len(dataset.part(split)) for split in ("train", "query", "gallery")] == [1, 1, 2]
        (tmp_path / "image_test" / "0006_c004_00078121_0.jpg").unlink()
        (tmp_path / "name_test.txt").write_text("0006_c004_00078121_0.jpg\n")
        assert len(open_dataset(f"veri776:{tmp_path}").gallery) == 1
        first, second = capsys.readouterr().err.splitlines()
        assert "skipped images that name_train.txt does not list: 1, such as /" in first
        assert "images that name_test.txt lists are missing: 1, such as /" in second

    @pytest.mark.parametrize("content", [b"holiday.jpg\n", b"\xff\xfe\n"])
    def test_a_list_that_is_none_is_named(self, tmp_path: Path, content: bytes) -> None:
        write_veri(tmp_path)
        (tmp_path / "name_test.txt").write_bytes(content)
        with pytest.raises(SfscError, match=r"holiday\.jpg: the name is not like|name_test\.txt is not text"):
            open_dataset(f"veri776:{tmp_path}")

    def test_lists_of_msmt_may_have_other_line_ends(self, tmp_path: Path) -> None:
        write_msmt(tmp_path / "MSMT17_V2", ("mask_train_v2", "mask_test_v2"))
        for file in (tmp_path / "MSMT17_V2").glob("*.txt"):
            text = file.read_text()
            file.write_bytes(b"\xef\xbb\xbf" + (text + "\n" + text).replace("\n", "\r\n").encode())
        dataset = open_dataset(f"msmt17:{tmp_path}")
        assert len(dataset.paths) == 4
        assert all(Path(path).exists() for path in dataset.paths)

    def test_msmt_in_the_folders_of_market(self, tmp_path: Path) -> None:
        names = ["bounding_box_train/0000_c1_0000.jpg", "bounding_box_train/0001_c14_0003.jpg"]
        names += ["query/0000_c2_0001.jpg", "bounding_box_test/0000_c3_0002.jpg"]
        touch(*(tmp_path / "MSMT17_V1" / name for name in names))
        dataset = open_dataset(f"msmt17:{tmp_path}")
        assert dataset.identities.tolist() == ["train/0000", "train/0001", "test/0000", "test/0000"]
        assert dataset.cameras is not None
        assert dataset.cameras.tolist() == ["c1", "c14", "c2", "c3"]
