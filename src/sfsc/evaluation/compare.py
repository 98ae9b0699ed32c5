"""Comparing recipes: training and evaluating each of them on the same data with several seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sfsc.backbones.sources import code_of
from sfsc.data.listing import TESTS, Listing
from sfsc.data.sources import Dataset, open_dataset
from sfsc.embedding.image_set import ImageSet, embed_all
from sfsc.embedding.model import same_space
from sfsc.errors import SfscError
from sfsc.evaluation.evaluate import evaluate, evaluate_images, tested_paths
from sfsc.evaluation.old import OldMember, evaluate_old, open_member
from sfsc.family.family import Family
from sfsc.files.writing import write_json
from sfsc.interruption import Stopped, going_on
from sfsc.retrieval.matrix import CompatibilityMatrix
from sfsc.runs import datasets as location
from sfsc.runs.log import read_log
from sfsc.runs.results import EVALUATION_FILE, read_result
from sfsc.switchable.inspection import inspect
from sfsc.training.calibrate import fit_calibration
from sfsc.training.config import Config, read_config
from sfsc.training.derived import save_derived
from sfsc.training.recipes import RECIPES, find_recipe
from sfsc.training.run import train
from sfsc.training.teacher import TEACHER_FOLDER

COMPARISON_FILE = "comparison.json"
CALIBRATED = "calibrated"
# For each set of images that narrow sub-models are calibrated on, the subfolder of a run with its results on
# the target view.
TARGET = {
    "not calibrated": "target/plain",
    "training images": "target/calibrated",
    "target images": "target/fitted",
}

GOING_ON = "run the same command again to continue"

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Contestant:
    """The results of one recipe in a comparison.

    Attributes:
        name: the name of the recipe in the tables.
        changes: the settings that differ from the other recipes, including `recipe` itself.
        matrices: the compatibility matrix of each seed.
        calibrated: the matrices after calibration on the training images; empty if there was no calibration.
        target: for each set of calibration images, the matrices on four fifths of the test identities. The
            images of the remaining fifth, without labels, are the images of the target domain. Empty if the
            sub-models share no weights or if there are fewer target images than dimensions.
        multiply_adds: the multiply-adds of training, forward and backward, for one seed.
        query_multiply_adds: the multiply-adds of each sub-model for one image, narrow first.
        seconds: the mean time of training in seconds.
        parameters: the number of parameters that must be stored for all sub-models.
        galleries: the number of copies of a gallery that the sub-models need.
        old: the tests with the old model of each seed, as `OldTests.to_json` returns them; empty if the
            settings name no old model.
    """

    name: str
    changes: Settings
    matrices: tuple[CompatibilityMatrix, ...]
    calibrated: tuple[CompatibilityMatrix, ...]
    target: Mapping[str, tuple[CompatibilityMatrix, ...]]
    multiply_adds: float
    query_multiply_adds: tuple[int, ...]
    seconds: float
    parameters: int
    galleries: int
    old: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The results of `compare`.

    Attributes:
        settings: the settings that all recipes share.
        seeds: the number of seeds.
        contestants: the results of each recipe.
    """

    settings: Settings
    seeds: int
    contestants: tuple[Contestant, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain lists and numbers."""
        return {
            "settings": dict(self.settings),
            "seeds": self.seeds,
            "contestants": [
                {
                    **vars(contestant),
                    "gallery_gain": [matrix.gallery_gain().tolist() for matrix in contestant.matrices],
                    "matrices": [matrix.to_json() for matrix in contestant.matrices],
                    "calibrated": [matrix.to_json() for matrix in contestant.calibrated],
                    "target": {n: [m.to_json() for m in found] for n, found in contestant.target.items()},
                }
                for contestant in self.contestants
            ],
        }


def compare(
    settings: Settings,
    recipes: Mapping[str, Settings | None],
    seeds: int,
    out: str | Path,
    calibrations: bool = True,
    allow_code: str | None = None,
) -> Comparison:
    """Train and evaluate every recipe with every seed, on the same data in the same order.

    Finished runs in the folder are not repeated, and interrupted runs are continued: repeat the same call to
    complete a comparison. Several processes can work on different recipes in the same folder.

    Args:
        settings: the settings of `Config` that all recipes share.
        recipes: for each name, the settings that differ. If they do not contain "recipe", the name is the
            recipe.
        seeds: the number of seeds; they are counted from 0.
        out: the output folder. Every run is a subfolder, which all other commands accept as a run folder.
        calibrations: whether to evaluate the families after calibration as well.
        allow_code: as for `train`.

    Raises:
        SfscError: as for `train` and `evaluate`, or a folder contains a run with other settings.

    Example::

        settings = {"dataset": "folder:photos", "backbone": "small", "epochs": 3}
        comparison = sfsc.compare(settings, {"sfsc": None, "sfsc+": None}, seeds=3, out="runs/comparison")
        sfsc.write_comparison(comparison, "runs/comparison")
    """
    out = Path(out)
    if seeds < 1 or not recipes:
        raise SfscError("a comparison needs at least one recipe and one seed")
    entries = {name: {"recipe": name, **(changes or {})} for name, changes in recipes.items()}
    configs = {
        (name, seed): Config.make({**settings, **changes, "seed": seed})
        for seed, (name, changes) in product(range(seeds), entries.items())
    }
    # Mistakes are reported before the first hour of training, not after it.
    for config in configs.values():
        find_recipe(config.recipe)
    for source in {config.dataset for config in configs.values()}:
        open_dataset(source)
    for (name, seed), config in configs.items():
        Console(stderr=True).print(f"{name}, seed {seed}", highlight=False, markup=False)
        try:
            with going_on(GOING_ON):
                _finish(config, folder_of(out, name, seed), calibrations, allow_code)
        except Stopped as stop:
            raise Stopped(stop.number, f"{name}, seed {seed}: {stop.where}", GOING_ON) from None
    contestants = [_collect(name, changes, seeds, out) for name, changes in entries.items()]
    comparison = Comparison(settings, seeds, tuple(contestants))
    write_json(out / COMPARISON_FILE, comparison.to_json())
    return comparison


def ablation() -> dict[str, Settings]:
    """Return the recipes of an ablation by name: loss x projection x alignment.

    "Alignment" means both terms of `sfsc+` that pull narrow sub-models towards the full sub-model's
    embeddings.
    """
    losses = {"cross-entropy": "cross_entropy", "evidential": "evidential"}
    projections: dict[str, Settings] = {
        "no projection": {"aggregation": "sum"},
        **{
            f"projection per {granularity}": {"aggregation": "projection", "granularity": granularity}
            for granularity in ("model", "layer", "tensor")
        },
    }
    plus = RECIPES["sfsc+"]
    alignments: dict[str, Settings] = {
        "no alignment": {},
        "alignment": {"asymmetric": plus.asymmetric, "alignment": plus.alignment},
    }
    return {
        f"{loss}, {projection}, {alignment}": {
            "recipe": "sfsc",
            "loss": losses[loss],
            **projections[projection],
            **alignments[alignment],
        }
        for loss, projection, alignment in product(losses, projections, alignments)
    }


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Return the run folder of a recipe and a seed."""
    return out / re.sub(r"[^\w.+=-]+", "-", name) / f"seed{seed}"


def _finish(config: Config, run: Path, calibrations: bool, allow_code: str | None) -> None:
    """Complete one run: training, calibrations and evaluations that are still missing."""
    family = train(config, run, resume=True, allow_code=allow_code)
    dataset = open_dataset(config.dataset)
    if not (calibrations and family.spec.shared):
        if not _tested(family, {run: dataset}, config.old):
            old = _old(config, family, run, allow_code)
            evaluate(family, dataset, config.workers, old=old).write_into(run)
        return
    view = open_dataset(f"target:{config.dataset}")
    targets = _target_folders(run) if len(view.train) >= config.embedding_dim else []
    if _tested(family, {run: dataset, run / CALIBRATED: dataset, **dict.fromkeys(targets, view)}, config.old):
        return
    # Every image is embedded only once, because calibrations only move its embeddings.
    images = embed_all(family, [*tested_paths(dataset), *dataset.train.paths], config.workers)
    calibrated = _calibrated(family, images, dataset.train.paths, run, run / CALIBRATED)
    plain, old = evaluate_images(family, dataset, images), _old(config, family, run, allow_code)
    tests = evaluate_old(old, family, dataset, images, {}) if old else None
    replace(plain, old=tests).write_into(run)
    evaluate_images(calibrated, dataset, images.calibrated(calibrated)).write_into(run / CALIBRATED)
    if targets:
        fitted = _calibrated(family, images, view.train.paths, run, run / TARGET["target images"])
        seen = [images, images.calibrated(calibrated), images.calibrated(fitted)]
        for variant, embedded, folder in zip((family, calibrated, fitted), seen, targets, strict=True):
            evaluate_images(variant, view, embedded).write_into(folder)


def _old(config: Config, family: Family, run: Path, allow_code: str | None) -> OldMember | None:
    """Return the old model that a run was trained towards, or None if there is none any more."""
    if config.old is None:
        return None
    return open_member(run, family, None, allow_code or code_of(config.backbone), config.workers)


def _tested(family: Family, tests: Mapping[Path, Dataset], old: str | None) -> bool:
    """Return whether the folders contain evaluations of the family, or of its calibrated copies.

    Args:
        family: the family.
        tests: the data set of the evaluation that each folder should contain, that of the run first.
        old: the old model that the evaluation in the run folder should contain, if any.
    """
    run = next(iter(tests))
    if old and (run / EVALUATION_FILE).exists() and "old" not in read_result(run / EVALUATION_FILE):
        return False
    for folder, dataset in tests.items():
        if not (folder / EVALUATION_FILE).exists():
            return False
        result, images = read_result(folder / EVALUATION_FILE), Listing.of(dataset).digest(TESTS)
        source = location.found(result["dataset"], folder)
        if not (
            same_space(result["fingerprint"], family.fingerprint)
            and location.same(source, location.absolute(dataset.source))
            and result.get("images", images) == images  # older evaluations have no digest
        ):
            return False
    return True


def _target_folders(run: Path) -> list[Path]:
    return [run / folder for folder in TARGET.values()]


def _calibrated(plain: Family, images: ImageSet, paths: Sequence[str], run: Path, out: Path) -> Family:
    calibrated, _ = fit_calibration(plain, images.of(paths))
    save_derived(calibrated, run, out)
    return calibrated


def _collect(name: str, changes: Settings, seeds: int, out: Path) -> Contestant:
    runs = [folder_of(out, name, seed) for seed in range(seeds)]
    config = read_config(runs[0])
    family = Family.load(
        runs[0], code_of(config.backbone)
    )  # the comparison's own settings name this backbone
    forward = inspect(family, family.examples()).multiply_adds
    calibrated = (runs[0] / CALIBRATED / EVALUATION_FILE).exists()
    return Contestant(
        name=name,
        changes=changes,
        matrices=tuple(_matrix(run) for run in runs),
        calibrated=tuple(_matrix(run / CALIBRATED) for run in runs) if calibrated else (),
        target={
            name: tuple(_matrix(run / folder) for run in runs)
            for name, folder in TARGET.items()
            if (runs[0] / folder / EVALUATION_FILE).exists()
        },
        multiply_adds=_training_cost(config, forward, runs[0]),
        query_multiply_adds=forward,
        seconds=float(np.mean([_seconds(run) for run in runs])),
        parameters=sum(parameter.numel() for parameter in family.parameters()),
        galleries=1 if config.method.compatible else len(family.widths),
        old=_old_tests(runs) if config.old else (),
    )


def _old_tests(runs: Sequence[Path]) -> tuple[Mapping[str, Any], ...]:
    return tuple(tests for run in runs if (tests := read_result(run / EVALUATION_FILE).get("old")))


def _matrix(run: Path) -> CompatibilityMatrix:
    return CompatibilityMatrix.from_json(read_result(run / EVALUATION_FILE)).family()


def _training_cost(config: Config, forward: Sequence[int], run: Path) -> float:
    """Return the multiply-adds of training, from those of a forward pass at each width.

    A backward pass counts as two forward passes.
    """
    phases = config.method.phases(len(forward))
    cycles = read_log(run)[-1]["step"] / len(phases) / len(config.cycle)
    labelled = cycles * config.identities_per_batch * config.images_per_identity
    images = labelled + (cycles * config.unlabelled_per_batch if config.unlabelled else 0)
    frozen = sum(forward[-1] for active in phases if len(forward) - 1 not in active)
    if (run / TEACHER_FOLDER).exists():
        frozen += forward[-1]
        teacher = 3.0 * labelled * forward[-1]
    else:
        teacher = 0.0
    alone = sum(forward[index] for index in config.cycle if index is not None)
    return images * (3.0 * (sum(forward) + alone) + frozen) + teacher


def _seconds(run: Path) -> float:
    """Return the time of training in seconds, including the teacher's.

    The clock in the log restarts at 0 whenever a run was resumed.
    """
    times = [line["seconds"] for line in read_log(run)]
    ends = [time for time, after in zip(times, [*times[1:], 0.0], strict=True) if after < time]
    teacher = run / TEACHER_FOLDER
    return float(sum(ends)) + (_seconds(teacher) if teacher.exists() else 0.0)


def mean_and_deviation(values: Sequence[np.ndarray] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sample standard deviation over the first axis, the seeds; NaN for a single seed."""
    stacked = np.asarray(values, dtype=float)
    several = len(stacked) > 1
    return stacked.mean(axis=0), stacked.std(axis=0, ddof=1) if several else np.full_like(stacked[0], np.nan)
