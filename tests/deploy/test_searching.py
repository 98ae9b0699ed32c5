"""Searching: points cost what they are said to cost, the front is one, the winner is within the limits."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from typer.testing import CliRunner

from sfsc import ExportedModel, Family, Limits, SfscError, calibrate
from sfsc.cli import app
from sfsc.deploy.device import FEWEST, Device, Expense, Sample, Samples, fit, left_out_error
from sfsc.deploy.evolution import Candidate, Evolution, pareto
from sfsc.deploy.points import Point, Space
from sfsc.deploy.searching import search
from sfsc.deploy.validation import Validation
from sfsc.embedding.model import same_space
from sfsc.files.writing import write_json
from sfsc.switchable.inspection import count_multiply_adds
from sfsc.training.config import Config
from tests.switchable import networks

SPEED = 1e9  # multiply-adds in a second


def expense(space: Space, point: Point) -> Expense:
    """What a point costs on a device without noise."""
    costs = space.costs(point)
    p50 = 1e-4 + costs.multiply_adds.sum() / SPEED
    return Expense(p50, 1.5 * p50, 1e7 + 4 * costs.weights.sum(), 1e4 + 4 * costs.weights.sum())


@pytest.fixture(scope="module")
def run(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained run, with the measurements of a device without noise."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    family = Family.create("small", (0.25, 1.0), 16, (32, 32)).train()
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for width in family.widths:
            family.at(width)(images)
    family.eval().save(folder)
    write_json(folder / "config.json", Config(dataset=shapes, backbone="small").model_dump(mode="json"))
    space, random = Space(family), np.random.default_rng(0)
    points = [space.drawn(random) for _ in range(20)]
    rows = tuple(Sample(point.ratios, point.size, expense(space, point)) for point in points)
    Samples(family.fingerprint, 1, rows).write(folder)
    return folder


@pytest.fixture(scope="module")
def space(run: Path) -> Space:
    return Space(Family.load(run))


def test_points_cost_what_their_sub_models_do(space: Space) -> None:
    assert space.sizes == [(16, 16), (20, 20), (24, 24), (28, 28), (32, 32)]
    random = np.random.default_rng(1)
    for _ in range(5):
        point = space.drawn(random)
        family, width = space.build(point)
        assert family.image_size_of(width) == point.size
        submodel = family.submodel(width)
        costs = space.costs(point)
        assert costs.multiply_adds.sum() == count_multiply_adds(submodel, torch.zeros(1, 3, *point.size))
        weights = [tensor.numel() for tensor in submodel.parameters() if tensor.ndim > 1]
        assert costs.weights.tolist() == weights


def test_points_have_the_depths_of_trained_sub_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networks", networks)
    space = Space(Family.create("python:networks:Deep", "0.25/0.3,0.5/0.5,1", 8, (32, 32)).eval())
    assert space.depths == [0.3, 0.5, 1.0]
    assert {point.depth for point in space.trained()} == {0.3, 0.5, 1.0}
    random, seen = np.random.default_rng(0), set()
    point = space.uniform(0.5, (32, 32))
    for _ in range(30):
        point = space.mutated(point, random)
        seen.add(point.depth)
        family, width = space.build(point)
        assert family.depth_of(width) == point.depth
        submodel = family.submodel(width)
        costs = space.costs(point)
        assert costs.multiply_adds.sum() == count_multiply_adds(submodel, torch.zeros(1, 3, *point.size))
    assert seen == {0.3, 0.5, 1.0}


def test_equal_sub_models_are_equal_points(space: Space) -> None:
    size = space.sizes[-1]
    assert space.point([0.3, 0.3, 0.33, 0.33, 0.33, 0.29, 0.29], size) == space.uniform(0.29, size)
    assert space.uniform(0.25, size) != space.uniform(0.26, size)
    assert space.trained() == {space.uniform(0.25, size): 0.25, space.uniform(1.0, size): 1.0}


def test_changed_points_stay_within_the_space(space: Space) -> None:
    random = np.random.default_rng(2)
    points = [space.drawn(random) for _ in range(50)]
    changed = [space.mutated(point, random) for point in points]
    crossed = [space.crossed(*pair, random) for pair in zip(points, changed, strict=True)]
    for point in (*points, *changed, *crossed):
        assert point.size in space.sizes
        assert min(point.ratios) >= 0.25
        assert max(point.ratios) <= 1
        assert space.point(point.ratios, point.size) == point
    assert len({*points, *changed}) > 80
    assert len({point.size for point in changed}) == 5


def test_the_width_of_a_point_is_new_and_close_to_one_of_the_same_cost(space: Space) -> None:
    for width in (0.25, 0.4, 0.9, 1.0):
        found = space.width_of(space.uniform(width, space.sizes[0]))
        assert found not in space.family.widths.ratios
        assert 0 < found < 1
        assert found == pytest.approx(width, abs=0.06)
    point = space.uniform(0.4, space.sizes[0])
    added, width = space.build(point)
    assert abs(Space(added).width_of(point) - width) == pytest.approx(0.001), "the next one that is free"


def test_factors_are_the_non_negative_least_squares() -> None:
    random = np.random.default_rng(3)
    features, values = random.uniform(0, 5, (30, 4)), random.uniform(1, 9, 30)
    expected, _ = nnls(features / values[:, None], np.ones(30))
    np.testing.assert_allclose(fit(features, values), expected, rtol=1e-4, atol=1e-9)
    assert (fit(features, values) >= 0).all()
    assert (expected == 0).any()


def test_the_error_is_that_of_samples_that_were_left_out() -> None:
    random = np.random.default_rng(4)
    features = random.uniform(1, 5, (30, 4))
    exact = features @ [1.0, 2.0, 0.0, 3.0]
    assert left_out_error(features, exact) < 1e-6
    noise = random.uniform(1, 9, 30)
    inside = float(np.median(np.abs(features @ fit(features, noise) / noise - 1)))
    assert left_out_error(features, noise) > inside


def test_a_device_predicts_points_that_were_not_measured(run: Path, space: Space) -> None:
    device, random = Device(space, Samples.read(run, space)), np.random.default_rng(5)
    assert device.error < 1e-6
    for point in [space.drawn(random) for _ in range(5)]:
        np.testing.assert_allclose(astuple(device.predict(point)), astuple(expense(space, point)), rtol=1e-4)


def test_a_device_on_which_few_positions_take_longer_is_predicted(run: Path, space: Space) -> None:
    def slow(point: Point) -> Expense:
        costs = space.costs(point)
        factors = np.where(costs.calls <= 16, 3e-9, 1e-9)
        return replace(expense(space, point), p50=float(costs.multiply_adds @ factors))

    samples = Samples.read(run, space)
    rows = tuple(replace(one, expense=slow(one.point)) for one in samples.rows)
    device, random = Device(space, replace(samples, rows=rows)), np.random.default_rng(6)
    for point in [space.drawn(random) for _ in range(5)]:
        assert device.predict(point).p50 == pytest.approx(slow(point).p50, rel=1e-4)


def test_measurements_that_do_not_hold_are_refused(run: Path, space: Space, tmp_path: Path) -> None:
    samples = Samples.read(run, space)
    replace(samples, fingerprint="0123456789abcdef").write(tmp_path)
    with pytest.raises(
        SfscError, match=r"device\.json belongs to another family: remove it to measure again"
    ):
        Samples.read(tmp_path, space)
    derived = space.build(space.uniform(0.5, space.sizes[-1]))[0]
    assert Samples.read(run, Space(derived)) == samples, "widths that were added do not matter"
    stored = json.loads((run / "device.json").read_text())
    for rows in (stored["rows"][: FEWEST - 1], [{"colour": "red"}] * FEWEST):
        write_json(tmp_path / "device.json", stored | {"rows": rows})
        with pytest.raises(SfscError, match=r"device\.json is damaged: remove it to measure again"):
            Samples.read(tmp_path, space)


def candidate(p50: float, accuracy: float) -> Candidate:
    return Candidate(0.5, "0.5", Point((), (1, 1)), False, accuracy, 1, p50, p50, 1.0, 1.0)


def test_nothing_on_the_front_is_beaten() -> None:
    random = np.random.default_rng(6)
    points = [candidate(*pair) for pair in random.integers(0, 10, (60, 2)).tolist()]
    front = pareto(points)
    assert [one.p50 for one in front] == sorted({one.p50 for one in front})
    for one in points:
        beaten = any(a.p50 <= one.p50 and a.accuracy >= one.accuracy for a in front)
        assert beaten or one in front
    for one in front:
        assert not any(a.p50 <= one.p50 and a.accuracy > one.accuracy for a in points)


class Judge:
    """Stands for a validation: wide last groups and large images are accurate, the rest is worth nothing."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def build(self, point: Point) -> tuple[Any, float]:
        return point, 0.5

    def accuracy(self, point: Any, _: float) -> float:
        return sum(point.ratios[-2:]) / 4 + point.size[0] / 64


