"""The space of an old model: the fixed targets of a training, and how old rows are compared with new ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfsc.backbones.weights import read_weights
from sfsc.bridges.old import OldModel
from sfsc.errors import SfscError, first_line
from sfsc.files.json_text import parse_json
from sfsc.files.schema import conform
from sfsc.files.tensors import write_tensors

FORMAT = 1


@dataclass(frozen=True)
class OldBatch:
    """What an old model says about the images of a batch.

    Attributes:
        embeddings: (batch, k) float32, of length 1, its embeddings of the images.
        classifier: (C, k) float32, of length 1, its direction of each training identity.
    """

    embeddings: Tensor
    classifier: Tensor


@dataclass(frozen=True)
class OldDescription:
    """What identifies an old model.

    Attributes:
        name: how the user called it.
        fingerprint: its fingerprint.
        dimension: the dimension of its embeddings.
        components: the number of first components of a new embedding that are compared with it.
    """

    name: str
    fingerprint: str
    dimension: int
    components: int


@dataclass(frozen=True)
class OldSpace:
    """The embeddings of an old model in the k first components of a new family's embeddings.

    If the old embeddings have no more dimensions than the family's, k is their dimension and they are taken
    as they are. Otherwise, k is the family's dimension, and an orthonormal projection maps them into it.

    Attributes:
        description: what identifies the old model.
        embeddings: (N, k) float32, of length 1, of the N training images; those with labels come first.
        classifier: (C, k) float32, of length 1, the mean of the old embeddings of each training identity
            (Shen et al., CVPR 2020: the classifier for identities that the old model was not trained on; it
            serves here for all identities, because a table has no classifier and means classify better).
        projection: (dimension, k) float32 with orthonormal columns, or None.
    """

    description: OldDescription
    embeddings: Tensor
    classifier: Tensor
    projection: Tensor | None

    @classmethod
    def fit(cls, model: OldModel, paths: Sequence[str], labels: np.ndarray, dimension: int) -> OldSpace:
        """Embed training images with an old model.

        Args:
            model: the old model.
            paths: the paths of the N training images.
            labels: (n,) int64, the labels of the first n of them.
            dimension: the dimension of the new family's embeddings.

        Raises:
            SfscError: the embedding of an image is not known.
        """
        rows, old = torch.from_numpy(model.embed(paths)), model.space
        projection = principal_directions(rows, dimension) if old.dimension > dimension else None
        components = min(old.dimension, dimension)
        said = OldDescription(model.name, old.fingerprint, old.dimension, components)
        empty = torch.empty(0, components)
        placed = cls(said, empty, empty, projection).place(rows)
        return cls(said, placed, _class_means(placed, labels), projection)

    def place(self, rows: Tensor) -> Tensor:
        """Map old embeddings (n, dimension) float32 to (n, k) float32 of length 1, on the same device."""
        return F.normalize(rows if self.projection is None else rows @ self.projection.to(rows.device))

    def batch(self, indices: Tensor) -> OldBatch:
        """Return what the old model says about the training images with these indices."""
        return OldBatch(self.embeddings[indices], self.classifier)

    def to(self, device: torch.device) -> OldSpace:
        """Return the space with the targets of training on a device."""
        return replace(self, embeddings=self.embeddings.to(device), classifier=self.classifier.to(device))

    def save(self, path: Path) -> None:
        """Write the space into a safetensors file atomically."""
        tensors = {"embeddings": self.embeddings, "classifier": self.classifier}
        if self.projection is not None:
            tensors["projection"] = self.projection
        metadata = {"format": json.dumps(FORMAT), "old": json.dumps(vars(self.description))}
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> OldSpace:
        """Read a file that `save` wrote; raise `SfscError` if it is damaged or of a newer format."""
        metadata, tensors = read_weights(path)
        try:
            metadata = metadata or {}
            if conform(parse_json(metadata["format"]), int, "its format") > FORMAT:
                raise SfscError(f"{path} was written by a newer sfsc: upgrade sfsc to read it")
            said: OldDescription = conform(parse_json(metadata["old"]), OldDescription)
            found = cls(said, tensors["embeddings"], tensors["classifier"], tensors.get("projection"))
            _check_shapes(found)
        except (KeyError, ValueError) as error:
            raise SfscError(f"{path} is damaged ({first_line(error)}): train into a new folder") from None
        return found


def principal_directions(rows: Tensor, count: int) -> Tensor:
    """Return the orthonormal directions that keep most of the inner products of rows.

    They are the eigenvectors of the largest eigenvalues of the sum of the products of each row with itself,
    computed in float64. Rows are not centred, because their cosines are compared, not their differences.

    Args:
        rows: (N, dim) float32.
        count: the number of directions, at most dim.

    Returns:
        (dim, count) float32 with orthonormal columns, largest eigenvalue first.
    """
    wide = rows.double()
    vectors = torch.linalg.eigh(wide.T @ wide).eigenvectors.flip(1)[:, :count]
    return vectors.float().contiguous()


def _class_means(placed: Tensor, numbers: np.ndarray) -> Tensor:
    """Return the direction of the mean embedding of each training identity, (C, k) float32."""
    labels = torch.from_numpy(numbers)
    means = torch.zeros(int(labels.max()) + 1, placed.shape[1]).index_add_(0, labels, placed[: len(labels)])
    return F.normalize(means)


def _check_shapes(space: OldSpace) -> None:
    said, k = space.description, space.description.components
    shapes = [space.embeddings.shape[1:], space.classifier.shape[1:]] == [(k,), (k,)]
    mapped = (
        said.dimension == k if space.projection is None else space.projection.shape == (said.dimension, k)
    )
    if not (shapes and mapped):
        raise ValueError("its tensors have other shapes than its description")
