"""Drawing the figures of results next to these results in a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfsc.deploy.profile import PROFILE_FIGURE, Profile
from sfsc.report.accuracy_figures import accuracy_against_latency, accuracy_against_size, accuracy_of_search
from sfsc.report.canvas import save
from sfsc.report.figures import heat_map
from sfsc.report.names import names_of
from sfsc.report.old_tests import with_old
from sfsc.runs.results import ACCURACY_FIGURE, EVALUATION_FILE, MATRIX_FIGURE, read_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sfsc.deploy.searching import Search

SEARCH_FIGURE = "search.png"


def draw_evaluation(folder: Path) -> list[Path]:
    """Draw `matrix.png` and `accuracy.png` next to the `evaluation.json` in a folder; return both paths.

    Raises:
        SfscError: there is no evaluation, it is damaged, or the figures cannot be written.
    """
    result = read_result(folder / EVALUATION_FILE)
    matrix, accuracy = folder / MATRIX_FIGURE, folder / ACCURACY_FIGURE
    save(matrix_figure(result, "mAP"), matrix)
    save(accuracy_against_size(result), accuracy)
    return [matrix, accuracy]


def matrix_figure(result: dict[str, Any], label: str) -> Figure:
    """Return the heat map of the mAP matrix in an evaluation."""
    labels, values, met = with_old(result, "mAP")
    return heat_map(values, names_of(result), result["criterion"], label, exported=labels, old=met)


def draw_profile(profile: Profile, folder: Path) -> list[Path]:
    """Draw `profile.png` into a folder and return its path; draw nothing if there are no accuracies.

    Raises:
        SfscError: matplotlib is not installed, or the figure cannot be written.
    """
    if all(row.accuracy is None for row in profile.rows):
        return []
    save(accuracy_against_latency(profile.to_json()), folder / PROFILE_FIGURE)
    return [folder / PROFILE_FIGURE]


def draw_search(search: Search, folder: Path) -> Path:
    """Draw `search.png` into a folder and return its path.

    Raises:
        SfscError: matplotlib is not installed, or the figure cannot be written.
    """
    save(accuracy_of_search(search), folder / SEARCH_FIGURE)
    return folder / SEARCH_FIGURE
