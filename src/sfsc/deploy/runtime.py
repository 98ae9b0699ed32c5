"""Exported sub-models, run by onnxruntime: no torch, no code in the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.batches import as_pixels
from sfsc.dimensions import shorten
from sfsc.errors import SfscError, first_line

FORMAT = 2
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
            values = json.loads(text or "")
            if values["format"] > FORMAT:
                raise SfscError(f"{path} was written by a newer sfsc: upgrade to read it")
            lists = {name: tuple(values.get(name, ())) for name in ("image_size", "dimensions")}
            return cls(**{**values, **lists})
        except (ValueError, KeyError, TypeError) as error:
            raise SfscError(f"{path} is not a model of sfsc: make one with sfsc export") from error


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

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no common ancestor but this
            raise SfscError(
                f"{path} cannot be run by onnxruntime {onnxruntime.__version__} ({first_line(error)}): "
                "export it again, or upgrade onnxruntime"
            ) from error
        properties = session.get_modelmeta().custom_metadata_map
        return cls(Exported.from_text(properties.get(PROPERTY), path), session)

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
        embeddings: np.ndarray = self._session.run(None, {INPUT: pixels})[0]
        return embeddings if dimension is None else shorten(embeddings, dimension)
