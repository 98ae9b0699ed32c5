"""Going on with a run whose data set, or whose place, is no longer what it was."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sfsc.cli import main
from sfsc.data.listing import Listing
from sfsc.data.sources import open_dataset
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.images.reading import write_png
from sfsc.interruption import Stopped
from sfsc.training.config import Config, dataset_of, read_config
from sfsc.training.record import remarks
from sfsc.training.run import train
from sfsc.training.trainer import Training
from tests.conftest import draw

SMALL = {"backbone": "small", "widths": (0.5, 1.0), "image_size": (32, 32), "embedding_dim": 16, "epochs": 2}
BATCHES = {"identities_per_batch": 3, "images_per_identity": 2, "workers": 0, "augment": 0.0}


def config(data: Path | str, **changes: object) -> Config:
    return Config.make({"dataset": f"folder:{data}", **SMALL, **BATCHES, **changes})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "family.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def begin(settings: Config, run: Path) -> None:
    """Train until the third step."""
    write = Training.write

    def told(self: Training, lr: float) -> None:
        write(self, lr)
        if self.last.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "write", told)
        with pytest.raises(Stopped):
            train(settings, run)


def make_folder(folder: Path) -> Path:
    """Six identities, four of them for training, whose images have the same names; one cannot be read."""
    for identity in range(6):
        split = "train" if identity < 4 else "test"
        for take in range(5):
            image = draw(identity, take % 2, take)
            write_png(folder / "data" / split / f"id{identity}" / f"{take}.png", image)
    (folder / "data" / "train" / "id1" / "bad.png").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a run that was finished at once and one that was stopped."""
    folder = make_folder(tmp_path_factory.mktemp("original"))
    train(config(folder / "data", max_corrupt=0.1), folder / "finished")
    begin(config(folder / "data", max_corrupt=0.1), folder / "stopped")
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """A copy of it, whose runs were started where they are."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    for run in ("finished", "stopped"):
        for name in ("config.json", "environment.json"):
            file = tmp_path / run / name
            file.write_text(file.read_text().replace(str(original), str(tmp_path)))
    return tmp_path


def rename_identity(data: Path) -> None:
    (data / "train" / "id0").rename(data / "train" / "zebra")


def add_identity(data: Path) -> None:
    shutil.copytree(data / "test" / "id4", data / "train" / "new")


def remove_identity(data: Path) -> None:
    shutil.rmtree(data / "train" / "id3")


def remove_image(data: Path) -> None:
    (data / "train" / "id2" / "0.png").unlink()


def repair_image(data: Path) -> None:
    shutil.copy(data / "train" / "id1" / "0.png", data / "train" / "id1" / "bad.png")


def replace_image(data: Path) -> None:
    shutil.copy(data / "train" / "id0" / "0.png", data / "train" / "id2" / "0.png")


def swap_images(data: Path) -> None:
    first, second = data / "train" / "id2" / "0.png", data / "train" / "id2" / "1.png"
    first.rename(data / "kept")
    second.rename(first)
    (data / "kept").rename(second)


BY_NAMES = [
    (rename_identity, "renamed: id0 to zebra"),
    (add_identity, "added: new"),
    (remove_identity, "gone: id3"),
    (remove_image, "other images: id2 (5, now 4)"),
]
BY_CONTENTS = [
    (repair_image, "other images: id1 (5, now 6)"),
    (replace_image, "other images: id2"),
    (swap_images, "other images: id2"),
]


@pytest.mark.parametrize(("change", "words"), [*BY_NAMES, *BY_CONTENTS])
def test_a_run_does_not_go_on_with_other_images(
    place: Path, change: Callable[[Path], None], words: str
) -> None:
    change(place / "data")
    before = (place / "stopped" / "images.json").read_bytes()
    line = f"stopped was started with other training images ({words}): restore them"
    with pytest.raises(SfscError, match=re.escape(line)):
        train(config(place / "data", max_corrupt=0.1), place / "stopped", resume=True)
    assert (place / "stopped" / "images.json").read_bytes() == before


@pytest.mark.parametrize(("change", "words"), BY_NAMES)
def test_nor_is_a_finished_run_taken_for_one_of_them(
    place: Path, change: Callable[[Path], None], words: str
) -> None:
    """A comparison loads what is finished: all of its runs must have seen the same images."""
    change(place / "data")
    with pytest.raises(SfscError, match=re.escape(f"other training images ({words})")):
        train(config(place / "data", max_corrupt=0.1), place / "finished", resume=True)


def remove_unreadable(data: Path) -> None:
    (data / "train" / "id1" / "bad.png").unlink()


def rename_images(data: Path) -> None:
    for image in (data / "train" / "id2").iterdir():
        image.rename(image.with_name(f"same-order-{image.name}"))


def change_test(data: Path) -> None:
    (data / "test" / "id5").rename(data / "test" / "other")


@pytest.mark.parametrize("change", [remove_unreadable, rename_images, change_test])
def test_what_does_not_change_the_result_is_allowed(place: Path, change: Callable[[Path], None]) -> None:
    change(place / "data")
    train(config(place / "data", max_corrupt=0.1), place / "stopped", resume=True)
    assert same(place / "stopped", place / "finished")


def test_a_data_set_that_was_moved_is_known_by_its_images(place: Path, capsys: object) -> None:
    (place / "data").rename(place / "moved")
    with pytest.raises(SfscError, match=r"stopped was trained on .*/data, which was found neither"):
        dataset_of(place / "stopped")
    train(config(place / "moved", max_corrupt=0.1), place / "stopped", resume=True)
    assert same(place / "stopped", place / "finished")
    train(config(place / "moved", max_corrupt=0.1), place / "finished", resume=True)
    assert {dataset_of(place / run) for run in ("stopped", "finished")} == {f"folder:{place}/moved"}
    rename_identity(place / "moved")
    (place / "moved").rename(place / "again")
    with pytest.raises(SfscError, match="renamed: id0 to zebra"):
        train(config(place / "again", max_corrupt=0.1), place / "stopped", resume=True)
    assert read_config(place / "stopped").dataset == f"folder:{place}/moved"


def test_what_never_began_starts_with_what_is_there(place: Path) -> None:
    run = place / "stopped"
    (run / "checkpoint.safetensors").unlink()
    add_identity(place / "data")
    train(config(place / "data", max_corrupt=0.1), run, resume=True)
    assert "new" in Listing.read(run / "images.json").identities(["train"])


def test_a_run_that_does_not_know_its_images_goes_on(place: Path) -> None:
    """As runs of earlier versions, which also have relative paths."""
    run = place / "stopped"
    (run / "images.json").unlink()
    for name, entry in (("config.json", {"dataset": "folder:data"}), ("environment.json", {})):
        stored = json.loads((run / name).read_text()) | entry
        stored.pop("started_in", None)
        (run / name).write_text(json.dumps(stored))
    train(config(place / "data", max_corrupt=0.1), run, resume=True)
    assert same(run, place / "finished")
    assert not (run / "images.json").exists()


def test_a_relative_and_an_absolute_path_are_one(
    place: Path, monkeypatch: pytest.MonkeyPatch, original: Path
) -> None:
    run = place / "relative"
    monkeypatch.chdir(place)
    begin(config("data", max_corrupt=0.1), run)
    assert json.loads((run / "config.json").read_text())["dataset"] == f"folder:{place}/data"
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "argv", ["sfsc", "train", "--out", str(run), "--resume"])
    with pytest.raises(SystemExit) as leave:
        main()
    assert not leave.value.code
    assert same(run, original / "finished")
    monkeypatch.chdir(place)
    train(config("data", max_corrupt=0.1), run, resume=True)
    train(config(place / "data", max_corrupt=0.1), run, resume=True)


def test_a_folder_with_a_family_alone_is_not_taken_for_its_training(place: Path) -> None:
    (place / "finished" / "config.json").unlink()
    for resume in (False, True):
        with pytest.raises(SfscError, match="choose another folder"):
            train(config(place / "data"), place / "finished", resume=resume)


def test_weights_are_found_from_another_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    begin(config("data", weights="finished", max_corrupt=0.1), place / "run")
    monkeypatch.chdir("/")
    stored = read_config(place / "run")
    assert stored.weights == str(place / "finished")
    train(stored, place / "run", resume=True)


NETS = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3))
"""


