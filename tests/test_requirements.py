"""What `make` installs is known to the last byte."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ("cpu", "torch", "dev")  # of the environment; the site has its own
PIN = re.compile(r"([a-z0-9-]+)==([^ ;]+)(?: ; ([^\\]+?))?((?: \\\n    | )--hash=sha256:[0-9a-f]{64})+\n")


def text(lock: str) -> str:
    return (ROOT / "requirements" / f"{lock}.txt").read_text()


def pins(lock: str) -> dict[str, str]:
    return {pin[1]: pin[2] for pin in PIN.finditer(text(lock))}


@pytest.mark.parametrize("lock", [*LOCKS, "docs"])
def test_a_lock_holds_pinned_versions_with_hashes_and_nothing_else(lock: str) -> None:
    assert pins(lock)
    assert PIN.sub("", text(lock)) == ""


def test_the_locks_have_the_versions_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = dict(line.partition(" ;")[0].split("==") for line in lines)
    assert pins("torch") | pins("dev") == constraints
    assert not pins("torch").keys() & pins("dev").keys()
    assert pins("cpu") == {"torch": constraints["torch"] + "+cpu"}


def test_all_that_the_project_names_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    extras = project["project"]["optional-dependencies"]
    documents = extras.pop("docs")
    named += [one for extra in extras.values() for one in extra]
    assert names(named) <= pins("torch").keys() | pins("dev").keys()
    assert names(documents) <= pins("docs").keys()


def names(requirements: list[str]) -> set[str]:
    """The packages that are required, but for sfsc itself."""
    return {re.split(r"[\[<>=]", one)[0].lower().replace("_", "-") for one in requirements} - {"sfsc"}


def test_make_installs_nothing_that_has_no_hash() -> None:
    makefile = (ROOT / "Makefile").read_text()
    rule = makefile.partition("\n.venv/.installed:")[2].partition("\n\n")[0]
    [own] = [line.split() for line in rule.splitlines() if "pip install" in line]
    assert {"--no-deps", "--no-build-isolation", "--editable", "."} <= {*own}
    assert all(f"$(LOCKED) requirements/{lock}.txt" in rule for lock in LOCKS)
    installing = [line for line in makefile.splitlines() if "pip install" in line and "--requirement" in line]
    assert len(installing) == 2  # LOCKED, and the site
    assert all({"--require-hashes", "--no-deps", "--only-binary"} <= {*line.split()} for line in installing)
