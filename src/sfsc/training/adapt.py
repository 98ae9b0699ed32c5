"""Adapting a trained family to the images of other cameras, without labels."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfsc.data.image_paths import images_of
from sfsc.data.sources import names_dataset
from sfsc.embedding.image_set import ImageSet, embed_all
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.files.writing import write_json
from sfsc.retrieval.neighbours import NEIGHBOURS, cross_tests, mutual_neighbours
from sfsc.runs.datasets import absolute
from sfsc.runs.paths import ADAPTATION_FILE
from sfsc.training.calibrate import calibrated_copy
from sfsc.training.config import Config, read_config
from sfsc.training.derived import check_folder, save_derived
from sfsc.training.norm_statistics import blended, estimate_statistics, shuffled_batches

HELD_OUT = 5  # one of this many images is held out for the choice,
MOST_HELD_OUT = 2000  # but no more than these
# The names without and with calibration; a table of 80 characters has room for 22.
NAMES = {
    0.0: ("as it is", "calibrated"),
    0.5: ("half statistics", "half, calibrated"),
    1.0: ("statistics", "statistics, calibrated"),
}
SHARES = tuple(NAMES)  # of the target's BatchNorm statistics, the rest being the family's own
CERTAIN = 2.0  # standard errors by which a candidate must be better than one that changes less


@dataclass(frozen=True)
class Candidate:
    """A family that an adaptation can choose.

    Attributes:
        statistics: the share of the target's BatchNorm statistics in [0, 1]. If it is 0, the full sub-model
            is unchanged, and galleries that it wrote stay valid.
        calibrated: whether the narrow sub-models are calibrated on the target's images.
        matrix: (m, m) float64, the mean share of mutual neighbours of held-out images
            (`sfsc.retrieval.neighbours`), indexed [query width, gallery width].
        gain: the gain of the mean cross-test over the family as it is.
        error: the standard error of the gain.
    """

    statistics: float
    calibrated: bool
    matrix: np.ndarray
    gain: float
    error: float

    @property
    def name(self) -> str:
        """The name in tables, such as "statistics, calibrated"."""
        return NAMES[self.statistics][self.calibrated]

    @property
    def cross_tests(self) -> float:
        """The mean of the cross-tests; of a single width, its self-test."""
        return float(cross_tests(self.matrix[..., None])[0])

    @property
    def galleries_stay(self) -> bool:
        """Whether galleries that the full sub-model of the original family wrote stay valid."""
        return self.statistics == 0

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as plain lists and numbers."""
        return {
            "name": self.name,
            "statistics": self.statistics,
            "calibrated": self.calibrated,
            "matrix": self.matrix.tolist(),
            "cross_tests": self.cross_tests,
            "gain": self.gain,
            "error": self.error,
            "galleries_stay": self.galleries_stay,
        }


@dataclass(frozen=True)
class Adaptation:
    """What `adapt` found.

    Attributes:
        images: the source of the images, with an absolute path if it is a data set.
        fitted: the number of images that the candidates were fitted to.
        held_out: the number of other images, on which they were compared.
        candidates: all candidates; those that change less come first.
        chosen: the one that was written.
        before: the fingerprint of the original family.
        after: the fingerprint of the new family.
    """

    images: str
    fitted: int
    held_out: int
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    before: str
    after: str

    def to_json(self) -> dict[str, Any]:
        """Return the adaptation as plain lists and numbers."""
        return {
            "images": self.images,
            "fitted": self.fitted,
            "held_out": self.held_out,
            "before": self.before,
            "after": self.after,
            "chosen": self.chosen.name,
            "galleries_stay": self.chosen.galleries_stay,
            "candidates": [candidate.to_json() for candidate in self.candidates],
        }


