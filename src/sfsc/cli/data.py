"""Commands for data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfsc.cli.options import DATASET_HELP
from sfsc.report import terminal

app = typer.Typer(help="Build and inspect data sets.", no_args_is_help=True)


@app.command("emoji")
def emoji(
    out: Annotated[Path, typer.Option(help="Folder for the data set.")] = Path("data/emoji"),
    skin_tones: Annotated[
        bool, typer.Option(help="Keep skin-tone variants, which makes the data set harder.")
    ] = False,
) -> None:
    """Fetch eight emoji fonts with npm and render them (identity = emoji, camera = vendor)."""
    from sfsc.data import build_emoji

    print(f"emoji:{build_emoji(out, skin_tones=skin_tones)} is ready")


@app.command("show")
def show(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=DATASET_HELP)],
    out: Annotated[Path, typer.Option(help="File for the contact sheet.")] = Path("contact_sheet.png"),
) -> None:
    """Count the images of a data set by split and camera, and draw a contact sheet."""
    from sfsc.data import dataset_sheet, open_dataset, summarise, write_png

    opened = open_dataset(dataset)
    terminal.print_summary(summarise(opened))
    write_png(out, dataset_sheet(opened))
    print(f"contact sheet: {out}")
