"""Fresh Python environments, separate from the one that runs a benchmark."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def make(folder: Path, *steps: list[str]) -> Path:
    """Make an environment, run `pip install` with the arguments of each step, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    for arguments in filter(None, steps):
        output(python, "-m", "pip", "install", "--quiet", *arguments)
    return python


def output(*command: str | Path) -> str:
    """Return the output of a command that runs without the PYTHONPATH of this process."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, env=OUTSIDE).stdout
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, command))}: {error.stderr}")


def copy_sources(folder: Path) -> Path:
    """Copy the sources of an installation into a folder, because pip leaves files where it builds."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def pinned(package: str) -> str:
    """Return `package==version` from constraints.txt."""
    lines = CONSTRAINTS.read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{package}=="))
