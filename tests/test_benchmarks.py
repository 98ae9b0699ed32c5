"""The benchmarks run and report; what they measure is not tested."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHORT = {
    "conversion": "--backbones small --size 32",
    "pruning": "--backbones small --size 32",
    "forward": "--backbones MobileNetV2 --size 32 --batches 2 --seconds 0",
    "step": "--cases small@32 --batch 2 --seconds 0",
    "gpu": "--device cpu --no-compile --backbones small --size 32 --batch 2 --seconds 0",
}


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
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *SHORT[name].split()]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    headings = [line for line in printed.splitlines() if line.startswith("## ")]
    assert printed.startswith("## ")
    assert len(headings) == 1
    assert "| small |" in printed or "| MobileNetV2 |" in printed
