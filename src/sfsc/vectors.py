"""Embeddings in files: a numpy array, or a folder of Parquet files that another run can go on with."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfsc.data.images import CorruptImage
from sfsc.embedding import Embedded
from sfsc.engines import Engine
from sfsc.errors import SfscError, first_line, missing_extra
from sfsc.files import write_atomic
from sfsc.indexing import in_parts, labelled_paths
from sfsc.interruption import going_on, held

PARTS = "part-*.parquet"


def embed(images: str | Path, out: str | Path, engine: Engine, width: float) -> list[CorruptImage]:
    """Embed images with one sub-model and write what comes out into files.

    Args:
        images: an image, a folder of images, or "KIND:PATH" of a data set, whose gallery split is taken.
        out: FILE.npy, for (N, dim) float32 with the N paths in FILE.txt, a line each; else a folder of
            Parquet files with the columns path and embedding, where images that it holds already are not
            embedded again.
        engine: as `make_engine` gives it, for the sub-model
        width: at this width.

    Returns:
        The images that could not be read; all others are in the files.

    Raises:
        SfscError: there are no images, or the files cannot be read or written.
    """
    paths, out = labelled_paths(str(images))[0], Path(out)
    folder = out.parent if out.suffix == ".npy" else out
    try:  # what cannot be written is known before the first image, not after the last
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SfscError(f"cannot write {out}: {error.strerror}") from error
    if out.suffix == ".npy":
        with going_on("nothing is written; parts of a folder would be kept"):
            embedded = Embedded.join(list(engine(paths)))
        array = io.BytesIO()
        np.save(array, embedded.vectors[width])
        read = [paths[i] for i in embedded.indices]
        write_atomic(out, array.getvalue())
        write_atomic(out.with_suffix(".txt"), "".join(f"{path}\n" for path in read).encode())
        return embedded.corrupt
    there = set(_stored_paths(out))
    left = [path for path in paths if path not in there]
    corrupt: list[CorruptImage] = []
    with going_on("the same command goes on"):
        for embedded in in_parts(engine(left)) if left else ():
            corrupt += embedded.corrupt
            with held():
                _write_part(out, [left[i] for i in embedded.indices], embedded.vectors[width])
    return corrupt


def _stored_paths(folder: Path) -> Iterator[str]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "gallery") from error
    for file in sorted(folder.glob(PARTS)):
        try:
            yield from parquet.read_table(file, columns=["path"])["path"].to_pylist()
        except (OSError, ValueError, KeyError) as error:
            raise SfscError(f"{file} cannot be read ({first_line(error)}): remove it and go on") from error


def _write_part(folder: Path, paths: list[str], vectors: np.ndarray) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    if not paths:
        return
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    file = io.BytesIO()
    parquet.write_table(pa.table({"path": paths, "embedding": embeddings}), file)
    number = len(list(folder.glob(PARTS)))
    write_atomic(folder / f"part-{number:05d}.parquet", file.getvalue())
