"""Profiles: every sub-model in every form is measured, with torch and without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfsc import Family, SfscError, evaluate, open_dataset
from sfsc.deploy.measuring import Measurement, measure
from sfsc.deploy.profile import Profile
from sfsc.deploy.profiling import profile
from sfsc.files.writing import write_json
from sfsc.report.result_figures import draw_profile
from sfsc.switchable.inspection import inspect
from sfsc.training.config import Config

WIDTHS = (0.5, 1.0)
NAMES = ["0.5 torch", "0.5 float32", "0.5 int8", "1 torch", "1 float32", "1 int8"]


@pytest.fixture(scope="module")
def run(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained run, but with statistics that are not those of the start."""
    run = tmp_path_factory.mktemp("profiled") / "run"
    family = Family.create("small", WIDTHS, 16, (32, 32)).train()
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for width in WIDTHS:
            family.at(width)(images)
    family.eval().save(run)
    write_json(run / "config.json", Config(dataset=shapes, backbone="small").model_dump(mode="json"))
    return run


@pytest.fixture(scope="module")
def found(run: Path) -> Profile:
    """Its profile, which is in the folder from here on."""
    found = profile(run, seconds=0)
    assert found.write(run) == run / "profile.json"
    return found


def test_every_sub_model_is_measured_in_every_form(run: Path, found: Profile, shapes: str) -> None:
    assert [row.name for row in found.rows] == NAMES
    assert (found.dataset, found.threads) == (shapes, 1)
    family = Family.load(run)
    counted = inspect(family, torch.zeros(1, 3, 32, 32))
    matrix = evaluate(family, open_dataset(shapes), 0).matrix.metrics["mAP"]
    for place, row in enumerate(found.rows):
        index = place // 3
        assert (row.parameters, row.multiply_adds) == (
            counted.parameters[index],
            counted.multiply_adds[index],
        )
        assert 0 < row.p50 <= row.p95
        assert row.throughput > 0
        assert row.accuracy is not None
        if row.form == "float32":
            assert row.accuracy == pytest.approx(matrix[index, -1], abs=1e-3)
        if row.runtime == "torch":
            assert (row.file, row.digest, row.size) == (None, None, None)
        else:
            assert row.file == f"export/{row.width:g}{'-int8' if row.form == 'int8' else ''}.onnx"
            assert row.size == (run / row.file).stat().st_size
    assert found.reference == found.rows[3]


def test_what_is_written_is_read(run: Path, found: Profile) -> None:
    assert Profile.read(run) == found
    [figure] = draw_profile(found, run)
    assert figure.stat().st_size > 10_000


