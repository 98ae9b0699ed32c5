"""Re-estimating the BatchNorm statistics of a trained family, and adding widths that were not trained."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sfsc.data.image_paths import images_of
from sfsc.errors import SfscError
from sfsc.family.build import analysed
from sfsc.family.family import Family, check_image_sizes
from sfsc.notation import Size
from sfsc.progress import track
from sfsc.switchable.convert import positions_within, select
from sfsc.training.config import dataset_of, read_config
from sfsc.training.derived import check_folder, save_derived
from sfsc.training.loading import load_batches
from sfsc.training.resizing import resized
from sfsc.widths import Widths

BATCH = 128


def recalibrate(
    run: str | Path,
    out: str | Path,
    widths: Sequence[float] | None = None,
    dataset: str | None = None,
    workers: int = 2,
    allow_code: str | None = None,
) -> Family:
    """Re-estimate the BatchNorm statistics of some widths (Yu and Huang, ICCV 2019, section 4.1).

    A width that the family lacks is added, as by `submodel`. Nothing is trained, so evaluate the new family
    to see how accurate it is.

    Args:
        run: a run folder with a trained family; it is not changed.
        out: the folder of the new family. It is created if it does not exist. Unless the widths were all
            added later, the family has another fingerprint and can use no gallery of the old one.
        widths: the widths to recalibrate, in any order; by default all widths of the family.
        dataset: KIND:PATH of the data set that gives the statistics; by default the run's. Its training
            images are used, or all images if it has none. Labels are not used.
        workers: the number of processes that decode images.
        allow_code: as for `Family.load`.

    Returns:
        The new family, in evaluation mode.

    Raises:
        SfscError: `run` contains no family, `out` already contains a run, a width is not a valid ratio, or
            an image cannot be read.

    Example::

        family = sfsc.recalibrate("runs/photos", "runs/photos-new", dataset="folder:new-photos")
        print(family.fingerprint)
    """
    run, out = Path(run), Path(out)
    config, family = read_config(run), Family.load(run, allow_code)
    chosen = widths or family.widths
    check_folder(run, out, {*family.widths, *chosen})
    if family.spec.calibrated:
        raise SfscError(
            f"{run} is calibrated, and its calibration depends on the BatchNorm statistics: "
            "recalibrate the run that it was made from"
        )
    paths = images_of(dataset or dataset_of(run), "train").paths
    for width in chosen:
        if width not in family.widths.ratios:
            family = with_width(family, width)
    estimate_statistics(family, chosen, shuffled_batches(paths, family, config.seed, workers))
    save_derived(family, run, out)
    return family


def with_width(
    family: Family,
    width: float,
    size: Size | None = None,
    depth: float = 1.0,
    ratios: Sequence[float] | None = None,
) -> Family:
    """Return a copy of a family with one more sub-model, in evaluation mode.

    Its normalisation layers are parts of those of the narrowest trained sub-model that has all its channels
    and their block, as those of random widths are in training.

    Args:
        family: the family; it is not changed.
        width: the channel ratio or, with `ratios`, a number that the family lacks, as the sub-model's name.
        size: the (height, width) of its images; by default that of the full sub-model's.
        depth: the share of the blocks of each stage that it keeps.
        ratios: the channel ratio of each group of channels, in the order of `family.structure.groups`; by
            default all are `width`.

    Raises:
        SfscError: the width is not a valid ratio, the sub-model would equal another one, the size exceeds
            that of the full sub-model's images or is too small, the depth is not within (0, 1] or the
            backbone has no blocks to leave out, the number of ratios is wrong, or the sub-models share no
            weights.
    """
    if not family.spec.shared:
        raise SfscError(f"the family has independent networks: width {width:g} must be trained")
    widths = Widths(tuple(sorted({*family.widths, width})))
    sizes = dict(family.spec.image_sizes)
    if size not in (None, family.image_size):
        sizes[width] = size
    depths = {**dict(family.spec.depths), **({} if depth == 1 else {width: depth})}
    spec = replace(
        family.spec,
        widths=widths,
        image_sizes=tuple(sorted(sizes.items())),
        added=tuple(sorted({*family.spec.added, width})),
        depths=tuple(sorted(depths.items())),
        ratios=tuple(sorted([*family.spec.ratios, *([] if ratios is None else [(width, tuple(ratios))])])),
    )
    structure = family.structure
    if depths and not structure.stages:  # it was stored by an earlier version, or there are none
        structure = replace(structure, stages=analysed(family.spec, family.network, []).stages)
    added = Family(spec, copy.deepcopy(family.network), structure)
    for other in family.widths.narrow:
        _copy_norms(family, other, added, other)
    for wider in _lenders(added, width):
        _copy_norms(family, wider, added, width)
    check_image_sizes(added)
    return added.eval()


def _lenders(family: Family, width: float) -> list[float]:
    """Return the narrow trained widths that keep all channels of an added width, wide first."""
    kept = family.counts[family.widths.index(width)]
    return [
        wide
        for wide, counts in reversed([*zip(family.widths.narrow, family.counts, strict=False)])
        if wide not in family.spec.added and all(map(operator.le, kept, counts))
    ]


@torch.no_grad()
def _copy_norms(source: Family, wide: float, target: Family, narrow: float) -> None:
    """Copy the normalisation layers of a sub-model into those of a sub-model that is not wider.

    Layers in blocks that one of the two leaves out stay as they are.
    """
    before, after = source.widths.index(wide), target.widths.index(narrow)
    positions = positions_within(source.structure, source.counts[before], target.counts[after])
    wide_state = source.norms[before].state_dict()
    for key, tensor in target.norms[after].state_dict().items():
        if key in wide_state:
            tensor.copy_(select(wide_state[key], positions.get(key.replace("/", "."), {})))


def shuffled_batches(paths: Sequence[str], family: Family, seed: int, workers: int) -> Iterator[Tensor]:
    """Yield images in random order and batches of about `BATCH`, with a progress bar.

    A batch is (batch, 3, height, width) uint8. `workers` processes decode the images.
    """
    order = np.random.default_rng(seed).permutation(len(paths))
    batches = np.array_split(order, max(1, round(len(paths) / BATCH)))
    loaded = load_batches(paths, batches, family.spec.image_size, workers)
    return track(loaded, "BatchNorm statistics", total=len(batches))


def estimate_statistics(family: Family, widths: Iterable[float], batches: Iterable[Tensor]) -> None:
    """Replace the BatchNorm statistics of sub-models by the means over batches of images, in place.

    Args:
        family: the family; it is put into evaluation mode.
        widths: the widths of the sub-models.
        batches: (batch, 3, height, width) uint8 or float32 in [0, 1], of the size of the full sub-model's
            images, with at least two images per batch. They are resized for the sub-models of other sizes.
    """
    family.eval()
    networks = {width: family.at(width) for width in widths}
    norms = [m for network in networks.values() for m in network.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # computes the mean over all batches
        norm.train()
    with torch.no_grad():
        for images in batches:
            pixels = images.float() / 255 if images.dtype == torch.uint8 else images
            for width, network in networks.items():
                network(resized(pixels, family.image_size_of(width)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def blended(family: Family, other: Family, share: float) -> Family:
    """Return a copy of a family with BatchNorm statistics between its own and another's, in evaluation mode.

    Args:
        family: the family.
        other: a family that differs from it in nothing but the statistics.
        share: the share of the other's statistics, in [0, 1]; with 0, the copy has the same fingerprint.
    """
    state, moved = family.state_dict(), other.state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var", "running_correlation")):
            state[name] = torch.lerp(tensor, moved[name], share)
    blend = copy.deepcopy(family)
    blend.load_state_dict(state)
    return blend.eval()
