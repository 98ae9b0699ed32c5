"""The benchmarks run and report; what they measure is not tested."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfsc import Family, Gallery, compare
from sfsc.files.writing import write_json
from tests.serving.conftest import in_browser

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHORT = {
    "conversion": "--backbones small --size 32",
    "pruning": "--backbones small --size 32",
    "forward": "--backbones MobileNetV2 --size 32 --batches 2 --seconds 0",
    "step": "--cases small@32 --batch 2 --seconds 0",
    "normalisation": "--backbones small --size 32 --batch 2 --seconds 0",
    "gpu": "--device cpu --no-compile --backbones small --size 32 --batch 2 --seconds 0",
    "gallery": "--rows 20000 --dim 16 --queries 20 --seconds 0",
    "large": "--rows 20000 --dim 16 --queries 20 --seconds 0",
    "live": "--rows 20000 --dim 16 --changes 3 --seconds 1 --upserts 10",
    "reranked_search": "--rows 20000 --dim 16 --queries 3",
    "durability": "--rounds 8 --milvus-rounds 1",
    "living": "--minutes 0.05",
    "hostile": "--rows 2000 --dimension 16 --clients 2 --seconds 2 --crowd 20",
}
# What their sections must show; those of the others, a backbone.
SHOWN = {
    "gallery": ["| exact | 20 | ", "| approximate | 1 | ", "| 50% | "],
    "large": ["| memory, building | ", "| approximate | 20 | ", "| exact | 1 | "],
    "live": ["| upsert | ", "| while rows change | "],
    "reranked_search": ["| 100 | k-reciprocal | ", "| 1000 | expansion | "],
    "durability": ["| Lance | swap | 1 | ", "| Lance | all | 8 | ", "| milvus-lite | add | 1 | "],
    "living": ["| replace | ", "| approximate search | "],
    "hostile": ["| well-behaved | ", "| hostile | ", "| hostile, and a crowd | "],
}
MIXED = ("all in turn", "37")


@pytest.fixture
def assembly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module benchmarks/all.py."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("all")


def test_every_mark_names_a_script(assembly: Any) -> None:
    names = assembly.MARK.findall(assembly.PAGE.read_text())
    assert set(SHORT) <= set(names)
    assert all((BENCHMARKS / f"{name}.py").is_file() for name in names)


def test_a_section_replaces_only_its_own(assembly: Any) -> None:
    page = "# Title\n\n<!-- one -->\n\n## Old\n\n<!-- two -->\n"
    once = assembly.replace_section(page, "one", "## New\n\ntext\n")
    assert once == "# Title\n\n<!-- one -->\n\n## New\n\ntext\n\n<!-- two -->\n"
    assert assembly.replace_section(once, "one", "## New\n\ntext\n") == once
    both = assembly.replace_section(once, "two", "| a table |\n")
    assert both == f"{once}\n## Two\n\n| a table |\n"
    assert assembly.replace_section(both, "two", "## Two\n\n| a table |") == both


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_script_prints_one_section(name: str) -> None:
    printed = section_of(name, *SHORT[name].split())
    shown = SHOWN.get(name)
    if shown is None:
        assert "| small |" in printed or "| MobileNetV2 |" in printed
    else:
        assert [row for row in shown if row not in printed] == []


@pytest.mark.slow
def test_the_change_that_numeric_forms_make(tmp_path: Path, shapes: str) -> None:
    Family.create("small", embedding_dim=16, image_size=(32, 32)).save(tmp_path)
    printed = section_of("storage", f"--run={tmp_path}", f"--dataset={shapes}", "--workers=0")
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    assert [row[:2] for row in rows] == [["float32", "64"], ["float16", "32"], ["int8", "16"], [*MIXED]]
    assert rows[0][3::2] == ["+0.000", "+0.000"]


@pytest.mark.slow
def test_the_share_of_an_identity_among_the_first_hits(tmp_path: Path, shapes: str) -> None:
    Family.create("small", (0.5, 1.0), 16, (32, 32)).save(tmp_path)
    command = f"--run={tmp_path}", f"--dataset={shapes}", "--workers=0", "--hits=1000"
    printed = section_of("first_hits", *command)
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    assert [row[:2] for row in rows] == [["0.5", "0.5"], ["0.5", "1"], ["1", "1"]]
    assert [row[2:] for row in rows] == [["100", "100", "-"]] * 3, "among as many hits as there are images"


@pytest.mark.slow
def test_exported_files_beside_their_sub_models(tmp_path: Path, shapes: str) -> None:
    Family.create("small", (0.5, 1.0), 16, (32, 32)).save(tmp_path)
    printed = section_of(
        "parity", f"--run={tmp_path}", f"--dataset={shapes}", "--workers=0", "--seconds=0", "--images=5"
    )
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    forms = ["onnx", "pt2", "onnx, int8"]
    assert [row[:2] for row in rows] == [[width, form] for width in ("0.5", "1") for form in forms]
    assert all(float(row[5]) > 0.99999 for row in rows if row[1] != "onnx, int8")
    assert all(float(row[7]) == 0 for row in rows if row[1] != "onnx, int8")
    assert [row[8] for row in rows if row[1] == "onnx"] == ["1.00", "1.00"]


@in_browser
@pytest.mark.skipif(not shutil.which("npm"), reason="there is no npm on this machine")
@pytest.mark.slow
def test_the_browser_embeds_as_python_does(tmp_path: Path, shapes: str) -> None:
    Family.create("small", (0.25, 1.0), 16, (32, 32)).save(tmp_path)
    printed = section_of(
        "browser", f"--run={tmp_path}", f"--dataset={shapes}", "--images=2", "--rounds=1", "--repeats=2"
    )
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:5]] == ["0.25, int8", "0.25, float32", "1, float32"]
    assert [row[0] for row in rows[7:9]] == ["as it is", "JPEG, 200 x 150"]
    assert all(float(row[4]) > 0.9999 for row in rows[7:])


@pytest.mark.slow
def test_an_installation_without_torch_is_measured(tmp_path: Path, shapes: str) -> None:
    Family.create("small", (0.25, 1.0), 16, (32, 32)).save(tmp_path)
    printed = section_of(
        "install",
        f"--run={tmp_path}",
        f"--dataset={shapes}",
        "--installations=sfsc",
        "--images=2",
        "--seconds=0",
    )
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    assert [(row[0], row[1], row[-1]) for row in rows] == [("`sfsc`", "no", "1.000000")]


@pytest.mark.slow
def test_another_runtime_computes_the_same(tmp_path: Path, shapes: str) -> None:
    Family.create("small", (0.25, 1.0), 16, (32, 32)).save(tmp_path)
    printed = section_of(
        "platforms", f"--run={tmp_path}", f"--dataset={shapes}", "--images=4", "--packages=openvino"
    )
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    assert [(row[0], row[2]) for row in rows] == [("OpenVINO", ".onnx, float32"), ("OpenVINO", ".onnx, int8")]
    assert float(rows[0][3]) > 0.9999


@pytest.mark.slow
def test_the_smallest_is_measured_against_the_full(tmp_path: Path, shapes: str) -> None:
    Family.create("small", embedding_dim=16, image_size=(32, 32)).save(tmp_path)
    write_json(tmp_path / "config.json", {"dataset": shapes, "backbone": "small"})
    printed = section_of("deploy", f"--run={tmp_path}", "--backbones=small", "--size=32", "--seconds=0")
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:6]] == [
        *("times faster", "times smaller", "M(smallest int8, full)", "M(full, full)"),
    ]
    assert [row[0] for row in rows[8:]] == [str(tmp_path), "small"]


@pytest.mark.slow
def test_what_shorter_embeddings_cost(tmp_path: Path, shapes: str) -> None:
    settings = {
        **{"dataset": shapes, "backbone": "small", "widths": (0.5, 1.0), "embedding_dim": 16, "epochs": 1},
        **{"image_size": (32, 32), "identities_per_batch": 4, "images_per_identity": 3, "workers": 0},
    }
    recipes = {"sfsc": None, "sfsc-nested": {"recipe": "sfsc", "nested_dims": (4,)}}
    matrices = [one.matrices[0] for one in compare(settings, recipes, 1, tmp_path, False).contestants]
    printed = section_of("dimensions", f"--comparison={tmp_path}", "--workers=0")
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    forms = [("float32", 4), ("float16", 2), ("int8", 1)]
    assert [row[:3] for row in rows] == [[str(d), form, str(d * b)] for d in (16, 4) for form, b in forms]
    plain, nested = (100 * matrix.metrics["mAP"][:, 1] for matrix in matrices)
    assert [float(cell) for cell in rows[0][3:]] == pytest.approx([*nested, *plain], abs=0.5)
    plain, nested = (f"{100 * matrix.self_tests():.1f}" for matrix in matrices)
    assert f"{nested} with the option and {plain} without it" in " ".join(printed.split())


@pytest.mark.slow
def test_no_row_is_lost_when_a_service_ends() -> None:
    options = "--rows=500 --dimension=16 --clients=2 --seconds=0.2 --rounds=1 --together=5 --after=0.5"
    printed = section_of("service", *options.split())
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    kinds = ["numbers", "base64", "base64, 32 at once", "exact", "1", "5"]
    assert [(row[0], row[-1]) for row in rows if row[-1] == "0"] == [(kind, "0") for kind in kinds]
    assert "It ended with code 0." in printed
    assert "**0** of them are missing in the gallery" in " ".join(printed.split())


def test_neighbours_are_found_as_by_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    neighbours = importlib.import_module("neighbours")
    rows, queries = neighbours.clustered(300, 5, 8)
    best = np.argsort(-queries @ rows.T, axis=1)[:, :4]
    assert neighbours.recall(neighbours.by_numpy(rows, queries, 4), best) == 1
    assert neighbours.recall(best[:, :3], best) == 0.75


def test_rows_that_kills_took_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    changes, checks = importlib.import_module("changes"), importlib.import_module("checks")
    rows = dict.fromkeys(range(50), 1)
    stored = {id_: changes.embeddings([id_], 1)[0] for id_ in rows}
    for operation in ("add", "replace", "import", "delete"):
        change = changes.change_of(operation, 2, rows)
        made = changes.after(rows, change)
        whole = {id_: changes.embeddings([id_], number)[0] for id_, number in made.items()}
        others = {id_: row for id_, row in whole.items() if id_ != change.ids[0]}
        part = others | {id_: stored[id_] for id_ in change.ids[:1] if id_ in stored}
        assert checks.compared(stored, rows, change) == ({"lost": 0, "came back": 0, "torn": 0}, rows)
        assert checks.compared(whole, rows, change) == ({"lost": 0, "came back": 0, "torn": 0}, made)
        assert checks.compared(part, rows, change).counts["torn"] == (len(change.ids) > 1)
    wrong = {id_: row for id_, row in stored.items() if id_ != 3} | {5: stored[6], 70: stored[7]}
    assert checks.compared(wrong, rows, None).counts == {"lost": 2, "came back": 1, "torn": 0}


def test_wrong_answers_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    living = importlib.import_module("living")
    marks = living.Marks(tmp_path, new=True)
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        living.add(gallery, range(20), 2)
        marks.end(range(20), 2)
        assert wrong(living, gallery, marks) == {"missing": [0] * 4, "deleted": [0] * 4}
        marks.end([0], 3)  # it was replaced, and row 1 deleted, and row 20 added
        marks.end([1], 0)
        marks.end([20], 2)
        assert wrong(living, gallery, marks) == {"missing": [2, 2, 0, 1], "deleted": [2, 2, 0, 1]}
        marks.begin([0, 1, 20])
        assert wrong(living, gallery, marks) == {"missing": [0] * 4, "deleted": [0] * 4}


def wrong(living: Any, gallery: Gallery, marks: Any) -> dict[str, list[int]]:
    """What is wrong with the answer to each kind of question about the rows 0 and 20."""
    found = [living.answer(gallery, kind, marks.copy(), marks, [0, 20]) for kind in living.READS]
    return {what: [one[what] for one in found] for what in ("missing", "deleted")}


def section_of(name: str, *options: str) -> str:
    """What a script prints, which must be one section."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *options]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    headings = [line for line in printed.splitlines() if line.startswith("## ")]
    assert printed.startswith("## ")
    assert len(headings) == 1
    return printed
