"""The report of a benchmark: one Markdown section on standard output."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from datetime import date

import torch


def parser(purpose: str | None) -> argparse.ArgumentParser:
    """Return an argument parser that describes its purpose and shows defaults."""
    return argparse.ArgumentParser(
        description=purpose, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table with the text of each cell."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def section(title: str, *parts: str, device: str = "cpu") -> str:
    """Return a section: a heading, paragraphs and tables, and the machine that was measured."""
    flowing = [part if part.startswith("|") else " ".join(part.split()) for part in parts]
    return "\n\n".join([f"## {title}", *flowing, _machine(device)])


def _machine(device: str) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name(device)}" if device != "cpu" else ""
    threads = torch.get_num_threads()
    return f"*{date.today()}, {cores} cores, {threads} threads{gpu}, torch {torch.__version__}*"


def met(aim: bool) -> str:
    """Return the word in a table for an aim that is met or missed."""
    return "met" if aim else "**missed**"
