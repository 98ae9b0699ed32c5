"""A model of a device: what points cost there, predicted from some that were measured.

The measurements of a run are kept in `RUN/device.json`, so that they are made once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np

from sfsc.deploy.exporting import export
from sfsc.deploy.measuring import measure, times_of
from sfsc.deploy.points import Point, Space
from sfsc.embedding.exported import ExportedModel
from sfsc.embedding.model import same_space
from sfsc.errors import SfscError, missing_extra
from sfsc.files.schema import conform
from sfsc.files.writing import read_json, write_json
from sfsc.notation import Size
from sfsc.progress import track

DEVICE_FILE = "device.json"
POINTS = 30  # that are measured
FEWEST = 10  # measurements that a model needs
TURNS, SECONDS = 20, 0.1  # of each file
FOLDS = 10
THREADS = 1
POSITIONS = (4, 16, 64)  # of a layer's output, up to which its multiply-adds have a factor of their own


@dataclass(frozen=True)
class Expense:
    """What a sub-model costs, measured or predicted.

    Attributes:
        p50: the median time for one image in seconds.
        p95: the 95th percentile of the time for one image in seconds.
        memory: the peak memory in bytes.
        size: the size of the exported float32 file in bytes.
    """

    p50: float
    p95: float
    memory: float
    size: float


@dataclass(frozen=True)
class Sample:
    """A measured point.

    Attributes:
        ratios: the channel ratios of its groups of channels.
        image_size: the (height, width) in pixels of its images.
        expense: what it costs.
        depth: the share of the residual blocks of each stage that it keeps.
    """

    ratios: tuple[float, ...]
    image_size: Size
    expense: Expense
    depth: float = 1.0

    @property
    def point(self) -> Point:
        """The point that was measured."""
        return Point(self.ratios, self.image_size, self.depth)


@dataclass(frozen=True)
class Samples:
    """The measured points of a trained family on one machine, as `device.json` holds them.

    Attributes:
        fingerprint: the fingerprint of the family that they were measured with.
        threads: the number of threads that computed.
        rows: the measured points.
    """

    fingerprint: str
    threads: int
    rows: tuple[Sample, ...]

    def write(self, run: Path) -> None:
        """Write `device.json` into a run folder."""
        write_json(run / DEVICE_FILE, asdict(self))

    @classmethod
    def read(cls, run: Path, space: Space) -> Samples:
        """Read the measurements in a run folder.

        Raises:
            SfscError: there are none, or they are damaged or of another family.
        """
        path = run / DEVICE_FILE
        again = "remove it to measure again"
        try:
            samples: Samples = conform(read_json(path), cls)
            known = [sample for sample in samples.rows if _is_known(sample, space)]
            if len(samples.rows) < FEWEST or not all(map(_is_possible, samples.rows)):
                raise ValueError("measurements are missing or impossible")
        except ValueError as error:
            raise SfscError(f"{path} is damaged: {again} ({error})") from None
        if not same_space(samples.fingerprint, space.family.fingerprint) or known != [*samples.rows]:
            raise SfscError(f"{path} belongs to another family: {again}")
        return samples


def _is_possible(sample: Sample) -> bool:
    values = astuple(sample.expense)
    return all(1e-12 < value < 1e18 for value in values) and all(0 < ratio <= 1 for ratio in sample.ratios)


def _is_known(sample: Sample, space: Space) -> bool:
    point, groups = sample.point, space.family.structure.groups
    return len(point.ratios) == len(groups) and point.size in space.sizes and point.depth in space.depths


class Device:
    """A model of a device, fitted to samples.

    Time is a sum of the multiply-adds, the weights and the values of all layers with factors that are not
    negative, and so are memory and size of the file. Their relative errors are minimised. Multiply-adds of
    layers with few positions in their output have factors of their own, because they take longer.

    Attributes:
        error: the median relative error of p50 for samples that were left out when the model was fitted, each
            once, in `FOLDS` parts.
    """

    def __init__(self, space: Space, samples: Samples) -> None:
        """Fit the model."""
        self._space = space
        features = np.stack([self._features(one.point) for one in samples.rows])
        targets = {
            name: np.array([getattr(one.expense, name) for one in samples.rows], float)
            for name in ("p50", "memory", "size")
        }
        self._factors = {name: fit(features, values) for name, values in targets.items()}
        # Other programs interrupt long calls most often, so the upper ratios say more about them.
        self._tail = float(np.quantile([one.expense.p95 / one.expense.p50 for one in samples.rows], 0.25))
        self.error = left_out_error(features, targets["p50"])

    def _features(self, point: Point) -> np.ndarray:
        costs = self._space.costs(point)
        kinds = np.searchsorted(POSITIONS, costs.calls)
        multiply_adds = np.bincount(kinds, costs.multiply_adds, len(POSITIONS) + 1)
        return np.array([1.0, *multiply_adds, costs.weights.sum(), costs.values.sum()])

    def predict(self, point: Point) -> Expense:
        """Return what a point is expected to cost."""
        features = self._features(point)
        p50, memory, size = (float(features @ factors) for factors in self._factors.values())
        return Expense(p50, self._tail * p50, memory, size)


def left_out_error(features: np.ndarray, values: np.ndarray) -> float:
    """Return the median relative error of values, each predicted by a model of the other parts.

    Args:
        features: (samples, features) float64.
        values: (samples,) float64, positive.
    """
    part = np.arange(len(values)) % FOLDS
    errors = np.empty(len(values))
    for fold in range(FOLDS):
        left_out = part == fold
        predicted = features[left_out] @ fit(features[~left_out], values[~left_out])
        errors[left_out] = np.abs(predicted / values[left_out] - 1)
    return float(np.median(errors))


def fit(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the factors >= 0 whose products with the features have the least squared relative errors.

    Args:
        features: (samples, features) float64, not negative.
        values: (samples,) float64, positive.

    Raises:
        SfscError: scipy is not installed.
    """
    try:
        from scipy.optimize import nnls
    except ImportError:
        raise missing_extra("scipy", "export") from None
    scales = np.maximum(features.max(0), np.finfo(float).tiny)
    factors, _ = nnls(features / scales / values[:, None], np.ones(len(values)))
    return np.asarray(factors / scales)


