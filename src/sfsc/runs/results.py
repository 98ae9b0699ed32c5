"""Where the results of a run are: those on its own data set in its folder, others in folders of their own."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from sfsc.errors import SfscError
from sfsc.files.schema import conform
from sfsc.files.writing import read_json
from sfsc.runs import datasets as location
from sfsc.runs.description import fingerprint, read_description
from sfsc.runs.paths import CONFIG_FILE, DESCRIPTION_FILE, FAMILY_FILE

OTHERS = "evaluations"
EVALUATION_FILE, RANKINGS_FILE = "evaluation.json", "rankings.json"
MATRIX_FIGURE, ACCURACY_FIGURE = "matrix.png", "accuracy.png"
MOST_TESTED = 256  # sub-models and files in one result


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
    """Images in two dimensions: `points` by width, image and axis."""

    widths: list[float]
    identities: list[str]
    points: list[list[tuple[float, float]]]


class Tests(TypedDict):
    """Tests on the first components of embeddings."""

    dimension: int
    self_tests: list[float]
    smallest_to_full: float


class Result(TypedDict):
    """What `evaluation.json` holds; earlier versions did not write all of it."""

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
    images: NotRequired[str]
    exported: NotRequired[dict[str, float]]
    costs: NotRequired[dict[str, float]]
    cosines: NotRequired[list[list[float]]]
    projection: NotRequired[Projection]
    dimensions: NotRequired[list[Tests]]


def read_result(path: Path) -> dict[str, Any]:
    """The result in an `evaluation.json`, of the types and shapes of a `Result`.

    Raises:
        SfscError: it cannot be read, lacks something or is damaged.
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
    matrices += [(result["criterion"], own), (result.get("cosines", [[0.0] * own] * own), own)]
    fitting = [len(values) == n and all(len(row) == n for row in values) for values, n in matrices]
    places = result.get("projection", {"widths": [], "identities": [], "points": []})
    fitting += [len(places["widths"]) == len(places["points"])]
    fitting += [len(points) == len(places["identities"]) for points in places["points"]]
    fitting += [len(tests["self_tests"]) == own for tests in result.get("dimensions", [])]
    fitting += [0 < size <= MOST_TESTED, len(result["parameters"]) == own, "mAP" in result["metrics"]]
    fitting += [metric in result["baseline"] for metric in result["metrics"]]
    fitting += [label in result.get("costs", {}) for label in exported]
    if not all(fitting):
        raise ValueError(f"the parts of {path} belong to different sub-models")


def own_dataset(run: Path) -> str | None:
    """What a run was trained on, by the path where it is now; None where the folder does not say."""
    try:
        return location.found(str(read_json(run / CONFIG_FILE)["dataset"]), run)
    except (SfscError, KeyError, TypeError):
        return None


def results_folder(run: Path, dataset: str, own: str | None = None) -> Path:
    """Where results on a data set belong: in the run, if it is the run's own, else in a folder below it.

    Args:
        run: a run folder; what says of no data set that it is its own takes all results.
        dataset: KIND:PATH; a relative path starts at the working folder.
        own: the run's own data set, where the folder does not say it.
    """
    own = own or own_dataset(run)
    dataset = location.absolute(dataset)
    return run if own is None or location.same(own, dataset) else run / OTHERS / _slug(dataset)


def other_folders(run: Path) -> list[Path]:
    """The folders of results on other data sets, sorted by name."""
    return sorted(path for path in (run / OTHERS).glob("*") if path.is_dir())


def is_own(run: Path, result: dict[str, Any]) -> bool:
    """Whether a result in a run's folder is of the run's own data set."""
    own = own_dataset(run)
    return own is None or location.same(own, location.found(result["dataset"], run))


def is_current(run: Path, result: dict[str, Any]) -> bool:
    """Whether a result is of the family that the run's folder holds, and not of one before it."""
    if not any((run / name).exists() for name in (DESCRIPTION_FILE, FAMILY_FILE)):
        return True
    return fingerprint(*read_description(run)) == result["fingerprint"]


def _slug(dataset: str) -> str:
    """A name for a folder, which no other data set has."""
    kind, path = location.split_name(dataset) or ("", dataset)
    name = re.sub(r"[^\w.+=-]+", "-", f"{kind}{Path(path).name[:40]}")
    return f"{name}-{sha256(dataset.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
