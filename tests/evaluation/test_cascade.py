"""A cascade in evaluation and in a search: against plain loops over single queries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sfsc
from sfsc.cli import app
from sfsc.data import Dataset, open_dataset
from sfsc.decisions.pair import Pair
from sfsc.decisions.thresholds import THRESHOLDS_FILE, Thresholds
from sfsc.errors import SfscError
from sfsc.evaluation.cascade import LIMITS, evaluate_cascade
from sfsc.evaluation.evaluate import evaluate
from sfsc.evaluation.thresholds import fit_thresholds
from sfsc.family.family import Family
from sfsc.retrieval.metrics import average_precision
from sfsc.retrieval.ranking import positive_ranks
from sfsc.runs.results import read_result
from tests.decisions.pairs import FINGERPRINT, example, example_map
from tests.retrieval.retrieval_cases import kept, random_case

COSTS = {0.25: 5, 0.5: 20, 1.0: 100}


@pytest.mark.parametrize("seed", range(3))
def test_each_query_is_answered_by_the_first_width_that_is_sure(seed: int) -> None:
    cases = {width: random_case(seed, queries=40) for width in COSTS}
    rng = np.random.default_rng(seed)
    for width, case in cases.items():
        noisy = case.query_embeddings + (1 - width) * 0.2 * rng.standard_normal((40, 16))
        unit = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
        cases[width] = case._replace(query_embeddings=unit.astype(np.float32))
    case, maps = cases[1.0], {Pair(w, 1.0, "float32", 16): example_map(0.1 * w) for w in COSTS}
    thresholds = Thresholds(FINGERPRINT, "csv:x.csv", 9, 3, maps)
    queries = {width: one.query_embeddings for width, one in cases.items()}
    found = evaluate_cascade(queries, case.gallery_embeddings, case.query, case.gallery, COSTS, thresholds)
    ranks = {width: positive_ranks(*one) for width, one in cases.items()}
    for line in found["limits"]:
        answered, precisions, costs = [], [], []
        for query in range(40):
            cost = 0
            for width, one in cases.items():
                cost += COSTS[width]
                allowed = case.gallery_embeddings[kept(one, query)]
                first = float((allowed @ one.query_embeddings[query]).max())
                probability = maps[Pair(width, 1.0, "float32", 16)].probability(
                    first, len(case.gallery_embeddings)
                )
                if probability >= line["limit"]:
                    break
            answered.append(width)
            costs.append(cost)
            if len(ranks[width][query]):
                precisions.append(average_precision(ranks[width][query]))
        assert line["mAP"] == pytest.approx(np.mean(precisions))
        assert line["multiply_adds"] == pytest.approx(np.mean(costs))
        assert line["shares"] == pytest.approx([answered.count(width) / 40 for width in COSTS])
    assert [line["limit"] for line in found["limits"]] == [*LIMITS]
    assert found["limits"][0]["multiply_adds"] < found["limits"][-1]["multiply_adds"]
    assert [one["multiply_adds"] for one in found["alone"]] == [5, 20, 100]


@pytest.fixture(scope="module")
def dataset(shapes: str) -> Dataset:
    return open_dataset(shapes)


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a family, its thresholds and a gallery of the full sub-model."""
    run = tmp_path_factory.mktemp("cascade") / "run"
    family = Family.create("small", (0.25, 0.5, 1.0), 16, (32, 32), seed=0).eval()
    family.save(run)
    (run / "config.json").write_text(json.dumps({"dataset": dataset.source}))
    fit_thresholds(family, dataset, workers=0).save(run / THRESHOLDS_FILE)
    with sfsc.Gallery.open(run / "gallery", create=True) as gallery:
        sfsc.index(family, dataset.source, gallery, 1.0)
    return run


def test_a_cascade_is_part_of_an_evaluation(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    result = evaluate(Family.load(run), dataset, workers=0, cascade="0.25,1")
    content = read_result(result.write_into(tmp_path))["cascade"]
    assert content["widths"] == [0.25, 1.0]
    column = [row[-1] for row in result.matrix.metrics["mAP"].tolist()]
    assert [one["mAP"] for one in content["alone"]] == [column[0], column[-1]]


@pytest.mark.parametrize("sure", [0.0, 0.6, 1.0])
def test_a_search_stops_where_it_is_sure(run: Path, dataset: Dataset, sure: float) -> None:
    family, widths = Family.load(run), (0.25, 0.5, 1.0)
    with sfsc.Gallery.open(run / "gallery") as gallery:
        for path in dataset.query.paths[:5]:
            answers = {width: sfsc.search(family, path, gallery, width) for width in widths}
            stops = [width for width in widths if (answers[width][0].probability or 0) >= sure]
            wanted = (stops or [1.0])[0]
            assert sfsc.search_cascade(family, path, gallery, widths, sure) == (answers[wanted], wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cascade", "1"], "needs at least two widths"),
        (["--cascade", "0.25,0.5"], "end in 1.0"),
        (["--cascade", "0.3,1"], "0.3"),
        (["--cascade", "0.25,1", "--sure", "2"], "between 0 and 1, not 2"),
        (["--cascade", "0.25,1", "--width", "1"], "leave out --width"),
    ],
)
def test_other_cascades_are_refused(run: Path, dataset: Dataset, options: list[str], message: str) -> None:
    words = ["search", str(run), dataset.query.paths[0], "--gallery", str(run / "gallery"), *options]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, SfscError)
    assert message in str(done.exception)


def test_the_command_names_the_width_that_answered(run: Path, dataset: Dataset) -> None:
    words = ["search", str(run), dataset.query.paths[0], "--gallery", str(run / "gallery")]
    done = CliRunner().invoke(app, [*words, "--cascade", "0.25,1", "--sure", "0"])
    assert "answered by width 0.25" in done.output


def test_a_family_without_thresholds_cannot_decide(dataset: Dataset) -> None:
    family = Family.create("small", (0.5, 1.0), 16, (32, 32), seed=0).eval()
    with pytest.raises(SfscError, match="fit them with `sfsc thresholds RUN`"):
        evaluate(family, dataset, cascade="0.5,1")


def test_thresholds_of_another_family_do_not_decide(run: Path, dataset: Dataset) -> None:
    family = Family.load(run)
    family.thresholds = example()
    with pytest.raises(SfscError, match=f"thresholds are of the family {FINGERPRINT}"):
        evaluate(family, dataset, cascade="0.25,1")
