"""Evaluating a family: against what a plain loop finds, and without side effects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfsc.data import Dataset, decode, open_dataset
from sfsc.dimensions import shorten
from sfsc.errors import SfscError
from sfsc.evaluation.evaluate import Evaluation, evaluate
from sfsc.family.family import Family
from sfsc.files.writing import write_json
from sfsc.retrieval.matrix import METRICS, CompatibilityMatrix
from sfsc.runs.results import read_result
from sfsc.switchable.inspection import inspect
from tests.cutting import cuts

WIDTHS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def family() -> Family:
    return Family.create("small", WIDTHS, 16, (32, 32), seed=0).eval()


@pytest.fixture(scope="module")
def dataset(shapes: str) -> Dataset:
    return open_dataset(shapes)


@pytest.fixture(scope="module")
def evaluation(family: Family, dataset: Dataset) -> Evaluation:
    return evaluate(family, dataset, workers=0)


def embed(family: Family, dataset: Dataset, width: float) -> np.ndarray:
    images = np.stack([decode(path, (32, 32)) for path in dataset.query.paths])
    with torch.inference_mode():
        return family.embed(torch.from_numpy(images).permute(0, 3, 1, 2), width).numpy()


def ranking(queries: np.ndarray, items: np.ndarray, dataset: Dataset, row: int) -> list[int]:
    """The allowed items of the test split for one of its own, best first."""
    split = dataset.gallery
    assert split.cameras is not None
    allowed = [
        i
        for i in range(len(split))
        if (split.identities[i], split.cameras[i]) != (split.identities[row], split.cameras[row])
    ]
    return sorted(allowed, key=lambda i: -float(queries[row] @ items[i]))


def naive_precision(found: list[int], dataset: Dataset, row: int) -> float:
    identities = dataset.gallery.identities
    hits = [rank for rank, i in enumerate(found, 1) if identities[i] == identities[row]]
    return float(np.mean([(n + 1) / rank for n, rank in enumerate(hits)]))


@pytest.mark.parametrize(("q", "g"), [(0, 0), (0, 2), (2, 0), (1, 2)])
def test_each_cell_is_the_mean_of_plain_average_precisions(
    family: Family, dataset: Dataset, evaluation: Evaluation, q: int, g: int
) -> None:
    queries, items = (embed(family, dataset, WIDTHS[index]) for index in (q, g))
    found = [ranking(queries, items, dataset, row) for row in range(len(queries))]
    precisions = [naive_precision(found[row], dataset, row) for row in range(len(queries))]
    assert evaluation.matrix.metrics["mAP"][q, g] == pytest.approx(np.mean(precisions), abs=1e-9)
    identities = dataset.gallery.identities
    first = [identities[order[0]] == identities[row] for row, order in enumerate(found)]
    assert evaluation.matrix.metrics["rank-1"][q, g] == pytest.approx(np.mean(first))


def test_shorter_embeddings_are_tested_by_the_dimensions_of_the_family(
    family: Family, dataset: Dataset, evaluation: Evaluation
) -> None:
    whole = evaluation.matrix.metrics["mAP"]
    alone = {
        "dimension": 16,
        "self_tests": whole.diagonal().tolist(),
        "smallest_to_full": whole[0, 2],
    }
    assert evaluation.dimensions == [alone]
    nested = Family.create("small", WIDTHS, 16, (32, 32), seed=0, nested_dims=(4, 8)).eval()
    found = evaluate(nested, dataset, workers=0)
    assert found.matrix.to_json() == evaluation.matrix.to_json()
    assert [test["dimension"] for test in found.dimensions] == [4, 8, 16]
    assert found.dimensions[-1] == alone
    for test in found.dimensions[:-1]:
        short = {width: shorten(embed(family, dataset, width), test["dimension"]) for width in WIDTHS}
        precisions = [
            np.mean(
                [
                    naive_precision(ranking(short[q], short[g], dataset, row), dataset, row)
                    for row in range(len(short[q]))
                ]
            )
            for q, g in ((0.25, 0.25), (0.5, 0.5), (1.0, 1.0), (0.25, 1.0))
        ]
        assert [*test["self_tests"], test["smallest_to_full"]] == pytest.approx(precisions, abs=1e-9)


def test_ranked_lists_are_the_head_of_the_ranking(
    family: Family, dataset: Dataset, evaluation: Evaluation
) -> None:
    queries, items = embed(family, dataset, 0.25), embed(family, dataset, 1.0)
    rankings = evaluation.rankings
    paths = dataset.query.paths
    assert (rankings["query_width"], rankings["gallery_width"]) == (0.25, 1.0)
    assert len(rankings["rows"]) == 12
    assert len({row["query"]["path"] for row in rankings["rows"]}) == 12
    for row in rankings["rows"]:
        place = paths.index(row["query"]["path"])
        order = ranking(queries, items, dataset, place)
        assert [hit["path"] for hit in row["hits"]] == [paths[i] for i in order[:10]]
        assert row["average_precision"] == pytest.approx(naive_precision(order, dataset, place))
        for hit in row["hits"]:
            same = hit["identity"] == row["query"]["identity"]
            assert hit["correct"] == same
            assert not (same and hit["camera"] == row["query"]["camera"]), "the rule drops this item"
            expected = queries[place] @ items[paths.index(hit["path"])]
            assert hit["score"] == pytest.approx(float(expected), abs=1e-5)


def test_without_cameras_only_the_query_itself_is_dropped(
    family: Family, dataset: Dataset, tmp_path: Path
) -> None:
    test = dataset.query
    lines = [f"{p},{i},test" for p, i in zip(test.paths, test.identities, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["path,identity,split", *lines]) + "\n")
    evaluation = evaluate(family, open_dataset(f"csv:{tmp_path}/t.csv"), workers=0)
    for row in evaluation.rankings["rows"]:
        assert row["query"]["camera"] is None
        assert row["query"]["path"] not in [hit["path"] for hit in row["hits"]]
    assert evaluation.matrix.queries == len(test)
    seen = {hit["path"] for row in evaluation.rankings["rows"] for hit in row["hits"]}
    assert len(seen) > 10


def test_two_evaluations_are_equal(family: Family, dataset: Dataset, evaluation: Evaluation) -> None:
    again = evaluate(family, dataset, workers=2)
    assert again.to_json() == evaluation.to_json()
    assert again.rankings == evaluation.rankings


@pytest.mark.parametrize("training", [True, False])
def test_the_family_is_left_as_it_was(dataset: Dataset, training: bool) -> None:
    family = Family.create("small", WIDTHS, 16, (32, 32), seed=0).train(training)
    before = family.fingerprint
    evaluate(family, dataset, workers=0)
    modes = {module.training for width in WIDTHS for module in family.at(width).modules()}
    assert modes == {training}
    assert family.fingerprint == before, "BatchNorm's statistics are part of the fingerprint"


@pytest.mark.parametrize("training", [True, False])
def test_a_corrupt_test_image_is_named_and_the_mode_restored(
    dataset: Dataset, tmp_path: Path, training: bool
) -> None:
    (tmp_path / "bad.png").write_bytes(Path(dataset.query.paths[0]).read_bytes()[:-20])
    lines = [f"{dataset.query.paths[i]},cat,c{i},test" for i in range(2)] + ["bad.png,cat,c3,test"]
    (tmp_path / "t.csv").write_text("\n".join(["path,identity,camera,split", *lines]) + "\n")
    family = Family.create("small", WIDTHS, 16, (32, 32), seed=0).train(training)
    with pytest.raises(SfscError, match=r"1 of 3 images cannot be read, the first: .*bad\.png: the file is"):
        evaluate(family, open_dataset(f"csv:{tmp_path}/t.csv"), workers=0)
    assert family.training == training
    assert family.at(0.25).training == training


def test_queries_without_a_positive_are_counted_apart(
    family: Family, dataset: Dataset, tmp_path: Path
) -> None:
    test = dataset.query
    rows = [
        f"{test.paths[0]},cat,c0,query",
        f"{test.paths[1]},dog,c0,query",
        f"{test.paths[2]},cat,c1,gallery",
    ]
    (tmp_path / "t.csv").write_text("\n".join(["path,identity,camera,split", *rows]) + "\n")
    evaluation = evaluate(family, open_dataset(f"csv:{tmp_path}/t.csv"), workers=0)
    assert (evaluation.matrix.queries, evaluation.matrix.skipped, evaluation.matrix.gallery) == (1, 1, 1)
    assert [row["query"]["identity"] for row in evaluation.rankings["rows"]] == ["cat"]
    (tmp_path / "t.csv").write_text("\n".join(["path,identity,camera,split", *rows[1:]]) + "\n")
    with pytest.raises(SfscError, match="no query has a positive"):
        evaluate(family, open_dataset(f"csv:{tmp_path}/t.csv"), workers=0)


def test_what_is_written_is_what_was_found(evaluation: Evaluation, family: Family, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    content = json.loads((tmp_path / "evaluation.json").read_text())
    matrix = CompatibilityMatrix.from_json(content)
    assert tuple(content["metrics"]) == METRICS
    assert all(np.array_equal(matrix.metrics[name], evaluation.matrix.metrics[name]) for name in METRICS)
    assert content["criterion"] == evaluation.matrix.criterion().tolist()
    assert content["cells_met"] == np.sum(content["criterion"])
    assert content["parameters"] == [sum(p.numel() for p in family.at(w).parameters()) for w in WIDTHS]
    assert content["parameters"] == sorted(content["parameters"])
    gains = [evaluation.matrix.metrics["mAP"][r, -1] - evaluation.matrix.metrics["mAP"][r, r] for r in (0, 1)]
    assert content["gallery_gain"] == gains[: len(WIDTHS) - 1]
    forward = inspect(family, torch.zeros(1, 3, *family.image_size))
    assert content["multiply_adds"] == [*forward.multiply_adds] == sorted(content["multiply_adds"])
    assert content["fingerprint"] == family.fingerprint
    assert set(METRICS) == set(content["baseline"]) - {"name"}
    assert json.loads((tmp_path / "rankings.json").read_text()) == evaluation.rankings


def test_results_that_are_cut_anywhere_do_not_contradict_each_other(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    """Of what is cut, some of the other files may be missing, but none is of another evaluation."""
    found = {name: replace(evaluation, fingerprint=name, rankings={"of": name}) for name in ("old", "new")}

    def write(name: str) -> None:
        found[name].write_into(tmp_path)
        for figure in ("matrix.png", "accuracy.png"):
            write_json(tmp_path / figure, {"of": name})

    seen = set()
    for _ in cuts(lambda: write("old"), lambda: write("new")):
        name = json.loads((tmp_path / "evaluation.json").read_text())["fingerprint"]
        seen.add(name)
        others = [tmp_path / other for other in ("rankings.json", "matrix.png", "accuracy.png")]
        assert all(json.loads(other.read_text()) == {"of": name} for other in others if other.exists())
    assert seen == {"old", "new"}


def test_the_baseline_needs_no_family(dataset: Dataset, evaluation: Evaluation) -> None:
    other = Family.create("small", (0.5, 1.0), 8, (32, 32), seed=7).eval()
    assert evaluate(other, dataset, workers=0).baseline == evaluation.baseline
    assert 0 < evaluation.baseline.mean_ap <= 1


def test_re_ranking_adds_a_second_matrix_and_changes_nothing_else(
    family: Family, dataset: Dataset, evaluation: Evaluation, tmp_path: Path
) -> None:
    reranked = evaluate(family, dataset, workers=0, rerank="k-reciprocal", rerank_depth=10)
    plain, content = evaluation.to_json(), reranked.to_json()
    added = content.pop("reranked")
    assert content == plain
    assert (added["rule"], added["depth"]) == ("k-reciprocal", 10)
    assert np.shape(added["metrics"]["mAP"]) == (3, 3)
    assert added["metrics"]["mAP"] != plain["metrics"]["mAP"]
    assert read_result(reranked.write_into(tmp_path))["reranked"] == added


def test_tracks_add_a_matrix_and_change_nothing_else(
    family: Family, dataset: Dataset, evaluation: Evaluation, tmp_path: Path
) -> None:
    tracked = evaluate(family, dataset, workers=0, tracks=True)
    plain, content = evaluation.to_json(), tracked.to_json()
    added = content.pop("tracks")
    assert content == plain
    assert dataset.gallery.cameras is not None
    assert added["count"] == len({*zip(dataset.gallery.identities, dataset.gallery.cameras, strict=True)})
    assert np.shape(added["metrics"]["mAP"]) == (3, 3)
    assert added["metrics"]["mAP"] != plain["metrics"]["mAP"]
    assert read_result(tracked.write_into(tmp_path))["tracks"] == added


def test_tracks_without_cameras_are_refused_before_anything_is_embedded(
    family: Family, dataset: Dataset
) -> None:
    with pytest.raises(SfscError, match="the cameras are unknown"):
        evaluate(family, replace(dataset, paths=("no.png",) * len(dataset.paths), cameras=None), tracks=True)


def test_an_unknown_rule_is_refused_before_anything_is_embedded(family: Family, dataset: Dataset) -> None:
    with pytest.raises(SfscError, match="re-ranking 'best' is not one of k-reciprocal, expansion"):
        evaluate(family, dataset, rerank="best")
