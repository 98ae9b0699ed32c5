"""Running exported sub-models with onnxruntime, without torch and without code in the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sfsc.decisions.thresholds import Thresholds
from sfsc.dimensions import shorten
from sfsc.embedding.onnx_file import has_external_data
from sfsc.errors import SfscError, first_line, one_line
from sfsc.files.json_text import parse_json
from sfsc.files.schema import conform
from sfsc.images.batches import as_pixels
from sfsc.notation import Size

FORMAT = 2
MOST_DIMENSIONS, MOST_PIXELS = 1 << 14, 1 << 22
PROPERTY, THRESHOLDS = "sfsc", "sfsc.thresholds"  # keys in the metadata of the file
INPUT = "images"


@dataclass(frozen=True)
class Exported:
    """The metadata of an exported file.

    The graph contains everything from pixels to embeddings: colour normalisation, the network and the L2
    normalisation. Only the resizing of images to `image_size` happens outside; `sfsc.data.decode` does it.

    Attributes:
        fingerprint: the fingerprint of the family.
        width: the width of the sub-model.
        dimension: the dimension of the embeddings.
        image_size: (height, width) of the images in pixels.
        form: float32 or int8.
        version: the version of sfsc that made the file.
        format: the format of the metadata.
        dimensions: the dimensions that the family supports, ascending; empty in files of the first format.
        parameters: the number of parameters of the sub-model; None in older files.
        multiply_adds: the multiply-adds for one image; None in older files.
        float_layers: the number of layers of an int8 file that are computed in float32.
        depth: the share of the residual blocks of each stage that the sub-model keeps.
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
    depth: float = 1.0

    def to_text(self) -> str:
        """Return the metadata as stored in the file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | None, path: Path) -> Exported:
        """Parse the metadata of the file at `path`.

        Raises:
            SfscError: sfsc did not export the file, or a newer sfsc did.
        """
        try:
            values = conform(parse_json(text or ""), dict[str, Any])
            if conform(values.get("format"), int, "its format") > FORMAT:
                raise SfscError(f"{path} was written by a newer sfsc: upgrade sfsc to read it")
            exported: Exported = conform(values, cls)
        except ValueError as error:
            raise SfscError(
                f"{path} was not exported by sfsc ({one_line(str(error), 200)}): make a file with sfsc export"
            ) from error
        height, width = exported.image_size
        sizes = min(height, width) > 0 and height * width <= MOST_PIXELS
        dimensions = (exported.dimension, *exported.dimensions)
        if not (
            sizes
            and all(0 < size <= MOST_DIMENSIONS for size in dimensions)
            and 0 < exported.width <= 1
            and 0 < exported.depth <= 1
        ):
            raise SfscError(
                f"{path} was not exported by sfsc: its sizes are impossible for a sub-model; export it again"
            )
        return exported


def as_metadata(exported: Exported, thresholds: Thresholds | None) -> dict[str, str]:
    """Return the metadata of an exported file, with the thresholds for queries of its sub-model."""
    metadata = {PROPERTY: exported.to_text()}
    if thresholds is None:
        return metadata
    own = thresholds.chosen(
        lambda pair: pair.query_width == exported.width and pair.dimension <= exported.dimension
    )
    return metadata | {THRESHOLDS: json.dumps(own.to_json(), separators=(",", ":"))}


class ExportedModel:
    """The sub-model in an ONNX file: a `Model` with one width.

    Example::

        from sfsc.data import decode
        from sfsc.embedding.exported import ExportedModel

        model = ExportedModel.load("phone.onnx")
        images = decode("query.jpg", model.image_size)[None]
        print(model.embed_pixels(images).shape)  # (1, model.dimension)
    """

    def __init__(self, exported: Exported, session: Any, thresholds: Thresholds | None = None) -> None:
        self.exported = exported
        self._session = session
        self._thresholds = thresholds

    @classmethod
    def load(cls, path: str | Path, threads: int = 0) -> ExportedModel:
        """Open a file that `sfsc export` wrote.

        Args:
            path: the path of the file.
            threads: the number of threads that compute; 0 uses all cores.

        Raises:
            SfscError: the file does not exist, is damaged, was not exported by sfsc, or needs an operator
                that the installed onnxruntime lacks.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SfscError(f"cannot read {path}: {error.strerror}") from None
        return cls.of(data, path, threads)

    @classmethod
    def of(cls, data: bytes, path: Path, threads: int = 0) -> ExportedModel:
        """Open a file from its bytes; `path` is used in error messages. See `load`."""
        session, said, inputs, outputs = open_session(data, path, threads)
        graph = [(name, type_, shape[1:]) for name, type_, shape in inputs]
        graph += [("", type_, shape[1:]) for _, type_, shape in outputs]
        exported = Exported.from_text(said.get(PROPERTY), path)
        expected = [
            (INPUT, "tensor(uint8)", [*exported.image_size, 3]),
            ("", "tensor(float)", [exported.dimension]),
        ]
        if not _agree(graph, expected):
            raise SfscError(f"{path} was not exported by sfsc: its graph does not match its metadata")
        return cls(exported, session, _thresholds(said.get(THRESHOLDS), path))

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            [embeddings] = self._session.run(None, {INPUT: pixels})
        except Exception as error:  # the errors of onnxruntime have no other common base class
            raise SfscError(
                f"the exported file cannot embed images ({first_line(error)}): export it again"
            ) from error
        if embeddings.shape != (len(pixels), self.dimension):
            raise SfscError(
                f"the exported file returns shape {embeddings.shape} for {len(pixels)} images: make it again"
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
        """The (height, width) in pixels of the images that the file embeds."""
        return self.exported.image_size

    @property
    def widest(self) -> float:
        """See `Model`."""
        return self.exported.width

    @property
    def thresholds(self) -> Thresholds | None:
        """See `Model`; the file has those of its own queries that the run had when it was exported."""
        return self._thresholds

    def check_width(self, width: float) -> None:
        """See `Model`."""
        if width != self.exported.width:
            raise SfscError(
                f"the file contains the sub-model at width {self.exported.width:g}, not at {width:g}"
            )

    def image_size_of(self, width: float) -> Size:
        """See `Model`."""
        self.check_width(width)
        return self.image_size

    def check_dimension(self, dimension: int) -> None:
        """See `Model`."""
        own = [one for one in self.dimensions if one <= self.dimension]
        if dimension not in own:
            raise SfscError(f"the file supports dimensions {', '.join(map(str, own))}, not {dimension}")

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


class Session(NamedTuple):
    """A model that onnxruntime has opened, its metadata, and the names, types and shapes of its ends."""

    session: Any
    metadata: dict[str, str]
    inputs: list[tuple[str, str, list[Any]]]
    outputs: list[tuple[str, str, list[Any]]]


def open_session(data: bytes, path: Path, threads: int = 0) -> Session:
    """Open an ONNX model from its bytes with onnxruntime, on the CPU.

    Args:
        data: the model.
        path: the path of the file, for error messages.
        threads: the number of threads that compute; 0 uses all cores.

    Raises:
        SfscError: the model refers to other files, or onnxruntime cannot run it.
    """
    import onnxruntime

    _check_whole(data, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Other formats of onnxruntime are not accepted.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        # The fallback would print messages and try the only provider again.
        session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        said = session.get_modelmeta().custom_metadata_map
        inputs = [(one.name, one.type, one.shape) for one in session.get_inputs()]
        outputs = [(one.name, one.type, one.shape) for one in session.get_outputs()]
    except Exception as error:  # the errors of onnxruntime have no other common base class
        raise SfscError(
            f"{path} cannot be run by onnxruntime {onnxruntime.__version__} ({first_line(error)}): "
            "export it again, or upgrade onnxruntime"
        ) from error
    return Session(session, said, inputs, outputs)


def _thresholds(text: str | None, path: Path) -> Thresholds | None:
    try:
        return None if text is None else Thresholds.from_json(parse_json(text), path)
    except ValueError as error:
        raise SfscError(f"the thresholds in {path} are damaged ({error}): export it again") from None


def _check_whole(data: bytes, path: Path) -> None:
    """Raise `SfscError` for a model that refers to external data, before onnxruntime would read it."""
    try:
        external = has_external_data(data)
    except ValueError as error:
        raise SfscError(
            f"{path} cannot be run by onnxruntime, because it is not an ONNX model ({error}): export it again"
        ) from None
    if external:
        raise SfscError(
            f"{path} refers to external data, which is never read: a model must be a single file, "
            "as sfsc export writes it"
        )


def _agree(graph: list[tuple[str, str, list[Any]]], expected: list[tuple[str, str, list[int]]]) -> bool:
    """Return whether inputs and outputs are as expected; a symbolic size in the graph matches any size."""
    if [(*named, len(shape)) for *named, shape in graph] != [(*n, len(shape)) for *n, shape in expected]:
        return False
    sizes = zip((n for *_, s in graph for n in s), (n for *_, s in expected for n in s), strict=True)
    return all(one == other for one, other in sizes if isinstance(one, int))
