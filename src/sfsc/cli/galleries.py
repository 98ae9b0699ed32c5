"""Commands that inspect, maintain, save and fill galleries."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfsc.cli.options import GALLERY_HELP, AllowCodeOption, WhereOption
from sfsc.errors import SfscError, one_line
from sfsc.report import terminal

if TYPE_CHECKING:
    from sfsc.gallery import Condition, Gallery

app = typer.Typer(help="Inspect, maintain, save and fill galleries.", no_args_is_help=True)

MOST_SHOWN = 5  # rows that are shown before a deletion by conditions
MOST_DELETED = 1 / 2  # share of a gallery that can be deleted by conditions without --yes
GalleryArgument = Annotated[str, typer.Argument(metavar="GALLERY", help=f"{GALLERY_HELP}.")]


@app.command("info")
def gallery_info(gallery: GalleryArgument) -> None:
    """Show the family of a gallery, and its rows by sub-model and numeric form."""
    from sfsc.gallery import Gallery

    terminal.print_gallery(gallery, Gallery.open(gallery).info())


@app.command("delete")
def gallery_delete(
    gallery: GalleryArgument,
    ids: Annotated[list[str] | None, typer.Argument(metavar="IDS", help="Ids of rows.")] = None,
    where: WhereOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Allow conditions to delete more than half of the gallery.")
    ] = False,
) -> None:
    """Delete rows by their ids, by conditions, or by both.

    A relative path is converted to an id as by `sfsc index`. Rows that conditions select are shown first.
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
    """Print the rows that fulfil conditions; raise `SfscError` for too many of them without `agreed`."""
    found, all_rows = gallery.count(where), len(gallery)
    for row in islice(gallery.rows(where), MOST_SHOWN):
        print(f"fulfils the conditions: {row['id']}")
    if found > MOST_SHOWN:
        print(f"and {found - MOST_SHOWN} more")
    if found > MOST_DELETED * all_rows and not agreed:
        raise SfscError(f"this would delete {found} of the gallery's {all_rows} rows: add --yes to do so")


@app.command("optimize")
def gallery_optimize(
    gallery: GalleryArgument,
    keep: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Keep old versions of the gallery for this time, now and from now on; at first 60.",
        ),
    ] = None,
) -> None:
    """Free the space of replaced and deleted rows, and renew the search index."""
    from sfsc.gallery import Gallery

    Gallery.open(gallery).optimize(keep)
    print(f"{gallery}: optimized")


@app.command("export")
def gallery_export(
    gallery: GalleryArgument,
    out: Annotated[Path, typer.Option(help="FILE.parquet to write.")],
) -> None:
    """Write all rows, with float32 embeddings, into a Parquet file."""
    from sfsc.gallery import Gallery
    from sfsc.gallery.export import export

    print(f"{out}: {export(Gallery.open(gallery), out)} rows")


