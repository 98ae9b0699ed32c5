"""Commands for changing the model of galleries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfsc.cli.options import (
    DATASET_HELP,
    GALLERY_HELP,
    OLD_HELP,
    AllowCodeOption,
    ModelArgument,
    WidthOption,
    WorkersOption,
)
from sfsc.report import terminal

app = typer.Typer()


@app.command()
def bridge(
    old: Annotated[
        str,
        typer.Argument(
            metavar="OLD",
            help=f"What embedded the old rows: {OLD_HELP}.",
        ),
    ],
    new: ModelArgument,
    images: Annotated[
        str,
        typer.Option(metavar="IMAGES", help="A folder or KIND:PATH of any images like those of the gallery."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="File of the bridge, for example old.safetensors.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(help="orthogonal, relaxed or residual; default: the best on held-out images."),
    ] = None,
    workers: WorkersOption = 2,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    allow_code: AllowCodeOption = None,
) -> None:
    """Fit maps between the embeddings of an old model and those of a family, on images without labels."""
    from sfsc.bridges.making import bridge as fit_bridge
    from sfsc.bridges.old import open_old
    from sfsc.embedding.model import open_model

    model = open_model(new, allow_code)
    opened = open_old(old, allow_code=allow_code, workers=workers)
    made = fit_bridge(opened, model, images, name=new.absolute().name, kind=kind, workers=workers, seed=seed)
    made.save(out)
    terminal.print_bridge(made)
    print(f"bridge: {out}")


@app.command("upgrade-curve")
def upgrade_curve(
    model: ModelArgument,
    gallery: Annotated[str, typer.Option(help=f"{GALLERY_HELP}, with identities.")],
    dataset: Annotated[
        str, typer.Option(metavar="DATASET", help=f"{DATASET_HELP}; its query images are searched.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for curve.csv and curve.png.")] = Path("upgrade-curve"),
    width: WidthOption = None,
    bridge: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Bridge that has moved the gallery: measure refitting it after each share, too.",
        ),
    ] = None,
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Measure what re-embedding a part of a gallery gives, in every order; the gallery is not changed."""
    from sfsc.bridges.bridge import Bridge
    from sfsc.data import open_dataset
    from sfsc.embedding.model import open_model
    from sfsc.evaluation.upgrade_curve import upgrade_curve as run_curve
    from sfsc.gallery import Gallery
    from sfsc.report.upgrade_curve import write_curve

    opened = open_model(model, allow_code)
    width = opened.widest if width is None else width
    loaded = None if bridge is None else Bridge.load(bridge)
    curve = run_curve(opened, Gallery.open(gallery), open_dataset(dataset), width, workers, bridge=loaded)
    files = write_curve(curve, out)
    terminal.print_tables(curve.tables())
    print(f"written: {', '.join(map(str, files))}")
