"""`BridgedModel`: a family whose queries search the galleries of an old model."""

from __future__ import annotations

import numpy as np

from sfsc.bridges.bridge import Bridge
from sfsc.dimensions import check_dimension
from sfsc.embedding.model import Model
from sfsc.errors import SfscError
from sfsc.notation import Size


class BridgedModel:
    """A `Model` that maps the embeddings of another one into the space of an old model."""

    thresholds = None

    def __init__(self, model: Model, bridge: Bridge) -> None:
        """Use the backward map of a bridge.

        Raises:
            SfscError: the bridge leads to another family.
        """
        bridge.check_new(model.fingerprint, "the model")
        if model.dimension != bridge.new.dimension:
            raise SfscError(
                f"the model has {model.dimension} dimensions, but the bridge maps {bridge.new.dimension}: "
                "export it with all dimensions"
            )
        self._model, self._map = model, bridge.backward
        self.fingerprint, self.dimension = bridge.old.fingerprint, bridge.old.dimension
        self.dimensions: tuple[int, ...] = (self.dimension,)
        self.widest = model.widest

    def check_width(self, width: float) -> None:
        """See `Model`."""
        self._model.check_width(width)

    def image_size_of(self, width: float) -> Size:
        """See `Model`."""
        return self._model.image_size_of(width)

    def check_dimension(self, dimension: int) -> None:
        """See `Model`."""
        check_dimension(dimension, self.dimensions)

    def embed_pixels(self, images: np.ndarray, width: float, dimension: int | None = None) -> np.ndarray:
        """See `Model`."""
        if dimension is not None:
            self.check_dimension(dimension)
        embeddings = self._model.embed_pixels(images, width)
        return self.mapped(embeddings) if len(embeddings) else np.empty((0, self.dimension), np.float32)

    def mapped(self, embeddings: np.ndarray) -> np.ndarray:
        """Map embeddings by the model into the space of the old model.

        Args:
            embeddings: (n, dim) float32 of length 1.

        Returns:
            (n, `dimension`) float32 of length 1.

        Raises:
            SfscError: the embeddings are shortened.
        """
        size = self._map.dimensions[0]
        if embeddings.shape[1] != size:
            raise SfscError(
                f"the embeddings have {embeddings.shape[1]} dimensions, but the bridge maps {size}: send all"
            )
        return self._map(embeddings)[0]
