"""Printing the tables and lines of commands to the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sfsc.embedding.model import space_of
from sfsc.errors import one_line
from sfsc.report.further import further_tables
from sfsc.report.names import names_of
from sfsc.report.printing import known, print_line, print_table

if TYPE_CHECKING:
    from sfsc.bridges.bridge import Bridge, Choice
    from sfsc.decisions.thresholds import Thresholds
    from sfsc.gallery import GalleryInfo, Hit
    from sfsc.gallery.duplicates import Copy
    from sfsc.gallery.problems import Verification
    from sfsc.switchable.inspection import Inspection
    from sfsc.training.adapt import Adaptation
    from sfsc.training.calibrate import CalibrationReport

MOST_GROUPS, MOST_COPIES = 20, 5  # groups of duplicates, and rows of each, that are printed


def print_summary(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the counts of a data set, as `summarise` returns them."""
    table = Table(*rows[0])
    for row in rows:
        total = "bold" if row["camera"] == "all" else None
        table.add_row(*(escape(str(value)) for value in row.values()), style=total)
    print_table(table)


def print_evaluation(evaluation: dict[str, Any]) -> None:
    """Print the matrix and the tests at its corners, from the content of evaluation.json."""
    from sfsc.report.gains import gains_of, show_gain  # numpy and OpenCV would delay every other command
    from sfsc.report.old_tests import with_old

    accuracy, criterion = evaluation["metrics"]["mAP"], evaluation["criterion"]
    labels, values_with_old, met_by_old = with_old(evaluation, "mAP")
    full = len(criterion) - 1  # exported files follow the sub-models
    exported = evaluation.get("exported", {})  # earlier evaluations lack it
    widths = names_of(evaluation)
    names = [*widths, *map(escape, labels)]
    matrix = Table("query \\ gallery", *names, title="mAP %")
    for row, (name, values) in enumerate(zip(names, values_with_old, strict=True)):
        met = [max(row, c) <= full and criterion[row][c] for c in range(len(values))]
        met[-1] = met_by_old[row] if row < len(met_by_old) else met[-1]
        cells = [f"{100 * v:.1f}{' ✓' if ok else '  '}" for v, ok in zip(values, met, strict=True)]
        cells[row] = f"[bold]{cells[row]}[/bold]"
        matrix.add_row(name, *cells)
    baseline, metrics = evaluation["baseline"], list(evaluation["metrics"])
    tests = Table("test", *map(escape, metrics), title="%")
    pairs = [("smallest -> smallest", 0, 0), ("smallest -> full", 0, full), ("full -> full", full, full)]
    for name, q, g in pairs:
        tests.add_row(name, *(f"{100 * evaluation['metrics'][key][q][g]:.1f}" for key in metrics))
    tests.add_row(escape(baseline["name"]), *(f"{100 * baseline[key]:.1f}" for key in metrics))
    print_table(matrix)
    print_tables(further_tables(evaluation))
    print_table(tests)
    if exported:
        costs = Table("exported -> full", "mAP %", "cost in points")
        for row, label in enumerate(exported, full + 1):
            costs.add_row(
                escape(label),
                f"{100 * accuracy[row][full]:.2f}",
                f"{100 * evaluation['costs'][label]:z.2f}",
            )
        print_table(costs)
    if len(evaluation.get("dimensions", [])) > 1:
        print_table(_dimensions(widths, evaluation["dimensions"]))
    if "decisions" in evaluation:
        from sfsc.report.decisions import decision_tables

        print_tables(decision_tables(evaluation))
        if evaluation["decisions"]["fitted_on"] is None:
            print_line(
                "probabilities are not evaluated: fit them with `sfsc thresholds RUN` and evaluate again"
            )
    print_line(f"data set: {evaluation['dataset']}")
    skipped = f", {evaluation['skipped']} without a positive skipped" if evaluation["skipped"] else ""
    print_line(f"{evaluation['queries']} queries{skipped}, {evaluation['gallery']} gallery images")
    print_line(f"criterion: {evaluation['cells_met']} of {evaluation['cells']} cross-tests meet it (✓)")
    if old := evaluation.get("old"):
        reached = f"{sum(old['criterion'])} of {len(old['criterion'])} widths"
        print_line(f"old model: {old['name']}, family {old['fingerprint']}, {old['dimension']} dimensions")
        print_line(f"its gallery: {reached} reach M(old, old) = {100 * old['self_test']['mAP']:.1f} (✓)")
    if found := gains_of(evaluation):
        gains, shares = map(show_gain, found.gains.values()), (f"{s:.0%}" for s in found.shares.values())
        print_line(f"gallery gain: {', '.join(gains)} points, mean {show_gain(found.mean)}")
        print_line(f"cost of these queries: {', '.join(shares)} of the full sub-model's {found.cost}")


