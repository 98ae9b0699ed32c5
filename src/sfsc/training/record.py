"""The images that a run was started with: written down once, compared when the run goes on or is tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sfsc.data.dataset import Dataset
from sfsc.data.listing import TESTS, TRAIN, Entry, Listing, first_names
from sfsc.errors import SfscError
from sfsc.runs.paths import CONFIG_FILE, DESCRIPTION_FILE, FAMILY_FILE
from sfsc.runs.results import results_folder
from sfsc.training.checkpoint import CHECKPOINT_FILE
from sfsc.training.teacher import TEACHER_FOLDER

LISTING_FILE = "images.json"


def begun(run: Path) -> bool:
    """Whether anything was trained in a run folder."""
    files = [CHECKPOINT_FILE, f"{TEACHER_FOLDER}/{CHECKPOINT_FILE}", FAMILY_FILE, DESCRIPTION_FILE]
    return any((run / file).exists() for file in files)


def refuse_used(run: Path, how: str) -> None:
    """Raise `SfscError`, which says how to go on, where a folder holds a run or what remains of one."""
    if (run / CONFIG_FILE).exists() or begun(run):
        raise SfscError(f"{run} already contains a run: {how}")


def has_record(run: Path) -> bool:
    """Whether anything was trained in a run folder, and is known with which images."""
    return begun(run) and (run / LISTING_FILE).exists()


def check(run: Path, now: Listing, same: Callable[[Entry, Entry], bool] = Entry.same_names) -> None:
    """Compare the training images with those that a run was started with, if anything was trained in it.

    Args:
        run: one of an earlier version does not say what it was started with.
        now: the images as they are now.
        same: whether an identity's entries, then and now, count as equal.

    Raises:
        SfscError: they are others.
    """
    if has_record(run) and (changes := _stored(run).changes(now, TRAIN, same)):
        raise SfscError(
            f"{run} was started with other training images ({changes}): restore them, "
            "or train into a new folder"
        )


def record(run: Path, now: Listing) -> None:
    """Write down what a run starts with; or, if it has begun, compare the contents as `check` does."""
    check(run, now, Entry.same_contents)
    if not begun(run):
        now.write(run / LISTING_FILE)


def remarks(run: Path, dataset: Dataset) -> list[str]:
    """What has changed in a run's own data set since the run was started; of another, nothing is said."""
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
