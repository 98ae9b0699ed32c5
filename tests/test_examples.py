"""The examples run as they stand, and say what they found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "first_steps.ipynb"
SAYS = {
    "own_images": r"The smallest sub-model searches for \S+ .* and finds:\n(  -?\d\.\d+ \S+ .*\n){5}",
    "own_backbone": r"The smallest one finds the full one's gallery with \d+\.\d percent\.\n",
    "phone_and_server": r"For \d+ of 12 queries the first hit is of the same identity\.\n",
    "first_steps": r"found: \w+-\w+(, \w+-\w+){5}\n",
}


def code(name: str) -> str:
    """The program of an example; of the notebook, its cells one after the other."""
    if name != NOTEBOOK.stem:
        return (EXAMPLES / f"{name}.py").read_text()
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    folder.mkdir()
    for program in {name, "shapes"}:
        (folder / f"{program}.py").write_text(code(program))
    environment = {**os.environ, "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, f"{name}.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS[name], done.stdout), done.stdout


def test_every_example_is_listed_and_run() -> None:
    programs = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    listed = {*re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text())}
    assert programs == listed
    assert {Path(program).stem for program in programs} - {"shapes"} == {*SAYS}


def test_the_notebook_holds_no_results() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
