"""Images in one folder per identity."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sfsc.data.dataset import SPLITS, Dataset, held_out
from sfsc.data.walking import Walk, cannot_be_read, say_passed_over, subfolders, walk
from sfsc.errors import SfscError
from sfsc.images.names import as_text

# Other common names of splits.
OTHER_SPLITS = ("training", "val", "valid", "validation", "testing")


@dataclass
class _Layout:
    """The images of a data set.

    Attributes:
        rows: the path, identity and split of each image.
        stray: images that are not in the folder of an identity.
        nested: for each image in a subfolder of an identity, the path of the subfolder.
    """

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)


def read_folder(source: str, path: Path) -> Dataset:
    """Read the data set in `path/SPLIT/IDENTITY/**`, or in `path/IDENTITY/**`.

    Without folders of splits, half of the identities are for testing. The folder of an identity can have
    subfolders.

    Raises:
        SfscError: folders of splits are next to other folders or below those of identities, or there are
            images but no folders of identities.
    """
    folders = subfolders(path)
    layout = _Layout()
    if splits := _split_folders(path, folders):
        walks = [walk(folder) for folder in splits]
        for folder, found in zip(splits, walks, strict=True):
            _place(layout, found, folder, folder.name.lower())
    else:
        walks = [walk(path)]
        _place(layout, walks[0], path, "train", held_out(as_text(folder.name) for folder in folders))
        _check_levels(path, layout.nested)
    if layout.stray and not layout.rows:
        raise SfscError(
            f"{source} contains {len(layout.stray)} images, but no folders of identities: "
            "put the images of each identity into a folder of its own, or list them in a csv table"
        )
    say_passed_over(source, walks, [*cannot_be_read(walks), *_remarks(layout)])
    return Dataset(
        source=source,
        paths=tuple(image for image, _, _ in layout.rows),
        identities=np.array([identity for _, identity, _ in layout.rows]),
        cameras=None,
        splits=np.array([split for _, _, split in layout.rows]),
        image_size=(224, 224),
        mirrors=True,
    )


def _split_folders(path: Path, folders: list[Path]) -> list[Path]:
    """Return the folders of splits.

    Return [] if there are also other folders and those with the names of splits have no subfolders: they are
    the folders of identities then.
    """
    named = [folder for folder in folders if folder.name.lower() in SPLITS]
    others = [folder for folder in folders if folder not in named]
    if not named or not others:
        return named
    if not any(subfolders(folder) for folder in named):
        return []
    raise SfscError(
        f"{path}: the folder {others[0].name} is next to {named[0].name}, a split: move it into a "
        f"split's folder ({', '.join(SPLITS)}) or elsewhere"
    )


def _place(layout: _Layout, found: Walk, root: Path, split: str, testing: Collection[str] = ()) -> None:
    """Add the images of a walk by their folders below its root; identities in `testing` are for testing."""
    for image in found.images:
        folders = Path(image).relative_to(root).parts[:-1]
        if not folders:
            layout.stray.append(image)
            continue
        identity = as_text(folders[0])
        layout.rows.append((image, identity, "test" if identity in testing else split))
        if len(folders) > 1:
            layout.nested.append("/".join(folders))


def _check_levels(path: Path, nested: list[str]) -> None:
    """Raise `SfscError` for splits in place of identities or below them: test images would be trained on."""
    for above, below in (name.split("/")[:2] for name in nested):
        if above.lower() in OTHER_SPLITS:
            raise SfscError(
                f"{path}: the folder {above} contains folders: if it is a split, name it one of "
                f"{', '.join(SPLITS)}"
            )
        if below.lower() in (*SPLITS, *OTHER_SPLITS):
            raise SfscError(
                f"{path}: {below} is inside {above}: folders of splits must contain those of identities, as "
                f"in {below}/{above}; if {above} is not an identity, use folder:{path / above}"
            )


def _remarks(layout: _Layout) -> list[str]:
    total, remarks = len(layout.rows) + len(layout.stray), []
    if layout.stray:
        remarks.append(
            f"skipped {len(layout.stray)} of {total} images that are not in the folder of an identity, "
            f"such as {layout.stray[0]}"
        )
    if layout.nested:
        first = layout.nested[0]
        remarks.append(
            f"{len(layout.nested)} of {total} images are in subfolders of an identity, such as {first}: "
            f"they are used as images of {first.partition('/')[0]}"
        )
    return remarks
