"""Commands that train families."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sfsc.cli.options import DATASET_HELP, OLD_HELP, AllowCodeOption
from sfsc.report import terminal

app = typer.Typer()

BACKBONE_HELP = (
    "small, resnet18, resnet50, efficientnet_lite0, transformers:NAME, timm:NAME, torchvision:NAME or "
    "python:package.module:function"
)
RECIPES_HELP = "unified, bct, asymmetric, bct-s, asymmetric-s, sfsc, sfsc+"

WIDTHS_HELP = "Channel ratios, and image sizes of narrow ones if they differ: 0.25@48,0.5,0.75,1."

DatasetArgument = Annotated[str | None, typer.Argument(metavar="DATASET", help=DATASET_HELP)]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of settings; flags override it.")]
BackboneOption = Annotated[str | None, typer.Option(help=BACKBONE_HELP)]
SeedsOption = Annotated[int | None, typer.Option(min=1, help="Number of runs of each recipe; default: 3.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; repeatable.")
]


@app.command()
def train(
    dataset: DatasetArgument = None,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/sfsc"),
    config: ConfigOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in the run folder.")
    ] = False,
    recipe: Annotated[str | None, typer.Option(help=f"Training method: {RECIPES_HELP}.")] = None,
    backbone: BackboneOption = None,
    widths: Annotated[str | None, typer.Option(help=WIDTHS_HELP)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...")] = None,
    old: Annotated[
        str | None,
        typer.Option(
            metavar="OLD",
            help=f"Old model whose galleries every sub-model learns to search: {OLD_HELP}.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Trained model to use as the teacher of recipe sfsc+, given like --old."),
    ] = None,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the sub-models: takes minutes once and makes each step faster."
        ),
    ] = False,
    set_: SetOption = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Train a family with all its sub-models in one run.

    Several processes that torchrun starts with this command train one family together.

    All settings are described in docs/training.md. The run folder stores the settings that were used.
    """
    from sfsc.backbones.sources import check_code
    from sfsc.runs.paths import CONFIG_FILE
    from sfsc.training.config import Config, read_config
    from sfsc.training.distributed import joined
    from sfsc.training.run import train as run_training

    flags = {
        "dataset": dataset,
        "recipe": recipe,
        "backbone": backbone,
        "widths": widths,
        "epochs": epochs,
        "seed": seed,
        "device": device,
        "old": old,
        "teacher": teacher,
        "compile": compile_ or None,
    }

    def make() -> Config:
        started = resume and (out / CONFIG_FILE).exists()
        stored = read_config(out).model_dump(mode="json") if started else {}
        given = _settings(config, set_, flags)
        if started and "backbone" not in given:
            check_code(stored["backbone"], allow_code, out / CONFIG_FILE)
        return Config.make(stored | given)

    with joined() as world:
        run_training(world.on_first(make), out, resume=resume, allow_code=allow_code)
        if world.first:
            print(f"trained: {out}")


@app.command()
def inspect(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE", help=BACKBONE_HELP)],
    widths: Annotated[str, typer.Option(help=WIDTHS_HELP)] = "0.25,0.5,0.75,1.0",
    image_size: Annotated[int, typer.Option(min=1, help="Height and width of the images in pixels.")] = 224,
    embedding_dim: Annotated[int, typer.Option(min=1, help="Dimension of the embeddings.")] = 128,
    keep: Annotated[
        list[str] | None, typer.Option(help="Module that keeps all channels; repeatable.")
    ] = None,
    round_to: Annotated[
        int, typer.Option(help="Round channel counts up to multiples of this; 1 for no rounding.")
    ] = 8,
    normalisation: Annotated[
        str, typer.Option(help="Of a built-in backbone: batch, instance_batch or switchable_whitening.")
    ] = "batch",
) -> None:
    """Show the channels, parameters and multiply-adds of a backbone at each width."""
    from sfsc.family.family import Family
    from sfsc.switchable.inspection import inspect as run_inspection

    size = (image_size, image_size)
    family = Family.create(
        backbone,
        widths,
        embedding_dim,
        size,
        keep=keep or (),
        round_to=round_to,
        normalisation=normalisation,
    )
    names = [family.name_of(width) for width in family.widths]
    terminal.print_inspection(run_inspection(family, family.examples()), names)


@app.command()
def compare(
    dataset: DatasetArgument = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs/comparison"),
    config: ConfigOption = None,
    recipes: Annotated[
        str | None, typer.Option(help=f"Recipes, separated by commas: {RECIPES_HELP}; default: all.")
    ] = None,
    backbone: BackboneOption = None,
    seeds: SeedsOption = None,
    calibrations: Annotated[bool, typer.Option(help="Evaluate after calibration as well.")] = True,
    set_: SetOption = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Train and evaluate several recipes under the same conditions, and write tables, figures and a page.

    The settings file may contain `seeds` and, under `recipes`, the changes of each recipe
    (docs/comparison.md). Finished runs are not repeated.
    """
    from sfsc.training.recipes import RECIPES

    settings = _settings(config, set_, {"dataset": dataset, "backbone": backbone})
    known = settings.pop("recipes", None) or dict.fromkeys(RECIPES)
    chosen = known if recipes is None else {name: known.get(name) for name in recipes.split(",")}
    _compare(settings, chosen, seeds, out, calibrations, allow_code)


@app.command()
def ablate(
    dataset: DatasetArgument = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs/ablation"),
    config: ConfigOption = None,
    backbone: BackboneOption = None,
    seeds: SeedsOption = None,
    set_: SetOption = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Compare all combinations of losses, projections and alignment in one table."""
    from sfsc.evaluation.compare import ablation

    settings = _settings(config, set_, {"dataset": dataset, "backbone": backbone})
    settings.pop("recipes", None)
    _compare(settings, ablation(), seeds, out, False, allow_code)


def _compare(
    settings: dict[str, Any],
    recipes: dict[str, Any],
    seeds: int | None,
    out: Path,
    calibrations: bool,
    allow_code: str | None,
) -> None:
    from sfsc.evaluation.compare import compare as run_comparison
    from sfsc.report.comparison import all_tables, write_comparison

    in_file = settings.pop("seeds", 3)
    comparison = run_comparison(settings, recipes, seeds or in_file, out, calibrations, allow_code)
    page = write_comparison(comparison, out)
    terminal.print_tables(all_tables(comparison))
    print(f"comparison: {page}")


def _settings(config: Path | None, texts: list[str] | None, flags: dict[str, Any]) -> dict[str, Any]:
    """Combine the settings of a file, of `--set` and of flags; later ones override earlier ones."""
    from sfsc.training.config import parse_setting, read_settings

    settings = read_settings(config) if config else {}
    settings |= dict(parse_setting(text) for text in texts or [])
    return settings | {name: value for name, value in flags.items() if value is not None}
