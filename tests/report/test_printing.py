"""Tables that are printed: nothing is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.table import Table

import sfsc
from sfsc.report.printing import print_table

PATH = "photos/of/a/very/long/walk/" + 10 * "through-the-town/" + "1.jpg"


def table() -> Table:
    made = Table("rank", "score", "path", title="hits")
    made.add_row("1", "0.791", PATH)
    return made


def test_a_row_takes_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(table())
    rows = [line for line in capsys.readouterr().out.splitlines() if "0.791" in line]
    assert [PATH in row for row in rows] == [True]


@pytest.mark.parametrize("columns", [30, 80])
def test_cells_continue_in_a_narrow_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(table())
    rows = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert max(map(len, rows)) <= columns
    assert "".join(row.split("│")[-2].strip() for row in rows) == PATH


def test_no_command_prints_a_table_otherwise() -> None:
    """`Console.print` would cut cells off at 80 characters."""
    source = Path(sfsc.__file__).parent
    printing = source / "report" / "printing.py"
    texts = {path: path.read_text() for path in source.rglob("*.py") if path != printing}
    assert [path for path, text in texts.items() if "rich.table" in text and "Console()" in text] == []
