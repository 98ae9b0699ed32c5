"""A table of embeddings that stands for the model that computed them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from sfsc.errors import SfscError, missing_extra
from sfsc.images.reading import CorruptImage, absolute, decode


@dataclass(frozen=True)
class OldTable:
    """The embeddings of images in files, with the path of each image.

    Attributes:
        name: the path of the table.
        fingerprint: 16 hexadecimal digits, a digest of the paths and embeddings.
        embeddings: (N, dimension) float32, of length 1.
        rows: the row of each image, by absolute path.
    """

    name: str
    fingerprint: str
    embeddings: np.ndarray
    rows: Mapping[str, int]

    @classmethod
    def open(cls, path: Path) -> OldTable:
        """Read a .npy file with a file of paths (.txt) beside it, a Parquet file, or a folder of such files.

        Raises:
            SfscError: the table is damaged, a row is not finite or all zeros, or a path is repeated.
        """
        rows: dict[str, int] = {}
        parts: list[np.ndarray] = []
        digest = sha256()
        for names, vectors in _parts(path):
            for name in names:
                if (image := absolute(name)) in rows:
                    raise SfscError(f"{path}: {name} has several rows: keep one of them")
                rows[image] = len(rows)
            _check(path, names, vectors)
            digest.update("\n".join(names).encode("utf-8", "surrogateescape") + vectors.tobytes())
            parts.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        return cls(str(path), digest.hexdigest()[:16], np.concatenate(parts), rows)

    @property
    def dimension(self) -> int:
        """See `OldModel`."""
        return int(self.embeddings.shape[1])

    def check(self, paths: Sequence[str]) -> None:
        """See `OldModel`; `sfsc embed` leaves out images that cannot be read, so these may be missing."""
        missing = [path for path in paths if absolute(path) not in self.rows]
        readable = [path for path in missing if _can_be_read(path)]
        if readable:
            raise SfscError(
                f"{self.name} lacks {len(readable)} of {len(paths)} images, the first: {readable[0]}; "
                "embed them with the old model and add their rows"
            )

    def embed(self, paths: Sequence[str], workers: int = 2) -> np.ndarray:
        """See `OldModel`."""
        self.check(paths)
        return self.embeddings[[self.rows[absolute(path)] for path in paths]]


def _parts(path: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield the paths of the images and their embeddings, (N, dim) float32, part by part."""
    try:
        from sfsc.gallery.imports.importing import open_source
    except ImportError as error:
        raise missing_extra("pyarrow", "gallery") from error
    for part in open_source(path, None).parts():
        yield [*map(str, part.columns.get("path", part.columns["id"]))], part.embeddings.astype(np.float32)


def _check(path: Path, names: Sequence[str], vectors: np.ndarray) -> None:
    sound = np.isfinite(vectors).all(axis=1)
    lengths = np.linalg.norm(np.where(sound[:, None], vectors, 0), axis=1)
    bad = np.flatnonzero(~sound | (lengths == 0))
    if len(bad):
        first = int(bad[0])
        what = "contains only zeros" if sound[first] else "contains NaN or infinity"
        raise SfscError(
            f"{path}: the embedding of {names[first]} {what}: embed the image again or remove its row"
        )


def _can_be_read(path: str) -> bool:
    try:
        decode(path, None)
    except CorruptImage:
        return False
    return True
