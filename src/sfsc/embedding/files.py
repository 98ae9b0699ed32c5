"""Writing embeddings into a numpy array or into a folder of Parquet files, which a later run can continue."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np

from sfsc.data.image_paths import images_of
from sfsc.embedding.embedded import Embedded, in_parts
from sfsc.embedding.engines import Engine, local_engine
from sfsc.embedding.model import Model
from sfsc.errors import SfscError, first_line, missing_extra
from sfsc.files.writing import write_atomic, write_with
from sfsc.images.reading import CorruptImage
from sfsc.interruption import going_on, held

PARTS = "part-*.parquet"
LINE_BREAK = "its path contains a line break, but the list of paths has one path per line: rename it"


def embed(
    model: Model,
    images: str | Path,
    out: str | Path,
    width: float | None = None,
    workers: int = 2,
    dimension: int | None = None,
) -> list[CorruptImage]:
    """Embed images with one sub-model and write the embeddings into files.

    Args:
        model: a family in evaluation mode, or an exported sub-model, as `open_model` returns them.
        images: an image, a folder of images, or KIND:PATH of a data set. Of a data set, the gallery split is
            used, or all images if it has none.
        out: FILE.npy, or a folder. FILE.npy contains the embeddings, (N, dim) float32, and FILE.txt the N
            paths, one per line. A folder contains Parquet files with the columns path and embedding; images
            that it already contains are not embedded again, and several runs can write to it at once.
        width: the width of the sub-model; by default the widest.
        workers: the number of threads that decode images.
        dimension: the number of first components to write; by default all.

    Returns:
        The images that could not be read or whose paths the files cannot represent, and the folders that
        could not be opened. All other images are in the files.

    Raises:
        SfscError: the model has no such width or dimension, there are no images, or the files cannot be read
            or written.

    Example::

        model = sfsc.open_model("phone.onnx")
        sfsc.embed(model, "photos", "photos.npy")
    """
    width = model.widest if width is None else width
    model.check_width(width)
    if dimension is not None:
        model.check_dimension(dimension)
    return write_embeddings(images, out, local_engine(model, width, workers, dimension), width)


def write_embeddings(images: str | Path, out: str | Path, engine: Engine, width: float) -> list[CorruptImage]:
    """Write the embeddings of images into files as `embed` does, with any engine of a sub-model.

    Args:
        images: as for `embed`.
        out: as for `embed`.
        engine: an engine of the sub-model, as `make_engine` returns it.
        width: the width of the sub-model.
    """
    found, out = images_of(images, "gallery").storable(), Path(out)
    single = out.suffix == ".npy"
    try:  # finds out before the first image whether the files can be written
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
        raise SfscError(f"{names} exists without {out} and would be overwritten: rename one of them")
    with going_on("nothing was written; an output folder would keep finished parts"):
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
    """The Parquet files in a folder, to which other runs may add files at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: set[Path] = set()
        self._paths: set[str] = set()

    def paths(self) -> set[str]:
        """Return the paths of the images in all files; each file is read only once."""
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise missing_extra("pyarrow", "gallery") from error
        for file in sorted({*self._folder.glob(PARTS)} - self._read):
            try:
                self._paths.update(parquet.read_table(file, columns=["path"])["path"].to_pylist())
            except (OSError, ValueError, KeyError) as error:
                raise SfscError(
                    f"{file} cannot be read ({first_line(error)}): remove it and run the command again"
                ) from error
            self._read.add(file)
        return self._paths

    def add(self, paths: Sequence[str], vectors: np.ndarray) -> None:
        """Write a file with the images that no other run has written in the meantime."""
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
        # Random names instead of numbers: two runs would choose the same number, and files can be removed.
        write_atomic(self._folder / f"part-{uuid4().hex}.parquet", file.getvalue())
