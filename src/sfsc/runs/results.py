"""Results of a run: those on its own data set are in its folder, others in subfolders."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from sfsc.errors import SfscError
from sfsc.files.schema import conform
from sfsc.files.writing import read_json
from sfsc.notation import Size
from sfsc.runs import datasets as location
from sfsc.runs.description import fingerprint, read_description
from sfsc.runs.paths import CONFIG_FILE, DESCRIPTION_FILE, FAMILY_FILE

OTHERS = "evaluations"
EVALUATION_FILE, RANKINGS_FILE = "evaluation.json", "rankings.json"
MATRIX_FIGURE, ACCURACY_FIGURE = "matrix.png", "accuracy.png"
MOST_TESTED = 256  # the maximum number of sub-models and files in one result


Baseline = TypedDict(
    "Baseline",
    {
        "name": str,
        "mAP": float,
        "rank-1": NotRequired[float],
        "rank-5": NotRequired[float],
        "rank-10": NotRequired[float],
        "mINP": NotRequired[float],
    },
)


class Projection(TypedDict):
    """A projection of embeddings to two dimensions; `points` is indexed [width][image][axis]."""

    widths: list[float]
    identities: list[str]
    points: list[list[tuple[float, float]]]


class Tests(TypedDict):
    """The accuracy with the first `dimension` components of embeddings."""

    dimension: int
    self_tests: list[float]
    smallest_to_full: float


class CalibrationBins(TypedDict):
    """Predicted and observed probabilities in bins, and their mean distance."""

    error: float
    predicted: list[float]
    observed: list[float]


class Cell(TypedDict):
    """The decisions in one cell of the matrix; the last three need thresholds."""

    matches: int
    non_matches: int
    fnmr: list[tuple[float, float, float] | None]
    identified: list[float | None]
    curve: list[tuple[float, float]]
    matching: list[float]
    others: list[float]
    calibration: NotRequired[CalibrationBins]
    fmr: NotRequired[list[float | None]]
    fmr_one_threshold: NotRequired[list[float | None]]


class Decisions(TypedDict):
    """The quality of decisions in every cell of the matrix."""

    rates: list[float]
    alarms: list[float]
    fitted_on: str | None
    cells: list[list[Cell]]


class Reranked(TypedDict):
    """The matrices after re-ranking of the first `depth` items by a rule."""

    rule: str
    depth: int
    metrics: dict[str, list[list[float]]]


class Tracks(TypedDict):
    """The matrices of image-to-track retrieval, with `count` tracks in the gallery."""

    count: int
    metrics: dict[str, list[list[float]]]


CascadeAt = TypedDict(
    "CascadeAt",
    {"limit": float, "multiply_adds": float, "shares": list[float], "mAP": float, "rank-1": float},
)
Alone = TypedDict("Alone", {"width": float, "multiply_adds": int, "mAP": float, "rank-1": float})


class Cascade(TypedDict):
    """A cascade at several limits, beside queries by each of its sub-models alone."""

    widths: list[float]
    limits: list[CascadeAt]
    alone: list[Alone]


class OldTests(TypedDict):
    """The tests together with an old model: a column, a row and its self-test, for each metric."""

    name: str
    fingerprint: str
    dimension: int
    components: int
    column: dict[str, list[float]]
    row: dict[str, list[float]]
    self_test: dict[str, float]
    criterion: list[bool]


class Result(TypedDict):
    """The contents of `evaluation.json`; earlier versions did not write all of them."""

    dataset: str
    fingerprint: str
    widths: list[float]
    parameters: list[int]
    queries: int
    skipped: int
    gallery: int
    metrics: dict[str, list[list[float]]]
    criterion: list[list[bool]]
    cells_met: int
    cells: int
    baseline: Baseline
    gallery_gain: NotRequired[list[float]]
    multiply_adds: NotRequired[list[int]]
    image_sizes: NotRequired[list[Size]]
    depths: NotRequired[list[float]]
    images: NotRequired[str]
    exported: NotRequired[dict[str, float]]
    costs: NotRequired[dict[str, float]]
    cosines: NotRequired[list[list[float]]]
    projection: NotRequired[Projection]
    dimensions: NotRequired[list[Tests]]
    decisions: NotRequired[Decisions]
    reranked: NotRequired[Reranked]
    tracks: NotRequired[Tracks]
    cascade: NotRequired[Cascade]
    old: NotRequired[OldTests]


def read_result(path: Path) -> dict[str, Any]:
    """Read an `evaluation.json` and check it against the types and shapes of a `Result`.

    Raises:
        SfscError: the file cannot be read, is incomplete or is damaged.
    """
    try:
        result: dict[str, Any] = conform(read_json(path), Result, str(path))
        _check_shapes(result, path)
    except ValueError as error:
        raise SfscError(f"{error}: write it again with `sfsc evaluate`") from None
    return result


def _check_shapes(result: dict[str, Any], path: Path) -> None:
    own, exported = len(result["widths"]), result.get("exported", {})
    size = own + len(exported)
    matrices = [(values, size) for values in result["metrics"].values()]
    others = [result[key]["metrics"] for key in ("reranked", "tracks") if key in result]
    matrices += [(values, size) for metrics in others for values in metrics.values()]
    matrices += [(result["criterion"], own), (result.get("cosines", [[0.0] * own] * own), own)]
    fitting = [len(values) == n and all(len(row) == n for row in values) for values, n in matrices]
    places = result.get("projection", {"widths": [], "identities": [], "points": []})
    fitting += [len(places["widths"]) == len(places["points"])]
    fitting += [len(points) == len(places["identities"]) for points in places["points"]]
    fitting += [len(tests["self_tests"]) == own for tests in result.get("dimensions", [])]
    fitting += [0 < size <= MOST_TESTED, len(result["parameters"]) == own, "mAP" in result["metrics"]]
    fitting += ["mAP" in metrics for metrics in others]
    by_width = ("multiply_adds", "image_sizes", "depths")
    fitting += [len(result.get(key, result["parameters"])) == own for key in by_width]
    fitting += [min(size) > 0 for size in result.get("image_sizes", [])]
    fitting += [0 < depth <= 1 for depth in result.get("depths", [])]
    fitting += [len(result["gallery_gain"]) == own - 1] if "gallery_gain" in result else []
    fitting += [metric in result["baseline"] for metric in result["metrics"]]
    fitting += [label in result.get("costs", {}) for label in exported]
    fitting += [width in result["widths"] for width in exported.values()]
    if cascade := result.get("cascade"):
        fitting += [len(one["shares"]) == len(cascade["widths"]) for one in cascade["limits"]]
        fitting += [bool(cascade["limits"]), 0 < len(cascade["alone"]) == len(cascade["widths"])]
        fitting += [cascade["alone"][-1]["multiply_adds"] > 0] if cascade["alone"] else []
    if "decisions" in result:
        fitting += _fitting_decisions(result["decisions"], size)
    if "old" in result:
        old, metrics = result["old"], {*result["metrics"]}
        fitting += [{*old["column"]} == {*old["row"]} == {*old["self_test"]} == metrics]
        fitting += [len(values) == size for one in ("column", "row") for values in old[one].values()]
        fitting += [len(old["criterion"]) == own]
    if not all(fitting):
        raise ValueError(f"the parts of {path} belong to different sub-models")


def _fitting_decisions(decisions: dict[str, Any], size: int) -> list[bool]:
    rates, alarms, cells = decisions["rates"], decisions["alarms"], decisions["cells"]
    fitting = [len(cells) == size and all(len(row) == size for row in cells)]
    fitting += [all(0 < share <= 1 for share in (*rates, *alarms))]
    for cell in (cell for row in cells for cell in row):
        per_rate = [cell[key] for key in ("fnmr", "fmr", "fmr_one_threshold") if key in cell]
        fitting += [len(values) == len(rates) for values in per_rate]
        fitting += [len(cell["identified"]) == len(alarms), 0 < len(cell["matching"]) == len(cell["others"])]
        fitting += [("fmr" in cell) == ("calibration" in cell) == ("fmr_one_threshold" in cell)]
        bins = cell.get("calibration", {"predicted": [], "observed": []})
        fitting += [len(bins["predicted"]) == len(bins["observed"])]
        fitting += [("fmr" in cell) == (decisions["fitted_on"] is not None)]
    return fitting


def own_dataset(run: Path) -> str | None:
    """Return the data set that a run was trained on, at its present path, or None if it is unknown."""
    try:
        return location.found(str(read_json(run / CONFIG_FILE)["dataset"]), run)
    except (SfscError, KeyError, TypeError):
        return None


def results_folder(run: Path, dataset: str, own: str | None = None) -> Path:
    """Return the folder for results on a data set: the run folder for its own data set, else a subfolder.

    Args:
        run: the run folder. If its own data set is unknown, it is returned for every data set.
        dataset: the data set as KIND:PATH; a relative path starts at the working folder.
        own: the run's own data set; by default the one that the run folder names.
    """
    own = own or own_dataset(run)
    dataset = location.absolute(dataset)
    return run if own is None or location.same(own, dataset) else run / OTHERS / _slug(dataset)


def other_folders(run: Path) -> list[Path]:
    """Return the folders of results on other data sets, sorted by name."""
    return sorted(path for path in (run / OTHERS).glob("*") if path.is_dir())


def is_own(run: Path, result: dict[str, Any]) -> bool:
    """Return whether a result in a run folder belongs to the run's own data set."""
    own = own_dataset(run)
    return own is None or location.same(own, location.found(result["dataset"], run))


def is_current(run: Path, result: dict[str, Any]) -> bool:
    """Return whether a result belongs to the family that is now in the run folder, not to an earlier one."""
    if not any((run / name).exists() for name in (DESCRIPTION_FILE, FAMILY_FILE)):
        return True
    return fingerprint(*read_description(run)) == result["fingerprint"]


def _slug(dataset: str) -> str:
    """Return a folder name that is unique to the data set."""
    kind, path = location.split_name(dataset) or ("", dataset)
    name = re.sub(r"[^\w.+=-]+", "-", f"{kind}{Path(path).name[:40]}")
    return f"{name}-{sha256(dataset.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
