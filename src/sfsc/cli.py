"""The command line: every command is one call of the public API."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sfsc.errors import SaidElsewhere, SfscError, missing_extra
from sfsc.report import terminal

app = typer.Typer(
    help="Visual search across platforms: one training run, nested sub-models, one embedding space.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Build data sets and look at them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
gallery_app = typer.Typer(help="Look at galleries and tend them.", no_args_is_help=True)
app.add_typer(gallery_app, name="gallery")

EXTRA_OF = dict.fromkeys(
    ["torch", "kornia", "safetensors", "pydantic", "yaml", "matplotlib", "jinja2"], "train"
)
BACKBONE_HELP = (
    "small, resnet18, resnet50, efficientnet_lite0, transformers:NAME, timm:NAME, torchvision:NAME or "
    "python:package.module:function"
)
DATASET_HELP = "KIND:PATH, with KIND one of folder, csv, market1501, veri776, msmt17, omniglot, emoji"

RECIPES_HELP = "unified, bct, asymmetric, bct-s, asymmetric-s, sfsc, sfsc+"

DatasetArgument = Annotated[str | None, typer.Argument(metavar="DATASET", help=DATASET_HELP)]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings; a flag beats it.")]
BackboneOption = Annotated[str | None, typer.Option(help=BACKBONE_HELP)]
SeedsOption = Annotated[int | None, typer.Option(min=1, help="Runs of each recipe; default: 3.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; repeatable.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `sfsc train`.")]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Run folder, or a .onnx file of `sfsc export`.")
]
WidthOption = Annotated[
    float | None, typer.Option(help="The sub-model that embeds; default: the widest.", show_default=False)
]
GALLERY_HELP = "Folder, or milvus://HOST:PORT/NAME"
GalleryArgument = Annotated[str, typer.Argument(metavar="GALLERY", help=f"{GALLERY_HELP}.")]
GalleryOption = Annotated[str, typer.Option(help=f"{GALLERY_HELP}; made if missing where it is written.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(metavar="CONDITION", help="As camera=2 or price<=9.5; repeatable, all must hold."),
]
FormOption = Annotated[str, typer.Option(help="Stored as float32, float16 or int8.")]
EngineOption = Annotated[str, typer.Option(help="local, or ray: actors on a cluster.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Leave out images that are there, by this sub-model.")
]
WorkersOption = Annotated[int, typer.Option(min=0, help="How many decode images at once.")]


@data_app.command("emoji")
def data_emoji(
    out: Annotated[Path, typer.Option(help="Folder to build the data set in.")] = Path("data/emoji"),
    skin_tones: Annotated[bool, typer.Option(help="Keep skin-tone variants: a harder set.")] = False,
) -> None:
    """Fetch eight emoji fonts with npm and render them: identity = emoji, camera = vendor."""
    from sfsc.data import build_emoji

    print(f"emoji:{build_emoji(out, skin_tones=skin_tones)} is ready")


@data_app.command("show")
def data_show(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=DATASET_HELP)],
    out: Annotated[Path, typer.Option(help="Where to write the contact sheet.")] = Path("contact_sheet.png"),
) -> None:
    """Count a data set's images by split and camera, and draw a contact sheet."""
    from sfsc.data import dataset_sheet, open_dataset, summarise, write_png

    opened = open_dataset(dataset)
    terminal.print_summary(summarise(opened))
    write_png(out, dataset_sheet(opened))
    print(f"contact sheet: {out}")


@app.command()
def train(
    dataset: DatasetArgument = None,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/sfsc"),
    config: ConfigOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's checkpoint.")] = False,
    recipe: Annotated[str | None, typer.Option(help=f"Training method: {RECIPES_HELP}.")] = None,
    backbone: BackboneOption = None,
    widths: Annotated[str | None, typer.Option(help="Channel ratios, as 0.25,0.5,0.75,1.0.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...")] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the sub-models: minutes once, then faster steps.")
    ] = False,
    set_: SetOption = None,
) -> None:
    """Train a family: one run, all sub-models.

    The processes that torchrun starts with this command train one family together.

    All settings with their meaning and defaults are in docs/training.md; the run folder keeps those used.
    """
    from sfsc.training.config import CONFIG_FILE, Config, read_settings
    from sfsc.training.distributed import joined
    from sfsc.training.loop import train as run_training

    flags = {
        "dataset": dataset,
        "recipe": recipe,
        "backbone": backbone,
        "widths": widths,
        "epochs": epochs,
        "seed": seed,
        "device": device,
        "compile": compile_ or None,
    }

    def make() -> Config:
        stored = out / CONFIG_FILE
        settings: dict[str, Any] = read_settings(stored) if resume and stored.exists() else {}
        return Config.make(settings | _settings(config, set_, flags))

    with joined() as world:
        run_training(world.on_first(make), out, resume=resume)
        if world.first:
            print(f"trained: {out}")


