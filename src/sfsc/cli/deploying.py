"""Commands that deploy sub-models to platforms."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfsc.cli.options import AllowCodeOption, DatasetOption, DimOption, RunArgument
from sfsc.errors import SfscError
from sfsc.report import platforms

if TYPE_CHECKING:
    from sfsc.deploy.choosing import Limits

app = typer.Typer()


@app.command()
def export(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="FILE for a single width; default: RUN/export/WIDTH[-dimDIM][-int8].FORMAT."),
    ] = None,
    width: Annotated[
        list[float] | None, typer.Option(help="Width to export; repeatable; default: all widths.")
    ] = None,
    format: Annotated[str, typer.Option(help="onnx, or pt2 for torch.export.")] = "onnx",
    dim: DimOption = None,
    int8: Annotated[bool, typer.Option("--int8", help="Compute with 8-bit integers.")] = False,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Images to check the files with: a folder or KIND:PATH; default: the run's training images.",
        ),
    ] = None,
    bridge: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Bridge from an old model to this family: the files search that model's galleries.",
        ),
    ] = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Export sub-models to files, after checking that each file computes the same embeddings."""
    from sfsc.bridges.bridge import Bridge
    from sfsc.data.image_paths import images_of
    from sfsc.deploy.exporting import export as run_export
    from sfsc.family.family import Family
    from sfsc.training.config import dataset_of

    family = Family.load(run, allow_code)
    over = None if bridge is None else Bridge.load(bridge)
    paths = images_of(images or dataset_of(run), "train").paths
    widths = width or list(family.widths)
    if out is not None and len(widths) > 1:
        raise SfscError("--out names a single file: give one --width, or omit --out")
    for one in widths:
        name = "-".join(
            [
                f"{one:g}",
                *([f"dim{dim}"] if dim else []),
                *(["int8"] if int8 else []),
                *(["bridged"] if bridge else []),
            ]
        )
        file = out or run / "export" / f"{name}.{format}"
        exported = run_export(family, one, file, paths, int8, dim, over)
        kept = f", {exported.float_layers} layers in float32" if int8 else ""
        print(f"exported: {file}, {file.stat().st_size:,} bytes{kept}")


@app.command()
def profile(
    run: RunArgument,
    dataset: DatasetOption = None,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads that compute.")] = 1,
    allow_code: AllowCodeOption = None,
) -> None:
    """Measure size, memory, time and accuracy of every sub-model in every form on this machine.

    If torch is installed, files that are missing in RUN/export are exported first.
    """
    from sfsc.deploy.profiling import profile as run_profile

    found = run_profile(run, dataset, threads, allow_code=allow_code)
    files = [found.write(run)]
    with suppress(SfscError):  # without matplotlib
        from sfsc.report.result_figures import draw_profile

        files += draw_profile(found, files[0].parent)
    platforms.print_profile(found)
    print(f"written: {', '.join(map(str, files))}")


@app.command()
def choose(
    run: RunArgument,
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Maximum time for one image at the 95th percentile, for example 10ms."
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Maximum peak memory, for example 20MB.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Maximum size of the file, for example 5MB.")
    ] = None,
    min_map: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Minimum mAP in the gallery of the full sub-model, for example 0.3."),
    ] = None,
    dataset: DatasetOption = None,
    search: Annotated[
        bool,
        typer.Option("--search", help="Search among all sub-models that the family could have."),
    ] = False,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="With --search: number of sub-models to evaluate; default: 150.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --search: folder of the family with the chosen sub-model, and its file."),
    ] = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Choose the most accurate exported sub-model within limits, as measured by `sfsc profile`.

    With --search, sub-models that were not trained are tried as well: every group of channels may have its
    own width, and images their own size. The accuracies are then those of validation identities.
    """
    from sfsc.deploy.choosing import Limits
    from sfsc.deploy.choosing import choose as run_choice
    from sfsc.deploy.quantities import SIZES, TIMES, read_quantity

    limits = Limits(
        latency=None if latency is None else read_quantity(latency, TIMES),
        memory=None if memory is None else read_quantity(memory, SIZES),
        size=None if size is None else read_quantity(size, SIZES),
        accuracy=min_map,
    )
    if search:
        _search(run, limits, out, evaluations, dataset, allow_code)
        return
    if out is not None or evaluations is not None:
        raise SfscError("--out and --evaluations belong to --search: add it, or leave them out")
    chosen = run_choice(run, limits, dataset)
    platforms.print_choice(run, chosen)


def _search(
    run: Path,
    limits: Limits,
    out: Path | None,
    evaluations: int | None,
    dataset: str | None,
    allow_code: str | None,
) -> None:
    from sfsc.deploy.searching import EVALUATIONS
    from sfsc.deploy.searching import search as run_search
    from sfsc.report.result_figures import draw_search

    found = run_search(run, limits, out, evaluations or EVALUATIONS, dataset, allow_code=allow_code)
    if found.seen:
        print(
            f"remark: {run} was trained on the identities of {found.dataset}, so accuracies are too high: "
            f"train on {found.dataset}, or name identities that it has not seen with --dataset",
            file=sys.stderr,
        )
    platforms.print_search(found)
    files = [draw_search(found, out or run), *([] if found.file is None else [found.file])]
    print(f"written: {', '.join(map(str, files))}")
