"""Commands that bring sub-models to platforms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfsc.cli.options import DimOption, RunArgument
from sfsc.errors import SfscError

app = typer.Typer()


@app.command()
def export(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="FILE, of one width; default: RUN/export/WIDTH[-dimDIM][-int8].FORMAT."),
    ] = None,
    width: Annotated[list[float] | None, typer.Option(help="Width; repeatable; default: all.")] = None,
    format: Annotated[str, typer.Option(help="onnx, or pt2 for torch.export.")] = "onnx",
    dim: DimOption = None,
    int8: Annotated[bool, typer.Option("--int8", help="Compute with integers of 8 bits.")] = False,
    images: Annotated[
        str | None,
        typer.Option(metavar="IMAGES", help="A folder, or KIND:PATH; default: the run's training images."),
    ] = None,
) -> None:
    """Write sub-models into files that platforms run; each is compared with its sub-model first."""
    from sfsc.calibrating import image_paths
    from sfsc.deploy.exporting import export as run_export
    from sfsc.switchable.family import Family
    from sfsc.training.config import read_config

    family = Family.load(run)
    paths = image_paths(images or read_config(run).dataset)
    widths = width or list(family.widths)
    if out is not None and len(widths) > 1:
        raise SfscError("--out names one file: give one --width, or leave --out away")
    for one in widths:
        name = "-".join([f"{one:g}", *([f"dim{dim}"] if dim else []), *(["int8"] if int8 else [])])
        file = out or run / "export" / f"{name}.{format}"
        run_export(family, one, file, paths, int8, dim)
        print(f"exported: {file}, {file.stat().st_size:,} bytes")