@app.command()
def evaluate(
    run: RunArgument,
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET", help=f"{DATASET_HELP}; default: the run's own.")
    ] = None,
    workers: WorkersOption = 2,
) -> None:
    """Test every sub-model's queries against every sub-model's gallery: the compatibility matrix."""
    from sfsc.data import open_dataset
    from sfsc.evaluation import evaluate as run_evaluation
    from sfsc.switchable.family import Family
    from sfsc.training.config import read_config

    opened = open_dataset(dataset or read_config(run).dataset)
    evaluation = run_evaluation(Family.load(run), opened, workers)
    evaluation.write(run)
    terminal.print_evaluation(evaluation.to_json())
    print(f"written: {run / 'evaluation.json'}, {run / 'matrix.png'}, {run / 'accuracy.png'}")


@app.command()
def inspect(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE", help=BACKBONE_HELP)],
    widths: Annotated[str, typer.Option(help="Channel ratios.")] = "0.25,0.5,0.75,1.0",
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of the images in pixels.")] = 224,
    embedding_dim: Annotated[int, typer.Option(min=1, help="Dimension of the embeddings.")] = 128,
    keep: Annotated[list[str] | None, typer.Option(help="Module to leave whole; repeatable.")] = None,
    round_to: Annotated[int, typer.Option(help="Round channels up to multiples of this; 1 for none.")] = 8,
) -> None:
    """Show what becomes of a backbone at each width: channels, parameters, multiply-adds."""
    import torch

    from sfsc.switchable.family import Family
    from sfsc.switchable.inspection import inspect as run_inspection

    size = (image_size, image_size)
    family = Family.create(backbone, widths, embedding_dim, size, keep=keep or (), round_to=round_to)
    terminal.print_inspection(run_inspection(family, torch.zeros(1, 3, *size)))


@app.command()
def recalibrate(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder of the new family.")],
    width: Annotated[
        list[float] | None, typer.Option(help="Width, trained or not; repeatable; default: the family's.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET", help=f"{DATASET_HELP}; default: the run's own.")
    ] = None,
    workers: WorkersOption = 2,
) -> None:
    """Estimate BatchNorm statistics anew, also of a width that was not trained, and evaluate."""
    from sfsc.recalibrating import recalibrate as run_recalibration

    run_recalibration(run, out, width, dataset, workers)
    evaluate(out, None, workers)


@app.command()
def calibrate(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder of the new family.")],
    images: Annotated[
        str | None,
        typer.Option(metavar="IMAGES", help="A folder, or KIND:PATH; default: the run's training images."),
    ] = None,
    workers: WorkersOption = 2,
) -> None:
    """Bring narrow sub-models nearer to the full one, with images alone; galleries stay valid."""
    from sfsc.calibrating import calibrate as run_calibration

    terminal.print_calibration(run_calibration(run, out, images, workers))
    print(f"calibrated: {out}")


@app.command()
def compare(
    dataset: DatasetArgument = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs/comparison"),
    config: ConfigOption = None,
    recipes: Annotated[str | None, typer.Option(help=f"Of {RECIPES_HELP}; default: all.")] = None,
    backbone: BackboneOption = None,
    seeds: SeedsOption = None,
    calibrations: Annotated[bool, typer.Option(help="Test all of them after calibration, too.")] = True,
    set_: SetOption = None,
) -> None:
    """Train and test several recipes alike, and write tables, figures and a page.

    The file of settings may hold `seeds` and, under `recipes`, what each changes (docs/comparison.md). What
    is finished is not done again.
    """
    from sfsc.recipes import RECIPES

    settings = _settings(config, set_, {"dataset": dataset, "backbone": backbone})
    known = settings.pop("recipes", None) or dict.fromkeys(RECIPES)
    chosen = known if recipes is None else {name: known.get(name) for name in recipes.split(",")}
    _compare(settings, chosen, seeds, out, calibrations)


