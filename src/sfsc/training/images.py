"""The images that a run trains on: those of its data set and, where it has them, images without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console

from sfsc.data.dataset import Dataset, Split
from sfsc.data.image_paths import images_of
from sfsc.data.listing import Listing
from sfsc.errors import SfscError
from sfsc.images.reading import CorruptImage
from sfsc.training.config import Config
from sfsc.training.distributed import World
from sfsc.training.loading import check_images


@dataclass(frozen=True)
class TrainingImages:
    """The images of a run. Positions count the labelled ones first.

    Attributes:
        labelled: the training images of the data set.
        unlabelled: the paths of the images without labels.
    """

    labelled: Split
    unlabelled: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config, dataset: Dataset) -> TrainingImages:
        """Return the images that the settings name.

        Raises:
            SfscError: the source of the images without labels does not exist, or contains no images.
        """
        if config.unlabelled is None:
            return cls(dataset.train)
        return cls(dataset.train, images_of(config.unlabelled, "train").paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all images."""
        return (*self.labelled.paths, *self.unlabelled)

    def listing(self, dataset: Dataset, contents: dict[str, bytes] | None = None) -> Listing:
        """List the data set and these images, as `Listing.of` does."""
        return Listing.of(dataset, contents, self.unlabelled)

    def readable(self, config: Config, world: World) -> tuple[TrainingImages, dict[str, bytes]]:
        """Return the images that can be decoded, and their digests by path.

        Each rank decodes a part of the images.

        Raises:
            SfscError: too many images cannot be decoded.
        """
        paths = self.paths
        checked = world.gather(check_images(paths[world.share(len(paths))], config.workers))
        corrupt = [error for error in checked if isinstance(error, CorruptImage)]
        world.on_first(lambda: _report(corrupt, len(paths), config.max_corrupt))
        digests = {
            path: digest for path, digest in zip(paths, checked, strict=True) if isinstance(digest, bytes)
        }
        if not corrupt:
            return self, digests
        good = np.array([path in digests for path in self.labelled.paths])
        unlabelled = tuple(path for path in self.unlabelled if path in digests)
        return TrainingImages(self.labelled.select(good), unlabelled), digests


def _report(corrupt: list[CorruptImage], images: int, allowed: float) -> None:
    for error in corrupt:
        Console(stderr=True).print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
    if len(corrupt) > allowed * images:
        raise SfscError(
            f"{len(corrupt)} of {images} training images cannot be read, the first: {corrupt[0]}; "
            "repair or remove them, or allow a larger share with max_corrupt"
        )
