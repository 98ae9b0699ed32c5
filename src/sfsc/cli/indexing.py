"""Commands that embed images into galleries and files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from sfsc.cli.options import (
    AllowCodeOption,
    BoxOption,
    DimOption,
    FormOption,
    GalleryOption,
    ModelArgument,
    WidthOption,
    WorkersOption,
)
from sfsc.errors import SfscError

app = typer.Typer()

EngineOption = Annotated[str, typer.Option(help="local, or ray for actors on a cluster.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Skip images that this sub-model has already added.")
]


@app.command()
def index(
    model: ModelArgument,
    gallery: GalleryOption,
    images: Annotated[
        str | None, typer.Argument(metavar="IMAGES", help="A folder, an image, or KIND:PATH.")
    ] = None,
    width: WidthOption = None,
    dim: DimOption = None,
    form: FormOption = "float32",
    attributes: Annotated[
        Path | None, typer.Option(help="CSV file with a column path; all other columns become attributes.")
    ] = None,
    resume: ResumeOption = False,
    upgrade: Annotated[
        bool,
        typer.Option(
            "--upgrade", help="Re-embed rows by narrower sub-models and bridged rows, without IMAGES."
        ),
    ] = False,
    order: Annotated[
        str | None,
        typer.Option(
            help="With --upgrade, what comes first: width (default), uncertainty, age, queries or spread."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --upgrade: stop after N rows.")
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(metavar="IMAGES", help="With --order queries: images of past queries."),
    ] = None,
    box: BoxOption = None,
    engine: EngineOption = "local",
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Embed images and write them to a gallery.

    Of a data set, the gallery split is used, or all images if it has none. Images that cannot be read are
    skipped and listed, and the exit code is then 1.
    """
    if (images is None) != upgrade:
        raise SfscError("give IMAGES to index, or --upgrade to re-embed the rows of the gallery")
    if upgrade and box is not None:
        raise SfscError("--box is for new rows: --upgrade embeds again the part that each row names")
    if not upgrade and (order, limit, queries) != (None, None, None):
        raise SfscError("--order, --limit and --queries belong to --upgrade: add it, without IMAGES")
    how = _Embedding(model, width, dim, engine, workers, allow_code)
    chosen = _Upgrade(order or "width", limit, queries)
    _write_gallery(how, gallery, images, form, attributes, resume, box, chosen)


@app.command()
def embed(
    model: ModelArgument,
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="A folder, an image, or KIND:PATH.")],
    out: Annotated[
        Path | None,
        typer.Option(help="FILE.npy, or a folder of Parquet files, to which missing images are added."),
    ] = None,
    gallery: Annotated[
        str | None, typer.Option(help="Instead of --out: a gallery, to which missing images are added.")
    ] = None,
    width: WidthOption = None,
    dim: DimOption = None,
    engine: EngineOption = "local",
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Embed images into files or a gallery, on this machine or on a Ray cluster.

    Images that cannot be read are skipped and listed, and the exit code is then 1.
    """
    from sfsc.embedding.engines import make_engine
    from sfsc.embedding.files import write_embeddings
    from sfsc.embedding.model import open_model

    if (out is None) == (gallery is None):
        raise SfscError("give either --out or --gallery for the embeddings")
    if gallery is not None:
        how = _Embedding(model, width, dim, engine, workers, allow_code)
        _write_gallery(how, gallery, images, resume=True)
        return
    assert out is not None
    opened = open_model(model, allow_code)
    width = opened.widest if width is None else width
    embed_by = make_engine(engine, model, opened, width, workers, dim, allow_code)
    corrupt = write_embeddings(images, out, embed_by, width)
    print(f"embeddings: {out}")
    _name_skipped(corrupt)


class _Embedding(NamedTuple):
    """How images are to be embedded, as the options say."""

    model: Path
    width: float | None
    dimension: int | None
    engine: str
    workers: int
    allow_code: str | None


class _Upgrade(NamedTuple):
    """Which rows are to be embedded again first, and how many, as the options say."""

    order: str = "width"
    limit: int | None = None
    queries: str | None = None


def _write_gallery(
    how: _Embedding,
    gallery: str,
    images: str | None,
    form: str = "float32",
    attributes: Path | None = None,
    resume: bool = False,
    box: str | None = None,
    chosen: _Upgrade | None = None,
) -> None:
    """Index images; without any, embed again what can be better."""
    from sfsc.embedding.engines import make_engine
    from sfsc.embedding.model import open_model
    from sfsc.gallery import Gallery
    from sfsc.gallery.attributes import read_attributes
    from sfsc.gallery.indexing import index, upgrade
    from sfsc.images.boxes import Box

    part = None if box is None else Box.parse(box)
    model = open_model(how.model, how.allow_code)
    width = model.widest if how.width is None else how.width
    engine = make_engine(how.engine, how.model, model, width, how.workers, how.dimension, how.allow_code)
    table = read_attributes(attributes) if attributes else None
    opened = Gallery.open(gallery, create=images is not None)
    if images is None:
        corrupt = upgrade(model, opened, width, how.workers, engine, **(chosen or _Upgrade())._asdict())
    else:
        corrupt = index(
            model,
            images,
            opened,
            width,
            form=form,
            attributes=table,
            resume=resume,
            engine=engine,
            dimension=how.dimension,
            box=part,
        )
    info = opened.info()
    print(f"{gallery}: {info.rows} images, {info.dimension} dimensions, family {info.fingerprint}")
    _name_skipped(corrupt)


def _name_skipped(corrupt: Sequence[SfscError]) -> None:
    for error in corrupt:
        print(f"skipped: {error}", file=sys.stderr)
    if corrupt:
        raise typer.Exit(1)
