"""Images as every sub-model of a family embeds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from sfsc.embedding.embedded import Embedded, embed_images
from sfsc.embedding.exported import ExportedModel
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.retrieval.matrix import raw_pixel_embeddings

Embedder = float | str | None  # a width, the label of an exported file, or raw pixels


@dataclass(frozen=True)
class ImageSet:
    """Images as every sub-model of a family embeds them, and perhaps files that were exported from it.

    `vectors` maps a width, or a file's label, to (N, dim) float32, and None to raw pixels; `rows` maps a path
    to its row.
    """

    vectors: Mapping[Embedder, np.ndarray]
    rows: Mapping[str, int]

    def of(self, paths: Sequence[str]) -> dict[Embedder, np.ndarray]:
        """The vectors of these images, in their order."""
        rows = np.array([self.rows[path] for path in paths], np.int64)
        return {width: vectors[rows] for width, vectors in self.vectors.items()}

    def calibrated(self, family: Family) -> ImageSet:
        """The same images as a calibrated copy of the family embeds them."""
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
    """Embed images by every sub-model.

    Args:
        family: in any mode; it is left as it was.
        paths: image files; one that comes twice is embedded once.
        workers: threads that decode images.
        description: what the progress bar says.
        exported: files by label that embed, too.

    Raises:
        SfscError: an image cannot be read.
    """
    files = sorted({*paths})
    training = family.training
    embedders: dict[Embedder, Callable[[np.ndarray], np.ndarray]] = {
        **{width: partial(family.embed_pixels, width=width) for width in family.widths},
        **{label: model.embed_pixels for label, model in (exported or {}).items()},
        None: raw_pixel_embeddings,
    }
    try:
        family.eval()
        size = family.spec.image_size
        parts = list(embed_images(embedders, files, size, workers, description))
    finally:
        family.train(training)
    embedded = Embedded.join(parts)
    if bad := embedded.corrupt:
        raise SfscError(
            f"{len(bad)} of {len(files)} images cannot be read, the first: {bad[0]}; repair or remove them"
        )
    return ImageSet(embedded.vectors, {path: row for row, path in enumerate(files)})
