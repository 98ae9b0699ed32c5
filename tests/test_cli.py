"""The command line on the small data set, in this process unless the process itself is what is tested."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.main import get_command

from sfsc.cli import app, main
from sfsc.data.sheet import summarise
from sfsc.data.sources import open_dataset
from sfsc.gallery import Gallery
from sfsc.gallery.imports.importing import PartlyImported
from sfsc.images.reading import decode, write_png
from sfsc.training.config import Config
from tests.conftest import draw

SETTINGS = {
    "image_size": [32, 32],
    "embedding_dim": 16,
    "identities_per_batch": 4,
    "images_per_identity": 3,
    "workers": 0,
    "log_every": 1,
}
OPTIONS = {
    "": {"--install-completion", "--show-completion"},
    "data": set(),
    "data emoji": {"--out", "--skin-tones", "--no-skin-tones"},
    "data show": {"--out"},
    "train": {
        *("--out", "--config", "--resume", "--recipe", "--backbone"),
        *("--widths", "--epochs", "--seed", "--device", "--compile", "--set", "--allow-code"),
        *("--old", "--teacher"),
    },
    "inspect": {"--widths", "--image-size", "--embedding-dim", "--keep", "--round-to", "--normalisation"},
    "evaluate": {
        "--dataset",
        "--with",
        "--distractors",
        "--workers",
        "--allow-code",
        "--rerank",
        "--rerank-depth",
        "--tracks",
        "--cascade",
        "--old",
    },
    "thresholds": {"--dataset", "--workers", "--allow-code"},
    "submodel": {"--out", "--dataset", "--workers", "--allow-code"},
    "recalibrate": {"--width", "--dataset", "--out", "--workers", "--allow-code"},
    "calibrate": {"--images", "--out", "--workers", "--allow-code"},
    "adapt": {"--images", "--out", "--workers", "--allow-code"},
    "compare": {
        *("--out", "--config", "--recipes", "--backbone", "--seeds"),
        *("--calibrations", "--no-calibrations", "--set", "--allow-code"),
    },
    "ablate": {"--out", "--config", "--backbone", "--seeds", "--set", "--allow-code"},
    "export": {"--out", "--width", "--format", "--dim", "--int8", "--images", "--bridge", "--allow-code"},
    "profile": {"--dataset", "--threads", "--allow-code"},
    "choose": {
        *("--latency", "--memory", "--size", "--min-map", "--dataset"),
        *("--search", "--evaluations", "--out", "--allow-code"),
    },
    "index": {
        *("--gallery", "--width", "--dim", "--form", "--attributes", "--resume", "--upgrade"),
        *("--engine", "--workers", "--allow-code", "--box", "--order", "--limit", "--queries"),
    },
    "embed": {"--out", "--gallery", "--width", "--dim", "--engine", "--workers", "--allow-code"},
    "search": {
        "--gallery",
        "--width",
        "--dim",
        "--top",
        "--where",
        "--approximate",
        "--picture",
        "--memory",
        "--allow-code",
        *("--max-fmr", "--min-probability", "--by", "--best", "--together", "--box"),
        *("--cascade", "--sure"),
        *("--rerank", "--rerank-depth", "--bridge"),
    },
    "bridge": {"--images", "--out", "--kind", "--workers", "--seed", "--allow-code"},
    "upgrade-curve": {"--gallery", "--dataset", "--out", "--width", "--bridge", "--workers", "--allow-code"},
    "gallery": set(),
    "gallery info": set(),
    "gallery delete": {"--where", "--yes"},
    "gallery optimize": {"--keep"},
    "gallery export": {"--out"},
    "gallery import": {
        *("--gallery", "--ids", "--model", "--fingerprint", "--space", "--colours", "--width", "--form"),
        "--allow-code",
    },
    "gallery upgrade": {"--bridge", "--refit", "--drop-originals"},
    "gallery duplicates": {"--min-score", "--min-probability", "--thresholds", "--out", "--delete-all-but"},
    "gallery verify": set(),
    "gallery backup": {"--out"},
    "gallery restore": {"--to"},
    "serve": {
        *("--gallery", "--host", "--port", "--api-key", "--allow-origin", "--allow-host", "--images-root"),
        *("--proxy", "--root-path", "--memory", "--bridge", "--allow-code"),
    },
    "report": set(),
}
TEST_IMAGES = 24
OTHER_FAMILY = "0123456789abcdef"


class Result(NamedTuple):
    code: int
    out: str
    err: str


def sfsc(*arguments: object) -> Result:
    """Run the command line as the `sfsc` script does, on a wide terminal."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sfsc", *map(str, arguments)])
        patch.setattr(sys, "excepthook", sys.excepthook)  # typer sets its own
        patch.setenv("COLUMNS", "400")
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as leave,
        ):
            main()
            sys.exit(0)
    return Result(int(leave.value.code or 0), out.getvalue(), err.getvalue())


def succeed(*arguments: object) -> str:
    result = sfsc(*arguments)
    assert result.code == 0, result.err
    return result.out


def refusal(result: Result) -> str:
    """What the one line says with which a command refuses; a progress bar may stand before it."""
    assert result.code == 2
    assert "Traceback" not in result.err
    lines = result.err.splitlines()
    assert [line for line in lines if line.startswith("sfsc: ")] == lines[-1:]
    return lines[-1]


def settings(**changes: object) -> list[str]:
    chosen = {"backbone": "small", "epochs": 2, **SETTINGS, **changes}
    return [f"--set={name}={json.dumps(value)}" for name, value in chosen.items()]


def table_rows(text: str) -> list[list[str]]:
    """The cells of all printed tables, row by row, headings left out."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]


@pytest.fixture(scope="module")
def run(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("cli") / "run"
    assert succeed("train", shapes, "--out", run, "--seed", 3, *settings()) == f"trained: {run}\n"
    return run


@pytest.fixture(scope="module")
def evaluated(run: Path) -> str:
    """What `evaluate` prints; the run is evaluated from here on."""
    return succeed("evaluate", run, "--workers", 0)


@pytest.fixture(scope="module")
def gallery(run: Path, shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images, embedded by the full sub-model."""
    gallery = tmp_path_factory.mktemp("galleries") / "gallery"
    out = succeed("index", run, shapes, "--gallery", gallery, "--workers", 0)
    assert f"{gallery}: {TEST_IMAGES} images, 16 dimensions" in out
    return gallery


@pytest.fixture(scope="module")
def image(shapes: str) -> Path:
    """A test image."""
    return Path(shapes.partition(":")[2]).parent / "09_c1_2.png"