@app.command()
def ablate(
    dataset: DatasetArgument = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs/ablation"),
    config: ConfigOption = None,
    backbone: BackboneOption = None,
    seeds: SeedsOption = None,
    set_: SetOption = None,
) -> None:
    """Compare losses, projections and alignment, each with and without the others, in one table."""
    from sfsc.comparing import ablation

    settings = _settings(config, set_, {"dataset": dataset, "backbone": backbone})
    settings.pop("recipes", None)
    _compare(settings, ablation(), seeds, out, calibrations=False)


def _compare(
    settings: dict[str, Any],
    recipes: dict[str, Any],
    seeds: int | None,
    out: Path,
    calibrations: bool,
) -> None:
    from sfsc.comparing import compare as run_comparison
    from sfsc.report.comparison import all_tables, write_comparison

    in_file = settings.pop("seeds", 3)
    comparison = run_comparison(settings, recipes, seeds or in_file, out, calibrations)
    page = write_comparison(comparison, out)
    terminal.print_tables(all_tables(comparison))
    print(f"comparison: {page}")


def _settings(config: Path | None, texts: list[str] | None, flags: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file, then those of `--set`, then the flags that were given."""
    from sfsc.training.config import parse_setting, read_settings

    settings = read_settings(config) if config else {}
    settings |= dict(parse_setting(text) for text in texts or [])
    return settings | {name: value for name, value in flags.items() if value is not None}


@app.command()
def export(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option(help="FILE, of one width; default: RUN/export/WIDTH[-int8].FORMAT.")
    ] = None,
    width: Annotated[list[float] | None, typer.Option(help="Width; repeatable; default: all.")] = None,
    format: Annotated[str, typer.Option(help="onnx, or pt2 for torch.export.")] = "onnx",
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
        file = out or run / "export" / f"{one:g}{'-int8' if int8 else ''}.{format}"
        run_export(family, one, file, paths, int8)
        print(f"exported: {file}, {file.stat().st_size:,} bytes")


@app.command()
def index(
    model: ModelArgument,
    gallery: GalleryOption,
    images: Annotated[
        str | None, typer.Argument(metavar="IMAGES", help="A folder, an image, or KIND:PATH.")
    ] = None,
    width: WidthOption = None,
    form: FormOption = "float32",
    attributes: Annotated[
        Path | None, typer.Option(help="CSV with the column path; the others become attributes.")
    ] = None,
    resume: ResumeOption = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Embed anew what narrower sub-models wrote; no IMAGES.")
    ] = False,
    engine: EngineOption = "local",
    workers: WorkersOption = 2,
) -> None:
    """Embed images and write them to a gallery; of a data set, its gallery split with identities.

    Images that cannot be read are skipped and named; the exit code is then 1.
    """
    from sfsc.engines import make_engine
    from sfsc.gallery import Gallery
    from sfsc.indexing import index as run_index
    from sfsc.indexing import read_attributes
    from sfsc.indexing import upgrade as run_upgrade
    from sfsc.model import open_model

    if (images is None) != upgrade:
        raise SfscError("give IMAGES to index, or --upgrade to embed anew what the gallery holds")
    opened_model = open_model(model)
    width = opened_model.widest if width is None else width
    embed_by = make_engine(engine, model, opened_model, width, workers)
    said = read_attributes(attributes) if attributes else None
    opened = Gallery.open(gallery, create=not upgrade)
    if images is None:
        corrupt = run_upgrade(opened_model, opened, width, engine=embed_by)
    else:
        corrupt = run_index(
            opened_model, images, opened, width, form=form, attributes=said, resume=resume, engine=embed_by
        )
    info = opened.info()
    print(f"{gallery}: {info.rows} images, {info.dimension} dimensions, family {info.fingerprint}")
    _name_skipped(corrupt)


@app.command()
def embed(
    model: ModelArgument,
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="A folder, an image, or KIND:PATH.")],
    out: Annotated[
        Path | None, typer.Option(help="FILE.npy, or a folder of Parquet files, which is gone on with.")
    ] = None,
    gallery: Annotated[str | None, typer.Option(help="Instead: a gallery, which is gone on with.")] = None,
    width: WidthOption = None,
    engine: EngineOption = "local",
    workers: WorkersOption = 2,
) -> None:
    """Embed images into files or a gallery, on this machine or a Ray cluster.

    Images that cannot be read are skipped and named; the exit code is then 1.
    """
    from sfsc.engines import make_engine
    from sfsc.model import open_model
    from sfsc.vectors import embed as run_embedding

    if (out is None) == (gallery is None):
        raise SfscError("say where the embeddings go: --out or --gallery")
    if gallery is not None:
        index(model, gallery, images, width, resume=True, engine=engine, workers=workers)
        return
    assert out is not None
    opened = open_model(model)
    width = opened.widest if width is None else width
    corrupt = run_embedding(images, out, make_engine(engine, model, opened, width, workers), width)
    print(f"embeddings: {out}")
    _name_skipped(corrupt)


def _name_skipped(corrupt: Sequence[SfscError]) -> None:
    for error in corrupt:
        print(f"skipped: {error}", file=sys.stderr)
    if corrupt:
        raise typer.Exit(1)


@app.command()
def search(
    model: ModelArgument,
    query: Annotated[Path, typer.Argument(metavar="QUERY", help="The query image.")],
    gallery: GalleryOption,
    width: WidthOption = None,
    top: Annotated[int, typer.Option(min=1, help="How many hits.")] = 10,
    where: WhereOption = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="In a large gallery, compare some rows only: faster.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw the query and its hits as a PNG.")] = None,
) -> None:
    """Search a gallery with an image, embedded by any sub-model of the family that wrote it."""
    from sfsc.gallery import Gallery
    from sfsc.model import open_model
    from sfsc.searching import draw_hits
    from sfsc.searching import search as run_search

    opened = open_model(model)
    width = opened.widest if width is None else width
    hits = run_search(opened, query, Gallery.open(gallery), width, top, where or (), not approximate)
    terminal.print_hits(hits)
    if picture:
        draw_hits(query, hits, picture)
        print(f"picture: {picture}")


@gallery_app.command("info")
def gallery_info(gallery: GalleryArgument) -> None:
    """Say what a gallery holds: of which family, by which sub-models, in which forms."""
    from sfsc.gallery import Gallery

    terminal.print_gallery(gallery, Gallery.open(gallery).info())


@gallery_app.command("delete")
def gallery_delete(
    gallery: GalleryArgument,
    ids: Annotated[list[str] | None, typer.Argument(metavar="IDS", help="Ids of rows.")] = None,
    where: WhereOption = None,
) -> None:
    """Take rows away, by their ids, by conditions, or by both at once."""
    from sfsc.gallery import Gallery

    print(f"{gallery}: {Gallery.open(gallery).delete(ids or (), where or ())} rows deleted")


@gallery_app.command("optimize")
def gallery_optimize(gallery: GalleryArgument) -> None:
    """Free the room of rows that were replaced or deleted."""
    from sfsc.gallery import Gallery

    Gallery.open(gallery).optimize()
    print(f"{gallery}: optimized")


@gallery_app.command("export")
def gallery_export(
    gallery: GalleryArgument,
    out: Annotated[Path, typer.Option(help="FILE.parquet.")],
) -> None:
    """Write all rows, with their embeddings as float32, into a Parquet file."""
    from sfsc.gallery import Gallery
    from sfsc.gallery.export import export

    print(f"{out}: {export(Gallery.open(gallery), out)} rows")


@app.command()
def serve(
    run: RunArgument,
    gallery: Annotated[str, typer.Option(help=f"{GALLERY_HELP}.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="SFSC_API_KEY", help="What every request must bring in X-API-Key.")
    ] = None,
) -> None:
    """Search a gallery over HTTP, and on a page in the browser, until SIGTERM or Ctrl-C."""
    from sfsc.serving.running import serve as run_service

    run_service(run, gallery, host, port, api_key)


@app.command()
def report(run: RunArgument) -> None:
    """Write one self-contained HTML page about a run."""
    from sfsc.files import read_json
    from sfsc.report.html import write_report

    page = write_report(run)
    if (run / "evaluation.json").exists():
        terminal.print_evaluation(read_json(run / "evaluation.json"))
    print(f"report: {page}")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    try:
        app()
        return
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_OF:
            raise
        message = str(missing_extra(error.name, EXTRA_OF[error.name]))
    except SaidElsewhere:
        _refuse()
    except SfscError as error:
        message = str(error)
    # Here the traceback is gone, and with it a progress bar that would be drawn after the message.
    print(f"sfsc: {message}", file=sys.stderr)
    _refuse()


def _refuse() -> NoReturn:
    """Exit with code 2; as one rank of several at once, for the threads of gloo may abort a tidy exit."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
    sys.exit(2)
