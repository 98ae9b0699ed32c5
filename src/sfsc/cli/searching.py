"""Commands that write, search and serve galleries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from sfsc.cli.options import AllowCodeOption, DimOption, RunArgument, WorkersOption
from sfsc.errors import SfscError
from sfsc.report import terminal

if TYPE_CHECKING:
    from sfsc.gallery import Condition, Gallery

app = typer.Typer()
gallery_app = typer.Typer(help="Look at galleries and tend them.", no_args_is_help=True)
app.add_typer(gallery_app, name="gallery")

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Run folder, or a .onnx file of `sfsc export`.")
]
WidthOption = Annotated[
    float | None, typer.Option(help="The sub-model that embeds; default: the widest.", show_default=False)
]
MOST_SHOWN = 5  # of the rows that a deletion by conditions takes
MOST_DELETED = 1 / 2  # share of a gallery that is deleted by conditions without being asked for again
GALLERY_HELP = "Folder, milvus://HOST:PORT/NAME or milvus+https://HOST:PORT/NAME"
GalleryArgument = Annotated[str, typer.Argument(metavar="GALLERY", help=f"{GALLERY_HELP}.")]
GalleryOption = Annotated[str, typer.Option(help=f"{GALLERY_HELP}; made if missing where it is written.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help='As camera=2, price<=9.5 or name="lamp, red". Repeatable: all must hold; of several = on one '
        "column, any.",
    ),
]
FormOption = Annotated[str, typer.Option(help="Stored as float32, float16 or int8.")]
EngineOption = Annotated[str, typer.Option(help="local, or ray: actors on a cluster.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Leave out images that are there, by this sub-model.")
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
        Path | None, typer.Option(help="CSV with the column path; the others become attributes.")
    ] = None,
    resume: ResumeOption = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Embed anew what narrower sub-models wrote; no IMAGES.")
    ] = False,
    engine: EngineOption = "local",
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Embed images and write them to a gallery; of a data set, its gallery split or, without one, all of it.

    Images that cannot be read are skipped and named; the exit code is then 1.
    """
    if (images is None) != upgrade:
        raise SfscError("give IMAGES to index, or --upgrade to embed anew what the gallery holds")
    how = _Embedding(model, width, dim, engine, workers, allow_code)
    _write_gallery(how, gallery, images, form, attributes, resume)


@app.command()
def embed(
    model: ModelArgument,
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="A folder, an image, or KIND:PATH.")],
    out: Annotated[
        Path | None, typer.Option(help="FILE.npy, or a folder of Parquet files, which is gone on with.")
    ] = None,
    gallery: Annotated[str | None, typer.Option(help="Instead: a gallery, which is gone on with.")] = None,
    width: WidthOption = None,
    dim: DimOption = None,
    engine: EngineOption = "local",
    workers: WorkersOption = 2,
    allow_code: AllowCodeOption = None,
) -> None:
    """Embed images into files or a gallery, on this machine or a Ray cluster.

    Images that cannot be read are skipped and named; the exit code is then 1.
    """
    from sfsc.embedding.engines import make_engine
    from sfsc.embedding.files import embed as run_embedding
    from sfsc.embedding.model import open_model

    if (out is None) == (gallery is None):
        raise SfscError("say where the embeddings go: --out or --gallery")
    if gallery is not None:
        how = _Embedding(model, width, dim, engine, workers, allow_code)
        _write_gallery(how, gallery, images, resume=True)
        return
    assert out is not None
    opened = open_model(model, allow_code)
    width = opened.widest if width is None else width
    embed_by = make_engine(engine, model, opened, width, workers, dim, allow_code)
    corrupt = run_embedding(images, out, embed_by, width)
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