def _dimensions(widths: Sequence[str], tests: Sequence[Mapping[str, Any]]) -> Table:
    names = [f"{width} -> {width}" for width in widths]
    table = Table("dimension", *names, "smallest -> full", title="mAP % by the number of components")
    for test in tests:
        values = [*test["self_tests"], test["smallest_to_full"]]
        table.add_row(str(test["dimension"]), *(f"{100 * value:.1f}" for value in values))
    return table


def print_inspection(inspection: Inspection, names: Sequence[str]) -> None:
    """Print sizes and channels of every sub-model, by its name, and the layers that are not cut."""
    sizes = Table("width", "parameters", "of the full", "multiply-adds", "of the full")
    for row in zip(names, inspection.parameters, inspection.multiply_adds, strict=True):
        name, parameters, adds = row
        shares = f"{parameters / inspection.parameters[-1]:.1%}", f"{adds / inspection.multiply_adds[-1]:.1%}"
        sizes.add_row(name, f"{parameters:,}", shares[0], f"{adds / 1e6:,.1f} M", shares[1])
    channels = Table(*names, "layers", title="output channels")
    for counts, layers in inspection.channels.items():
        channels.add_row(*map(str, counts), escape(_shortened(layers)))
    print_table(sizes)
    print_table(channels)
    for name, ends in inspection.whole.items():
        print_line(f"not cut: {ends} of {name}")


def _shortened(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} layers, {names[0]} to {names[-1]}"


def print_hits(hits: list[Hit]) -> None:
    """Print the hits of a search, best first."""
    decides = any(hit.probability is not None for hit in hits)
    decision = ["probability", "match"] if decides else []
    table = Table("rank", "score", *decision, "identity", "camera", "written at width", "path")
    for rank, hit in enumerate(hits, 1):
        decided = [known(hit.probability, "{:.3f}".format), "✓" if hit.match else ""] if decides else []
        table.add_row(
            *(str(rank), f"{hit.score:.3f}", *decided, escape(hit.identity or ""), escape(hit.camera or "")),
            *(f"{hit.width:g}", escape(hit.path)),
        )
    print_table(table)


def print_thresholds(thresholds: Thresholds) -> None:
    """Print the thresholds of rows in float32 with all dimensions."""
    from sfsc.decisions.score_map import RATES, rounded_up  # numpy would delay every other command

    dimension = max(pair.dimension for pair in thresholds.maps)
    maps = {
        (pair.query_width, pair.gallery_width): one
        for pair, one in thresholds.maps.items()
        if pair.form == "float32" and pair.dimension == dimension
    }
    table = Table("query -> row", *(f"FMR {rate:g}" for rate in RATES), "p = 0.5 in 10,000 rows")
    for (query, row), one in maps.items():
        cells = [f"{one.threshold(r):.3f}" if r >= one.smallest_rate else "-" for r in RATES]
        table.add_row(f"{query:g} -> {row:g}", *cells, known(one.cosine(0.5, 10_000), "{:.3f}".format))
    print_table(table)
    smallest = max(one.smallest_rate for one in maps.values())
    print_line(f"data: {thresholds.data}, {thresholds.images} images of {thresholds.identities} identities")
    print_line(
        f"{len(thresholds.maps)} pairs of widths, forms and dimensions; smallest FMR: {rounded_up(smallest)}"
    )


def print_duplicates(groups: Sequence[Sequence[Copy]], gallery: str) -> None:
    """Print the largest groups of duplicates, and how many there are."""
    table = Table("group", "score", "identity", "written at width", "path")
    for number, group in enumerate(groups[:MOST_GROUPS], 1):
        for row in group[:MOST_COPIES]:
            table.add_row(
                *(str(number), f"{row.score:.3f}", escape(row.identity or "")),
                *(f"{row.width:g}", escape(row.path)),
            )
        if len(group) > MOST_COPIES:
            table.add_row(str(number), "", "", "", f"and {len(group) - MOST_COPIES} more")
    if groups:
        print_table(table)
    if len(groups) > MOST_GROUPS:
        print_line(f"and {len(groups) - MOST_GROUPS} more groups: --out writes all of them")
    rows = sum(map(len, groups))
    print_line(f"{gallery}: {len(groups)} groups of duplicates, with {rows} rows")


BRIDGE_TITLE = "held-out images that find themselves first, and mean cosine; the kind in bold was chosen"


def print_bridge(bridge: Bridge) -> None:
    """Print how well the maps of a bridge do on held-out images."""
    kinds = list(dict.fromkeys(kind for one in bridge.choices.values() for kind in one.cosines))
    table = Table("map", *kinds, title=BRIDGE_TITLE)
    for name, ends in (("forward", (bridge.old, bridge.new)), ("backward", (bridge.new, bridge.old))):
        choice = bridge.choices[name]
        shown = {kind: _held_out(choice, kind) for kind in choice.cosines}
        cells = [
            f"[bold]{shown[kind]}[/bold]" if kind == choice.kind else shown.get(kind, "-") for kind in kinds
        ]
        table.add_row(escape(" -> ".join(f"{end.name} ({end.dimension})" for end in ends)), *cells)
    print_table(table)
    print_line(f"fitted on {bridge.pairs} images")


