"""Arguments and options that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

DATASET_HELP = (
    "KIND:PATH, with KIND one of folder, csv, market1501, veri776, msmt17, grocery, omniglot, emoji"
)
OLD_HELP = (
    "run folder, RUN:WIDTH, .onnx file, FILE.onnx:COLOURS, python:module:function, gallery, table of "
    "embeddings or TABLE:SPACE"
)
GALLERY_HELP = "Folder, milvus://HOST:PORT/NAME or milvus+https://HOST:PORT/NAME"

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that `sfsc train` wrote.")]
AllowCodeOption = Annotated[
    str | None,
    typer.Option(
        metavar="FUNCTION",
        help="Allow importing and calling package.module:function: the backbone of a run, or an old model.",
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
BoxOption = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,W,H",
        help="Part of each image: left, top, width and height in pixels of the upright image.",
    ),
]
RerankOption = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Re-rank the first hits by their neighbours among each other: k-reciprocal or expansion.",
    ),
]
RerankDepthOption = Annotated[int, typer.Option(min=2, help="Number of first hits that --rerank re-ranks.")]
FormOption = Annotated[str, typer.Option(help="Numeric form to store: float32, float16 or int8.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help='A condition such as camera=2, price<=9.5 or name="lamp, red". Repeatable: a row must meet all '
        "conditions, but only one of several = on the same column.",
    ),
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Run folder, or a .onnx file that `sfsc export` wrote.")
]
WidthOption = Annotated[
    float | None,
    typer.Option(help="Width of the sub-model that embeds; default: the widest.", show_default=False),
]
GalleryOption = Annotated[str, typer.Option(help=f"{GALLERY_HELP}; commands that write to it create it.")]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Most memory for the gallery's rows, such as 2GB; the rest is read from the disk. Default: no "
        "limit.",
    ),
]


def most_bytes(memory: str | None) -> float:
    """Return the size that `MemoryOption` says, in bytes; infinity without a limit."""
    from sfsc.deploy.quantities import SIZES, read_quantity

    return math.inf if memory is None else read_quantity(memory, SIZES)
