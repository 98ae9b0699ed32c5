"""The record of the images that a run was started with. They are compared when it is resumed or evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sfsc.data.dataset import Dataset
from sfsc.data.listing import TESTS, TRAIN, UNLABELLED, Entry, Listing, first_names
from sfsc.errors import SfscError
from sfsc.runs.paths import CONFIG_FILE, DESCRIPTION_FILE, FAMILY_FILE
from sfsc.runs.results import results_folder
from sfsc.training.checkpoint import CHECKPOINT_FILE
from sfsc.training.teacher import TEACHER_FOLDER

LISTING_FILE = "images.json"


def begun(run: Path) -> bool:
    """Return whether anything was trained in a run folder."""
    files = [CHECKPOINT_FILE, f"{TEACHER_FOLDER}/{CHECKPOINT_FILE}", FAMILY_FILE, DESCRIPTION_FILE]
    return any((run / file).exists() for file in files)


def refuse_used(run: Path, how: str) -> None:
    """Raise `SfscError` with the advice `how` if a folder contains a run or parts of one."""
    if (run / CONFIG_FILE).exists() or begun(run):
        raise SfscError(f"{run} already contains a run: {how}")


def has_record(run: Path) -> bool:
    """Return whether anything was trained in a run folder that has a record of its images."""
    return begun(run) and (run / LISTING_FILE).exists()


def check(run: Path, now: Listing, same: Callable[[Entry, Entry], bool] = Entry.same_names) -> None:
    """Compare the training images with those that a run was started with, if anything was trained in it.

    Args:
        run: the run folder. A run of an older version has no record, so nothing is compared.
        now: the current images.
        same: a function that returns whether the recorded and the current entry of an identity are equal.

    Raises:
        SfscError: the training images differ.
    """
    if has_record(run) and (changes := _stored(run).changes(now, (*TRAIN, UNLABELLED), same)):
        raise SfscError(
            f"{run} was started with other training images ({changes}): restore them, "
            "or train into a new folder"
        )


def record(run: Path, now: Listing) -> None:
    """Record the images that a run starts with; if it has begun, compare their contents as `check` does."""
    check(run, now, Entry.same_contents)
    if not begun(run):
        now.write(run / LISTING_FILE)


def remarks(run: Path, dataset: Dataset) -> list[str]:
    """Describe what has changed in a run's own data set since its start; return [] for other data sets."""
    if not (run / LISTING_FILE).exists() or results_folder(run, dataset.source) != run:
        return []
    before, now = _stored(run), Listing.of(dataset)
    said = [
        f"the {name} images differ from those that {run} was started with ({changes})"
        for name, splits in (("training", TRAIN), ("test", TESTS))
        if (changes := before.changes(now, splits))
    ]
    seen = before.identities(TRAIN) & now.identities(TESTS) - before.identities(TESTS)
    if seen:
        said.append(f"test identities that {run} was trained on: {first_names(sorted(seen))}")
    return said


def _stored(run: Path) -> Listing:
    return Listing.read(run / LISTING_FILE)
