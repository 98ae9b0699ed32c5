from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from sfsc.errors import SfscError
from sfsc.report.accuracy_figures import accuracy_against_latency, accuracy_against_size
from sfsc.report.canvas import INK, LONGEST_LABEL, as_label, save, to_svg
from sfsc.report.figures import (
    POINTS,
    conflict_map,
    cosine_map,
    embedding_map,
    heat_map,
    training_curves,
)
from tests.report.synthetic_run import MAP, WIDTHS, evaluation, log, with_exported


def matrix_figure() -> Figure:
    return heat_map(MAP, WIDTHS, evaluation()["criterion"], "mAP")


PROJECTION = {
    "widths": [0.5, 1.0],
    "identities": ["cat", "cat", "dog"],
    "points": [[[0.0, 0.1], [0.2, 0.3], [0.9, 0.8]], [[0.1, 0.1], [0.2, 0.2], [1.0, 0.9]]],
}


def conflict_log() -> list[dict[str, object]]:
    shares = np.linspace(0, 1, 10)
    return [{"epoch": e, "conflicts_by_group": [0.0, float(s), 1.0]} for e, s in enumerate(shares, 1)]


def profiled() -> dict[str, object]:
    """Two sub-models with torch and as int8 files; the larger of the latter was not tested."""
    forms = (("torch", "float32"), ("onnx", "int8"))
    rows = [
        {"width": width, "runtime": runtime, "form": form, "p50": seconds * width, "accuracy": accuracy}
        for (runtime, form), seconds in zip(forms, (0.02, 0.004), strict=True)
        for width, accuracy in ((0.5, 0.4), (1.0, 0.6 if runtime == "torch" else None))
    ]
    return {"rows": rows}


FIGURES = {
    "latency": lambda: accuracy_against_latency(profiled()),
    "matrix": matrix_figure,
    "cosines": lambda: cosine_map(MAP, WIDTHS),
    "projection": lambda: embedding_map(PROJECTION),
    "conflicts": lambda: conflict_map(conflict_log()),
    "curves": lambda: training_curves(log(), WIDTHS, "conflicts"),
    "size": lambda: accuracy_against_size(evaluation()),
}


# Found by fuzzing, or like it: a name that is not UTF-8, formulas, control characters, lines, endless text.
HOSTILE = [
    "\udcff.onnx",
    r"$\frac{$",
    r"\$x$",
    "$a$ $b$",
    "\0\x1b[31m",
    "a\nb\n" * 99,
    "x" * 5000,
    "_",
    "",
    "%s{x}",
]


def figures_that_say(text: str) -> list[Figure]:
    """All figures, with this text wherever a figure shows one that comes from a file or a user."""
    content = with_exported()
    labels = [text, *[*content["exported"]][1:]]
    matrix = heat_map(content["metrics"]["mAP"], WIDTHS, content["criterion"], text, exported=labels)
    size = accuracy_against_size(content | {"baseline": content["baseline"] | {"name": text}})
    identities = [text] * len(PROJECTION["identities"])
    others = [draw() for name, draw in FIGURES.items() if name not in ("matrix", "size", "projection")]
    return [matrix, size, embedding_map(PROJECTION | {"identities": identities}), *others]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def cell_colours(figure: Figure) -> list[str]:
    return [to_hex(cell.get_facecolor()) for cell in figure.axes[0].patches]


def test_heat_map_marks_what_meets_the_criterion() -> None:
    written = texts(matrix_figure())
    assert (written.count("✓"), written.count("✗"), written.count("self-test")) == (10, 2, 4)


def test_heat_map_marks_stand_in_their_cells() -> None:
    criterion = np.zeros((4, 4), bool)
    criterion[0, 3] = True
    (mark,) = [text for text in heat_map(MAP, WIDTHS, criterion, "").axes[0].texts if text.get_text() == "✓"]
    column, row = mark.get_position()
    assert (round(row), round(column)) == (0, 3)


def test_heat_map_outlines_self_tests_and_what_falls_short() -> None:
    edges = [(to_hex(cell.get_edgecolor()), cell.get_linestyle()) for cell in matrix_figure().axes[0].patches]
    cells = np.array([f"{colour} {style}" for colour, style in edges]).reshape(4, 4)
    assert set(cells.diagonal()) == {f"{INK} solid"}
    assert cells[0, 3] == cells[3, 2] != cells[0, 1]