def adapt(
    run: str | Path,
    images: str,
    out: str | Path,
    workers: int = 2,
    allow_code: str | None = None,
) -> Adaptation:
    """Adapt a family to images of other cameras, without labels.

    The candidates are the family as it is, the family with the BatchNorm statistics of the given images, and
    the family with the mean of both statistics; each of them also calibrated on the given images. They are
    compared on images that they were not fitted to, by the share of nearest neighbours that are mutual across
    widths (`sfsc.retrieval.neighbours`). A candidate is chosen over one that changes less only if it is
    better by two standard errors. The chosen family is written into a new folder, together with
    `adaptation.json`.

    Args:
        run: a run folder with a trained family; it is not changed.
        images: an image, a folder of images, or KIND:PATH of a data set. For a data set, the training split
            is used, or all images if it has none. Labels are not used.
        out: the folder of the new family. It is created if it does not exist.
        workers: the number of workers that decode images.
        allow_code: as for `Family.load`.

    Raises:
        SfscError: `run` contains no family, a calibrated one, or one whose sub-models share no space, `out`
            already contains a run, there are too few images, or an image cannot be read.

    Example::

        adaptation = sfsc.adapt("runs/photos", "folder:shop", "runs/shop")
        print(adaptation.chosen.name, adaptation.chosen.galleries_stay)
    """
    run, out = Path(run), Path(out)
    config, family = read_config(run), Family.load(run, allow_code)
    check_folder(run, out, family.widths)
    paths = images_of(images, "train").paths
    _check(run, config, family, len(paths))
    fitted, held_out = _split(paths, config.seed)
    families, shares = [], []
    for moved in _moved(family, fitted, config.seed, workers):
        for one, found in _tested(moved, fitted, held_out, workers):
            families.append(one)
            shares.append(found)
    candidates = _candidates(shares)
    place = choose([cross_tests(found) for found in shares])
    result = Adaptation(
        images=absolute(images) if names_dataset(images) else os.path.abspath(images),
        fitted=len(fitted),
        held_out=len(held_out),
        candidates=candidates,
        chosen=candidates[place],
        before=family.fingerprint,
        after=families[place].fingerprint,
    )
    write_json(out / ADAPTATION_FILE, result.to_json())
    save_derived(families[place], run, out)
    return result


def choose(served: Sequence[np.ndarray]) -> int:
    """Return the position of the best candidate, in doubt of one that comes earlier.

    Args:
        served: for each candidate, (n,) float64, how well it serves each of the same n images. A candidate
            replaces an earlier one if its mean is higher by more than `CERTAIN` standard errors of the mean
            difference.
    """
    best = 0
    for place in range(1, len(served)):
        gain, error = _gain(served[place], served[best])
        if gain > CERTAIN * error:
            best = place
    return best


def _gain(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the mean difference and its standard error."""
    difference = one - other
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else math.inf
    return float(difference.mean()), spread / math.sqrt(len(difference))


def _check(run: Path, config: Config, family: Family, images: int) -> None:
    dim = family.spec.embedding_dim
    if not config.method.compatible:
        raise SfscError(
            f"the sub-models of {run} share no embedding space, because of its recipe, {config.recipe}: "
            "adapt a run of another recipe, such as sfsc"
        )
    if family.spec.calibrated:
        raise SfscError(f"{run} is already calibrated: adapt the run that it was made from")
    if images - images // HELD_OUT < dim or images // HELD_OUT <= NEIGHBOURS:
        enough = max(10 * dim, 100)
        raise SfscError(f"{images} images are too few to adapt {dim} dimensions: use {enough} or more")


def _split(paths: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Return the images for fitting and those held out, both in a random order."""
    order = np.random.default_rng(seed).permutation(len(paths)).tolist()
    count = min(len(paths) // HELD_OUT, MOST_HELD_OUT)
    return [paths[i] for i in order[count:]], [paths[i] for i in order[:count]]


def _moved(family: Family, paths: Sequence[str], seed: int, workers: int) -> Iterator[Family]:
    """Yield the family with each share of the BatchNorm statistics of some images."""
    target = copy.deepcopy(family)
    estimate_statistics(target, family.widths, shuffled_batches(paths, family, seed, workers))
    for share in SHARES:
        yield blended(family, target, share)


def _tested(
    family: Family, fitted: Sequence[str], held_out: Sequence[str], workers: int
) -> Iterator[tuple[Family, np.ndarray]]:
    """Yield a family and its calibrated copy, with the mutual neighbours of held-out images by each."""
    images = embed_all(family, [*fitted, *held_out], workers)
    yield family, _neighbours(family, images, held_out)
    vectors = images.of(fitted)
    calibrated = calibrated_copy(family, {width: vectors[width] for width in family.widths})
    yield calibrated, _neighbours(calibrated, images.calibrated(calibrated), held_out)


def _neighbours(family: Family, images: ImageSet, paths: Sequence[str]) -> np.ndarray:
    vectors = images.of(paths)
    return mutual_neighbours({width: vectors[width] for width in family.widths})


def _candidates(shares: Sequence[np.ndarray]) -> tuple[Candidate, ...]:
    """Describe the candidates; those with the same statistics are a pair, not calibrated and calibrated."""
    kinds = [(statistics, calibrated) for statistics in SHARES for calibrated in (False, True)]
    crosses = [cross_tests(found) for found in shares]
    return tuple(
        Candidate(statistics, calibrated, found.mean(2), *_gain(cross, crosses[0]))
        for (statistics, calibrated), found, cross in zip(kinds, shares, crosses, strict=True)
    )
