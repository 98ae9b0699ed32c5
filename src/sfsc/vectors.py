"""Embeddings in files: a numpy array, or a folder of Parquet files that another run can go on with."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfsc.data.images import CorruptImage
from sfsc.data.sources import images_of
from sfsc.embedding import Embedded
from sfsc.engines import Engine
from sfsc.errors import SfscError, first_line, missing_extra
from sfsc.files import write_atomic
from sfsc.indexing import in_parts

PARTS = "part-*.parquet"


def embed(images: str | Path, out: str | Path, engine: Engine, width: float) -> list[CorruptImage]:
    """Embed images with one sub-model and write what comes out into files.

    Args:
        images: an image, a folder of images, or "KIND:PATH" of a data set, whose gallery split is taken, or
            all of it where it has none.
        out: FILE.npy, for (N, dim) float32 with the N paths in FILE.txt, a line each; else a folder of
            Parquet files with the columns path and embedding, where images that it holds already are not
            embedded again.
        engine: as `make_engine` gives it, for the sub-model
        width: at this width.

    Returns:
        The images that could not be read or stored, and the folders that could not be opened; all others are
        in the files.

    Raises:
        SfscError: there are no images, or the files cannot be read or written.
    """
    found, out = images_of(images, "gallery").storable(), Path(out)
    paths, corrupt = found.paths, [*found.skipped]
    folder = out.parent if out.suffix == ".npy" else out
    try:  # what cannot be written is known before the first image, not after the last
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SfscError(f"cannot write {out}: {error.strerror}") from error
    if out.suffix == ".npy":
        if not paths:
            raise SfscError(f"there is nothing to write into {out}: {corrupt[0]}")
        embedded = Embedded.join(list(engine(paths)))
        array = io.BytesIO()
        np.save(array, embedded.vectors[width])
        read = [paths[i] for i in embedded.indices]
        write_atomic(out, array.getvalue())
        write_atomic(out.with_suffix(".txt"), "".join(f"{path}\n" for path in read).encode())
        return corrupt + embedded.corrupt
    there = set(_stored_paths(out))
    left = [path for path in paths if path not in there]
    for embedded in in_parts(engine(left)) if left else ():
        corrupt += embedded.corrupt
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
