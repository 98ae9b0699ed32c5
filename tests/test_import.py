"""What importing costs: `import sfsc` next to nothing, the base install no torch."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest
import typer

import sfsc
from sfsc._moved import MOVED
from sfsc.cli import app

HEAVY = ["torch", "kornia", "lance", "pyarrow", "cv2", "matplotlib", "pydantic", "numpy"]
EXTRAS = ["torch", "kornia", "safetensors", "pydantic", "yaml", "matplotlib", "jinja2", "lance", "pyarrow"]
# What a platform without torch uses, and what a gallery is written and searched by.
TORCH_FREE = (
    *(
        "Bridge",
        "CompatibilityMatrix",
        "Condition",
        "Dataset",
        "ExportedModel",
        "Gallery",
        "Hit",
        "Limits",
        "Model",
    ),
    *("Profile", "SfscError", "Widths", "choose", "embed", "index", "make_engine", "open_dataset"),
    *("bridge", "open_model", "profile", "search", "search_cascade", "upgrade", "upgrade_curve"),
    "upgrade_gallery",
)
BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_import_sfsc_imports_nothing_heavy() -> None:
    done = python(f"import sys, sfsc; print([name for name in {HEAVY} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", sfsc.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(sfsc, name)
    assert value.__name__ == name
    assert value.__doc__


@pytest.mark.slow
@pytest.mark.parametrize("order", [sfsc.__all__, sfsc.__all__[::-1]])
def test_the_names_may_be_imported_in_any_order(order: list[str]) -> None:
    """A module that is imported for one name must not stand in the way of another."""
    code = f"from sfsc import {', '.join(order)}\nprint([n for n in {order} if not callable(globals()[n])])"
    done = python(code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_names_are_sorted_and_no_others_resolve() -> None:
    assert sfsc.__all__ == sorted(set(sfsc.__all__))
    assert set(sfsc._HOMES) == set(sfsc.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sfsc.nothing


def test_the_base_install_needs_no_extra() -> None:
    modules = "sfsc.data, sfsc.retrieval, sfsc.gallery, sfsc.report.ranked_list, sfsc.widths, sfsc.cli"
    done = python(f"{BLOCK}\nimport {modules}\nprint('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_what_a_platform_uses_needs_no_extra() -> None:
    done = python(f"{BLOCK}\nfrom sfsc import {', '.join(TORCH_FREE)}\nprint('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_no_public_name_hides_a_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(sfsc.__path__)}
    former = {name.split(".")[1] for name in MOVED}
    assert not {*sfsc.__all__} & (modules | former)


def test_what_commands_do_is_public() -> None:
    commands = {one.name for one in typer.main.get_command(app).commands.values()}
    called = {"ablate": "compare", "report": "write_report", "serve": "create_app", "gallery": "Gallery"} | {
        "thresholds": "fit_thresholds",
        "upgrade-curve": "upgrade_curve",
    }
    expected = {called.get(name, name) for name in commands - {"data"}}
    assert expected <= {*sfsc.__all__}


@pytest.mark.parametrize(
    "arguments",
    [
        "train csv:x.csv",
        "search {tmp} x.png --gallery {tmp}/gallery",
        "report {tmp}",
        "gallery restore {tmp} --to {tmp}/gallery",
        "gallery import {tmp}/x.npy --gallery {tmp}/gallery",
    ],
)
def test_a_command_without_its_extra_names_it(
    arguments: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    words = arguments.format(tmp=tmp_path_factory.mktemp("run")).split()
    done = python(f"{BLOCK}\nfrom sfsc.cli import main\nmain()", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("sfsc: ")
    assert "pip install 'sfsc[" in done.stderr
    assert len(done.stderr.splitlines()) == 1
