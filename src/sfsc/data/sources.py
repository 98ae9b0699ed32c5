"""Opening data sets by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sfsc.data.csv_table import read_csv
from sfsc.data.dataset import Dataset, Split
from sfsc.data.emoji import read_emoji
from sfsc.data.folder import read_folder
from sfsc.data.grocery import read_grocery
from sfsc.data.omniglot import read_omniglot
from sfsc.data.reid import read_market1501, read_msmt17, read_veri776
from sfsc.data.resplit import cameras, half, target, validation
from sfsc.errors import SfscError

__all__ = ["KINDS", "Dataset", "Split", "names_dataset", "open_dataset"]

KINDS: dict[str, Callable[[str, Path], Dataset]] = {
    "folder": read_folder,
    "csv": read_csv,
    "market1501": read_market1501,
    "veri776": read_veri776,
    "msmt17": read_msmt17,
    "grocery": read_grocery,
    "omniglot": read_omniglot,
    "emoji": read_emoji,
}
# Prefixes of the name of a data set, as in validation:omniglot:PATH.
RESPLITS = {"validation": validation, "half": half, "target": target, "cameras": cameras}
WITH_LISTS = {"cameras"}  # prefixes that a list and a colon follow, as in cameras:c1/c2/c3:market1501:PATH
LONGEST_NAME = 4200  # characters; no path is longer, and the limit bounds the recursion of views


def names_dataset(text: str) -> bool:
    """Return whether a text is the name of a data set rather than a path."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and (kind in KINDS or kind in RESPLITS)


def split_view(name: str) -> tuple[str, str] | None:
    """Split the name of a view into the prefix, with its colons, and the name of the data set behind it.

    The result is None for other names.
    """
    parts = name.split(":", 2 if name.partition(":")[0] in WITH_LISTS else 1)
    if parts[0] not in RESPLITS or not parts[-1] or (parts[0] in WITH_LISTS and len(parts) < 3):
        return None
    return name.removesuffix(parts[-1]), parts[-1]


def open_dataset(spec: str) -> Dataset:
    """Open the data set with the name `spec`.

    Args:
        spec: KIND:PATH, with KIND one of `KINDS`. A prefix "validation:", "half:", "target:" or
            "cameras:TRAIN/QUERY/GALLERY:" opens a view of another data set, as in "validation:omniglot:PATH".

    Raises:
        SfscError: the name is not of this form, the path does not exist, or the layout of the files is not
            as expected.

    Example::

        dataset = sfsc.open_dataset("folder:photos")
        print(dataset.image_size, len(dataset.paths))
    """
    if len(spec) > LONGEST_NAME:
        raise SfscError(f"the name of a data set has at most {LONGEST_NAME} characters, not {len(spec)}")
    kind, _, location = spec.partition(":")
    if view := split_view(spec):
        return RESPLITS[kind](open_dataset(view[1]), spec)
    if kind not in KINDS or not location:
        raise SfscError(f"{spec!r} is not a data set: expected KIND:PATH with KIND one of {', '.join(KINDS)}")
    path = Path(location)
    if not os.path.exists(path) and kind != "emoji":
        raise SfscError(f"{spec}: {path} does not exist")
    if kind in ("folder", "market1501", "veri776", "msmt17", "grocery") and not os.path.isdir(path):
        raise SfscError(f"{spec}: {path} is not a folder")
    return KINDS[kind](spec, path)
