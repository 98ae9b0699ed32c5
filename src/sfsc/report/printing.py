"""Lines and values as every command prints them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

T = TypeVar("T")
WIDEST = 10_000  # characters of a line of a table


def print_line(line: str) -> None:
    """Print a line as it is: neither wrapped nor coloured."""
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table without cutting off any cell.

    Cells that do not fit into a terminal continue in further lines. A file or another program, which has no
    width, gets every row in one line.
    """
    console = Console()
    for column in table.columns:
        column.overflow = "fold"
    if not console.is_terminal:
        wide = console.options.update(max_width=WIDEST)
        console.width = max(console.width, Measurement.get(console, wide, table).maximum)
    console.print(table)


def known(value: T | None, show: Callable[[T], str]) -> str:
    """Return a value as `show` writes it, or "-" if it is not known."""
    return "-" if value is None else show(value)
