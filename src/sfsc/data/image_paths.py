"""Finding the images of a source: an image file, a folder, or a data set as KIND:PATH."""

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
    """The images of a source.

    Attributes:
        paths: N absolute paths, which `decode` can read.
        identities: (N,) str, or None if they are unknown.
        cameras: (N,) str, or None if they are unknown.
        skipped: an error for each folder, link or image that was skipped.
    """

    paths: tuple[str, ...]
    identities: np.ndarray | None = None
    cameras: np.ndarray | None = None
    skipped: tuple[CorruptImage, ...] = ()

    def storable(self) -> Images:
        """Return the images without those whose paths are not UTF-8; tables cannot store them."""
        kept = np.array([is_text(path) for path in self.paths], bool)
        odd = [path for path, keep in zip(self.paths, kept, strict=True) if not keep]
        return Images(
            tuple(path for path, keep in zip(self.paths, kept, strict=True) if keep),
            None if self.identities is None else self.identities[kept],
            None if self.cameras is None else self.cameras[kept],
            (*self.skipped, *(CorruptImage(path, "the path is not valid UTF-8: rename it") for path in odd)),
        )


def images_of(source: str | Path, split: str) -> Images:
    """Find the images of a source.

    Args:
        source: an image file, `archive.zip::member`, a folder, or a data set as KIND:PATH. A file or folder
            with this name takes precedence over a data set.
        split: the part of a data set, "train", "query" or "gallery". If the data set has no such part, all of
            its images are returned.

    Raises:
        SfscError: the source does not exist or contains no images.
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
