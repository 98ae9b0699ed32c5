"""An old model as a row and a column of the matrix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sfsc.data import Dataset, decode, open_dataset
from sfsc.dimensions import shorten
from sfsc.embedding.files import embed
from sfsc.errors import SfscError
from sfsc.evaluation.evaluate import Evaluation, evaluate
from sfsc.evaluation.old import open_member
from sfsc.family.family import Family
from sfsc.files.writing import write_json
from sfsc.report.html import write_report
from sfsc.report.old_tests import with_old
from sfsc.report.terminal import print_evaluation
from sfsc.retrieval.matrix import METRICS, CompatibilityMatrix
from sfsc.retrieval.ranking import evaluate_ranking
from sfsc.runs.results import read_result
from sfsc.training.config import Config
from sfsc.training.run import train
from tests.training.test_run import settings

WIDTHS = (0.5, 1.0)


@pytest.fixture(scope="module")
def family() -> Family:
    return Family.create("small", WIDTHS, 16, (32, 32), seed=0).eval()


@pytest.fixture(scope="module")
def dataset(shapes: str) -> Dataset:
    return open_dataset(shapes)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a family with fewer dimensions and another image size."""
    folder = tmp_path_factory.mktemp("old")
    Family.create("small", (1.0,), 8, (24, 24), seed=1).eval().save(folder)
    return folder


@pytest.fixture(scope="module")
def evaluation(family: Family, dataset: Dataset, old: Path) -> Evaluation:
    member = open_member(old, family, str(old), None)
    return evaluate(family, dataset, workers=0, old=member)


def embedded(family: Family, dataset: Dataset, width: float = 1.0) -> np.ndarray:
    images = np.stack([decode(path, family.image_size) for path in dataset.query.paths])
    return family.embed_pixels(images, width)


def test_each_cell_is_a_test_of_first_components(
    family: Family, dataset: Dataset, old: Path, evaluation: Evaluation
) -> None:
    assert evaluation.old is not None
    by_old = embedded(Family.load(old), dataset)
    for place, width in enumerate(WIDTHS):
        new = shorten(embedded(family, dataset, width), 8)
        for found, pair in ((evaluation.old.column, (new, by_old)), (evaluation.old.row, (by_old, new))):
            expected = evaluate_ranking(*pair, dataset.query, dataset.gallery).metrics
            assert {name: found[name][place] for name in METRICS} == pytest.approx(expected, abs=1e-6)
    itself = evaluate_ranking(by_old, by_old, dataset.query, dataset.gallery).metrics
    assert evaluation.old.self_test == pytest.approx(itself, abs=1e-6)
    assert evaluation.old.criterion() == [
        value >= evaluation.old.self_test["mAP"] for value in evaluation.old.column["mAP"]
    ]


def test_nothing_else_changes(family: Family, dataset: Dataset, evaluation: Evaluation) -> None:
    alone = evaluate(family, dataset, workers=0).to_json()
    assert {key: value for key, value in evaluation.to_json().items() if key != "old"} == alone


def test_the_result_is_read_drawn_and_printed(
    evaluation: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_result(evaluation.write_into(tmp_path))
    assert CompatibilityMatrix.from_json(content).cells == 2  # as earlier versions read it
    assert content["old"]["dimension"] == content["old"]["components"] == 8
    whole = with_old(content, "mAP")
    assert (whole.labels, whole.met) == (["old"], content["old"]["criterion"])
    assert [len(row) for row in whole.values] == [3, 3, 3]
    print_evaluation(content)
    printed = capsys.readouterr().out
    assert f"of 2 widths reach M(old, old) = {100 * content['old']['self_test']['mAP']:.1f}" in printed
    write_json(
        tmp_path / "config.json", {"dataset": content["dataset"], "recipe": "sfsc", "widths": [0.5, 1.0]}
    )
    page = write_report(tmp_path).read_text()
    assert "The old model" in page
    assert '<th scope="col">old</th>' in page


@pytest.mark.parametrize("part", ["column", "criterion", "self_test"])
def test_a_result_whose_parts_do_not_fit_is_refused(
    evaluation: Evaluation, tmp_path: Path, part: str
) -> None:
    path = evaluation.write_into(tmp_path)
    content = json.loads(path.read_text())
    content["old"][part] = {"column": {}, "criterion": [True], "self_test": {}}[part]
    path.write_text(json.dumps(content))
    with pytest.raises(SfscError, match="belong to different sub-models"):
        read_result(path)


def test_a_run_is_evaluated_with_what_it_was_trained_with(
    shapes: str, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old model has more dimensions than the family, so that its rows are projected."""
    wide, run = tmp_path / "wide", tmp_path / "run"
    Family.create("small", (1.0,), 24, (24, 24), seed=1).eval().save(wide)
    family = train(Config.make(settings(shapes, epochs=1, widths=WIDTHS, old=str(wide))), run)
    member = open_member(run, family, None, None)
    assert member is not None
    tests = evaluate(family, dataset, workers=0, old=member).old
    assert tests is not None
    assert (tests.description.dimension, tests.description.components) == (24, 16)
    rows = embedded(Family.load(wide), dataset)
    placed = member.space.place(torch.from_numpy(rows)).numpy()
    expected = evaluate_ranking(embedded(family, dataset), placed, dataset.query, dataset.gallery)
    assert tests.column["mAP"][1] == pytest.approx(expected.mean_ap, abs=1e-6)
    itself = evaluate_ranking(rows, rows, dataset.query, dataset.gallery)
    assert tests.self_test["mAP"] == pytest.approx(itself.mean_ap, abs=1e-6)
    Family.create("small", (1.0,), 24, (24, 24), seed=2).eval().save(wide)
    assert open_member(run, family, None, None) is None
    assert "has changed: restore it, or name another one with --old" in capsys.readouterr().err
    with pytest.raises(SfscError, match="24 dimensions, more than the 16 of"):
        open_member(run, family, str(wide), None)


def test_a_table_must_have_the_test_images(
    family: Family, dataset: Dataset, old: Path, tmp_path: Path
) -> None:
    folder = Path(dataset.query.paths[0]).parent
    embed(Family.load(old), str(folder), tmp_path / "old.npy", workers=0)
    member = open_member(old, family, str(tmp_path / "old.npy"), None)
    assert evaluate(family, dataset, workers=0, old=member).old is not None
    names = (tmp_path / "old.txt").read_text().splitlines()
    np.save(tmp_path / "old.npy", np.load(tmp_path / "old.npy")[:-1])
    (tmp_path / "old.txt").write_text("".join(f"{name}\n" for name in names[:-1]))
    member = open_member(old, family, str(tmp_path / "old.npy"), None)
    with pytest.raises(SfscError, match=r"lacks 1 of 24 images, the first: .*; embed them"):
        evaluate(family, dataset, workers=0, old=member)
