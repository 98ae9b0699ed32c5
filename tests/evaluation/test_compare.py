"""Comparing recipes: what is trained, what is not trained again, what the tables say."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfsc.evaluation.compare
from sfsc import Family, SfscError, evaluate, open_dataset
from sfsc.evaluation.compare import Comparison, Contestant, ablation, compare, folder_of, mean_and_deviation
from sfsc.evaluation.old import open_member
from sfsc.report.comparison import all_tables, old_tests, write_comparison
from sfsc.retrieval.matrix import METRICS, CompatibilityMatrix
from sfsc.training.config import Config

RECIPES: dict[str, Any] = {"unified": None, "sfsc": None, "aligned": {"recipe": "sfsc", "alignment": 2.0}}

QUERIES = (1_000, 4_000)  # multiply-adds


def settings(shapes: str) -> dict[str, Any]:
    return {
        "dataset": shapes,
        "backbone": "small",
        "widths": [0.5, 1.0],
        "image_size": [32, 32],
        "embedding_dim": 8,
        "epochs": 1,
        "identities_per_batch": 4,
        "images_per_identity": 3,
        "workers": 0,
    }


@pytest.fixture(scope="module")
def done(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    out = tmp_path_factory.mktemp("comparison")
    return compare(settings(shapes), RECIPES, 2, out), out


def test_every_recipe_and_seed_is_a_run(done: tuple[Comparison, Path]) -> None:
    comparison, out = done
    for name in RECIPES:
        for seed in (0, 1):
            run = folder_of(out, name, seed)
            assert json.loads((run / "config.json").read_text())["seed"] == seed
            assert (run / "evaluation.json").exists()
            assert (run / "calibrated" / "evaluation.json").exists() is (name != "unified")
    stored = json.loads((out / "comparison.json").read_text())
    assert [contestant["name"] for contestant in stored["contestants"]] == list(RECIPES)
    unified, paper, aligned = comparison.contestants
    assert (unified.galleries, paper.galleries) == (2, 1)
    assert unified.parameters > paper.parameters
    assert unified.multiply_adds == paper.multiply_adds > 0
    assert (len(unified.calibrated), len(aligned.calibrated)) == (0, 2)
    assert unified.target == {}
    assert [len(matrices) for matrices in aligned.target.values()] == [2, 2, 2]
    assert not np.array_equal(paper.matrices[0].metrics["mAP"], paper.matrices[1].metrics["mAP"])


def test_what_is_finished_is_not_done_again(
    done: tuple[Comparison, Path], shapes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, out = done
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name.startswith("family")}

    def refuse(*_: object) -> None:
        raise AssertionError("tested again")

    for name in ("evaluate", "embed_all", "evaluate_images"):
        monkeypatch.setattr(sfsc.evaluation.compare, name, refuse)
    again = compare(settings(shapes), RECIPES, 2, out)
    assert again.to_json() == comparison.to_json()
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_folder_of_other_settings_is_refused(done: tuple[Comparison, Path], shapes: str) -> None:
    with pytest.raises(SfscError, match="was started with epochs 1, not 2"):
        compare({**settings(shapes), "epochs": 2}, RECIPES, 1, done[1])


def test_a_wrong_recipe_is_refused_before_anything_is_trained(shapes: str, tmp_path: Path) -> None:
    for recipes, reason in (
        ({"sfsc": None, "magic": None}, "unknown recipe 'magic'"),
        ({}, "needs at least one recipe"),
    ):
        with pytest.raises(SfscError, match=reason):
            compare(settings(shapes), recipes, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_page_tables_and_figures_show_every_recipe(done: tuple[Comparison, Path]) -> None:
    comparison, out = done
    page = write_comparison(comparison, out).read_text()
    tables = (out / "comparison.md").read_text()
    for contestant in comparison.contestants:
        assert contestant.name in page
        assert contestant.name in tables
    assert tables.count("| target images |") == 2
    assert (out / "accuracy.png").stat().st_size > 1000
    for contestant in comparison.contestants:
        assert len(contestant.query_multiply_adds) == 2
        assert (folder_of(out, contestant.name, 0).parent / "matrix.png").stat().st_size > 1000
        run = folder_of(out, contestant.name, 0)
        assert {file.name for file in run.glob("*.png")} >= {"matrix.png", "accuracy.png"}
    assert page.count("<svg") == 4
    assert "http://" not in page.replace("http://www.w3.org", "")


def matrix(values: list[list[float]]) -> CompatibilityMatrix:
    return CompatibilityMatrix((0.5, 1.0), dict.fromkeys(METRICS, np.array(values)), 10, 0, 10)


def test_tables_hold_means_and_deviations() -> None:
    matrices = (matrix([[0.5, 0.6], [0.4, 0.7]]), matrix([[0.7, 0.8], [0.8, 0.9]]))
    contestant = Contestant("sfsc", {}, matrices, (), {}, 3e12, QUERIES, 90.0, 1_500_000, 1)
    tables = all_tables(Comparison({"dataset": "x"}, 2, (contestant,)))
    assert tables["Recipes"][1] == [
        *("sfsc", "70.0 ± 14.1", "65.0 ± 21.2", "70.0 ± 14.1", "80.0 ± 14.1", "10.0 ± 0.0", "1, 2 of 2"),
    ]
    stored = Comparison({"dataset": "x"}, 2, (contestant,)).to_json()["contestants"][0]
    assert stored["gallery_gain"] == [[pytest.approx(0.1)], [pytest.approx(0.1)]]
    assert tables["Costs"][1] == ["sfsc", "3.0 T", "1.5 min", "1.50 M", "1"]
    block = next(table for caption, table in tables.items() if caption.startswith("mAP"))
    assert block[1:] == [
        ["sfsc", "0.5", "60.0 ± 14.1", "70.0 ± 14.1"],
        ["sfsc", "1", "60.0 ± 28.3", "80.0 ± 14.1"],
    ]
    assert not any("calibration" in caption for caption in tables)


def test_the_old_model_is_a_row_and_a_column_with_the_criterion(shapes: str, tmp_path: Path) -> None:
    old, out = tmp_path / "old", tmp_path / "out"
    Family.create("small", (1.0,), 8, (24, 24), seed=1).eval().save(old)
    given = {**settings(shapes), "old": str(old)}
    recipes = {"sfsc": None, "unified": None, "alone": {"recipe": "sfsc", "old": None}}
    comparison = compare(given, recipes, 1, out)
    for contestant in comparison.contestants[:2]:
        run = folder_of(out, contestant.name, 0)
        [tests], stored = contestant.old, json.loads((run / "evaluation.json").read_text())
        assert tests == stored["old"]
        member = open_member(run, Family.load(run), None, None)
        again = evaluate(Family.load(run), open_dataset(shapes), 0, old=member).old
        assert again is not None
        assert tests["column"]["mAP"] == pytest.approx(again.column["mAP"], abs=1e-6)
    assert comparison.contestants[2].old == ()
    table = next(table for name, table in all_tables(comparison).items() if name.startswith("The old model"))
    assert table[0] == ["recipe", "test", "0.5", "1", "old"]
    assert [row[:2] for row in table[1:4]] == [
        ["sfsc", "in the old gallery"],
        ["sfsc", "old queries"],
        ["sfsc", "criterion met, seeds"],
    ]
    assert "The old model" in write_comparison(comparison, out).read_text()
    (run := folder_of(out, "sfsc", 0) / "evaluation.json").write_text(
        json.dumps({name: part for name, part in json.loads(run.read_text()).items() if name != "old"})
    )
    assert compare(given, {"sfsc": None}, 1, out).contestants[0].old == comparison.contestants[0].old


@pytest.mark.parametrize("recipe", ["sfsc", "unified"], ids=["with calibrations", "without"])
def test_a_function_as_the_old_model_must_be_allowed(shapes: str, tmp_path: Path, recipe: str) -> None:
    function = "tests.bridges.test_old:old_function"
    given = {**settings(shapes), "old": f"python:{function}"}
    with pytest.raises(SfscError, match=f"allow it with --allow-code {function}"):
        compare(given, {recipe: None}, 1, tmp_path / "out")
    comparison = compare(given, {recipe: None}, 1, tmp_path / "out", allow_code=function)
    [tests] = comparison.contestants[0].old
    assert tests["name"] == f"python:{function}"
    assert len(tests["criterion"]) == 2


def test_the_old_tests_are_means_over_seeds() -> None:
    seeds = [
        {
            "column": {"mAP": [value, 0.7]},
            "row": {"mAP": [0.4, value]},
            "self_test": {"mAP": 0.6},
            "criterion": [value >= 0.6, True],
        }
        for value in (0.5, 0.7)
    ]
    matrices = (matrix([[0.5, 0.6], [0.4, 0.7]]),) * 2
    contestant = Contestant("sfsc", {}, matrices, (), {}, 3e12, QUERIES, 90.0, 1_500_000, 1, tuple(seeds))
    table = old_tests(Comparison({"dataset": "x"}, 2, (contestant,)))
    assert table[1:] == [
        ["sfsc", "in the old gallery", "60.0 ± 14.1", "70.0 ± 0.0", "60.0 ± 0.0"],
        ["sfsc", "old queries", "40.0 ± 0.0", "60.0 ± 14.1", "60.0 ± 0.0"],
        ["sfsc", "criterion met, seeds", "1 of 2", "2 of 2", ""],
    ]


def test_one_seed_has_no_deviation() -> None:
    mean, deviation = mean_and_deviation([np.array([1.0, 2.0])])
    assert mean.tolist() == [1, 2]
    assert np.isnan(deviation).all()
    one = Contestant(
        "sfsc", {}, (matrix([[0.5, 0.6], [0.4, 0.7]]),), (), {}, 3e12, QUERIES, 90.0, 1_500_000, 1
    )
    assert all_tables(Comparison({"dataset": "x"}, 1, (one,)))["Recipes"][1][1] == "60.0"


def test_the_ablation_is_the_whole_grid() -> None:
    methods = [
        (config.granularity if config.method.aggregation == "projection" else None, config.method)
        for config in (Config.make({"dataset": "x", **changes}) for changes in ablation().values())
    ]
    found = {(method.loss, projection, method.alignment > 0) for projection, method in methods}
    projections = (None, "model", "layer", "tensor")
    assert found == set(product(("cross_entropy", "evidential"), projections, (False, True)))
    assert len(methods) == len(found) == 16
    assert all((method.asymmetric > 0) == (method.alignment > 0) for _, method in methods)
