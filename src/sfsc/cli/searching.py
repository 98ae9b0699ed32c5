"""The command that searches galleries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sfsc.cli.options import (
    AllowCodeOption,
    BoxOption,
    DimOption,
    GalleryOption,
    MemoryOption,
    ModelArgument,
    RerankDepthOption,
    RerankOption,
    WhereOption,
    WidthOption,
    most_bytes,
)
from sfsc.errors import SfscError
from sfsc.report import terminal

app = typer.Typer()


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
            help="Instead of --width: widths such as 0.25,1; the first one that is sure answers.",
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
    rows = Gallery.open(gallery, memory=most_bytes(memory))
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
