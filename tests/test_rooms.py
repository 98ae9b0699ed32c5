"""The rooms of the house: dependencies point one way, and no two modules import each other."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import sfsc
from sfsc._moved import MOVED

ROOT = Path(sfsc.__file__).parents[1]
# A room may import from itself and from the rooms before it.
ROOMS = (
    *("errors", "files", "progress", "interruption", "widths", "notation", "dimensions"),
    *("images", "data", "runs", "retrieval", "decisions", "backbones", "switchable", "family"),
    *("embedding", "gallery", "bridges"),
    *("training", "evaluation", "deploy", "report", "serving", "cli"),
)
OUTSIDE = ("__init__", "__main__", "_moved")  # of all rooms: they name what is in them
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "sfsc").rglob("*.py")
}


def imported(path: Path) -> Iterator[str]:
    """The modules of sfsc that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sfsc":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "sfsc")


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_every_module_is_in_a_room() -> None:
    assert {room(module) for module in MODULES} == {*ROOMS, *OUTSIDE}


def test_no_import_climbs() -> None:
    climbing = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        if room(module) in ROOMS
        for other in imported(path)
        if room(other) not in ROOMS or ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert climbing == []


def test_no_modules_import_each_other() -> None:
    graph = {module: {*imported(path)} - {module} for module, path in MODULES.items()}
    try:
        order = [*TopologicalSorter(graph).static_order()]
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")
    assert {*MODULES} <= {*order}


@pytest.mark.parametrize("old", MOVED)
def test_old_names_are_the_same_modules(old: str) -> None:
    new = import_module(MOVED[old])
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        assert import_module(old) is new
    assert new.__spec__ is not None
    assert new.__spec__.name == new.__name__ == MOVED[old]
