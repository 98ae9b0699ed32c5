"""Searching for the best sub-model for a device, among all that a trained family could have.

Nothing is trained: a family that was trained with random widths works at any width, and here each group of
channels may have its own (Yu and Huang, AutoSlim, 2019; Cai et al., Once-for-All, ICLR 2020; Zhang et al.,
CMP-NAS, CVPR 2021). The accuracy of a point is measured on validation identities, its costs are predicted by
a model of the device, and the winner is exported and measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from sfsc.data.image_paths import images_of
from sfsc.data.sources import open_dataset
from sfsc.deploy.choosing import Limits, broken, excess
from sfsc.deploy.device import DEVICE_FILE, POINTS, Device, Samples, measured, sample
from sfsc.deploy.evolution import Candidate, Evolution, pareto
from sfsc.deploy.exporting import export
from sfsc.deploy.points import Space
from sfsc.deploy.profiling import EXPORT_FOLDER
from sfsc.deploy.validation import Validation
from sfsc.errors import SfscError
from sfsc.evaluation.thresholds import validation_of
from sfsc.family.family import Family
from sfsc.files.writing import write_atomic
from sfsc.training.config import dataset_of, read_config
from sfsc.training.derived import check_folder, save_derived
from sfsc.training.norm_statistics import estimate_statistics, shuffled_batches

EVALUATIONS = 150
WINNERS = 5  # points that are exported and measured, until one is within the limits


@dataclass(frozen=True)
class Search:
    """The result of a search.

    Attributes:
        candidates: all points that were evaluated, by increasing time.
        winner: the most accurate one within the limits, as it was measured.
        file: the exported winner; None if no folder was named.
        error: the median relative error of the predicted times of points that were left out.
        dataset: the name of the data set whose test images gave the accuracies.
        seen: whether the family was trained on these identities.
    """

    candidates: tuple[Candidate, ...]
    winner: Candidate
    file: Path | None
    error: float
    dataset: str
    seen: bool

    @property
    def front(self) -> list[Candidate]:
        """The points than which no other is faster and at least as accurate."""
        return pareto(self.candidates)


def search(
    run: str | Path,
    limits: Limits,
    out: str | Path | None = None,
    evaluations: int = EVALUATIONS,
    dataset: str | None = None,
    workers: int = 2,
    allow_code: str | None = None,
) -> Search:
    """Search for the most accurate sub-model within the limits of this machine.

    The points of the search have a channel ratio for each group of channels, and an image size. About 30 of
    them are exported and measured, unless `RUN/device.json` has the measurements of an earlier search. An
    evolutionary search then evaluates points that are expected to be within the limits. The best one is
    exported and measured; if it exceeds a limit, the next one follows.

    Args:
        run: a run folder with a trained family; `device.json` is written into it.
        limits: the limits. `accuracy` is compared with the mAP on validation identities.
        out: the folder of the family with the chosen sub-model, as `submodel` writes it, and of the exported
            file. It is created if it does not exist. By default, nothing is kept.
        evaluations: the number of points whose accuracy is measured, besides the trained ones.
        dataset: KIND:PATH of a data set whose training images give the BatchNorm statistics and whose test
            images give the accuracies; by default the validation identities of the run's.
        workers: the number of processes that decode images.
        allow_code: as for `Family.load`.

    Raises:
        SfscError: `run` contains no family, a calibrated one or one of independent networks, `out` already
            contains a run, the measurements are of another family, an image cannot be read, or no point is
            within the limits. In the last case the message names the nearest point.

    Example::

        from sfsc.deploy.searching import search

        found = search("runs/any", sfsc.Limits(latency=0.005), "runs/phone")
        print(found.winner.name, found.winner.accuracy, found.file)
    """
    run, out = Path(run), None if out is None else Path(out)
    seed, family = read_config(run).seed, Family.load(run, allow_code)
    if family.spec.calibrated or not family.spec.shared:
        kind = "is calibrated" if family.spec.calibrated else "has independent networks"
        raise SfscError(f"{run} {kind}: search in a run that was trained with random_widths, not calibrated")
    if out is not None:
        check_folder(run, out, family.widths)
    own = dataset or dataset_of(run)
    tested = dataset or validation_of(own)
    space = Space(family)
    validation = Validation(space, open_dataset(tested), seed, workers)
    images = images_of(own, "train").paths
    device = _device(run, space, images, seed)
    candidates = Evolution(validation, device, limits, seed).run(evaluations)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "chosen.onnx")

        def finish(one: Candidate) -> tuple[Family, Candidate]:
            made, width = validation.build(one.point)
            if not one.trained:
                estimate_statistics(made, [width], shuffled_batches(images, made, seed, workers))
            export(made, width, file, images)
            accuracy = validation.accuracy(made, width)
            return made, replace(one, accuracy=accuracy, **asdict(measured([file])[0]))

        made, winner = _winner(candidates, limits, finish)
        kept = None if out is None else out / EXPORT_FOLDER / f"{winner.width:g}.onnx"
        if out is not None and kept is not None:
            save_derived(made, run, out)
            write_atomic(kept, file.read_bytes())
    candidates = sorted(candidates, key=lambda one: one.p50)
    return Search(tuple(candidates), winner, kept, device.error, tested, own != tested and dataset is None)


def _device(run: Path, space: Space, images: Sequence[str], seed: int) -> Device:
    """Return the model of the device; measure the points that it needs if the run has no measurements."""
    if not (run / DEVICE_FILE).exists():
        random = np.random.default_rng(seed)
        drawn = dict.fromkeys([*space.trained(), *(space.drawn(random) for _ in range(10 * POINTS))])
        sample(space, [*drawn][:POINTS], images).write(run)
    return Device(space, Samples.read(run, space))


def _winner(
    candidates: Sequence[Candidate],
    limits: Limits,
    finish: Callable[[Candidate], tuple[Family, Candidate]],
) -> tuple[Family, Candidate]:
    """Return the most accurate candidate that is within the limits when it is measured, and its family.

    After a candidate that exceeds a limit, only faster ones are measured.
    """
    missed: list[Candidate] = []
    left = sorted((one for one in candidates if excess(one, limits) <= 1), key=lambda one: -one.accuracy)
    while left and len(missed) < WINNERS:
        made, real = finish(left[0])
        if excess(real, limits) <= 1:
            return made, real
        missed.append(real)
        left = [one for one in left if one.p50 < left[0].p50]
    nearest = min(missed or candidates, key=lambda one: excess(one, limits))
    raise SfscError(f"no sub-model is within the limits: the closest is {broken(nearest, limits)}")
