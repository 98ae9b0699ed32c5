"""Embeddings in files: a numpy array, or a folder of Parquet files that another run can go on with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np

from sfsc.data.image_paths import images_of
from sfsc.embedding.embedded import Embedded, in_parts
from sfsc.embedding.engines import Engine
from sfsc.errors import SfscError, first_line, missing_extra
from sfsc.files.writing import write_atomic, write_with
from sfsc.images.reading import CorruptImage
from sfsc.interruption import going_on, held

PARTS = "part-*.parquet"
LINE_BREAK = "its path has a line break, and the list of paths has a line for each: rename it"


def embed(images: str | Path, out: str | Path, engine: Engine, width: float) -> list[CorruptImage]:
    """Embed images with one sub-model and write what comes out into files.

    Args:
        images: an image, a folder of images, or "KIND:PATH" of a data set, whose gallery split is taken, or
            all of it where it has none.
        out: FILE.npy, for (N, dim) float32 with the N paths in FILE.txt, a line each; else a folder of
            Parquet files with the columns path and embedding, where images that it holds already are not
            embedded again. Several runs may write into one folder at once.
        engine: as `make_engine` gives it, for the sub-model
        width: at this width.

    Returns:
        The images that could not be read, or whose paths the files cannot hold, and the folders that could
        not be opened; all others are in the files.

    Raises:
        SfscError: there are no images, or the files cannot be read or written.
    """
    found, out = images_of(images, "gallery").storable(), Path(out)
    single = out.suffix == ".npy"
    try:  # what cannot be written is known before the first image, not after the last
        (out.parent if single else out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SfscError(f"cannot write {out}: {error.strerror}") from error
    fit = [path for path in found.paths if not single or path.splitlines() == [path]]
    odd = sorted({*found.paths} - {*fit})
    refused = [*found.skipped, *(CorruptImage(path, LINE_BREAK) for path in odd)]
    if single and not fit:
        raise SfscError(f"there is nothing to write into {out}: {refused[0]}")
    return refused + (_write_array if single else _write_parts)(out, fit, engine, width)


def _write_array(out: Path, paths: Sequence[str], engine: Engine, width: float) -> list[CorruptImage]:
    names = out.with_suffix(".txt")
    if names.exists() and not out.exists():
        raise SfscError(
            f"{names} is no list of {out}, which is missing, and would be overwritten: rename one of them"
        )
    with going_on("nothing is written; parts of a folder would be kept"):
        embedded = Embedded.join(list(engine(paths)))
    array = io.BytesIO()
    np.save(array, embedded.vectors[width])
    with held():
        listed = "".join(f"{paths[i]}\n" for i in embedded.indices).encode()
        write_with(out, array.getvalue(), {names: listed})
    return embedded.corrupt


def _write_parts(out: Path, paths: Sequence[str], engine: Engine, width: float) -> list[CorruptImage]:
    parts = _Parts(out)
    there = parts.paths()
    left = [path for path in paths if path not in there]
    corrupt: list[CorruptImage] = []
    with going_on("run the same command again to continue"):
        for embedded in in_parts(engine(left)) if left else ():
            corrupt += embedded.corrupt
            with held():
                parts.add([left[i] for i in embedded.indices], embedded.vectors[width])
    return corrupt


class _Parts:
    """The Parquet files in a folder, to which other runs may add while this one does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: set[Path] = set()
        self._paths: set[str] = set()

    def paths(self) -> set[str]:
        """The images of all files; each file is read once."""
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise missing_extra("pyarrow", "gallery") from error
        for file in sorted({*self._folder.glob(PARTS)} - self._read):
            try:
                self._paths.update(parquet.read_table(file, columns=["path"])["path"].to_pylist())
            except (OSError, ValueError, KeyError) as error:
                raise SfscError(
                    f"{file} cannot be read ({first_line(error)}): remove it and go on"
                ) from error
            self._read.add(file)
        return self._paths

    def add(self, paths: Sequence[str], vectors: np.ndarray) -> None:
        """Write a file of those images that no other run has written meanwhile."""
        import pyarrow as pa
        from pyarrow import parquet

        there = self.paths()
        new = [place for place, path in enumerate(paths) if path not in there]
        if not new:
            return
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(vectors[new].reshape(-1)), vectors.shape[1])
        file = io.BytesIO()
        parquet.write_table(
            pa.table({"path": [paths[place] for place in new], "embedding": embeddings}), file
        )
        # No number: two runs would count alike, and a file that was taken away would be counted no more.
        write_atomic(self._folder / f"part-{uuid4().hex}.parquet", file.getvalue())
