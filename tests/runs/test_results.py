"""Where results are: never one over another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfsc.runs.datasets import absolute
from sfsc.runs.results import is_current, is_own, other_folders, own_dataset, results_folder

PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300)
NAMES = st.builds(
    "{}{}:{}".format,
    st.sampled_from(["", "validation:", "target:", "cameras:a,b/c/d:"]),
    st.sampled_from(["folder", "csv"]),
    PATHS,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"dataset": f"folder:{tmp_path}/data"}))
    return tmp_path / "run"


@settings(max_examples=100)
@given(NAMES, NAMES)
def test_every_data_set_has_a_place_of_its_own(one: str, other: str) -> None:
    first, second = (results_folder(Path("run"), name, own="folder:/its/own") for name in (one, other))
    assert (first == second) == (absolute(one) == absolute(other))
    assert first.parent == Path("run/evaluations")
    assert len(first.name.encode()) < 250


def test_its_own_results_are_in_the_run_however_it_is_called(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("data")
    for name in (f"folder:{tmp_path}/data", "folder:data", "folder:./data/", "folder:link"):
        assert results_folder(run, name) == run
        assert is_own(run, {"dataset": name})
    for name in ("folder:other", "validation:folder:data", "csv:data"):
        assert results_folder(run, name).parent == run / "evaluations"
        assert not is_own(run, {"dataset": name})
    assert other_folders(run) == []


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
def test_what_knows_no_data_set_of_its_own_takes_all(run: Path, text: str | None) -> None:
    (run / "config.json").unlink()
    if text is not None:
        (run / "config.json").write_text(text)
    assert own_dataset(run) is None
    assert results_folder(run, "folder:any") == run


def test_a_result_is_current_if_it_is_of_the_family_there(run: Path) -> None:
    assert is_current(run, {"fingerprint": "a"}), "without a family, nothing contradicts"
    (run / "family.json").write_text(json.dumps({"fingerprint": "a"}))
    assert is_current(run, {"fingerprint": "a"})
    assert not is_current(run, {"fingerprint": "a.b"})
