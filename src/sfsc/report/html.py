"""The report of a run: a single self-contained HTML page that needs no network."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypedDict

import cv2

from sfsc.errors import SfscError, missing_extra
from sfsc.files.schema import conform
from sfsc.files.writing import read_json, write_atomic
from sfsc.images.names import as_text
from sfsc.report.accuracy_figures import accuracy_against_size, accuracy_of_cascade
from sfsc.report.adaptation import StoredAdaptation, adaptation_table
from sfsc.report.canvas import to_svg
from sfsc.report.decisions import calibration_curves, decision_tables, error_curves, score_distributions
from sfsc.report.figures import (
    AXIS_LABELS,
    conflict_map,
    cosine_map,
    embedding_map,
    training_curves,
)
from sfsc.report.further import further_tables
from sfsc.report.gains import gains_of, show_gain
from sfsc.report.names import names_of
from sfsc.report.old_tests import with_old
from sfsc.report.ranked_list import thumbnail
from sfsc.report.result_figures import matrix_figure
from sfsc.runs.log import LOG_FILE, read_log
from sfsc.runs.paths import ADAPTATION_FILE
from sfsc.runs.results import is_current, is_own, other_folders, read_result

try:
    from jinja2 import Environment, StrictUndefined
except ImportError as error:
    raise missing_extra("jinja2", "train") from error


class _Config(TypedDict):
    """The settings of a run that the page refers to by name."""

    dataset: str
    recipe: str
    widths: list[float | str]


class _Hit(TypedDict):
    path: str
    identity: str
    camera: str | None
    score: float
    correct: bool


class _Query(TypedDict):
    path: str
    identity: str
    camera: str | None


class _RankedList(TypedDict):
    query: _Query
    average_precision: float
    hits: list[_Hit]


class _Rankings(TypedDict):
    """The contents of `rankings.json`."""

    query_width: float
    gallery_width: float
    rows: list[_RankedList]


@dataclass(frozen=True)
class Evaluations:
    """The results of a run's family, as stored in evaluation.json.

    Attributes:
        own: the results on the run's own data set, or None.
        others: the results on other data sets.
        outdated: the data sets of results that belong to another family than the one in the folder.
    """

    own: dict[str, Any] | None
    others: list[dict[str, Any]]
    outdated: list[str]


def read_evaluations(run: Path) -> Evaluations:
    """Read all results in a run folder; raise `SfscError` if a file cannot be read."""
    paths = [folder / "evaluation.json" for folder in (run, *other_folders(run))]
    found = {path: read_result(path) for path in paths if path.exists()}
    current = {path: content for path, content in found.items() if is_current(run, content)}
    own = current.pop(paths[0]) if paths[0] in current and is_own(run, current[paths[0]]) else None
    outdated = [content["dataset"] for path, content in found.items() if not is_current(run, content)]
    return Evaluations(own, list(current.values()), outdated)


def write_report(run: str | Path) -> Path:
    """Write report.html into a run folder, from the files that `sfsc train` and `sfsc evaluate` wrote.

    The page of a run that was not evaluated contains no results. Results on data sets other than the run's
    own have a separate section. The page is written atomically.

    Args:
        run: a run folder.

    Returns:
        The path of the page.

    Raises:
        SfscError: the folder is not a run folder, one of its files cannot be read, or the page cannot be
            written.

    Example::

        page = sfsc.write_report("runs/photos")
    """
    run = Path(run)
    page = run / "report.html"
    text = _render(run)
    write_atomic(page, as_text(text).encode())  # names of images are not always valid Unicode
    return page


def _render(run: Path) -> str:
    if not (run / "config.json").is_file():
        raise SfscError(
            f"{run} is not a run folder: it has no config.json; name a folder that `sfsc train` wrote"
        )
    config = _read(run / "config.json", _Config)
    evaluations = read_evaluations(run)
    own = evaluations.own
    rankings = _read_if_there(run / "rankings.json", _Rankings)
    log = _read_log(run, len(config["widths"]))
    adaptation = _read_if_there(run / ADAPTATION_FILE, StoredAdaptation)
    environment = _read_if_there(run / "environment.json", dict[str, Any])
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"percent": _percent, "count": _count, "plain": _plain, "data_uri": data_uri}
    jinja.filters |= {"with_old": with_old, "names": names_of}
    jinja.filters |= {"width": "{:g}".format, "points": _points, "gain": show_gain}
    files = resources.files("sfsc.report")
    return jinja.from_string(files.joinpath("page.html").read_text("utf-8")).render(
        style=files.joinpath("style.css").read_text("utf-8"),
        name=run.resolve().name,
        config=config,
        environment=environment,
        evaluation=own,
        gains=gains_of(own) if own else None,
        outdated=evaluations.outdated,
        others=evaluations.others,
        decisions=decision_tables(own) if own and "decisions" in own else {},
        figures=_result_figures(own) if own else {},
        further=further_tables(own) if own else {},
        rankings=rankings if own else None,
        adaptation=adaptation,
        candidates=adaptation_table(adaptation) if adaptation else None,
        curves=_curves(log, config["widths"]),
    )


def _result_figures(evaluation: dict[str, Any]) -> dict[str, str]:
    matrix = matrix_figure(evaluation, "mAP in percent")
    figures = {"matrix": matrix, "size": accuracy_against_size(evaluation)}
    if "cosines" in evaluation:  # evaluations of earlier versions lack some parts
        figures["cosines"] = cosine_map(evaluation["cosines"], names_of(evaluation))
    if "projection" in evaluation:
        figures["projection"] = embedding_map(evaluation["projection"])
    if "cascade" in evaluation:
        figures["cascade"] = accuracy_of_cascade(evaluation["cascade"])
    if "decisions" in evaluation:
        figures |= {"scores": score_distributions(evaluation), "errors": error_curves(evaluation)}
        if evaluation["decisions"]["fitted_on"] is not None:
            figures["calibration"] = calibration_curves(evaluation)
    return {name: to_svg(figure) for name, figure in figures.items()}


def _curves(log: list[dict[str, Any]], widths: list[float | str]) -> dict[str, str]:
    """Draw the logged values as SVG; a recipe without a classifier, for example, logs no uncertainty."""
    lines = {key: [line for line in log if _has_numbers(line.get(key))] for key in AXIS_LABELS}
    curves = {str(key): training_curves(lines[key], widths, key) for key in AXIS_LABELS if lines[key]}
    by_group = [line for line in log if line.get("conflicts_by_group")]
    if by_group:
        curves["conflicts_by_group"] = conflict_map(by_group)
    return {key: to_svg(figure) for key, figure in curves.items()}


def _has_numbers(values: list[float | None] | None) -> bool:
    return any(value is not None for value in values or [])


def _read(path: Path, kind: Any) -> dict[str, Any]:
    """Read the object in a JSON file, with the type of a TypedDict."""
    try:
        content: dict[str, Any] = conform(read_json(path), kind)
    except ValueError as error:
        raise SfscError(f"{path} is damaged ({error}): restore it, or repeat the run") from None
    return content


def _read_if_there(path: Path, kind: Any) -> dict[str, Any] | None:
    return _read(path, kind) if path.exists() else None


def _read_log(run: Path, widths: int) -> list[dict[str, Any]]:
    """Read the lines of a run's log, and check that each has values for all widths."""
    lines = read_log(run)
    groups = len(
        next((line["conflicts_by_group"] or [] for line in lines if "conflicts_by_group" in line), [])
    )
    for number, line in enumerate(lines, 1):
        values = [line.get(key) for key in AXIS_LABELS]
        by_group = line.get("conflicts_by_group")
        if any(len(one) != widths for one in values if one) or (by_group and len(by_group) != groups):
            raise SfscError(
                f"{run / LOG_FILE}, line {number}: it belongs to other sub-models; repeat the run"
            )
    return lines


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:z.2f}"


def _count(parameters: int) -> str:
    """Format a number of parameters briefly: 312 k, 4.21 M."""
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def _plain(value: object) -> str:
    """Format a setting: text unchanged, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def data_uri(path: str) -> str:
    """Return the thumbnail of an image as a data URI for the src of an <img>."""
    pixels = cv2.cvtColor(thumbnail(path), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 85])[1]
    return f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}"