@app.command("import")
def gallery_import(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help=".npy file, Parquet file or folder of them, flat FAISS index, or folder of a Lance table.",
        ),
    ],
    gallery: Annotated[str, typer.Option(help=f"{GALLERY_HELP}; it is created if it does not exist.")],
    ids: Annotated[
        Path | None, typer.Option(help="File with one id per line; default: photos.txt beside photos.npy.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="What embedded the images: run folder, .onnx file or python:module:function."),
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="Instead of --model: the fingerprint of the family.")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Instead of --model: a name for an unknown model.",
        ),
    ] = None,
    colours: Annotated[
        str,
        typer.Option(help="How an ONNX file of others wants its colours: imagenet, fraction or bytes."),
    ] = "imagenet",
    width: Annotated[
        float | None, typer.Option(help="Width of the sub-model that embedded the images.")
    ] = None,
    form: Annotated[
        str | None, typer.Option(help="Numeric form to store; default: that of the source, or float32.")
    ] = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Add embeddings from files to a gallery.

    Rows with the same ids are replaced. All rows are checked before the first is written. If writing fails
    later, the exit code is 1.
    """
    from sfsc.bridges.old import open_any_model
    from sfsc.embedding.model import named_space
    from sfsc.gallery import Gallery
    from sfsc.gallery.imports.importing import PartlyImported, import_embeddings

    if [model, fingerprint, space].count(None) < 2:
        raise SfscError("give only one of --model, --fingerprint and --space")
    opened = None if model is None else open_any_model(model, colours, allow_code)
    if space is not None:
        fingerprint, width = named_space(space), 1.0 if width is None else width
    if opened is not None and width is not None:
        opened.check_width(width)
    try:
        rows = import_embeddings(
            source,
            Gallery.open(gallery, create=True),
            ids=ids,
            fingerprint=opened.fingerprint if opened else fingerprint,
            width=width,
            form=form,
            dimensions=opened.dimensions if opened else (),
        )
    except PartlyImported as error:
        print(f"sfsc: {one_line(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{gallery}: {rows} rows imported")


@app.command("upgrade")
def gallery_upgrade(
    gallery: GalleryArgument,
    bridge: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bridge from the gallery's model to a family, by sfsc bridge."),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Bridge the rows again that were not embedded again yet, corrected by those that were.",
        ),
    ] = False,
    drop_originals: Annotated[
        bool,
        typer.Option("--drop-originals", help="Remove the old embeddings that an earlier upgrade has kept."),
    ] = False,
) -> None:
    """Move all rows of an old model's gallery into the space of a family, in place.

    The old embeddings are kept until --drop-originals. If the command is interrupted, nothing is changed, and
    the same command continues.
    """
    from sfsc.bridges.bridge import Bridge
    from sfsc.bridges.upgrading import refit_gallery, upgrade_gallery
    from sfsc.gallery import Gallery

    if (bridge is None) != drop_originals or (refit and bridge is None):
        raise SfscError(
            "give either --bridge FILE, and --refit to use it again, or --drop-originals after an upgrade"
        )
    if bridge is None:
        print(f"{gallery}: the original embeddings of {Gallery.open(gallery).drop_originals()} rows removed")
        return
    if refit:
        print(f"{gallery}: {refit_gallery(Gallery.open(gallery), Bridge.load(bridge))} rows bridged again")
        return
    rows = upgrade_gallery(Gallery.open(gallery), Bridge.load(bridge))
    print(f"{gallery}: {rows} rows bridged" if rows else f"{gallery}: all rows were bridged before")


@app.command("verify")
def gallery_verify(gallery: GalleryArgument) -> None:
    """Check all rows and files, and say what is wrong and what to do.

    The exit code is 0 if the gallery is sound, and 1 if something is wrong.
    """
    from sfsc.gallery import Gallery

    found = Gallery.open(gallery).verify()
    terminal.print_verification(gallery, found)
    if found.findings:
        raise typer.Exit(1)


@app.command("duplicates")
def gallery_duplicates(
    gallery: GalleryArgument,
    min_score: Annotated[
        float | None, typer.Option(help="Smallest cosine of two rows of a group; for example 0.99.")
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(help="Instead of --min-score: the smallest probability that two rows of a group match."),
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="For --min-probability: run folder with thresholds, or the file of these."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="FILE.csv for a table, or FILE.html for a page of pictures.")
    ] = None,
    delete_all_but: Annotated[
        str | None,
        typer.Option(
            metavar="ROW",
            help="Delete all rows of each group but one: first, as written, or widest, by sub-model.",
        ),
    ] = None,
) -> None:
    """Find groups of rows that are all similar to each other, and delete all but one of each if asked to.

    Nothing is deleted without --delete-all-but.
    """
    from sfsc.decisions.thresholds import THRESHOLDS_FILE, Thresholds
    from sfsc.gallery import Gallery
    from sfsc.gallery.duplicates import find_duplicates, surplus
    from sfsc.report.duplicates import check_out, write_duplicates

    if out:
        check_out(out)
    surplus([], delete_all_but or "first")
    known = None
    if thresholds:
        known = Thresholds.load(thresholds / THRESHOLDS_FILE if thresholds.is_dir() else thresholds)
    opened = Gallery.open(gallery)
    groups = find_duplicates(opened, min_score, min_probability, known)
    terminal.print_duplicates(groups, gallery)
    if out:
        by_score = f"a cosine of at least {min_score}"
        by_probability = f"a match with a probability of at least {min_probability}"
        write_duplicates(groups, out, gallery, by_score if min_score is not None else by_probability)
        print(f"written: {out}")
    if delete_all_but:
        ids = surplus(groups, delete_all_but)
        deleted = opened.delete(ids) if ids else 0
        print(f"{gallery}: {deleted} rows deleted, the {delete_all_but} of each group kept")


@app.command("backup")
def gallery_backup(
    gallery: GalleryArgument,
    out: Annotated[Path, typer.Option(help="Folder of the backup, which must be missing or empty.")],
) -> None:
    """Copy all rows, as they are at one moment, into a new folder.

    Others can write to the gallery meanwhile. If the command is interrupted, the same command continues.
    """
    from sfsc.gallery import Gallery

    print(f"{out}: {Gallery.open(gallery).backup(out)} rows")


@app.command("restore")
def gallery_restore(
    backup: Annotated[
        Path, typer.Argument(metavar="BACKUP", help="Folder that `sfsc gallery backup` wrote.")
    ],
    to: Annotated[str, typer.Option(metavar="GALLERY", help="Folder that must be missing or empty.")],
) -> None:
    """Restore a gallery from a backup, completely or not at all."""
    from sfsc.gallery.backup import restore

    print(f"{to}: {restore(backup, to)} rows")