def test_heat_map_without_criterion_marks_self_tests_only() -> None:
    written = texts(heat_map(MAP, WIDTHS, None, ""))
    assert written.count("self-test") == 4
    assert not {"✓", "✗"} & set(written)


def test_heat_map_writes_rows_as_queries_in_percent() -> None:
    axes = matrix_figure().axes[0]
    found = {text.get_position(): text.get_text() for text in axes.texts}
    assert found[3, 0] == "60.9"
    assert found[0, 3] == "66.1"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("gallery width", "query width")


def test_exported_files_have_rows_without_marks() -> None:
    content = with_exported()
    figure = heat_map(
        *(content["metrics"]["mAP"], WIDTHS, content["criterion"], "mAP"), exported=list(content["exported"])
    )
    axes, written = figure.axes[0], texts(figure)
    labels = ["0.25", "0.5", "0.75", "1", "0.25 int8", "a<b>.onnx"]
    assert [label.get_text() for label in axes.get_xticklabels()] == labels
    assert [label.get_text() for label in axes.get_yticklabels()] == labels
    assert (written.count("✓"), written.count("✗"), written.count("self-test")) == (10, 2, 6)
    assert figure.get_size_inches()[0] > matrix_figure().get_size_inches()[0]


def test_exported_files_leave_the_curves_alone() -> None:
    one, other = (accuracy_against_size(content).axes[0] for content in (evaluation(), with_exported()))
    for line, same in zip(one.lines, other.lines, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), same.get_ydata())


def test_limits_put_two_heat_maps_on_one_scale() -> None:
    other = np.array(MAP) / 2
    alone, shared = heat_map(other, WIDTHS, None, ""), heat_map(other, WIDTHS, None, "", limits=(0.0, 1.0))
    assert cell_colours(alone) == cell_colours(heat_map(MAP, WIDTHS, None, ""))
    assert cell_colours(shared) != cell_colours(heat_map(MAP, WIDTHS, None, "", limits=(0.0, 1.0)))


def test_curves_have_one_colour_per_width_in_all_figures() -> None:
    lines = training_curves(log(), WIDTHS, "loss").axes[0].lines
    raw, smooth = lines[::2], lines[1::2]
    colours = [to_hex(line.get_color()) for line in smooth]
    assert [line.get_label() for line in smooth] == ["width 0.25", "width 0.5", "width 0.75", "width 1"]
    assert [to_hex(line.get_color()) for line in raw] == colours
    assert len(set(colours)) == 4
    points = accuracy_against_size(evaluation()).axes[0].collections[0]
    assert [to_hex(colour) for colour in points.get_facecolor()] == colours


def test_smoothing_keeps_a_constant_and_quietens_noise() -> None:
    noise = np.random.default_rng(0).normal(size=200)
    entries = [{"epoch": step, "loss": [2.5, float(value)]} for step, value in enumerate(noise)]
    _, constant, raw, smooth = training_curves(entries, [0.5, 1.0], "loss").axes[0].lines
    np.testing.assert_allclose(constant.get_ydata(), 2.5)
    np.testing.assert_array_equal(raw.get_ydata(), noise)
    assert np.std(smooth.get_ydata()) < 0.5 * np.std(noise)


def test_a_long_log_is_thinned_without_bias() -> None:
    entries = [{"epoch": step, "loss": [float(step)]} for step in range(10 * POINTS)]
    raw, _ = training_curves(entries, [1.0], "loss").axes[0].lines
    assert len(raw.get_xdata()) == POINTS
    np.testing.assert_array_equal(raw.get_xdata(), raw.get_ydata())
    np.testing.assert_array_equal(raw.get_xdata()[:2], [4.5, 14.5])


def test_one_logged_line_is_enough() -> None:
    assert "svg" in to_svg(training_curves(log()[:1], WIDTHS, "uncertainty"))


def test_accuracy_against_latency_shows_what_was_tested() -> None:
    figure = accuracy_against_latency(profiled())
    assert texts(figure) == ["0.5", "1", "0.5"]
    points = {line.get_label(): line.get_xydata().round(6).tolist() for line in figure.axes[0].lines}
    assert points == {"onnx int8": [[2.0, 0.4]], "torch float32": [[10.0, 0.4], [20.0, 0.6]]}
    assert figure.axes[0].get_xscale() == "log"


