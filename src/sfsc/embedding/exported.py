"""Exported sub-models, run by onnxruntime: no torch, no code in the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.dimensions import shorten
from sfsc.embedding.onnx_file import has_external_data
from sfsc.errors import SfscError, first_line, one_line
from sfsc.files.json_text import parse_json
from sfsc.files.schema import conform
from sfsc.images.batches import as_pixels

FORMAT = 2
MOST_DIMENSIONS, MOST_PIXELS = 1 << 14, 1 << 22
PROPERTY = "sfsc"  # of the file's metadata
INPUT = "images"


@dataclass(frozen=True)
class Exported:
    """What an exported file says of itself.

    Everything that makes an embedding of pixels is in the graph: colour normalisation, the network, length 1.
    Only the image must be stretched to `image_size`, (height, width), before; `sfsc.data.decode` does so.
    `form` is float32 or int8; of the latter, `float_layers` are computed in float32 all the same.
    `dimensions` are all in which the family's embeddings stand alone, ascending; files of the first format do
    not say them. `parameters` and `multiply_adds`, for one image, are those of the sub-model that the file
    was made from; None in files of earlier versions.
    """

    fingerprint: str
    width: float
    dimension: int
    image_size: tuple[int, int]
    form: str
    version: str
    format: int = FORMAT
    dimensions: tuple[int, ...] = ()
    parameters: int | None = None
    multiply_adds: int | None = None
    float_layers: int = 0

    def to_text(self) -> str:
        """As it is stored in the file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | None, path: Path) -> Exported:
        """What the file at `path` says; SfscError where it is not one of ours, or of a newer sfsc."""
        try:
            values = conform(parse_json(text or ""), dict[str, Any])
            if conform(values.get("format"), int, "its format") > FORMAT:
                raise SfscError(f"{path} was written by a newer sfsc: upgrade to read it")
            exported: Exported = conform(values, cls)
        except ValueError as error:
            raise SfscError(
                f"{path} is not a model of sfsc: make one with sfsc export ({one_line(str(error), 200)})"
            ) from error
        height, width = exported.image_size
        sizes = min(height, width) > 0 and height * width <= MOST_PIXELS
        dimensions = (exported.dimension, *exported.dimensions)
        if not (
            sizes and all(0 < size <= MOST_DIMENSIONS for size in dimensions) and 0 < exported.width <= 1
        ):
            raise SfscError(f"{path} is not a model of sfsc: no sub-model has such sizes; export it again")
        return exported


class ExportedModel:
    """The sub-model of an ONNX file; a `Model` of one width."""

    def __init__(self, exported: Exported, session: Any) -> None:
        self.exported = exported
        self._session = session

    @classmethod
    def load(cls, path: str | Path, threads: int = 0) -> ExportedModel:
        """Open a file that `sfsc export` wrote.

        Args:
            path: the file.
            threads: that compute; 0 for as many as there are cores.

        Raises:
            SfscError: there is no such file, it is damaged, not one of ours, or needs an operator that the
                installed onnxruntime lacks; or onnxruntime is not installed.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SfscError(f"cannot read {path}: {error.strerror}") from None
        return cls.of(data, path, threads)

    @classmethod
    def of(cls, data: bytes, path: Path, threads: int = 0) -> ExportedModel:
        """As `load`, from the bytes of the file; `path` is what errors name."""
        import onnxruntime

        _check_whole(data, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Its other format is not looked into.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            # Without the fallback, which prints, and tries the only provider again.
            session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            said = session.get_modelmeta().custom_metadata_map.get(PROPERTY)
            graph = [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()]
            graph += [("", one.type, one.shape[1:]) for one in session.get_outputs()]
        except Exception as error:  # onnxruntime's own classes have no common ancestor but this
            raise SfscError(
                f"{path} cannot be run by onnxruntime {onnxruntime.__version__} ({first_line(error)}): "
                "export it again, or upgrade onnxruntime"
            ) from error
        exported = Exported.from_text(said, path)
        expected = [
            (INPUT, "tensor(uint8)", [*exported.image_size, 3]),
            ("", "tensor(float)", [exported.dimension]),
        ]
        if not _agree(graph, expected):
            raise SfscError(f"{path} is not a model of sfsc: its graph does not do what it says")
        return cls(exported, session)

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            [embeddings] = self._session.run(None, {INPUT: pixels})
        except Exception as error:  # onnxruntime's own classes have no common ancestor but this
            raise SfscError(
                f"the exported file cannot embed images ({first_line(error)}): make it again"
            ) from error
        if embeddings.shape != (len(pixels), self.dimension):
            raise SfscError(
                f"the exported file makes arrays of {embeddings.shape} of {len(pixels)} images: make it again"
            )
        return embeddings

    @property
    def fingerprint(self) -> str:
        """See `Model`."""
        return self.exported.fingerprint

    @property
    def dimension(self) -> int:
        """See `Model`."""
        return self.exported.dimension

    @property
    def dimensions(self) -> tuple[int, ...]:
        """See `Model`."""
        return self.exported.dimensions or (self.dimension,)

    @property
    def image_size(self) -> tuple[int, int]:
        """See `Model`."""
        return self.exported.image_size

    @property
    def widest(self) -> float:
        """See `Model`."""
        return self.exported.width

    def check_width(self, width: float) -> None:
        """See `Model`."""
        if width != self.exported.width:
            raise SfscError(f"the file holds the sub-model at width {self.exported.width:g}, not {width:g}")

    def check_dimension(self, dimension: int) -> None:
        """See `Model`."""
        own = [one for one in self.dimensions if one <= self.dimension]
        if dimension not in own:
            raise SfscError(
                f"the file makes embeddings of {', '.join(map(str, own))} dimensions, not of {dimension}"
            )

    def embed_pixels(
        self, images: np.ndarray, width: float | None = None, dimension: int | None = None
    ) -> np.ndarray:
        """See `Model`."""
        if width is not None:
            self.check_width(width)
        if dimension is not None:
            self.check_dimension(dimension)
        pixels = as_pixels(images, self.image_size)
        if not len(pixels):
            return np.empty((0, dimension or self.dimension), np.float32)
        embeddings = self._run(pixels)
        return embeddings if dimension is None else shorten(embeddings, dimension)


def _check_whole(data: bytes, path: Path) -> None:
    """Raise `SfscError` for a model that refers to more than itself, before onnxruntime reads that."""
    try:
        external = has_external_data(data)
    except ValueError as error:
        raise SfscError(
            f"{path} cannot be run by onnxruntime, it is no ONNX model ({error}): export it again"
        ) from None
    if external:
        raise SfscError(
            f"{path} refers to data outside of itself, which is never read: a model is one file, "
            "as sfsc export writes it"
        )


def _agree(graph: list[tuple[str, str, list[Any]]], expected: list[tuple[str, str, list[int]]]) -> bool:
    """Whether inputs and outputs are as expected; a size that a graph leaves open, by a name, is."""
    if [(*named, len(shape)) for *named, shape in graph] != [(*n, len(shape)) for *n, shape in expected]:
        return False
    sizes = zip((n for *_, s in graph for n in s), (n for *_, s in expected for n in s), strict=True)
    return all(one == other for one, other in sizes if isinstance(one, int))
