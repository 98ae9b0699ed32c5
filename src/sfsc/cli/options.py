"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATASET_HELP = "KIND:PATH, with KIND one of folder, csv, market1501, veri776, msmt17, omniglot, emoji"

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `sfsc train`.")]
AllowCodeOption = Annotated[
    str | None,
    typer.Option(
        metavar="FUNCTION",
        help="package.module:function that may be imported and called, if it is the run's python: backbone.",
    ),
]
DimOption = Annotated[
    int | None,
    typer.Option(
        help="Of a family with nested dimensions: so many components; default: all.", show_default=False
    ),
]
WorkersOption = Annotated[int, typer.Option(min=0, help="How many decode images at once.")]
DatasetOption = Annotated[
    str | None, typer.Option(metavar="DATASET", help=f"{DATASET_HELP}; default: the run's own.")
]
