"""Thresholds of a family: fitted, kept, used by searches, carried by exported files, and evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
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
from sfsc.evaluation.decisions import factor
from sfsc.evaluation.evaluate import evaluate
from sfsc.evaluation.thresholds import fit_thresholds, validation_of
from sfsc.family.family import Family
from sfsc.gallery.deciding import decide
from sfsc.runs.results import read_result
from tests.decisions.pairs import example

WIDTHS = (0.5, 1.0)


@pytest.fixture(scope="module")
def dataset(shapes: str) -> Dataset:
    return open_dataset(shapes)


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a family, its thresholds and a gallery."""
    run = tmp_path_factory.mktemp("fitted") / "run"
    family = Family.create("small", WIDTHS, 16, (32, 32), seed=0, nested_dims=(8,)).eval()
    family.save(run)
    (run / "config.json").write_text(json.dumps({"dataset": dataset.source}))
    fit_thresholds(family, dataset, workers=0).save(run / THRESHOLDS_FILE)
    with sfsc.Gallery.open(run / "gallery", create=True) as gallery:
        sfsc.index(family, dataset.source, gallery, 1.0, form="int8")
    return run


def call(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return (
        (2, str(done.exception)) if isinstance(done.exception, SfscError) else (done.exit_code, done.output)
    )


def test_every_pair_has_a_map(run: Path, dataset: Dataset) -> None:
    thresholds = Thresholds.load(run / THRESHOLDS_FILE)
    expected = {
        Pair(q, g, form, dim)
        for q in WIDTHS
        for g in WIDTHS
        for form in ("float32", "float16", "int8")
        for dim in (8, 16)
    }
    assert set(thresholds.maps) == expected
    assert Family.load(run).thresholds == thresholds
    assert thresholds.images == len(dataset.query)
    assert thresholds.identities == len(set(dataset.query.identities))


def test_hits_carry_the_probability_of_their_own_pair(run: Path, dataset: Dataset) -> None:
    family, gallery = Family.load(run), sfsc.Gallery.open(run / "gallery")
    sfsc.index(family, dataset.source, gallery, 0.5, form="float32")
    try:
        query, rows = dataset.query.paths[0], len(gallery)
        hits = sfsc.search(family, query, gallery, width=0.5, top=rows)
        thresholds = family.thresholds
        assert thresholds is not None
        for hit in hits:
            own = thresholds.of(Pair(0.5, hit.width, hit.form, 16))
            assert hit.probability == pytest.approx(float(own.probability(hit.score, rows)))
            assert hit.match == (hit.probability >= 0.5)
        rate = max(one.smallest_rate for one in thresholds.maps.values())
        matches = sfsc.search(family, query, gallery, width=0.5, top=rows, max_fmr=rate)
        kept = [h for h in hits if h.score >= thresholds.of(Pair(0.5, h.width, h.form, 16)).threshold(rate)]
        assert [hit.id for hit in matches] == [hit.id for hit in kept]
        assert 0 < len(matches) < len(hits)
        assert sfsc.search(family, query, gallery, width=0.5, top=rows, min_probability=1.0) == []
        short = sfsc.search(family, query, gallery, width=0.5, top=1, dimension=8)
        pair = Pair(0.5, short[0].width, short[0].form, 8)
        expected = thresholds.of(pair).probability(short[0].score, rows)
        assert short[0].probability == pytest.approx(float(expected))
    finally:
        sfsc.index(family, dataset.source, gallery, 1.0, form="int8")


def test_the_command_cuts_the_list_down_to_no_match(run: Path, dataset: Dataset) -> None:
    search = ("search", run, dataset.query.paths[0], "--gallery", run / "gallery")
    code, said = call(*search)
    assert (code, "probab" in said) == (0, True)
    code, said = call(*search, "--min-probability", "1")
    assert code == 0
    assert said == f"no match among the {len(dataset.gallery)} rows of {run / 'gallery'}\n"
    code, said = call(*search, "--max-fmr", "1e-9")
    assert code == 2
    assert "needs 30,000,000,000 non-matching pairs" in said
    assert "the smallest rate that they support is" in said
    code, said = call(*search, "--min-probability", "1.5")
    assert (code, said) == (2, "a probability is between 0 and 1, not 1.5")


def test_without_or_with_foreign_thresholds_limits_are_refused(
    run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    family, gallery = Family.load(run), sfsc.Gallery.open(run / "gallery")
    query = dataset.query.paths[0]
    family.thresholds = None
    assert sfsc.search(family, query, gallery)[0].probability is None
    with pytest.raises(SfscError, match="no thresholds: fit them with `sfsc thresholds RUN`"):
        sfsc.search(family, query, gallery, max_fmr=0.1)
    family.thresholds = example("fedcba9876543210")
    assert sfsc.search(family, query, gallery)[0].probability is None
    with pytest.raises(SfscError, match=f"the family fedcba9876543210, not of {family.fingerprint}"):
        sfsc.search(family, query, gallery, max_fmr=0.1)
    hits = sfsc.search(family, query, gallery)
    with pytest.raises(SfscError, match=r"no threshold for a query at width 0.5 .* with 16 dimensions"):
        decide(hits, example(), 0.5, 16, 100)


@pytest.mark.slow
def test_exported_files_carry_the_thresholds_of_their_queries(
    run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    from sfsc.deploy.exporting import export

    family = Family.load(run)
    assert family.thresholds is not None
    for int8, dimension in ((False, None), (True, 8)):
        export(family, 0.5, tmp_path / "phone.onnx", dataset.paths, int8, dimension)
        carried = sfsc.ExportedModel.load(tmp_path / "phone.onnx").thresholds
        assert carried is not None
        most = dimension or 16
        expected = {
            p: m for p, m in family.thresholds.maps.items() if p.query_width == 0.5 and p.dimension <= most
        }
        assert carried.maps == expected
    export(family, 0.5, tmp_path / "phone.onnx", dataset.paths)
    code, said = call("search", tmp_path / "phone.onnx", dataset.query.paths[0], "--gallery", run / "gallery")
    assert (code, "probab" in said) == (0, True)
    family.thresholds = example()
    with pytest.raises(SfscError, match="the thresholds are of the family"):
        export(family, 0.5, tmp_path / "other.onnx", dataset.paths)


def test_the_command_fits_to_validation_identities_by_default(run: Path, shapes: str, tmp_path: Path) -> None:
    assert validation_of("csv:x") == validation_of("validation:csv:x") == "validation:csv:x"
    before = (run / THRESHOLDS_FILE).read_bytes()
    code, said = call("thresholds", run, "--dataset", shapes, "--workers", "0")
    assert code == 0
    assert "0.5 -> 1" in said
    assert f"written: {run / THRESHOLDS_FILE}" in said
    assert (run / THRESHOLDS_FILE).read_bytes() == before


def test_too_few_pairs_are_refused(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    lines = [f"{dataset.paths[i]},{i % 3},c{i},test" for i in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["path,identity,camera,split", *lines]) + "\n")
    code, said = call("thresholds", run, "--dataset", f"csv:{tmp_path}/t.csv", "--workers", "0")
    assert code == 2
    assert said.startswith("6 matching and 24 non-matching pairs are too few to fit a threshold")


def test_decisions_are_evaluated_in_every_cell(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    family = Family.load(run)
    found = evaluate(family, dataset, workers=0)
    decisions = found.decisions
    assert [len(row) for row in decisions["cells"]] == [2, 2]
    assert family.thresholds is not None
    assert decisions["fitted_on"] == family.thresholds.data
    for row, query in zip(decisions["cells"], WIDTHS, strict=True):
        for cell, width in zip(row, WIDTHS, strict=True):
            one = family.thresholds.of(Pair(query, width, "float32", 16))
            assert (cell["matches"], cell["non_matches"]) == (one.matches, one.non_matches)
            for rate, real in zip(decisions["rates"], cell["fmr"], strict=True):
                assert real is None or real == pytest.approx(rate, rel=0.1), "the same pairs fitted it"
            assert 0 <= cell["calibration"]["error"] < 0.2
    full = decisions["cells"][1][1]
    assert full["fmr"] == full["fmr_one_threshold"]
    found.write_into(tmp_path)
    assert read_result(tmp_path / "evaluation.json")["decisions"]["cells"][0][0]["fmr"] is not None
    family.thresholds = example()
    without = evaluate(family, dataset, workers=0).decisions
    assert without["fitted_on"] is None
    assert "fmr" not in without["cells"][0][0]


@pytest.mark.parametrize(("source", "remarked"), [("csv:/x", True), ("target:csv:/x", False)])
def test_a_remark_names_images_that_fitted_the_thresholds(
    run: Path, dataset: Dataset, source: str, remarked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("sfsc.evaluation.evaluate.say", said.append)
    family = Family.load(run)
    assert family.thresholds is not None
    family.thresholds = replace(family.thresholds, data=source)
    evaluate(family, replace(dataset, source=source), workers=0)
    assert any("were fitted on these images" in line for line in said) == remarked


def test_the_factor_counts_both_directions() -> None:
    assert factor(0.01, [0.005, 0.012, None]) == pytest.approx(2)
    assert factor(0.01, [None]) is None
    assert np.isfinite(factor(0.01, [0.0]) or 0)
