"""The images of a source, for those who want images alone: an image, a folder, or KIND:PATH of a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfsc.data.sources import names_dataset, open_dataset
from sfsc.data.walking import no_images, say_passed_over, walk
from sfsc.errors import SfscError
from sfsc.images.names import is_text
from sfsc.images.reading import CorruptImage, absolute, split_member


@dataclass(frozen=True)
class Images:
    """Images, and what their source says of them.

    Attributes:
        paths: N absolute paths, as `decode` reads them.
        identities: (N,) str, where they are known.
        cameras: (N,) str, where they are known.
        skipped: what is there and could not be taken.
    """

    paths: tuple[str, ...]
    identities: np.ndarray | None = None
    cameras: np.ndarray | None = None
    skipped: tuple[CorruptImage, ...] = ()

    def storable(self) -> Images:
        """Leave out images whose paths are not UTF-8, which no table can hold: they are skipped."""
        kept = np.array([is_text(path) for path in self.paths], bool)
        odd = [path for path, keep in zip(self.paths, kept, strict=True) if not keep]
        return Images(
            tuple(path for path, keep in zip(self.paths, kept, strict=True) if keep),
            None if self.identities is None else self.identities[kept],
            None if self.cameras is None else self.cameras[kept],
            (*self.skipped, *(CorruptImage(path, "the path is not valid UTF-8: rename it") for path in odd)),
        )


def images_of(source: str | Path, split: str) -> Images:
    """The images of a source.

    Args:
        source: an image, `archive.zip::member`, a folder, or KIND:PATH of a data set; what exists under this
            name as a file or folder comes before a data set.
        split: "train", "query" or "gallery": the part of a data set that is taken; all of it where the data
            set has no such part.

    Raises:
        SfscError: there is nothing of this name, or no image in it.
    """
    text = str(source)
    if os.path.isdir(text):
        found = walk(Path(text))
        say_passed_over(text, [found])
        if not found.images:
            raise no_images(Path(text), found)
        return Images(tuple(map(absolute, found.images)), skipped=tuple(found.unreadable))
    if os.path.exists(text) or split_member(text):
        return Images((absolute(text),))
    if names_dataset(text):
        part = open_dataset(text).part(split)
        return Images(tuple(map(absolute, part.paths)), part.identities, part.cameras)
    raise SfscError(f"{text} does not exist: give an image, a folder or KIND:PATH of a data set")
