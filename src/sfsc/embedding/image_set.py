"""Embeddings of a set of images by every sub-model of a family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sfsc.embedding.embedded import Embedded, Embedder, embed_images
from sfsc.embedding.exported import ExportedModel
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.retrieval.matrix import raw_pixel_embeddings

Key = float | str | None  # a width, the label of an exported file, or raw pixels


@dataclass(frozen=True)
class ImageSet:
    """Embeddings of N images by every sub-model of a family, and by files that were exported from it.

    Attributes:
        vectors: (N, dim) float32 for each width or label of a file, and the raw pixels for None.
        rows: the row of each path.
    """

    vectors: Mapping[Key, np.ndarray]
    rows: Mapping[str, int]

    def of(self, paths: Sequence[str]) -> dict[Key, np.ndarray]:
        """Return the vectors of these images, in the given order."""
        rows = np.array([self.rows[path] for path in paths], np.int64)
        return {width: vectors[rows] for width, vectors in self.vectors.items()}

    def calibrated(self, family: Family) -> ImageSet:
        """Return the embeddings of the same images by a calibrated copy of the family."""
        vectors = dict(self.vectors)
        for width in family.widths.narrow:
            vectors[width] = family.calibration(width)(torch.from_numpy(self.vectors[width])).numpy()
        return ImageSet(vectors, self.rows)


def embed_all(
    family: Family,
    paths: Iterable[str],
    workers: int = 2,
    description: str = "embedding",
    exported: Mapping[str, ExportedModel] | None = None,
) -> ImageSet:
    """Embed images with every sub-model.

    Args:
        family: the family, in any mode; its mode is restored.
        paths: the paths of the images; duplicates are embedded once.
        workers: the number of threads that decode images.
        description: the text of the progress bar.
        exported: exported files by label, which embed the images as well.

    Raises:
        SfscError: an image cannot be read.
    """
    files = sorted({*paths})
    training = family.training
    embedders: dict[Key, Embedder] = {
        **{width: Embedder.of(family, width) for width in family.widths},
        **{label: Embedder.of(model, model.widest) for label, model in (exported or {}).items()},
        None: Embedder(family.image_size, raw_pixel_embeddings),
    }
    try:
        family.eval()
        parts = list(embed_images(embedders, files, workers, description))
    finally:
        family.train(training)
    embedded = Embedded.join(parts)
    if bad := embedded.corrupt:
        raise SfscError(
            f"{len(bad)} of {len(files)} images cannot be read, the first: {bad[0]}; repair or remove them"
        )
    return ImageSet(embedded.vectors, {path: row for row, path in enumerate(files)})