@pytest.mark.slow
def test_the_module_of_a_backbone_is_found_where_python_looks(place: Path) -> None:
    """In processes of their own, for a module that was imported once is always found."""
    allowed = "--allow-code=nets_of_this_test:network"
    (place / "nets_of_this_test.py").write_text(NETS)
    settings = config("data", backbone="python:nets_of_this_test:network", max_corrupt=0.1)
    arguments = [f"--set={n}={json.dumps(v)}" for n, v in settings.model_dump(mode="json").items() if v]
    python = [sys.executable, "-m", "sfsc"]
    path = f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    elsewhere = ["evaluate", place / "run", allowed]
    for command, here in ((["train", *arguments, "--out", "run"], place), (elsewhere, "/")):
        done = subprocess.run(
            [*python, *map(str, command)],
            *(-1, None, None, subprocess.PIPE, subprocess.PIPE),
            cwd=here,
            env=environment,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    (place / "nets_of_this_test.py").rename(place / "gone.py")
    with pytest.raises(SfscError, match=r"no module nets_of_this_test in .*PYTHONPATH"):
        Family.load(place / "run", allow_code="nets_of_this_test:network")


class TestRemarks:
    @pytest.mark.parametrize(("change", "words"), BY_NAMES)
    def test_a_test_says_what_has_changed_in_training(
        self, place: Path, change: Callable[[Path], None], words: str
    ) -> None:
        change(place / "data")
        (remark,) = remarks(place / "finished", open_dataset(f"folder:{place}/data"))
        assert (
            remark
            == f"the training images differ from those that {place}/finished was started with ({words})"
        )

    def test_and_what_has_changed_in_the_test(self, place: Path) -> None:
        assert remarks(place / "finished", open_dataset(f"folder:{place}/data")) == []
        change_test(place / "data")
        (remark,) = remarks(place / "finished", open_dataset(f"folder:{place}/data"))
        assert remark.startswith("the test images differ from those")
        assert "(renamed: id5 to other)" in remark

    def test_above_all_that_it_tests_what_was_trained_on(self, place: Path) -> None:
        (place / "data" / "train" / "id0").rename(place / "data" / "test" / "id0")
        said = remarks(place / "finished", open_dataset(f"folder:{place}/data"))
        assert said[2] == f"test identities that {place}/finished was trained on: id0"

    def test_of_another_data_set_nothing_is_said(self, place: Path) -> None:
        other = make_folder(place / "other") / "data"
        rename_identity(other)
        assert remarks(place / "finished", open_dataset(f"folder:{other}")) == []
