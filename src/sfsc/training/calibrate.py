"""Calibration of a trained family: without labels, on any images."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sfsc.data.image_paths import images_of
from sfsc.embedding.image_set import Embedder, embed_all
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.training.config import dataset_of, read_config
from sfsc.training.derived import check_folder, save_derived

HELD_OUT = 10  # of so many images one is not fitted to


@dataclass(frozen=True)
class CalibrationReport:
    """The mean cosine of the embeddings of one image by a narrow sub-model and by the full one.

    For each narrow width, before and after calibration, over images that it was not fitted to.
    """

    before: dict[float, float]
    after: dict[float, float]


def calibrate(
    run: str | Path,
    out: str | Path,
    images: str | None = None,
    workers: int = 2,
    allow_code: str | None = None,
) -> CalibrationReport:
    """Rotate and shift the embeddings of narrow sub-models onto the full one's, and write the new family.

    The full sub-model stays as it is, bit by bit, and so do the galleries that it wrote.

    Args:
        run: a run folder with a trained family; it is not changed.
        out: the folder of the new family; made where it does not exist.
        images: an image, a folder of images, or KIND:PATH of a data set, whose training split, or all of it
            where it has none, is taken without its labels; by default the run's.
        workers: threads that decode images.
        allow_code: as for `Family.load`.

    Raises:
        SfscError: `run` holds no family or a calibrated one, `out` holds a run already, there are too few
            images, or one cannot be read.
    """
    run, out = Path(run), Path(out)
    read_config(run)  # without it the new family could not be written
    family = Family.load(run, allow_code)
    check_folder(run, out, family.widths)
    paths = images_of(images or dataset_of(run), "train").paths
    _check(family, len(paths))
    calibrated, report = fit_calibration(family, embed_all(family, paths, workers, "calibrating").of(paths))
    save_derived(calibrated, run, out)
    return report


def fit_calibration(
    family: Family, embedded: Mapping[Embedder, np.ndarray]
) -> tuple[Family, CalibrationReport]:
    """A calibrated copy of a family in evaluation mode, and what became of the cosines.

    Args:
        family: not calibrated; it is not changed.
        embedded: by width, (n, dim) float32: what its sub-models make of n images, more than dimensions.

    Raises:
        SfscError: it is calibrated already, or there are too few images.
    """
    vectors = {width: torch.from_numpy(embedded[width]) for width in family.widths}
    images = len(vectors[1.0])
    _check(family, images)
    calibrated = Family(
        replace(family.spec, calibrated=True), copy.deepcopy(family.network), family.structure
    )
    calibrated.load_state_dict(family.state_dict(), strict=False)
    fitted = torch.from_numpy(np.arange(images) % HELD_OUT != 0)
    before, after = {}, {}
    for width in family.widths.narrow:
        own, full = vectors[width], vectors[1.0]
        calibration = calibrated.calibration(width)
        calibration.fit(own[fitted], full[fitted])
        before[width] = _cosine(own[~fitted], full[~fitted])
        after[width] = _cosine(calibration(own[~fitted]), full[~fitted])
    return calibrated.eval(), CalibrationReport(before, after)


def _check(family: Family, images: int) -> None:
    dim = family.spec.embedding_dim
    if family.spec.calibrated:
        raise SfscError("the family is calibrated already: calibrate the run that it was made from")
    if images < dim:
        raise SfscError(f"{images} images are too few to calibrate {dim} dimensions: use {10 * dim} or more")


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum(1).mean())
