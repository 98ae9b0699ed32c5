"""A family that is made of another one is there with all that belongs to it, or can be made again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sfsc import Config, Family, SfscError
from sfsc.files.writing import write_json
from sfsc.runs.description import holds_family
from sfsc.training.config import read_config
from sfsc.training.derived import check_folder, save_derived
from tests.cutting import cuts

WIDTHS = (0.5, 1.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The run folder of a family of one width, with a list of images."""
    run = tmp_path / "run"
    settings = {"dataset": "folder:images", "backbone": "small", "widths": (1.0,), "image_size": (32, 32)}
    write_json(run / "config.json", Config.make(settings).model_dump(mode="json"))
    for name in ("environment.json", "images.json"):
        write_json(run / name, {})
    return run


def test_wherever_it_is_cut_it_is_whole_or_made_again(run: Path, tmp_path: Path) -> None:
    out, family = tmp_path / "out", Family.create("small", WIDTHS, 8, (32, 32)).eval()
    seen = []
    for _ in cuts(lambda: shutil.rmtree(out, ignore_errors=True), lambda: save_derived(family, run, out)):
        seen.append(holds_family(out))
        if not seen[-1]:
            check_folder(run, out, WIDTHS)
        elif seen.count(True) == 1:  # later ones hold no less
            assert Family.load(out).fingerprint == family.fingerprint
            assert read_config(out).widths == WIDTHS
            assert {"environment.json", "images.json"} < {path.name for path in out.iterdir()}
            with pytest.raises(SfscError, match="already contains a run: choose another folder"):
                check_folder(run, out, WIDTHS)
    assert seen == sorted(seen)
    assert {*seen} == {False, True}


def test_a_folder_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    check_folder(run, tmp_path / "new", WIDTHS)
    for folder in (run, tmp_path / "other"):
        write_json(folder / "config.json", read_config(run).model_dump(mode="json"))
        with pytest.raises(SfscError, match=f"{folder} already contains a run"):
            check_folder(run, folder, WIDTHS)


def test_extra_steps_stay_those_of_their_widths(run: Path, tmp_path: Path) -> None:
    """The settings of a family with further widths are read again, with steps for each narrow width."""
    settings = read_config(run).model_copy(update={"widths": (0.25, 0.75, 1.0), "extra_steps": (5, 2)})
    write_json(run / "config.json", settings.model_dump(mode="json"))
    family = Family.create("small", (0.25, 0.5, 0.75, 0.9, 1.0), 8, (32, 32)).eval()
    save_derived(family, run, tmp_path / "out")
    assert read_config(tmp_path / "out").extra_steps == (5, 0, 2, 0)
