"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATASET_HELP = (
    "KIND:PATH, with KIND one of folder, csv, market1501, veri776, msmt17, grocery, omniglot, emoji"
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that `sfsc train` wrote.")]
AllowCodeOption = Annotated[
    str | None,
    typer.Option(
        metavar="FUNCTION",
        help="Allow importing and calling package.module:function if it is the run's python: backbone.",
    ),
]
DimOption = Annotated[
    int | None,
    typer.Option(
        help="Number of first components to use, one of the family's nested dimensions; default: all.",
        show_default=False,
    ),
]
WorkersOption = Annotated[int, typer.Option(min=0, help="Number of workers that decode images.")]
DatasetOption = Annotated[
    str | None, typer.Option(metavar="DATASET", help=f"{DATASET_HELP}; default: the run's data set.")
]