def sample(space: Space, points: Sequence[Point], images: Sequence[str]) -> Samples:
    """Export points to files in a temporary folder and measure them, with progress bars.

    Args:
        space: the points of the family.
        points: the points to measure.
        images: paths of images, with which the files are checked.

    Raises:
        SfscError: a file cannot be written or measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.onnx") for number in range(len(points))]
        for file, point in track([*zip(files, points, strict=True)], "exporting points"):
            export(*space.build(point), file, images)
        found = measured(files)
    rows = [
        Sample(point.ratios, point.size, one, point.depth) for point, one in zip(points, found, strict=True)
    ]
    return Samples(space.family.fingerprint, THREADS, tuple(rows))


def measured(files: Sequence[Path]) -> list[Expense]:
    """Measure exported files, with a progress bar.

    The files take turns, so that other load on the machine affects all of them alike. Of the times in each
    turn, the median and the 95th percentile are taken, and of these the lowest of all turns, because other
    programs only add time.
    """
    models = [ExportedModel.load(file, THREADS) for file in files]
    turns = [[_turn(model) for model in models] for _ in track(range(TURNS), "measuring times")]
    alone = [
        measure(file, model.widest, THREADS, 0.0)
        for file, model in zip(track(files, "measuring memory"), models, strict=True)
    ]
    return [
        Expense(p50, p95, one.memory, file.stat().st_size)
        for (p50, p95), one, file in zip(np.array(turns).min(0).tolist(), alone, files, strict=True)
    ]


def _turn(model: ExportedModel) -> list[float]:
    """Return the median and the 95th percentile of the seconds for one image, over a tenth of a second."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, *model.image_size, 3), np.uint8)
    return np.quantile(times_of(model, pixels, model.widest, SECONDS), (0.5, 0.95)).tolist()