def _write_gallery(
    how: _Embedding,
    gallery: str,
    images: str | None,
    form: str = "float32",
    attributes: Path | None = None,
    resume: bool = False,
) -> None:
    """Index images; without any, embed again what narrower sub-models wrote."""
    from sfsc.embedding.engines import make_engine
    from sfsc.embedding.model import open_model
    from sfsc.gallery import Gallery
    from sfsc.gallery.attributes import read_attributes
    from sfsc.gallery.indexing import index, upgrade

    model = open_model(how.model, how.allow_code)
    width = model.widest if how.width is None else how.width
    engine = make_engine(how.engine, how.model, model, width, how.workers, how.dimension, how.allow_code)
    table = read_attributes(attributes) if attributes else None
    opened = Gallery.open(gallery, create=images is not None)
    if images is None:
        corrupt = upgrade(model, opened, width, engine=engine)
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
        )
    info = opened.info()
    print(f"{gallery}: {info.rows} images, {info.dimension} dimensions, family {info.fingerprint}")
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
    dim: DimOption = None,
    top: Annotated[int, typer.Option(min=1, help="How many hits.")] = 10,
    where: WhereOption = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="In a large gallery, compare some rows only: faster.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw the query and its hits as a PNG.")] = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Search a gallery with an image, embedded by any sub-model of the family that wrote it."""
    from sfsc.embedding.model import open_model
    from sfsc.gallery import Gallery
    from sfsc.gallery.searching import search as run_search
    from sfsc.report.ranked_list import draw_hits

    opened = open_model(model, allow_code)
    width = opened.widest if width is None else width
    hits = run_search(opened, query, Gallery.open(gallery), width, top, where or (), not approximate, dim)
    terminal.print_hits(hits)
    if picture:
        draw_hits(query, hits, picture)
        print(f"picture: {picture}")


@app.command()
def serve(
    run: RunArgument,
    gallery: Annotated[str, typer.Option(help=f"{GALLERY_HELP}.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="SFSC_API_KEY", help="What every request must bring in X-API-Key.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Pages of this origin may use the service; repeatable."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Name that the service is reached by, beside --host; repeatable; * for any."
        ),
    ] = None,
    images_root: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder whose images may be seen; repeatable; default: the one that all images are in.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="Reverse proxy whose forwarded headers are believed; repeatable."
        ),
    ] = None,
    root_path: Annotated[str, typer.Option(help="Path under which a proxy offers the service.")] = "",
    allow_code: AllowCodeOption = None,
) -> None:
    """Search a gallery over HTTP, and on a page in the browser, until SIGTERM or Ctrl-C."""
    from sfsc.serving.running import serve as run_service

    run_service(
        run,
        gallery,
        host,
        port,
        api_key=api_key,
        origins=allow_origin or (),
        hosts=allow_host or (),
        image_roots=images_root,
        proxies=proxy or (),
        root_path=root_path,
        allow_code=allow_code,
    )


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
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete by conditions even more than half of the gallery.")
    ] = False,
) -> None:
    """Take rows away, by their ids, by conditions, or by both at once.

    A relative path is an id as `sfsc index` makes one of it. What conditions choose is shown first.
    """
    from sfsc.gallery import Condition, Gallery
    from sfsc.gallery.indexing import stored_ids

    opened = Gallery.open(gallery)
    known, unknown = stored_ids(opened, ids or ())
    for name in unknown:
        print(f"no row has the id {name}", file=sys.stderr)
    if ids and not known:
        print(f"{gallery}: 0 rows deleted")
        return
    if where:
        chosen: list[str | Condition] = [*where, *([Condition("id", "=", tuple(known))] if known else [])]
        _show_chosen(opened, chosen, yes)
    print(f"{gallery}: {opened.delete(known, where or ())} rows deleted")


def _show_chosen(gallery: Gallery, where: Sequence[str | Condition], agreed: bool) -> None:
    """Print which rows fulfil conditions; SfscError for more of them than are deleted without `agreed`."""
    found, all_rows = gallery.count(where), len(gallery)
    for row in islice(gallery.rows(where), MOST_SHOWN):
        print(f"fulfils the conditions: {row['id']}")
    if found > MOST_SHOWN:
        print(f"and {found - MOST_SHOWN} more")
    if found > MOST_DELETED * all_rows and not agreed:
        raise SfscError(f"these are {found} of the gallery's {all_rows} rows: add --yes to delete them")


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
