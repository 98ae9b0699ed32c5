"""What all figures share: one ink on a transparent background, so that an inlined figure matches its page.

Texts in figures may come from strangers' files. No text is read as a formula; `as_label` makes texts fit.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sfsc.errors import SfscError, missing_extra, one_line
from sfsc.files.writing import write_atomic

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.text import Text
except ImportError as error:
    raise missing_extra("matplotlib", "train") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1b2430"
LONGEST_LABEL = 24  # characters; longer labels of ticks leave no room for the axes


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Create a figure of (width, height) inches with one pair of axes."""
    figure, (axes,) = new_panels(size, 1, 1)
    return figure, axes


def new_panels(size: tuple[float, float], count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Create a figure of (width, height) inches with `count` pairs of axes on one vertical scale."""
    figure = Figure(figsize=size, layout="constrained")
    panels: list[Axes] = []
    for place in range(1, count + 1):
        axes = figure.add_subplot(-(-count // columns), columns, place, sharey=panels[0] if panels else None)
        axes.tick_params(colors=INK, labelsize=10)
        axes.spines[:].set_color(INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        panels.append(axes)
    return figure, panels


def as_label(text: str, longest: int = LONGEST_LABEL) -> str:
    """Return a text from a file or a user as a figure can show it: one line of valid characters, cut.

    Matplotlib fails with characters that are not valid Unicode, which names of files may contain.
    """
    return one_line(text, longest)


def add_grid(axes: Axes) -> None:
    """Draw horizontal grid lines in place of the left axis."""
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def add_legend(axes: Axes) -> None:
    """Draw the legend in rows of four above the axes, where it cannot cover a curve."""
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 4, "columnspacing": 1.4}
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, **place)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure on white as PNG or SVG, by the suffix of `path`. Equal figures give equal bytes.

    Raises:
        SfscError: the path has another suffix, or the file cannot be written.
    """
    metadata: dict[str, dict[str, Any]] = {".png": {"Software": None}, ".svg": {"Date": None}}
    suffix = Path(path).suffix
    if suffix not in metadata:
        raise SfscError(f"{path}: a figure is saved as .png or .svg, not as {suffix!r}")
    data = io.BytesIO()
    _write(figure, data, "path", format=suffix[1:], dpi=200, facecolor="white", metadata=metadata[suffix])
    write_atomic(Path(path), data.getvalue())


def to_svg(figure: Figure) -> str:
    """Return a figure as one <svg> element for an HTML page, with the colour of the page's text as its ink.

    The element has no fixed size. Its ids begin with a digest of its content, so that a page can contain
    several figures.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    _write(figure, buffer, "none", format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    digest = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{digest}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace(INK, "currentColor")


def _write(figure: Figure, file: IO[Any], fonttype: str, **options: Any) -> None:
    """Write a figure; no text is read as a formula, and `fonttype` says what becomes of text in an SVG."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    # Matplotlib creates some tick labels while it draws; the setting applies to these.
    with matplotlib.rc_context({"svg.hashsalt": "sfsc", "svg.fonttype": fonttype, "text.parse_math": False}):
        figure.savefig(file, **options)
