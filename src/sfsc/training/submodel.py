"""Adding sub-models of widths that were not trained to a trained family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sfsc.data.image_paths import images_of
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.notation import Written, beside, parsed
from sfsc.training.config import dataset_of, read_config
from sfsc.training.derived import check_folder, save_derived
from sfsc.training.norm_statistics import estimate_statistics, shuffled_batches, with_width


def submodel(
    run: str | Path,
    widths: str | Sequence[float | str],
    out: str | Path,
    dataset: str | None = None,
    workers: int = 2,
    allow_code: str | None = None,
) -> Family:
    """Add sub-models of widths that were not trained to a trained family.

    A new sub-model consists of the first channels of the network, and has the first normalisation parameters
    of the next wider sub-model. Its BatchNorm statistics are estimated from images (Yu and Huang, Universally
    Slimmable Networks, ICCV 2019, section 4.1). Nothing is trained, and the other sub-models do not change,
    so the new family can use the galleries of the old one. Train with `random_widths` if the new sub-models
    are to be about as accurate as trained ones.

    Args:
        run: a run folder with a trained family; it is not changed.
        widths: widths that the family lacks, as a text such as `"0.4,0.6/0.5@48"` or as its parts, in any
            order. A width has the depth and the images the size that follow it, or those of the full
            sub-model.
        out: the folder of the new family. It is created if it does not exist.
        dataset: KIND:PATH of the data set that gives the statistics; by default the run's. Its training
            images are used, or all images if it has none. Labels are not used.
        workers: the number of processes that decode images.
        allow_code: as for `Family.load`.

    Returns:
        The new family, in evaluation mode.

    Raises:
        SfscError: `run` contains no family, a calibrated one or one of independent networks, `out` already
            contains a run, the family has such a width or one with the same channels, a width is not a valid
            ratio, the backbone cannot process images of a size, or an image cannot be read.

    Example::

        family = sfsc.submodel("runs/photos", [0.4, 0.6], "runs/photos-more")
        print(family.widths)
    """
    run, out = Path(run), Path(out)
    config, family = read_config(run), Family.load(run, allow_code)
    full = family.image_size
    chosen = [Written.of(one.width, one.size(full), full, one.depth) for one in parsed(widths)]
    check_folder(run, out, {*family.widths, *(one.value for one in chosen)})
    if family.spec.calibrated:
        raise SfscError(
            f"{run} is calibrated: add the widths to the run that it was made from, and calibrate the result"
        )
    for one in chosen:
        if one.width in family.widths.ratios:
            raise SfscError(
                f"{run} has a sub-model of width {one.width:g} already, or it is named twice: "
                f"{beside(one.width)}"
            )
        family = with_width(family, one.width, one.size(full), one.depth)
    added = [one.width for one in chosen]
    paths = images_of(dataset or dataset_of(run), "train").paths
    estimate_statistics(family, added, shuffled_batches(paths, family, config.seed, workers))
    save_derived(family, run, out)
    return family
