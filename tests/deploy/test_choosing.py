"""Choosing: the most accurate that keeps to the limits, or what comes nearest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sfsc import SfscError
from sfsc.deploy.choosing import Limits, choose
from sfsc.deploy.profile import Measured, Profile, file_digest
from sfsc.files.writing import write_json
from sfsc.report.result_figures import draw_profile

# By name: bytes of the file and at the peak, milliseconds, mAP.
FIGURES = {
    "0.5 torch": (0, 200e6, 9.0, 0.50),
    "0.5 float32": (400, 30e6, 4.0, 0.50),
    "0.5 int8": (100, 20e6, 3.0, 0.48),
    "1 torch": (0, 250e6, 20.0, 0.60),
    "1 float32": (1600, 70e6, 12.0, 0.60),
    "1 int8": (400, 40e6, 8.0, 0.60),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with files of those sizes and their profile."""
    write_json(tmp_path / "family.json", {"fingerprint": "f", "widths": [0.5, 1.0]})
    (tmp_path / "export").mkdir()
    rows = []
    for name, (size, memory, milliseconds, accuracy) in FIGURES.items():
        width, label = name.split()
        file = None if label == "torch" else f"export/{width}-{label}.onnx"
        if file:
            (tmp_path / file).write_bytes(bytes(size))
        runtime, form = ("torch", "float32") if label == "torch" else ("onnx", label)
        digest = file_digest(tmp_path / file) if file else None
        times = {"p50": milliseconds / 2000, "p95": milliseconds / 1000, "throughput": 100.0}
        sizes = {"size": size if file else None, "parameters": 10, "multiply_adds": 20, "memory": int(memory)}
        rows.append(Measured(float(width), runtime, form, file, digest, **sizes, **times, accuracy=accuracy))
    Profile("f", "csv:x", 1, tuple(rows)).write(tmp_path)
    return tmp_path


def test_accuracies_on_another_data_set_are_chosen_by_their_name(run: Path) -> None:
    """There the narrow sub-model is the better one; the run's own profile stays as it is."""
    own = Profile.read(run)
    rows = tuple(replace(row, accuracy=1 - (row.accuracy or 0)) for row in own.rows)
    with pytest.raises(SfscError, match=r"sfsc profile .* --dataset csv:y`"):
        choose(run, Limits(), "csv:y")
    file = Profile("f", "csv:y", 1, rows).write(run).parent
    assert file.parent == run / "evaluations"
    assert Profile.read(run) == own
    assert choose(run, Limits()).name == "1 int8"
    assert choose(run, Limits(), "csv:y").name == "0.5 int8"


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(), "1 int8"),  # as accurate as float32, but faster
        (Limits(latency=0.008), "1 int8"),
        (Limits(latency=0.0079), "0.5 float32"),
        (Limits(latency=0.1, memory=25e6), "0.5 int8"),
        (Limits(size=399), "0.5 int8"),
        (Limits(latency=0.012, memory=70e6, size=1600, accuracy=0.6), "1 int8"),
    ],
)
def test_the_most_accurate_that_fits(run: Path, limits: Limits, name: str) -> None:
    assert choose(run, limits).name == name


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(latency=0.002), "the closest is 0.5 int8 with p95 3.00 ms instead of 2.00 ms"),
        (
            Limits(memory=10e6, size=99, accuracy=0.4),
            "0.5 int8 with memory 20.0 MB instead of 10.0 MB, file 100 B instead of 99.0 B",
        ),
        (Limits(accuracy=0.75), "the closest is 1 float32 with mAP 0.6 instead of 0.75"),
    ],
)
def test_what_comes_nearest_is_named(run: Path, limits: Limits, message: str) -> None:
    with pytest.raises(SfscError) as caught:
        choose(run, limits)
    assert str(caught.value).startswith("no sub-model is within the limits: ")
    assert str(caught.value).endswith(message)


def change(run: Path, **changes: object) -> None:
    content = json.loads((run / "profile.json").read_text())
    write_json(run / "profile.json", content | changes)


def test_no_figure_of_another_profile_stays(run: Path) -> None:
    assert draw_profile(Profile.read(run), run) == [run / "profile.png"]
    rows = tuple(replace(row, accuracy=None) for row in Profile.read(run).rows)
    bare = Profile("f", None, 1, rows)
    assert bare.write(run) == run / "profile.json"
    assert draw_profile(bare, run) == []
    assert not (run / "profile.png").exists()


def test_a_profile_that_does_not_hold_is_refused(run: Path) -> None:
    (run / "export" / "1-int8.onnx").write_bytes(b"other")
    with pytest.raises(SfscError, match=r"1-int8\.onnx has changed since it was measured: run `sfsc profile"):
        choose(run, Limits())
    rows = [row | {"accuracy": None} for row in json.loads((run / "profile.json").read_text())["rows"]]
    change(run, rows=rows)
    with pytest.raises(SfscError, match=r"no sub-model of .* has an mAP: run `sfsc profile"):
        choose(run, Limits())
    change(run, fingerprint="g")
    with pytest.raises(SfscError, match=r"profile\.json belongs to another family: run `sfsc profile"):
        choose(run, Limits())
    change(run, rows=[{"colour": "red"}])
    with pytest.raises(SfscError, match=r"profile\.json is damaged: run `sfsc profile .*` again"):
        choose(run, Limits())
    (run / "profile.json").unlink()
    with pytest.raises(SfscError, match=rf"{run} has no profile\.json: run `sfsc profile {run}`"):
        choose(run, Limits())
