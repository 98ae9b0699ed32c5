"""Calibrating a trained family, without labels, on any images."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sfsc.data.image_paths import images_of
from sfsc.embedding.image_set import Key, embed_all
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.training.config import dataset_of, read_config
from sfsc.training.derived import check_folder, save_derived

HELD_OUT = 10  # one of this many images is held out to measure the cosines


@dataclass(frozen=True)
class CalibrationReport:
    """Mean cosines between the embeddings of one image by a narrow and by the full sub-model.

    They are measured on images that the calibration was not fitted to.

    Attributes:
        before: the mean cosine before calibration, by narrow width.
        after: the mean cosine after calibration, by narrow width.
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
    """Rotate and shift the embeddings of narrow sub-models towards the full sub-model's.

    The calibrated family is written into a new folder. The full sub-model does not change by a single bit, so
    galleries that it wrote stay valid.

    Args:
        run: a run folder with a trained family; it is not changed.
        out: the folder of the calibrated family. It is created if it does not exist.
        images: an image, a folder of images, or KIND:PATH of a data set; by default the run's data set. Of a
            data set, the training split is used, or all images if it has none. Labels are not used.
        workers: the number of threads that decode images.
        allow_code: as for `Family.load`.

    Raises:
        SfscError: `run` contains no family or a calibrated one, `out` already contains a run, there are too
            few images, or an image cannot be read.

    Example::

        report = sfsc.calibrate("runs/photos", "runs/photos-calibrated", images="folder:photos")
        print(report.before, report.after)
    """
    run, out = Path(run), Path(out)
    read_config(run)  # raises an error early if the new family could not be written later
    family = Family.load(run, allow_code)
    check_folder(run, out, family.widths)
    paths = images_of(images or dataset_of(run), "train").paths
    _check(family, len(paths))
    calibrated, report = fit_calibration(family, embed_all(family, paths, workers, "calibrating").of(paths))
    save_derived(calibrated, run, out)
    return report


def fit_calibration(family: Family, embedded: Mapping[Key, np.ndarray]) -> tuple[Family, CalibrationReport]:
    """Return a calibrated copy of a family in evaluation mode, and the cosines before and after.

    Args:
        family: a family that is not calibrated; it is not changed.
        embedded: for each width, the (n, dim) float32 embeddings of the same n images, with n >= dim.

    Raises:
        SfscError: the family is already calibrated, or there are too few images.
    """
    vectors = {width: embedded[width] for width in family.widths}
    images = len(vectors[1.0])
    _check(family, images)
    fitted = np.arange(images) % HELD_OUT != 0
    calibrated = calibrated_copy(family, {width: rows[fitted] for width, rows in vectors.items()})
    before, after = {}, {}
    for width in family.widths.narrow:
        own, full = (torch.from_numpy(vectors[at][~fitted]) for at in (width, 1.0))
        before[width] = _cosine(own, full)
        after[width] = _cosine(calibrated.calibration(width)(own), full)
    return calibrated, CalibrationReport(before, after)


def calibrated_copy(family: Family, embedded: Mapping[float, np.ndarray]) -> Family:
    """Return a copy of a family, calibrated with the embeddings of n images, in evaluation mode.

    Args:
        family: a family that is not calibrated; it is not changed.
        embedded: for each width, the (n, dim) float32 embeddings of the same n images.
    """
    spec = replace(family.spec, calibrated=True)
    calibrated = type(family)(spec, copy.deepcopy(family.network), family.structure)
    calibrated.load_state_dict(family.state_dict(), strict=False)
    full = torch.from_numpy(embedded[1.0])
    for width in family.widths.narrow:
        calibrated.calibration(width).fit(torch.from_numpy(embedded[width]), full)
    return calibrated.eval()


def _check(family: Family, images: int) -> None:
    dim = family.spec.embedding_dim
    if family.spec.calibrated:
        raise SfscError("the family is already calibrated: calibrate the run that it was made from")
    if images < dim:
        raise SfscError(f"{images} images are too few to calibrate {dim} dimensions: use {10 * dim} or more")


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum(1).mean())
