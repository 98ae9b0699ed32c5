"""Paths in a run: found from any working folder, before and after it was moved."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sfsc.runs.datasets import absolute, found, same, split_name
from sfsc.runs.paths import find


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a project, which lies beside its data, as it was started in the project's folder."""
    run = tmp_path / "project" / "runs" / "first"
    run.mkdir(parents=True)
    (tmp_path / "project" / "data").mkdir()
    (run / "environment.json").write_text(json.dumps({"started_in": str(tmp_path / "project")}))
    return run


@pytest.mark.parametrize("here", [".", "project", "project/runs", "/"])
@pytest.mark.parametrize("knows", [True, False])
def test_a_relative_path_is_found_from_everywhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, knows: bool
) -> None:
    if not knows:  # as runs of earlier versions
        (run / "environment.json").unlink()
    monkeypatch.chdir(tmp_path / here)
    assert find("data", run) == str(tmp_path / "project" / "data")
    assert find("data", Path(os.path.relpath(run))) == str(tmp_path / "project" / "data")


def test_the_working_folder_comes_first(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("data", run) == str(tmp_path / "data")


def test_a_project_may_be_moved_with_its_data(run: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "project" / "data")
    (tmp_path / "project").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "runs" / "first"
    assert find(data, moved) == str(tmp_path / "moved" / "data")
    assert find(str(tmp_path / "other"), moved) == str(tmp_path / "other"), "what is gone is named as it was"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"started_in": 3}', "{"])
def test_a_run_that_does_not_say_where_it_was_started_is_no_error(run: Path, text: str) -> None:
    (run / "environment.json").write_text(text)
    assert find("nowhere", run) == "nowhere"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("folder:a", ("folder:", "a")),
        ("csv:a:b", ("csv:", "a:b")),
        ("folder:folder:a", ("folder:", "folder:a")),
        ("validation:target:csv:a", ("validation:target:csv:", "a")),
        ("cameras:1,2/3/4:csv:a:b", ("cameras:1,2/3/4:csv:", "a:b")),
        ("validation:cameras:1/2/3:csv:a", ("validation:cameras:1/2/3:csv:", "a")),
        ("cameras:csv:a", None),
        ("cameras:1/2/3", None),
        ("validation:a", None),
        ("folder:", None),
        ("a/b", None),
    ],
)
def test_a_name_is_split_into_kind_and_path(name: str, parts: tuple[str, str] | None) -> None:
    assert split_name(name) == parts


def test_names_lead_to_one_data_set_however_they_are_spelled(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("project/data")
    whole = f"validation:folder:{tmp_path}/project/data"
    assert absolute("validation:folder:project/runs/../data") == whole
    assert found("validation:folder:data", run) == whole
    assert same(absolute("validation:folder:link"), whole)
    assert not same(absolute("folder:link"), whole)
    assert absolute("no data set") == "no data set"