def _held_out(choice: Choice, kind: str) -> str:
    share = f"{100 * choice.found[kind]:.1f}%, " if kind in choice.found else ""
    return f"{share}{choice.cosines[kind]:.4f}"


def print_gallery(name: str, info: GalleryInfo) -> None:
    """Print a summary of a gallery."""
    space = "no family" if info.fingerprint is None else space_of(info.fingerprint).removeprefix("the ")
    print_line(f"{name}: {info.rows} rows, {info.dimension} dimensions, {space}")
    if info.bridged:
        kept = f"; their embeddings by {space_of(info.bridged_from)} are kept" if info.bridged_from else ""
        print_line(f"{info.bridged} rows are bridged and can be upgraded{kept}")
    if len(info.dimensions) > 1:
        print_line(f"the family supports dimensions {', '.join(map(str, info.dimensions))}")
    for title, counts in (("width", info.rows_by_width), ("form", info.rows_by_form)):
        table = Table(f"{title}", "rows")
        for value, rows in counts.items():
            table.add_row(escape(str(value)), str(rows))
        print_table(table)
    if info.attributes:
        print_line(
            "attributes: " + ", ".join(f"{column} ({kind})" for column, kind in info.attributes.items())
        )
    if info.duplicates:
        print_line(
            f"{len(info.duplicates)} ids occur in several rows, the first: {info.duplicates[0]}; "
            f"`sfsc gallery optimize {name}` keeps the newest row of each"
        )


def print_verification(name: str, found: Verification) -> None:
    """Print what is wrong with a gallery, or that it is sound."""
    for one in found.findings:
        more = f" and {one.count - len(one.first)} more" if one.count > len(one.first) else ""
        print_line(f"{one.count} {one.what}: {', '.join(map(one_line, one.first))}{more}; {one.remedy}")
    print_line(f"{name}: {found.rows} rows, " + ("something is wrong" if found.findings else "all sound"))


def print_calibration(report: CalibrationReport) -> None:
    """Print the cosines before and after calibration, by width."""
    table = Table("width", "before", "after", title="cosine to the full sub-model, same image")
    for width, before in report.before.items():
        table.add_row(f"{width:g}", f"{before:.3f}", f"{report.after[width]:.3f}")
    print_table(table)


def print_adaptation(adaptation: Adaptation) -> None:
    """Print the candidates of an adaptation, and what the chosen one means for stored galleries."""
    heading = ("candidate", "cross", "smallest\n-> full", "full\n-> full", "gain", "galleries")
    table = Table(*heading, title="mutual neighbours of held-out images, %")
    for candidate in adaptation.candidates:
        matrix = 100 * candidate.matrix
        table.add_row(
            candidate.name,
            f"{100 * candidate.cross_tests:.1f}",
            f"{matrix[0, -1]:.1f}",
            f"{matrix[-1, -1]:.1f}",
            f"{100 * candidate.gain:+.1f} ± {100 * candidate.error:.1f}",
            "valid" if candidate.galleries_stay else "invalid",
            style="bold" if candidate is adaptation.chosen else None,
        )
    print_table(table)
    print_line(
        f"chosen: {adaptation.chosen.name} ({adaptation.fitted} images, {adaptation.held_out} held out)"
    )
    if adaptation.after == adaptation.before:
        print_line("the family is unchanged: all galleries stay valid")
    elif adaptation.chosen.galleries_stay:
        print_line("the full sub-model is unchanged: galleries that it wrote stay valid")
    else:
        print_line(f"galleries of {adaptation.before} cannot be used: embed every stored row again")


def print_serving(host: str, port: int, image_roots: Sequence[Path], has_key: bool) -> None:
    """Print the address of a service and the folders whose images it shows; warn if anyone can use it."""
    print_line(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}")
    folders = ", ".join(map(str, image_roots))
    print_line(
        f"images in {folders} can be shown" if folders else "no images can be shown: set --images-root"
    )
    if not has_key and host not in ("localhost", "::1") and not host.startswith("127."):
        text = "anyone who can reach this address can search and change the gallery: set SFSC_API_KEY"
        Console(stderr=True).print(f"warning: {text}", highlight=False, markup=False, soft_wrap=True)


def print_tables(tables: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Print tables with their captions; the first row of each table is its header."""
    for caption, (heading, *rows) in tables.items():
        table = Table(*map(escape, heading), title=escape(caption))
        for row in rows:
            table.add_row(*map(escape, row))
        print_table(table)