def evolved(run: Path, space: Space, limits: Limits, evaluations: int = 60) -> list[Candidate]:
    device = Device(space, Samples.read(run, space))
    return Evolution(cast(Validation, Judge(space)), device, limits, 0).run(evaluations)


def test_the_search_finds_what_one_width_everywhere_misses(run: Path, space: Space) -> None:
    limits = Limits(latency=0.012)
    found = evolved(run, space, limits)
    assert found == evolved(run, space, limits), "two searches give the same"
    assert len(found) == len({one.point for one in found}) == 63
    within = [one for one in found if one.p95 <= 0.012]
    assert len(within) >= 61, "only trained sub-models can be beyond the limits"
    best = max(within, key=lambda one: one.accuracy)
    widths = np.linspace(0.25, 1.0, 97)
    uniform = [space.uniform(width, size) for width in widths for size in space.sizes]
    fitting = [point for point in uniform if expense(space, point).p95 <= 0.012]
    assert best.accuracy > max(Judge(space).accuracy(point, 1) for point in fitting)


def test_a_search_ends_where_nothing_is_within_the_limits(run: Path, space: Space) -> None:
    assert len(evolved(run, space, Limits(latency=1e-6))) == 3


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Replaces exporting and measuring; the latter by a time that a test chooses."""

    def use(p50: float) -> None:
        monkeypatch.setattr("sfsc.deploy.searching.export", lambda _, __, out, ___: out.write_bytes(b"x"))
        found = [Expense(p50, p50, 1e7, 1e5)]
        monkeypatch.setattr("sfsc.deploy.searching.measured", lambda _: found)

    return use


def test_the_winner_is_a_sub_model_of_a_new_family(
    run: Path, tmp_path: Path, quick: Callable[[float], None]
) -> None:
    quick(0.001)
    out = tmp_path / "out"
    found = search(run, Limits(latency=0.009), out, 4, workers=0)
    assert (found.winner.p50, found.winner.memory) == (0.001, 1e7), "as measured, not as predicted"
    assert found.file == out / "export" / f"{found.winner.width:g}.onnx"
    assert found.seen
    assert found.dataset.startswith("validation:csv:")
    before, after = Family.load(run), Family.load(out)
    assert same_space(before.fingerprint, after.fingerprint)
    if not found.winner.trained:
        assert after.spec.added == (found.winner.width,)
        assert after.spec.ratios_of(found.winner.width) == found.winner.point.ratios
    with pytest.raises(SfscError, match="choose another folder"):
        search(run, Limits(), out, 1, workers=0)


def test_a_winner_that_is_too_slow_when_measured_is_refused(
    run: Path, quick: Callable[[float], None]
) -> None:
    quick(0.5)
    with pytest.raises(SfscError, match=r"the closest is .* with p95 500 ms instead of 9\.00 ms"):
        search(run, Limits(latency=0.009), None, 2, workers=0)


def test_the_nearest_point_is_named(run: Path) -> None:
    result = CliRunner().invoke(app, ["choose", str(run), "--search", "--latency", "10us"])
    assert isinstance(result.exception, SfscError)
    assert "the closest is 0.282@16 with p95" in str(result.exception)


def test_options_of_the_search_need_it(run: Path) -> None:
    result = CliRunner().invoke(app, ["choose", str(run), "--evaluations", "3"])
    assert "--out and --evaluations belong to --search" in str(result.exception)


def test_runs_without_nested_widths_are_refused(run: Path, tmp_path: Path) -> None:
    calibrate(run, tmp_path / "calibrated", workers=0)
    with pytest.raises(SfscError, match="is calibrated: search in a run"):
        search(tmp_path / "calibrated", Limits())


@pytest.mark.slow
def test_the_command_measures_draws_and_exports(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is real, with the fewest points."""
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "device.json").unlink()
    monkeypatch.setattr("sfsc.deploy.searching.POINTS", FEWEST)
    out = tmp_path / "out"
    words = ["choose", str(copied), "--search", "--evaluations", "3", "--size", "1MB", "--out", str(out)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "median error of p50 on points left out" in result.stdout
    assert (out / "search.png").stat().st_size > 10_000
    [file] = (out / "export").iterdir()
    model, family = ExportedModel.load(file), Family.load(out)
    pixels = np.random.default_rng(0).integers(0, 256, (4, *model.image_size, 3), np.uint8)
    np.testing.assert_allclose(
        model.embed_pixels(pixels), family.embed_pixels(pixels, model.widest), atol=1e-4
    )
    assert file.stat().st_size < 1e6
    assert json.loads((copied / "device.json").read_text())["threads"] == 1