class TestTrain:
    def test_flags_beat_settings_which_beat_the_file(self, shapes: str, tmp_path: Path) -> None:
        file = tmp_path / "settings.yaml"
        file.write_text("epochs: 7\nseed: 5\nlr: 0.25\nwarmup: 0.5\ndataset: csv:elsewhere.csv\n")
        out = tmp_path / "run"
        succeed(
            *("train", shapes, "--config", file, "--out", out),
            *settings(epochs=3, lr=0.0125),
            *("--epochs", 1, "--device", "cpu"),
        )
        config = json.loads((out / "config.json").read_text())
        assert config["epochs"] == 1, "the flag"
        assert config["dataset"] == shapes, "the argument"
        assert config["lr"] == 0.0125, "--set"
        assert (config["seed"], config["warmup"]) == (5, 0.5), "the file"
        assert config["scale"] == Config.model_fields["scale"].default

    def test_widths_are_those_of_the_family(self, shapes: str, tmp_path: Path) -> None:
        succeed("train", shapes, "--out", tmp_path, *settings(epochs=1), "--widths", "0.5,1.0")
        assert json.loads((tmp_path / "config.json").read_text())["widths"] == [0.5, 1.0]
        assert json.loads((tmp_path / "family.json").read_text())["widths"] == [0.5, 1.0]

    def test_resume_needs_no_settings(self, run: Path) -> None:
        before = (run / "family.safetensors").read_bytes()
        assert sfsc("train", "--out", run).code == 2, "without --resume a run is not touched"
        succeed("train", "--out", run, "--resume")
        assert (run / "family.safetensors").read_bytes() == before

    def test_a_run_refused_for_its_data_may_be_started_again(self, shapes: str, tmp_path: Path) -> None:
        """The folder is not taken by what never began."""
        message = refusal(sfsc("train", shapes, "--out", tmp_path, *settings(identities_per_batch=9)))
        assert "identities_per_batch is 9, but only 8 identities" in message
        succeed("train", shapes, "--out", tmp_path, *settings(epochs=1))