def test_accuracy_against_size_shows_both_tests_and_the_baseline() -> None:
    axes = accuracy_against_size(evaluation()).axes[0]
    self_tests, against_largest, baseline = axes.lines
    np.testing.assert_allclose(self_tests.get_xdata(), [0.312440, 1.024, 2.210112, 3.8905])
    np.testing.assert_allclose(self_tests.get_ydata(), [0.640, 0.701, 0.727, 0.735])
    np.testing.assert_allclose(against_largest.get_ydata(), [0.609, 0.702, 0.729, 0.735])
    assert set(baseline.get_ydata()) == {0.183}
    assert axes.get_xscale() == "log"
    assert texts(accuracy_against_size(evaluation())) == ["raw 16x16 colour pixels"]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_equal_figures_give_equal_files(tmp_path: Path, name: str, suffix: str) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    save(FIGURES[name](), first)
    save(FIGURES[name](), second)
    assert first.read_bytes() == second.read_bytes()
    assert len(first.read_bytes()) > 1000


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SfscError, match=r"not as '\.gif'"):
        save(matrix_figure(), tmp_path / "matrix.gif")


@pytest.mark.parametrize("name", FIGURES)
def test_inlined_figures_follow_the_page(name: str) -> None:
    svg = to_svg(FIGURES[name]())
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & root.attrib.keys()
    assert INK not in svg
    assert "currentColor" in svg


@pytest.mark.parametrize("name", FIGURES)
def test_references_of_an_inlined_figure_find_their_targets(name: str) -> None:
    root = ElementTree.fromstring(to_svg(FIGURES[name]()))
    ids = {element.get("id") for element in root.iter()}
    hrefs = {
        value
        for element in root.iter()
        for key, value in element.attrib.items()
        if key.endswith("href") and not value.startswith("data:")
    }
    clips = {element.attrib["clip-path"] for element in root.iter() if "clip-path" in element.attrib}
    targets = {href.removeprefix("#") for href in hrefs} | {clip[5:-1] for clip in clips}
    assert targets
    assert targets <= ids


def test_a_map_of_conflicts_has_the_first_group_at_the_top_and_time_to_the_right() -> None:
    (image,) = conflict_map(conflict_log()).axes[0].images
    shares = image.get_array()
    assert shares.shape == (3, 10)
    np.testing.assert_allclose(shares[1], np.linspace(0, 1, 10))
    left, right, bottom, top = image.get_extent()
    assert (left, right) == (0, 10)
    assert bottom > top


def test_a_line_joins_what_the_sub_models_make_of_one_image() -> None:
    axes = embedding_map(PROJECTION).axes[0]
    assert len(axes.lines) == 3
    np.testing.assert_allclose(axes.lines[2].get_xydata(), [[0.9, 0.8], [1.0, 0.9]])
    first, second = axes.collections
    np.testing.assert_allclose(second.get_offsets(), PROJECTION["points"][1])
    colours = [to_hex(colour) for colour in first.get_facecolor()]
    assert colours[0] == colours[1] != colours[2]


def test_what_is_not_logged_is_not_drawn() -> None:
    entries = [{"epoch": 1, "loss": [None, 2.0]}, {"epoch": 2, "loss": [1.0, None]}]
    lines = training_curves(entries, [0.5, 1.0], "loss").axes[0].lines
    assert [line.get_xdata().tolist() for line in lines] == [[2], [2], [1], [1]]


@pytest.mark.filterwarnings("error")  # of matplotlib: the labels leave no room for the axes
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_texts_of_others_are_shown_as_they_are(tmp_path: Path, text: str) -> None:
    for place, figure in enumerate(figures_that_say(text)):
        ElementTree.fromstring(to_svg(figure))
        save(figure, tmp_path / f"{place}.png")
        assert not any(shown.get_parse_math() for shown in figure.findobj(Text))


def test_texts_of_others_are_one_line_in_their_place() -> None:
    matrix, size, *_ = figures_that_say("$a$\n\udcff$b$" + "c" * 100)
    shown = as_label("$a$\n\udcff$b$" + "c" * 100)
    assert shown.startswith(r"$a$\n\udcff$b$cc")
    assert len(shown.removesuffix(" ...")) == LONGEST_LABEL
    assert shown in [label.get_text() for label in matrix.axes[0].get_yticklabels()]
    assert shown in [label.get_text() for label in matrix.axes[0].get_xticklabels()]
    assert matrix.axes[0].get_title("left").startswith(shown.removesuffix(" ..."))
    assert shown in texts(size)
