"""Commands for trained families."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sfsc.cli.options import (
    DATASET_HELP,
    OLD_HELP,
    AllowCodeOption,
    DatasetOption,
    RerankDepthOption,
    RerankOption,
    RunArgument,
    WorkersOption,
)
from sfsc.errors import one_line
from sfsc.report import terminal

app = typer.Typer()


@app.command()
def evaluate(
    run: RunArgument,
    dataset: DatasetOption = None,
    workers: WorkersOption = 2,
    with_: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="FILE", help="Exported sub-model to evaluate as well; repeatable."),
    ] = None,
    distractors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGES", help="A folder or KIND:PATH whose images are added to the gallery; repeatable."
        ),
    ] = None,
    rerank: RerankOption = None,
    rerank_depth: RerankDepthOption = 100,
    tracks: Annotated[
        bool,
        typer.Option("--tracks", help="Also rank tracks: the images of one identity from one camera."),
    ] = False,
    cascade: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHS",
            help="Also measure a cascade, such as 0.25,1: unsure queries go on to the next width.",
        ),
    ] = None,
    old: Annotated[
        str | None,
        typer.Option(
            metavar="OLD",
            help=f"Old model to evaluate as well: {OLD_HELP}; default: the one of the training.",
            show_default=False,
        ),
    ] = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Evaluate every sub-model's queries against every sub-model's gallery (the compatibility matrix)."""
    further = {"rerank": rerank, "rerank_depth": rerank_depth, "tracks": tracks, "cascade": cascade}
    _evaluate(run, dataset, workers, with_ or [], allow_code, distractors or [], old, **further)


@app.command()
def thresholds(
    run: RunArgument,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help=f"{DATASET_HELP}; its test images are used; default: the validation identities of the run.",
        ),
    ] = None,
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Fit what a cosine means: the probability of a match, and thresholds for false match rates.

    Each pair of query width and gallery width, numeric form and dimension gets its own map. The maps are
    written to RUN/thresholds.json, and files that are exported later carry them.
    """
    from sfsc.data import open_dataset
    from sfsc.decisions.thresholds import THRESHOLDS_FILE
    from sfsc.evaluation.thresholds import fit_thresholds, validation_of
    from sfsc.family.family import Family
    from sfsc.training.config import dataset_of

    own = None if dataset else dataset_of(run)
    name = dataset or validation_of(str(own))
    if own is not None and own != name:
        print(
            f"remark: {run} was trained on these identities, so that more false matches pass than the "
            f"thresholds say: train on {name}, or name identities that it has not seen with --dataset",
            file=sys.stderr,
        )
    fitted = fit_thresholds(Family.load(run, allow_code), open_dataset(name), workers)
    fitted.save(run / THRESHOLDS_FILE)
    terminal.print_thresholds(fitted)
    print(f"written: {run / THRESHOLDS_FILE}")


@app.command()
def submodel(
    run: RunArgument,
    widths: Annotated[
        str, typer.Argument(metavar="WIDTHS", help="Widths that the family lacks, such as 0.4,0.6/0.5@48.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new family.")],
    dataset: DatasetOption = None,
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Add sub-models of widths that were not trained. The galleries of the run stay valid.

    Their BatchNorm statistics come from the training images of the data set, without labels.
    """
    from sfsc.training.submodel import submodel as add_submodels

    family = add_submodels(run, widths, out, dataset, workers, allow_code)
    print(f"written: {out}, a family of the widths {', '.join(map(family.name_of, family.widths))}")


@app.command()
def recalibrate(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder of the new family.")],
    width: Annotated[
        list[float] | None,
        typer.Option(help="Width, trained or not; repeatable; default: all widths of the family."),
    ] = None,
    dataset: DatasetOption = None,
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Re-estimate BatchNorm statistics, also for widths that were not trained, and evaluate the result.

    The statistics come from the training images of the data set, the evaluation from its test images.
    """
    from sfsc.training.norm_statistics import recalibrate as run_recalibration

    run_recalibration(run, out, width, dataset, workers, allow_code)
    _evaluate(out, dataset, workers, [], allow_code)


@app.command()
def calibrate(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder of the new family.")],
    images: Annotated[
        str | None,
        typer.Option(metavar="IMAGES", help="A folder or KIND:PATH; default: the run's training images."),
    ] = None,
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Move the embeddings of narrow sub-models closer to the full sub-model's, without labels.

    Galleries that the full sub-model wrote stay valid.
    """
    from sfsc.training.calibrate import calibrate as run_calibration

    terminal.print_calibration(run_calibration(run, out, images, workers, allow_code))
    print(f"calibrated: {out}")


@app.command()
def adapt(
    run: RunArgument,
    images: Annotated[
        str, typer.Option(metavar="IMAGES", help="A folder or KIND:PATH of images of the new cameras.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new family.")],
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Adapt a family to the images of other cameras, without labels.

    Statistics and calibrations of these images are tried on a part of them that is held out. The output says
    whether galleries that the full sub-model wrote stay valid.
    """
    from sfsc.training.adapt import adapt as run_adaptation

    terminal.print_adaptation(run_adaptation(run, images, out, workers, allow_code))
    print(f"adapted: {out}")


@app.command()
def report(run: RunArgument) -> None:
    """Write a self-contained HTML report about a run."""
    from sfsc.report.html import read_evaluations, write_report

    page = write_report(run)
    own = read_evaluations(run).own
    if own:
        terminal.print_evaluation(own)
    print(f"report: {page}")


def _evaluate(
    run: Path,
    dataset: str | None,
    workers: int,
    exported: Sequence[Path],
    allow_code: str | None,
    distractors: Sequence[str] = (),
    old: str | None = None,
    **further: Any,
) -> None:
    """Evaluate a run folder, further options going to `evaluate`; write and print the result."""
    from sfsc.data import open_dataset
    from sfsc.data.distractors import with_distractors
    from sfsc.evaluation.evaluate import evaluate as run_evaluation
    from sfsc.evaluation.old import open_member
    from sfsc.family.family import Family
    from sfsc.report.result_figures import draw_evaluation
    from sfsc.training.config import dataset_of
    from sfsc.training.record import remarks

    opened = open_dataset(dataset or dataset_of(run))
    for remark in remarks(run, opened):
        print(f"remark: {one_line(remark)}", file=sys.stderr)
    for source in distractors:
        opened = with_distractors(opened, source)
    family = Family.load(run, allow_code)
    member = open_member(run, family, old, allow_code, workers)
    evaluation = run_evaluation(family, opened, workers, exported, **further, old=member)
    written = evaluation.write(run)
    files = [written, *draw_evaluation(written.parent)]
    terminal.print_evaluation(evaluation.to_json())
    print(f"written: {', '.join(map(str, files))}")