class TestEvaluate:
    def test_prints_what_it_writes(self, run: Path, evaluated: str) -> None:
        content = json.loads((run / "evaluation.json").read_text())
        matrix, widths = np.array(content["metrics"]["mAP"]), content["widths"]
        rows = table_rows(evaluated)
        assert [row[0] for row in rows[:4]] == ["0.25", "0.5", "0.75", "1"]
        for q, row in enumerate(rows[:4]):
            for g, cell in enumerate(row[1:]):
                meets = q != g and matrix[q, g] >= matrix[min(q, g), min(q, g)]
                assert cell == f"{100 * matrix[q, g]:.1f}" + (" ✓" if meets else "")
        for row, (q, g) in zip(rows[4:7], [(0, 0), (0, -1), (-1, -1)], strict=True):
            assert row[1:] == [f"{100 * values[q][g]:.1f}" for values in content["metrics"].values()]
        baseline = [content["baseline"][name] for name in content["metrics"]]
        assert rows[7] == [content["baseline"]["name"], *(f"{100 * value:.1f}" for value in baseline)]
        met = sum(matrix[q, g] >= matrix[min(q, g)][min(q, g)] for q in range(4) for g in range(4) if q != g)
        assert f"criterion: {met} of 12 cross-tests meet it" in evaluated
        gains = [100 * (matrix[r, 3] - matrix[r, r]) for r in range(3)]
        assert content["gallery_gain"] == pytest.approx([gain / 100 for gain in gains])
        shown = ", ".join(f"{gain:+z.1f}" for gain in gains)
        assert f"gallery gain: {shown} points, mean {sum(gains) / 3:+z.1f}\n" in evaluated
        shares = [f"{adds / content['multiply_adds'][3]:.0%}" for adds in content["multiply_adds"][:3]]
        line = f"cost of these queries: {', '.join(shares)} of the full sub-model's multiply-adds\n"
        assert line in evaluated
        assert (content["cells_met"], content["cells"], widths) == (met, 12, [0.25, 0.5, 0.75, 1.0])
        assert f"{TEST_IMAGES} queries, {TEST_IMAGES} gallery images" in evaluated

    def test_writes_pictures_that_open(self, run: Path, evaluated: str) -> None:
        for name in ("matrix.png", "accuracy.png"):
            assert str(run / name) in evaluated
            assert decode(str(run / name), None).std() > 0

    @pytest.mark.slow
    def test_exported_files_join_the_matrix(self, run: Path, evaluated: str, tmp_path: Path) -> None:
        copy = shutil.copytree(run, tmp_path / "run")
        said = succeed("export", copy, "--width", 0.25, "--width", 1.0, "--int8")
        assert re.search(r"0\.25-int8\.onnx, [\d,]+ bytes, \d+ layers in float32\n", said)
        files = [copy / "export" / f"{width}-int8.onnx" for width in ("0.25", "1")]
        out = succeed("evaluate", copy, "--workers", 0, "--with", files[0], "--with", files[1])
        content = json.loads((copy / "evaluation.json").read_text())
        matrix, rows = np.array(content["metrics"]["mAP"]), table_rows(out)
        assert [row[0] for row in rows[:6]] == ["0.25", "0.5", "0.75", "1", "0.25 int8", "1 int8"]
        for row, label in zip(rows[-2:], ("0.25 int8", "1 int8"), strict=True):
            place = 4 + list(content["exported"]).index(label)
            own = matrix[0 if label.startswith("0.25") else 3, 3]
            cost = f"{100 * (own - matrix[place, 3]):.2f}".replace("-0.00", "0.00")
            assert row == [label, f"{100 * matrix[place, 3]:.2f}", cost]
        assert rows[4][1:] == [f"{100 * value:.1f}" for value in matrix[4]]
        without = [line for line in evaluated.splitlines() if line.startswith(("criterion", "24 queries"))]
        assert [line for line in out.splitlines() if line in without] == without
        assert "0.25 int8" in succeed("report", copy)

    def test_distractors_are_in_the_gallery(self, run: Path, shapes: str, tmp_path: Path) -> None:
        copy, others = shutil.copytree(run, tmp_path / "run"), tmp_path / "others"
        for identity in range(20, 23):
            write_png(others / f"{identity}.png", draw(identity, 0, 0))
        out = succeed("evaluate", copy, "--distractors", others, "--workers", 0)
        assert f"{TEST_IMAGES} queries, {TEST_IMAGES + 3} gallery images" in out
        (folder,) = (copy / "evaluations").iterdir()
        assert f" + {others}" in json.loads((folder / "evaluation.json").read_text())["dataset"]
        succeed("report", copy)
        assert f" + {others}: " in (copy / "report.html").read_text()
        assert "has no distractors" in refusal(sfsc("evaluate", copy, "--distractors", shapes))

    def test_another_data_set_has_files_of_its_own(
        self, run: Path, evaluated: str, shapes: str, tmp_path: Path
    ) -> None:
        """Only one of the test identities' cameras searches: half of the queries."""
        table = Path(shapes.partition(":")[2])
        lines = table.read_text().splitlines()
        tests = [line for line in lines[1:] if line.endswith(",test")]
        split = {"c0": "query", "c1": "gallery"}
        rows = [f"{table.parent}/{line.removesuffix('test')}{split[line.split(',')[2]]}" for line in tests]
        (tmp_path / "other.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        copy, other = shutil.copytree(run, tmp_path / "run"), f"csv:{tmp_path}/other.csv"
        before = {path: path.read_bytes() for path in copy.iterdir() if path.is_file()}
        out = succeed("evaluate", copy, "--dataset", other, "--workers", 0)
        assert f"{TEST_IMAGES // 2} queries, {TEST_IMAGES // 2} gallery images" in out
        assert {path: path.read_bytes() for path in before} == before
        (folder,) = (copy / "evaluations").iterdir()
        names = ["accuracy.png", "evaluation.json", "matrix.png", "rankings.json"]
        assert sorted(path.name for path in folder.iterdir()) == names
        assert all(str(folder / name) in out for name in names[:3])
        assert json.loads((folder / "evaluation.json").read_text())["dataset"] == other
        assert table_rows(succeed("report", copy)) == table_rows(evaluated)
        page = (copy / "report.html").read_text()
        assert f"Evaluated on {shapes}" in page
        assert f"<caption>{other}: " in page

    def test_the_own_data_set_may_be_named_in_any_way(
        self, run: Path, evaluated: str, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = shutil.copytree(run, tmp_path / "run")
        (copy / "evaluation.json").unlink()
        table = Path(shapes.partition(":")[2])
        monkeypatch.chdir(table.parent)
        succeed("evaluate", copy, "--dataset", f"csv:../{table.parent.name}/{table.name}", "--workers", 0)
        assert json.loads((copy / "evaluation.json").read_text())["dataset"] == shapes
        rankings = json.loads((copy / "rankings.json").read_text())["rows"]
        assert all(Path(row["query"]["path"]).is_absolute() for row in rankings)
        assert not (copy / "evaluations").exists()

    def test_a_changed_data_set_is_remarked_on(self, run: Path, shapes: str, tmp_path: Path) -> None:
        copy = shutil.copytree(run, tmp_path / "run")
        listing = (copy / "images.json").read_text()
        (copy / "images.json").write_text(listing.replace('"shape00"', '"shape77"'))
        result = sfsc("evaluate", copy, "--workers", 0)
        assert result.code == 0
        line = f"remark: the training images differ from those that {copy} was started with"
        assert f"{line} (renamed: shape77 to shape00)\n" in result.err
        assert "remark" not in sfsc("evaluate", run, "--workers", 0).err

    def test_recalibration_is_tested_on_what_it_was_given(
        self, run: Path, shapes: str, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.csv"
        table = Path(shapes.partition(":")[2])
        lines = table.read_text().splitlines()
        kept = [f"{table.parent}/{line}" for line in lines[1:] if "shape09" not in line]
        other.write_text("\n".join([lines[0], *kept]) + "\n")
        out = tmp_path / "out"
        said = succeed("recalibrate", run, "--out", out, "--dataset", f"csv:{other}", "--workers", 0)
        assert f"data set: csv:{other}\n{TEST_IMAGES - 6} queries" in said
        (result,) = out.glob("evaluations/*/evaluation.json")
        assert json.loads(result.read_text())["dataset"] == f"csv:{other}"
        assert not (out / "evaluation.json").exists(), "of its own data set, there is none yet"


class TestIndexAndSearch:
    def test_indexing_again_adds_nothing(self, run: Path, shapes: str, gallery: Path) -> None:
        out = succeed("index", run, shapes, "--gallery", gallery, "--workers", 0)
        assert f"{TEST_IMAGES} images" in out
        assert len(Gallery.open(gallery)) == TEST_IMAGES

    def test_a_search_within_little_memory_finds_the_same(
        self, run: Path, gallery: Path, image: Path
    ) -> None:
        whole = succeed("search", run, image, "--gallery", gallery)
        assert succeed("search", run, image, "--gallery", gallery, "--memory", "1MB") == whole
        refused = refusal(sfsc("search", run, image, "--gallery", gallery, "--memory", "much"))
        assert "is not a number with one of the units GB, MB, kB, B" in refused

    def test_an_image_finds_itself_and_draws_it(
        self, run: Path, gallery: Path, image: Path, tmp_path: Path
    ) -> None:
        picture = tmp_path / "hits.png"
        out = succeed("search", run, image, "--gallery", gallery, "--top", 5, "--picture", picture)
        rows = table_rows(out)
        assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
        scores = [float(row[1]) for row in rows]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == 1.0
        assert rows[0][2:] == ["shape09", "c1", "1", str(image.absolute())]
        assert f"picture: {picture}" in out
        assert decode(str(picture), None).shape[1] > 5 * 128, "five hits stand beside the query"

    def test_a_small_sub_model_searches_what_the_full_one_wrote(
        self, run: Path, gallery: Path, image: Path
    ) -> None:
        rows = table_rows(succeed("search", run, image, "--gallery", gallery, "--width", 0.25, "--top", 99))
        assert len(rows) == TEST_IMAGES
        assert {row[4] for row in rows} == {"1"}
        assert max(float(row[1]) for row in rows) < 1.0

    def test_paths_are_printed_as_they_are(self, run: Path, image: Path, tmp_path: Path) -> None:
        """Square brackets are no markup."""
        folder = tmp_path / "holiday [copy]"
        folder.mkdir()
        shutil.copy(image, folder)
        gallery = tmp_path / "gallery"
        succeed("index", run, folder, "--gallery", gallery, "--workers", 0)
        out = succeed("search", run, image, "--gallery", gallery)
        assert str(folder / image.name) in out

    def test_images_that_cannot_be_read_are_named_and_passed_over(
        self, run: Path, image: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "images"
        folder.mkdir()
        for name in ("a.png", "d.png"):
            shutil.copy(image, folder / name)
        (folder / "b.png").write_bytes(image.read_bytes()[:-20])
        (folder / "c.png").write_bytes(b"")
        result = sfsc("index", run, folder, "--gallery", tmp_path / "gallery", "--workers", 0)
        assert result.code == 1
        assert ": 2 images" in result.out
        skipped = [line for line in result.err.splitlines() if line.startswith("skipped: ")]
        assert len(skipped) == 2
        assert "b.png" in skipped[0]
        assert "c.png: the file is empty" in skipped[1]
        assert len(Gallery.open(tmp_path / "gallery")) == 2

    def test_they_are_named_even_if_there_are_no_others(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "c.png").write_bytes(b"")
        result = sfsc("index", run, tmp_path / "c.png", "--gallery", tmp_path / "gallery", "--workers", 0)
        assert result.code == 1
        assert "c.png: the file is empty" in result.err


@pytest.fixture(scope="module")
def nested(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first 4 and 8 of 16 components stand alone."""
    run = tmp_path_factory.mktemp("nested") / "run"
    succeed("train", shapes, "--out", run, *settings(epochs=1, widths=[0.5, 1.0], nested_dims=[4, 8]))
    return run


class TestDimensions:
    """A family whose first 4 and 8 of 16 components stand alone."""

    def test_evaluate_and_report_show_every_dimension(self, nested: Path) -> None:
        printed = succeed("evaluate", nested, "--workers", 0)
        tests = json.loads((nested / "evaluation.json").read_text())["dimensions"]
        assert [test["dimension"] for test in tests] == [4, 8, 16]
        expected = [
            [
                str(test["dimension"]),
                *(f"{100 * v:.1f}" for v in [*test["self_tests"], test["smallest_to_full"]]),
            ]
            for test in tests
        ]
        assert table_rows(printed)[-3:] == expected
        assert table_rows(succeed("report", nested))[-3:] == expected
        page = (nested / "report.html").read_text()
        for row in expected:
            cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
            assert f'<tr><th scope="row">{row[0]}</th>{cells}</tr>' in page

    def test_galleries_of_every_dimension_are_written_and_searched(
        self, nested: Path, shapes: str, image: Path, tmp_path: Path
    ) -> None:
        small, large = tmp_path / "small", tmp_path / "large"
        out = succeed("index", nested, shapes, "--gallery", small, "--dim", 8, "--workers", 0)
        assert f"{TEST_IMAGES} images, 8 dimensions" in out
        succeed("index", nested, shapes, "--gallery", small, "--workers", 0)
        assert "8 dimensions" in succeed("gallery", "info", small), "whole embeddings were shortened"
        assert "supports dimensions 4, 8, 16" in succeed("gallery", "info", small)
        succeed("index", nested, shapes, "--gallery", large, "--workers", 0)
        for gallery, dim in [(small, 16), (small, 8), (small, 4), (large, 16), (large, 8), (large, 4)]:
            rows = table_rows(
                succeed("search", nested, image, "--gallery", gallery, "--dim", dim, "--top", 1)
            )
            assert (rows[0][1], rows[0][-1]) == ("1.000", str(image.absolute()))
        message = refusal(sfsc("index", nested, shapes, "--gallery", large, "--dim", 8, "--workers", 0))
        assert f"gallery {large} has rows of 16 dimensions, but the embeddings have 8" in message
        succeed("embed", nested, shapes, "--out", tmp_path / "v.npy", "--dim", 4, "--workers", 0)
        assert np.load(tmp_path / "v.npy").shape == (TEST_IMAGES, 4)
        succeed("embed", nested, shapes, "--gallery", tmp_path / "tiny", "--dim", 4, "--workers", 0)
        assert Gallery.open(tmp_path / "tiny").info().dimension == 4

    def test_exports_of_fewer_dimensions_say_so_in_their_names(
        self, nested: Path, shapes: str, image: Path, tmp_path: Path
    ) -> None:
        succeed("export", nested, "--width", 0.5, "--dim", 8, "--images", shapes)
        file = nested / "export" / "0.5-dim8.onnx"
        succeed("index", nested, shapes, "--gallery", tmp_path / "g", "--width", 0.5, "--workers", 0)
        rows = table_rows(succeed("search", file, image, "--gallery", tmp_path / "g", "--top", 1))
        assert (rows[0][1], rows[0][-1]) == ("1.000", str(image.absolute()))
        assert "the file supports dimensions 4, 8, not 16" in refusal(
            sfsc("search", file, image, "--gallery", tmp_path / "g", "--dim", 16)
        )


class TestCompareAndCalibrate:
    def test_a_file_says_which_recipes(self, shapes: str, tmp_path: Path) -> None:
        file, out = tmp_path / "compare.yaml", tmp_path / "out"
        file.write_text(
            "seeds: 1\nepochs: 1\nrecipes:\n  unified:\n  mild: {recipe: sfsc, scale: 5.0}\n  bct:\n"
        )
        printed = succeed(
            *("compare", shapes, "--config", file, "--out", out, "--recipes", "unified,mild"),
            *settings(epochs=1, widths=[0.5, 1.0]),
        )
        names = [row[0] for row in table_rows(printed)]
        assert names.count("unified") >= 2
        assert "mild" in names
        assert "bct" not in names
        assert json.loads((out / "mild" / "seed0" / "config.json").read_text())["scale"] == 5.0
        assert printed.endswith(f"comparison: {out / 'comparison.html'}\n")

    def test_calibration_reports_and_leaves_galleries_valid(
        self, run: Path, gallery: Path, image: Path, tmp_path: Path
    ) -> None:
        printed = succeed("calibrate", run, "--out", tmp_path / "out", "--workers", 0)
        rows = table_rows(printed)
        assert [row[0] for row in rows] == ["0.25", "0.5", "0.75"]
        assert all(float(after) > float(before) for _, before, after in rows)
        succeed("search", tmp_path / "out", image, "--gallery", gallery, "--width", 0.25)
        succeed("evaluate", tmp_path / "out", "--workers", 0)

    def test_adaptation_says_what_it_tried_and_which_galleries_stay(
        self, run: Path, shapes: str, gallery: Path, image: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        printed = succeed("adapt", run, "--images", shapes, "--out", out, "--workers", 0)
        rows = table_rows(printed)
        written = json.loads((out / "adaptation.json").read_text())
        assert [row[0] for row in rows][-6:] == [candidate["name"] for candidate in written["candidates"]]
        assert f"chosen: {written['chosen']} (39 images, 9 held out)" in printed
        assert printed.endswith(f"adapted: {out}\n")
        search = sfsc("search", out, image, "--gallery", gallery, "--width", 0.25)
        assert (search.code == 0) == written["galleries_stay"] == ("stay valid\n" in printed)


class TestReport:
    def test_shows_the_evaluation_again(self, run: Path, evaluated: str) -> None:
        out = succeed("report", run)
        assert table_rows(out) == table_rows(evaluated)
        page = (run / "report.html").read_text()
        content = json.loads((run / "evaluation.json").read_text())
        assert f"report: {run / 'report.html'}" in out
        assert content["fingerprint"] in page
        assert f"{100 * content['metrics']['mAP'][0][-1]:.1f}" in page

    def test_needs_no_evaluation(self, run: Path, tmp_path: Path) -> None:
        names = ("config.json", "log.jsonl")
        for name in names:
            shutil.copy(run / name, tmp_path)
        assert not table_rows(succeed("report", tmp_path))
        assert "</html>" in (tmp_path / "report.html").read_text()


def test_show_counts_and_draws(shapes: str, tmp_path: Path) -> None:
    from sfsc.data import open_dataset

    out = succeed("data", "show", shapes, "--out", tmp_path / "sheet.png")
    assert table_rows(out) == [[str(v) for v in row.values()] for row in summarise(open_dataset(shapes))]
    assert decode(str(tmp_path / "sheet.png"), None).std() > 0


@pytest.fixture(scope="module")
def places(
    run: Path, shapes: str, gallery: Path, image: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """What the bad commands below name, good and bad."""
    folder = tmp_path_factory.mktemp("bad")
    other = Gallery.open(folder / "other", create=True)
    other.add(np.ones((1, 16), np.float32), ["a"], paths=["a"], width=1.0, fingerprint=OTHER_FAMILY)
    (folder / "one" / "cat").mkdir(parents=True)
    shutil.copy(image, folder / "one" / "cat")
    table = Path(shapes.partition(":")[2])
    lines = [f"{table.parent}/{line}" for line in table.read_text().splitlines()[1:]]
    for split in ("train", "test"):
        rows = [line for line in lines if line.endswith(f",{split}")]
        (folder / f"{split}.csv").write_text("\n".join(["path,identity,camera,split", *rows]) + "\n")
    (folder / "corrupt.png").write_bytes(image.read_bytes()[:-20])
    (folder / "brackets.yaml").write_text("epochs: [1\nseed: 2\n")
    (folder / "list.yaml").write_text("- epochs\n")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    (folder / "number.yaml").write_text("1: 2\n")
    (folder / "file").write_text("no folder")
    (folder / "empty").mkdir()
    (folder / "away").mkdir()
    for name in ("family.json", "family.safetensors"):
        shutil.copy(run / name, folder / "away")
    config = json.loads((run / "config.json").read_text()) | {"dataset": f"csv:{folder}/gone.csv"}
    (folder / "away" / "config.json").write_text(json.dumps(config))
    return {"run": run, "shapes": shapes, "gallery": gallery, "image": image, "bad": folder}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("train {shapes} --backbone magic", "unknown backbone 'magic'; choose one of small"),
        ("train {shapes} --recipe magic", "unknown recipe 'magic'; choose one of unified, bct"),
        ("train {shapes} --widths 0.5,0.25", "widths must increase within (0, 1] and end in 1.0"),
        ("train {shapes} --widths half", "widths are numbers such as"),
        ("train {shapes} --device magic", "there is no device 'magic': this machine has cpu"),
        ("train {shapes} --set epochs", "a setting must have the form NAME=VALUE, got 'epochs'"),
        ("train {shapes} --set lr=[1", "the value of setting lr is not YAML: line 1: expected ',' or ']'"),
        ("train {shapes} --set nested_dims=[8,4]", "stay below the embedding dimension 16, got 8, 4"),
        ("train {shapes} --set nested_dims=[16]", "stay below the embedding dimension 16, got 16"),
        ("train {shapes} --set nested_dims=4", "setting nested_dims: "),
        ("train {shapes} --set colour=1", "unknown setting 'colour'; known settings are dataset, recipe"),
        ("train {shapes} --set epochs=0", "setting epochs: "),
        ("train {shapes} --set image_size=[0,0]", "image_size"),
        ("train", "the setting 'dataset' is required"),
        ("train {shapes} --config {bad}/brackets.yaml", "brackets.yaml is not YAML"),
        ("train {shapes} --config {bad}/binary.yaml", "binary.yaml is not YAML"),
        ("train {shapes} --config {bad}/list.yaml", "list.yaml must contain settings"),
        ("train {shapes} --config {bad}/number.yaml", "number.yaml"),
        ("train {shapes} --config {bad}/none.yaml", "cannot read {bad}/none.yaml: No such file"),
        ("train magic:{bad}", "is not a data set: expected KIND:PATH with KIND one of folder, csv"),
        ("train {bad}", "is not a data set: expected KIND:PATH"),
        ("train folder:{bad}/none", "{bad}/none does not exist"),
        ("train folder:{bad}/empty", "contains no images"),
        ("train folder:{bad}/one", "has only one training identity, cat: training needs at least two"),
        ("train csv:{bad}/test.csv", "has no train images"),
        ("train emoji:{bad}/empty", "contains no complete emoji build: run `sfsc data emoji"),
        ("data show magic:{bad}", "is not a data set"),
        ("data show {shapes} --out {bad}/file/sheet.png", "{bad}/file/sheet.png"),
        ("evaluate {bad}/empty", "{bad}/empty is not a run folder"),
        (f"evaluate {'a' * 300}", "File name too long: aaa"),
        ("evaluate {run} --dataset csv:{bad}/train.csv", "has no query images"),
        ("evaluate {run} --dataset magic:x", "'magic:x' is not a data set"),
        ("index {bad}/empty {shapes} --gallery {new}", "{bad}/empty contains no trained family"),
        ("index {run} {shapes} --gallery {new} --width 0.3", "width 0.3 is not one of this family's"),
        ("index {run} {bad}/none --gallery {new}", "{bad}/none does not exist"),
        ("index {run} {bad}/empty --gallery {new}", "contains no images"),
        ("index {run} {shapes} --gallery {bad}/one", "is not a gallery, but contains cat"),
        ("search {bad}/empty {image} --gallery {gallery}", "{bad}/empty contains no trained family"),
        ("search {run} {image} --gallery {gallery} --width 0.3", "widths: 0.25, 0.5, 0.75, 1"),
        ("search {run} {image} --gallery {new}", "gallery {new} does not exist"),
        ("search {run} {bad}/none.png --gallery {gallery}", "{bad}/none.png: no such file"),
        ("search {run} {bad}/corrupt.png --gallery {gallery}", "{bad}/corrupt.png: the file is truncated"),
        ("search {run} {image} --gallery {gallery} --picture {bad}/file/x.png", "{bad}/file/x.png"),
        ("search {run} {image} --gallery {gallery} --where size=1", "the gallery has no column 'size'"),
        (
            "search {run} {image} --gallery {gallery} --where size",
            "a condition must have the form COLUMN=VALUE",
        ),
        ("search {run} {image} --gallery milvus://127.0.0.1:1/rows", "milvus://127.0.0.1:1/rows cannot be"),
        (
            "search {run} {image} --gallery milvus://nowhere",
            "is not the address of a gallery: milvus://HOST:PORT/NAME",
        ),
        ("index {run} --gallery {new}", "give IMAGES to index, or --upgrade"),
        ("index {run} {shapes} --gallery {new} --upgrade", "give IMAGES to index, or --upgrade"),
        ("index {run} --gallery {new} --upgrade", "gallery {new} does not exist"),
        ("index {run} {shapes} --gallery {new} --form int4", "unknown numeric form 'int4'"),
        ("index {run} {shapes} --gallery {new} --engine spark", "unknown engine 'spark'"),
        ("index {run} {shapes} --gallery {new} --attributes {bad}/none", "cannot read {bad}/none"),
        (
            "index {run} {shapes} --gallery {new} --dim 8",
            "dimension 8 is not one of this family's dimensions: 16",
        ),
        ("search {run} {image} --gallery {gallery} --dim 8", "dimension 8 is not one of"),
        ("embed {run} {shapes} --out {new} --dim 8", "dimension 8 is not one of this family's"),
        ("export {run} --dim 8", "dimension 8 is not one of this family's dimensions: 16"),
        ("embed {run} {shapes}", "give either --out or --gallery for the embeddings"),
        ("embed {run} {shapes} --out {bad}/file/v.npy", "{bad}/file/v.npy"),
        ("export {bad}/empty", "{bad}/empty contains no trained family"),
        ("export {run} --width 0.3", "width 0.3 is not one of this family's"),
        ("export {run} --out {new}", "--out names a single file: give one --width"),
        ("export {run} --format tflite", "must end in .onnx or .pt2"),
        ("export {run} --int8 --images {bad}/empty", "contains no images"),
        ("export {run} --int8 --images {bad}/one", "1 images are too few to make and check this file"),
        ("export {bad}/away --int8 --width 1", "{bad}/gone"),
        ("evaluate {run} --with {bad}/none.onnx", "cannot read {bad}/none.onnx: No such file"),
        ("evaluate {run} --with {bad}/corrupt.png", "{bad}/corrupt.png cannot be run by onnxruntime"),
        ("profile {bad}/empty", "{bad}/empty contains no trained family: family.json is missing"),
        ("profile {run} --dataset magic:x", "'magic:x' is not a data set"),
        ("choose {bad}/empty", "{bad}/empty has no profile.json: run `sfsc profile {bad}/empty`"),
        ("choose {run} --latency 10", "'10' is not a number with one of the units s, ms, us"),
        ("choose {run} --memory 10ms", "'10ms' is not a number with one of the units GB, MB, kB, B"),
        ("embed {bad}/corrupt.png {shapes} --out {new}", "is neither a run folder nor a file written"),
        ("gallery info {new}", "gallery {new} does not exist"),
        ("gallery delete {gallery}", "give ids or conditions"),
        ("gallery export {gallery} --out {bad}/file/x.parquet", "cannot write {bad}/file/x.parquet"),
        ("calibrate {bad}/empty --out {new}", "{bad}/empty is not a run folder"),
        ("calibrate {run} --out {run}", "{run} already contains a run"),
        ("calibrate {run} --out {new} --images {bad}/empty", "contains no images"),
        ("adapt {bad}/empty --images {shapes} --out {new}", "{bad}/empty is not a run folder"),
        ("adapt {run} --images {shapes} --out {run}", "{run} already contains a run"),
        ("adapt {run} --images {image} --out {new}", "1 images are too few to adapt 16 dimensions: use 160"),
        (
            "compare {shapes} --recipes magic --out {new}",
            "unknown recipe 'magic'; choose one of unified, bct",
        ),
        ("compare {shapes} --set epochs=0 --out {new}", "setting epochs: "),
        ("ablate validation:{bad} --out {new}", "is not a data set"),
        ("report {bad}/empty", "{bad}/empty is not a run"),
    ],
)
def test_a_mistake_is_one_line(places: dict[str, object], tmp_path: Path, command: str, reason: str) -> None:
    names = {**places, "new": tmp_path / "new"}
    words = [word.format_map(names) for word in command.split()]
    if words[0] == "train":
        # Settings come first: what the command is wrong about comes after, and wins.
        words[1:1] = [*settings(epochs=1), "--out", str(tmp_path / "run")]
    result = sfsc(*words)
    assert reason.format_map(names) in refusal(result)
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "run").exists(), "a command that refuses leaves nothing"


def test_a_gallery_is_tended(run: Path, shapes: str, image: Path, tmp_path: Path) -> None:
    gallery, table = tmp_path / "gallery", tmp_path / "table.csv"
    paths = [os.path.abspath(path) for path in open_dataset(shapes).gallery.paths]
    table.write_text("\n".join(["path,price", *(f"{path},{n}" for n, path in enumerate(paths))]))
    narrow = ("--gallery", gallery, "--width", 0.25, "--workers", 0)
    succeed("index", run, shapes, *narrow, "--form", "int8", "--attributes", table)
    said = succeed("gallery", "info", gallery)
    assert ["0.25", str(len(paths))] in table_rows(said)
    assert ["int8", str(len(paths))] in table_rows(said)
    assert "attributes: price (integer)" in said
    hits = table_rows(succeed("search", run, image, "--gallery", gallery, "--where", "price<3"))
    assert sorted(row[-1] for row in hits) == sorted(paths[:3])
    assert f"{gallery}: 2 rows deleted" in succeed("gallery", "delete", gallery, "--where", "price<2")
    assert f"{gallery}: 1 rows deleted" in succeed("gallery", "delete", gallery, paths[2])
    left = len(paths) - 3
    succeed("index", run, "--upgrade", "--gallery", gallery, "--workers", 0)
    assert ["1.0", str(left)] in table_rows(succeed("gallery", "info", gallery))
    assert succeed("gallery", "optimize", gallery) == f"{gallery}: optimized\n"
    assert f"{left} rows" in succeed("gallery", "export", gallery, "--out", tmp_path / "rows.parquet")
    assert (tmp_path / "rows.parquet").stat().st_size > 1000


def test_a_gallery_is_saved_restored_and_verified(gallery: Path, tmp_path: Path) -> None:
    backup, again = tmp_path / "backup", tmp_path / "again"
    assert succeed("gallery", "verify", gallery) == f"{gallery}: {TEST_IMAGES} rows, all sound\n"
    assert succeed("gallery", "backup", gallery, "--out", backup) == f"{backup}: {TEST_IMAGES} rows\n"
    assert succeed("gallery", "restore", backup, "--to", again) == f"{again}: {TEST_IMAGES} rows\n"
    assert "choose another folder" in refusal(sfsc("gallery", "backup", gallery, "--out", backup))
    assert "choose another folder" in refusal(sfsc("gallery", "restore", backup, "--to", again))
    [file] = (again / "gallery.lance" / "data").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    result = sfsc("gallery", "verify", again)
    assert result.code == 1
    assert result.out.splitlines() == [
        f"1 files that are missing or damaged: gallery.lance/data/{file.name}; restore a backup with "
        "`sfsc gallery restore`, or index the images into a new gallery",
        f"{again}: {TEST_IMAGES} rows, something is wrong",
    ]


def test_embeddings_are_imported(
    run: Path, shapes: str, gallery: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, exported = tmp_path / "v.npy", tmp_path / "rows.parquet"
    succeed("embed", run, shapes, "--out", vectors, "--workers", 0, "--width", 0.25)
    new = ("--gallery", tmp_path / "new")
    known = (vectors, *new, "--model", run, "--width", 0.25)
    assert "give --model MODEL or --fingerprint" in refusal(sfsc("gallery", "import", vectors, *new))
    assert "has no width: give --width" in refusal(sfsc("gallery", "import", *known[:-2]))
    assert "width 0.3 is not one of" in refusal(sfsc("gallery", "import", *known[:-1], 0.3))
    assert "give only one of --model" in refusal(sfsc("gallery", "import", *known, "--fingerprint", "f"))
    assert not (tmp_path / "new").exists()
    said = succeed("gallery", "import", *known, "--form", "int8")
    assert said == f"{tmp_path / 'new'}: {TEST_IMAGES} rows imported\n"
    hits = [table_rows(succeed("search", run, image, "--gallery", place)) for place in (new[1], gallery)]
    assert {row[-1] for row in hits[0]} & {row[-1] for row in hits[1]}
    succeed("gallery", "export", gallery, "--out", exported)
    succeed("gallery", "import", exported, "--gallery", tmp_path / "copy")
    for place in (gallery, tmp_path / "copy"):
        hits.append(table_rows(succeed("search", run, image, "--gallery", place)))
    assert hits[2] == hits[3]

    def fail(*_: object, **__: object) -> None:
        raise PartlyImported("3 of 9 rows were imported: the disk is full")

    monkeypatch.setattr("sfsc.gallery.imports.importing.import_embeddings", fail)
    result = sfsc("gallery", "import", exported, *new)
    assert (result.code, result.err) == (1, "sfsc: 3 of 9 rows were imported: the disk is full\n")


def test_a_deletion_shows_what_it_takes_and_asks_before_it_takes_much(
    gallery: Path, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(gallery, tmp_path / "gallery")
    paths = [os.path.abspath(path) for path in open_dataset(shapes).gallery.paths]
    said = succeed("gallery", "delete", copy, "--where", "identity=shape08", paths[0], paths[-1])
    assert said.splitlines() == [f"fulfils the conditions: {paths[0]}", f"{copy}: 1 rows deleted"]
    refused = sfsc("gallery", "delete", copy, "--where", "width=1")
    left = len(paths) - 1
    assert f"this would delete {left} of the gallery's {left} rows: add --yes to do so" in refusal(refused)
    assert f"and {left - 5} more" in refused.out
    monkeypatch.chdir(Path(paths[1]).parent.parent)
    relative = Path(paths[1]).relative_to(Path.cwd())
    result = sfsc("gallery", "delete", copy, relative, "nowhere.png")
    assert (result.code, result.err) == (0, "no row has the id nowhere.png\n")
    assert result.out == f"{copy}: 1 rows deleted\n"
    assert succeed("gallery", "delete", copy, "--where", "width=1", "--yes").endswith("rows deleted\n")
    assert len(Gallery.open(copy)) == 0


def test_embeddings_go_into_files_or_a_gallery(run: Path, shapes: str, tmp_path: Path) -> None:
    vectors, gallery = tmp_path / "v.npy", tmp_path / "gallery"
    assert succeed("embed", run, shapes, "--out", vectors, "--workers", 0) == f"embeddings: {vectors}\n"
    assert np.load(vectors).shape == (TEST_IMAGES, SETTINGS["embedding_dim"])
    succeed("embed", run, shapes, "--gallery", gallery, "--workers", 0)
    assert len(Gallery.open(gallery)) == TEST_IMAGES
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"")
    result = sfsc("embed", run, tmp_path / "images", "--out", tmp_path / "parts", "--workers", 0)
    assert (result.code, result.err.count("skipped: ")) == (1, 1)


def test_the_folder_of_a_picture_is_made(
    run: Path, shapes: str, gallery: Path, image: Path, tmp_path: Path
) -> None:
    sheet, hits = tmp_path / "a" / "sheet.png", tmp_path / "b" / "hits.png"
    succeed("data", "show", shapes, "--out", sheet)
    succeed("search", run, image, "--gallery", gallery, "--picture", hits)
    for picture in (sheet, hits):
        assert decode(str(picture), None).std() > 0


def test_another_familys_gallery_is_refused_by_both_fingerprints(
    places: dict[str, object], run: Path, shapes: str, image: Path
) -> None:
    own = json.loads((run / "family.json").read_text())["fingerprint"]
    other = Path(str(places["bad"])) / "other"
    commands = [("search", run, image), ("index", run, shapes, "--workers", 0)]
    for command in commands:
        message = refusal(sfsc(*command, "--gallery", other))
        assert own in message
        assert OTHER_FAMILY in message
    assert len(Gallery.open(other)) == 1


def test_a_corrupt_test_image_stops_the_evaluation(run: Path, image: Path, tmp_path: Path) -> None:
    shutil.copy(image, tmp_path / "good.png")
    write_png(tmp_path / "also.png", decode(str(image), None))
    (tmp_path / "bad.png").write_bytes(b"")
    rows = [f"{name}.png,cat,c{i},test" for i, name in enumerate(("good", "also", "bad"))]
    (tmp_path / "t.csv").write_text("\n".join(["path,identity,camera,split", *rows]) + "\n")
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("family.json", "family.safetensors"):
        shutil.copy(run / name, copy)
    result = sfsc("evaluate", copy, "--dataset", f"csv:{tmp_path}/t.csv", "--workers", 0)
    assert f"1 of 3 images cannot be read, the first: {tmp_path}/bad.png: the file is empty" in refusal(
        result
    )
    assert not (copy / "evaluation.json").exists()


def test_without_npm_no_emoji(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = sfsc("data", "emoji", "--out", tmp_path / "emoji")
    assert "npm is not installed: install Node.js" in refusal(result)
    assert not (tmp_path / "emoji").exists()


@pytest.fixture(scope="module")
def old(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another family, with embeddings of another dimension."""
    run = tmp_path_factory.mktemp("old") / "run"
    succeed("train", shapes, "--out", run, "--seed", 4, *settings(epochs=1, embedding_dim=12))
    return run


class TestChangingTheModel:
    """An old model's gallery answers another family, by a bridge."""

    def test_a_gallery_is_upgraded(
        self, run: Path, old: Path, shapes: str, tmp_path: Path, image: Path
    ) -> None:
        gallery, file = tmp_path / "gallery", tmp_path / "old.safetensors"
        succeed("index", old, shapes, "--gallery", gallery, "--workers", 0)
        out = succeed("bridge", old, run, "--images", shapes, "--out", file, "--workers", 0)
        assert "fitted on 48 images" in out
        assert "find themselves first" in " ".join(out.split())
        before = succeed("search", run, image, "--gallery", gallery, "--bridge", file)
        assert "sfsc bridge" in refusal(sfsc("search", run, image, "--gallery", gallery))
        assert "give either --bridge FILE" in refusal(sfsc("gallery", "upgrade", gallery))
        upgrade = ("gallery", "upgrade", gallery, "--bridge", file)
        assert succeed(*upgrade) == f"{gallery}: {TEST_IMAGES} rows bridged\n"
        assert succeed(*upgrade) == f"{gallery}: all rows were bridged before\n"
        assert f"{TEST_IMAGES} rows are bridged" in succeed("gallery", "info", gallery)
        after = succeed("search", run, image, "--gallery", gallery)
        assert len(before.splitlines()) == len(after.splitlines())
        curve = ("upgrade-curve", run, "--gallery", gallery, "--dataset", shapes, "--workers", 0)
        assert "closed at 20%" in succeed(*curve, "--out", tmp_path / "curve")
        assert "the others refitted" in succeed(*curve, "--bridge", file, "--out", tmp_path / "curve")
        again = ("index", run, "--upgrade", "--gallery", gallery, "--workers", 0)
        succeed(*again, "--order", "uncertainty", "--limit", 4)
        assert f"{TEST_IMAGES - 4} rows are bridged" in succeed("gallery", "info", gallery)
        assert "embed at least 20 again first" in refusal(sfsc(*upgrade, "--refit"))
        succeed(*again, "--order", "spread", "--limit", 17)
        assert succeed(*upgrade, "--refit") == f"{gallery}: {TEST_IMAGES - 21} rows bridged again\n"
        assert "give either" in refusal(sfsc("gallery", "upgrade", gallery, "--drop-originals", "--refit"))
        assert "belong to --upgrade" in refusal(
            sfsc("index", run, shapes, "--gallery", gallery, "--limit", 4)
        )
        dropped = f"{gallery}: the original embeddings of {TEST_IMAGES} rows removed\n"
        assert succeed("gallery", "upgrade", gallery, "--drop-originals") == dropped

    def test_an_exported_file_searches_the_old_gallery(
        self, run: Path, old: Path, shapes: str, tmp_path: Path, image: Path
    ) -> None:
        gallery, file = tmp_path / "gallery", tmp_path / "old.safetensors"
        succeed("index", old, shapes, "--gallery", gallery, "--workers", 0)
        succeed("bridge", old, run, "--images", shapes, "--out", file, "--workers", 0)
        phone = tmp_path / "phone.onnx"
        succeed("export", run, "--width", 0.25, "--bridge", file, "--out", phone)
        by_file = succeed("search", phone, image, "--gallery", gallery)
        assert by_file == succeed(
            "search", run, image, "--gallery", gallery, "--bridge", file, "--width", 0.25
        )

    def test_a_table_is_imported_under_a_name(self, run: Path, shapes: str, tmp_path: Path) -> None:
        succeed("embed", run, shapes, "--out", tmp_path / "old.npy", "--workers", 0)
        gallery = tmp_path / "gallery"
        words = ("gallery", "import", tmp_path / "old.npy", "--gallery", gallery)
        assert succeed(*words, "--space", "last-year") == f"{gallery}: {TEST_IMAGES} rows imported\n"
        assert "space last-year" in succeed("gallery", "info", gallery)
        assert "give only one of" in refusal(sfsc(*words, "--space", "x", "--fingerprint", "y"))
        refused = refusal(sfsc(*words, "--model", run, "--width", 1.0))
        assert "but the gallery to space:last-year" in refused or "belongs to the space last-year" in refused


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_the_options(command: str) -> None:
    out = succeed(*command.split(), "--help")
    assert out.startswith("Usage: ")
    assert set(re.findall(r"--[a-z][a-z0-9-]*", out)) - {"--help"} == OPTIONS[command]


def test_every_command_is_listed_here() -> None:
    def names(group: Any, prefix: str) -> set[str]:
        commands = getattr(group, "commands", {})
        return {prefix}.union(*(names(own, f"{prefix} {name}".strip()) for name, own in commands.items()))

    assert names(get_command(app), "") == {*OPTIONS}


def test_inspect_shows_what_a_normalisation_costs() -> None:
    inspect = ("inspect", "small", "--widths", "0.5,1", "--image-size", "32", "--normalisation")
    batch, whitening = (succeed(*inspect, name) for name in ("batch", "switchable_whitening"))
    assert batch != whitening
    result = sfsc(*inspect, "layer")
    assert result.code == 2
    assert "unknown normalisation 'layer'; choose one of batch, instance_batch" in result.err


@pytest.mark.parametrize("command", ["search {run} {image}", "search {run} {image} --gallery x --top 0", "x"])
def test_wrong_usage_exits_with_2_and_says_how(places: dict[str, object], command: str) -> None:
    result = sfsc(*(word.format_map(places) for word in command.split()))
    assert result.code == 2
    assert "Usage: " in result.err
    assert "Traceback" not in result.err


class TestProcess:
    """What only a process of its own shows: exit status, streams."""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "400"}
        words = [sys.executable, "-m", "sfsc", *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)

    def test_mistake(self, tmp_path: Path) -> None:
        done = self.command("evaluate", str(tmp_path))
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"sfsc: {tmp_path} is not a run folder")
        assert len(done.stderr.splitlines()) == 1

    def test_success(self, run: Path, gallery: Path, image: Path) -> None:
        words = ("search", str(run), str(image), "--gallery", str(gallery))
        done = self.command(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == succeed(*words), "as in this process"
