"""Printing what `sfsc profile` and `sfsc choose` measured."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from sfsc.deploy.quantities import SIZES, TIMES, show_quantity
from sfsc.report.printing import known, print_line, print_table

if TYPE_CHECKING:
    from sfsc.deploy.evolution import Candidate
    from sfsc.deploy.profile import Measured, Profile
    from sfsc.deploy.searching import Search

# Line breaks in the heading keep the table within 80 characters.
PROFILE_HEADING = (
    *("width", "form", "file\nMB", "memory\nMB", "p50\nms", "p95\nms", "images\n/s", "times\nfaster"),
    "mAP\n%",
)


def print_profile(profile: Profile) -> None:
    """Print the sub-models, and the measurements of each in every form compared with the reference."""
    sizes = Table("width", "parameters", "multiply-adds")
    for width, row in {row.width: row for row in profile.rows}.items():
        adds = known(row.multiply_adds, lambda count: f"{count / 1e6:,.1f} M")
        sizes.add_row(profile.name_of(width), known(row.parameters, "{:,}".format), adds)
    table = Table(*PROFILE_HEADING)
    reference = profile.reference
    for row in profile.rows:
        table.add_row(
            *(
                profile.name_of(row.width),
                escape(row.label),
                known(row.size, lambda size: f"{size / 1e6:.3f}"),
            ),
            *(f"{row.memory / 1e6:.1f}", f"{1000 * row.p50:.2f}", f"{1000 * row.p95:.2f}"),
            *(f"{row.throughput:,.0f}", known(reference, partial(_times_faster, row))),
            known(row.accuracy, lambda accuracy: f"{100 * accuracy:.1f}"),
        )
    print_table(sizes)
    print_table(table)
    if reference:
        print_line(f"times faster than {reference.name}, by p50; threads: {profile.threads}")
    print_line(
        "mAP: not known" if profile.dataset is None else f"mAP: in the full gallery of {profile.dataset}"
    )


def _times_faster(row: Measured, reference: Measured) -> str:
    return f"{reference.p50 / row.p50:.1f}"


def print_choice(run: Path, chosen: Measured) -> None:
    """Print the file and the measurements of the chosen sub-model."""
    print_line(_figures(chosen))
    print_line(f"chosen: {run / str(chosen.file)}")


def print_search(search: Search) -> None:
    """Print the front of a search with the trained sub-models, and the measurements of the chosen one."""
    table = Table("sub-model", "ratios of groups", "multiply-adds", "p50\nms", "memory\nMB", "mAP\n%")
    front = search.front
    for one in search.candidates:
        if one in front or one.trained:
            ratios = "trained" if one.trained else " ".join(f"{ratio:.2f}" for ratio in one.point.ratios)
            cells = f"{one.multiply_adds / 1e6:,.1f} M", f"{1000 * one.p50:.2f}", f"{one.memory / 1e6:.1f}"
            style = "bold" if one.point == search.winner.point else None
            table.add_row(one.name, ratios, *cells, f"{100 * one.accuracy:.1f}", style=style)
    print_table(table)
    print_line(f"p50, memory: predicted; median error of p50 on points left out: {100 * search.error:.1f} %")
    print_line(f"mAP: in the full gallery of {search.dataset}; {len(search.candidates)} points evaluated")
    print_line(_figures(search.winner))


def _figures(one: Measured | Candidate) -> str:
    """Return what is known about a chosen sub-model in one line."""
    size, memory = (show_quantity(count, SIZES) for count in (one.size or 0, one.memory))
    p50, p95 = (show_quantity(seconds, TIMES) for seconds in (one.p50, one.p95))
    accuracy = 100 * (one.accuracy or 0)
    return f"{one.name}: file {size}, memory {memory}, p50 {p50}, p95 {p95}, mAP {accuracy:.1f} %"
