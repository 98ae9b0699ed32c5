"""Commands that write, search and serve galleries."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from sfsc.cli.options import (
    GALLERY_HELP,
    AllowCodeOption,
    BoxOption,
    DimOption,
    FormOption,
    ModelArgument,
    RerankDepthOption,
    RerankOption,
    RunArgument,
    WhereOption,
    WidthOption,
    WorkersOption,
)
from sfsc.errors import SfscError
from sfsc.report import terminal

app = typer.Typer()

GalleryOption = Annotated[str, typer.Option(help=f"{GALLERY_HELP}; commands that write to it create it.")]
EngineOption = Annotated[str, typer.Option(help="local, or ray for actors on a cluster.")]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Most memory for the gallery's rows, such as 2GB; the rest is read from the disk. Default: no "
        "limit.",
    ),
]
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
        typer.Option(help="With --upgrade, what comes first: width (default), uncertainty, age or queries."),
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


def _bytes(memory: str | None) -> float:
    """Return the size that an option says, in bytes."""
    from sfsc.deploy.quantities import SIZES, read_quantity

    return math.inf if memory is None else read_quantity(memory, SIZES)


def _name_skipped(corrupt: Sequence[SfscError]) -> None:
    for error in corrupt:
        print(f"skipped: {error}", file=sys.stderr)
    if corrupt:
        raise typer.Exit(1)


@app.command()
def search(
    model: ModelArgument,
    query: Annotated[
        list[Path],
        typer.Argument(metavar="QUERY...", help="The query image; several are searched one after another."),
    ],
    gallery: GalleryOption,
    width: WidthOption = None,
    dim: DimOption = None,
    top: Annotated[int, typer.Option(min=1, help="Number of hits.")] = 10,
    where: WhereOption = None,
    box: BoxOption = None,
    together: Annotated[
        bool, typer.Option("--together", help="The images show one object, and are one query.")
    ] = False,
    by: Annotated[str, typer.Option(help="row, or identity: each identity once, with its best row.")] = "row",
    best: Annotated[
        int, typer.Option(min=1, help="With --by identity: number of its best rows, whose mean is the score.")
    ] = 1,
    rerank: RerankOption = None,
    rerank_depth: RerankDepthOption = 100,
    approximate: Annotated[
        bool,
        typer.Option("--approximate", help="In a large gallery, compare only some rows, which is faster."),
    ] = False,
    max_fmr: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Show only matches: the largest share of wrong pairs that may count as matches.",
        ),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(metavar="P", help="Show only matches: the smallest probability of a match."),
    ] = None,
    cascade: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHS",
            help="Instead of --width: widths such as 0.25,1, of which the first that is sure answers.",
        ),
    ] = None,
    sure: Annotated[
        float, typer.Option(metavar="P", help="With --cascade: the probability from which a width is sure.")
    ] = 0.5,
    picture: Annotated[
        Path | None, typer.Option(help="PNG file to draw the query and its hits into.")
    ] = None,
    bridge: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For a gallery of an old model: bridge from it to this family."),
    ] = None,
    memory: MemoryOption = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Search a gallery with images, embedded by any sub-model of the gallery's family.

    If `sfsc thresholds` was run, hits have a probability, and a limit shows only matches, which can be none.
    """
    from sfsc.bridges.bridge import Bridge
    from sfsc.bridges.model import BridgedModel
    from sfsc.embedding.model import open_model
    from sfsc.gallery import Gallery
    from sfsc.gallery.cascading import search_cascade
    from sfsc.gallery.searching import search as run_search
    from sfsc.images.boxes import Box
    from sfsc.report.ranked_list import draw_hits

    if cascade and width is not None:
        raise SfscError("--cascade chooses the width of each query: leave out --width")
    if picture and len(query) > 1 and not together:
        raise SfscError("--picture draws one query: name one image, or add --together")
    part = None if box is None else Box.parse(box)
    opened = open_model(model, allow_code)
    if bridge:
        opened = BridgedModel(opened, Bridge.load(bridge))
    width = opened.widest if width is None else width
    rows = Gallery.open(gallery, memory=_bytes(memory))
    limits = max_fmr, min_probability
    options: dict[str, Any] = {"top": top, "where": where or (), "exact": not approximate, "dimension": dim}
    options |= {"max_fmr": max_fmr, "min_probability": min_probability, "by": by, "best": best}
    options |= {"rerank": rerank, "rerank_depth": rerank_depth, "box": part}
    for one in [query] if together else [[path] for path in query]:
        if cascade:
            hits, width = search_cascade(opened, one, rows, cascade, sure, **options)
        else:
            hits = run_search(opened, one, rows, width, **options)
        if len(query) > 1:
            print(f"query: {', '.join(map(str, one))}")
        if hits or limits == (None, None):
            terminal.print_hits(hits)
        else:
            print(f"no match among the {len(rows)} rows of {gallery}")
        if cascade:
            print(f"answered by width {width:g}")
        if rerank:
            print(f"{rerank} re-ranking of the first {min(rerank_depth, len(rows))} rows; scores are cosines")
        if picture:
            draw_hits(part.named(str(one[0])) if part else one[0], hits, picture)
            print(f"picture: {picture}")


@app.command()
def serve(
    run: RunArgument,
    gallery: Annotated[str, typer.Option(help=f"{GALLERY_HELP}.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free port.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="SFSC_API_KEY", help="Key that every request must send in X-API-Key."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Origin whose pages may use the service; repeatable."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Additional host name of the service, next to --host; repeatable; * for any.",
        ),
    ] = None,
    images_root: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder whose images may be shown; repeatable; default: the folder with all images.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="Reverse proxy whose forwarded headers are trusted; repeatable."
        ),
    ] = None,
    root_path: Annotated[str, typer.Option(help="Path under which a proxy serves the service.")] = "",
    memory: MemoryOption = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Serve a gallery over HTTP, with a search page for the browser, until SIGTERM or Ctrl-C."""
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
        memory=_bytes(memory),
    )