def test_what_is_known_is_kept_and_what_is_not_is_made(
    run: Path, found: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accuracy for a file that is the same, a file that is of the family."""
    monkeypatch.setattr("sfsc.deploy.profiling.measure", lambda *_: Measurement(1, 0.1, 0.2, 10.0))
    copy = shutil.copytree(run, tmp_path / "run")
    kept, changed = (copy / "export" / name for name in ("0.5.onnx", "0.5-int8.onnx"))
    (copy / "export" / "1-int8.onnx").write_bytes(b"damaged")
    changed.write_bytes((copy / "export" / "1.onnx").read_bytes())
    stored = Profile.read(copy)
    rows = [replace(row, accuracy=0.125 * place) for place, row in enumerate(stored.rows, 1)]
    replace(stored, rows=tuple(rows)).write(copy)
    before = kept.stat().st_mtime_ns
    again = {row.name: row.accuracy for row in profile(copy, seconds=0).rows}
    assert kept.stat().st_mtime_ns == before
    assert {name: again[name] for name in NAMES if name.endswith(("torch", "float32"))} == {
        "0.5 torch": 0.125,
        "0.5 float32": 0.25,
        "1 torch": 0.5,
        "1 float32": 0.625,
    }
    assert 0 < again["1 int8"] <= 1


def on_a_phone(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line where neither torch nor matplotlib can be imported, in no process of it."""
    absent = folder / "absent"
    absent.mkdir(exist_ok=True)
    for name in ("torch", "matplotlib", "yaml", "kornia", "safetensors"):
        text = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')"
        (absent / f"{name}.py").write_text(text)
    path = os.pathsep.join([str(absent), *(entry for entry in sys.path if entry)])
    words = [sys.executable, "-m", "sfsc", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_a_phone_measures_the_files_that_are_there(run: Path, found: Profile, tmp_path: Path) -> None:
    phone = tmp_path / "phone"
    shutil.copytree(run / "export", phone / "export", ignore=shutil.ignore_patterns("0.5.onnx"))
    for name in ("family.json", "profile.json"):
        shutil.copy(run / name, phone)
    elsewhere = json.loads((phone / "profile.json").read_text()) | {"dataset": "folder:elsewhere"}
    write_json(phone / "profile.json", elsewhere)
    done = on_a_phone(tmp_path, "profile", phone)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"written: {phone / 'profile.json'}\n")
    here = Profile.read(phone)
    assert [row.name for row in here.rows] == ["0.5 int8", "1 float32", "1 int8"]
    known = {row.name: row.accuracy for row in found.rows}
    assert [row.accuracy for row in here.rows] == [known[row.name] for row in here.rows]
    assert here.reference == here.rows[1]
    assert here.dataset == "folder:elsewhere"
    chosen = on_a_phone(tmp_path, "choose", phone)
    assert (chosen.returncode, chosen.stderr) == (0, "")
    assert f"chosen: {phone / 'export'}" in chosen.stdout


@pytest.mark.slow
def test_a_phone_tests_too_where_the_data_set_is(
    run: Path, found: Profile, shapes: str, tmp_path: Path
) -> None:
    phone = tmp_path / "phone"
    shutil.copytree(run / "export", phone / "export", ignore=shutil.ignore_patterns("0.5*", "1-int8*"))
    shutil.copy(run / "family.json", phone)
    done = on_a_phone(tmp_path, "profile", phone)
    assert done.returncode == 0, done.stderr
    assert [row.accuracy for row in Profile.read(phone).rows] == [None]
    assert "mAP: not known" in done.stdout
    done = on_a_phone(tmp_path, "profile", phone, "--dataset", shapes)
    assert done.returncode == 0, done.stderr
    assert [row.accuracy for row in Profile.read(phone).rows] == [found.rows[4].accuracy]


def test_what_a_phone_cannot_measure_is_named(run: Path, found: Profile, tmp_path: Path) -> None:
    phone = tmp_path / "phone"
    phone.mkdir()
    description = json.loads((run / "family.json").read_text())
    write_json(phone / "family.json", description | {"fingerprint": "other"})
    with pytest.raises(
        SfscError, match=r"phone/export contains no sub-model: run `sfsc export .*phone` where"
    ):
        profile(phone, seconds=0)
    shutil.copytree(run / "export", phone / "export")
    with pytest.raises(
        SfscError, match=r"0\.5\.onnx does not belong to the family of .*phone: run `sfsc export"
    ):
        profile(phone, seconds=0)
    with pytest.raises(SfscError, match="'magic:x' is not a data set"):
        profile(run, "magic:x", seconds=0)


def test_memory_is_that_of_the_model_alone(run: Path, found: Profile) -> None:
    """Not what this process, from which the other is started, had before."""
    here = np.ones(300_000_000, np.uint8)
    measured = measure(run / "export" / "1.onnx", 1.0, 1, 0)
    assert len(here) > 200_000_000 > measured.memory > 1_000_000


def test_a_measurement_that_fails_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        SfscError, match=r"none\.onnx cannot be measured at width 1: cannot read .*none\.onnx"
    ):
        measure(tmp_path / "none.onnx", 1.0, 1, 0)
