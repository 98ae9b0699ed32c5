"""Where the results of a run are: those on its own data set in its folder, others in folders of their own."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from sfsc.data import location
from sfsc.description import fingerprint, read_description
from sfsc.errors import SfscError
from sfsc.files import read_json
from sfsc.places import CONFIG_FILE, DESCRIPTION_FILE, FAMILY_FILE

OTHERS = "evaluations"


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
