"""Training a family and writing it into a run folder."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from sfsc.backbones.sources import code_of, find_backbone
from sfsc.data.dataset import Dataset
from sfsc.data.sources import open_dataset
from sfsc.errors import SaidElsewhere, SfscError
from sfsc.family.family import Family
from sfsc.files.writing import write_json
from sfsc.notation import Written, sizes_of
from sfsc.runs.datasets import split_name
from sfsc.runs.description import complete, holds_family
from sfsc.runs.paths import CONFIG_FILE, ENVIRONMENT_FILE, STARTED_IN, places, started_in
from sfsc.training.config import Config, read_config, stored_settings
from sfsc.training.distributed import RankLost, World, joined
from sfsc.training.images import TrainingImages
from sfsc.training.interruption import interruptible
from sfsc.training.losses.simplex import simplex
from sfsc.training.old.direct import save_direct_bridge
from sfsc.training.old.fixed import check_fixed, fixed_space
from sfsc.training.old.space import OldSpace
from sfsc.training.random_widths import check_random_widths
from sfsc.training.recipes import ADJUSTABLE
from sfsc.training.record import begun, check, has_record, record, refuse_used
from sfsc.training.start import equalise, new_family, starting_state
from sfsc.training.teacher import TEACHER_FOLDER, Teacher, teacher_config
from sfsc.training.trainer import Training, all_batches

NOT_RESULTS = {"workers", "log_every", "checkpoint_every", "compile", "device", "max_corrupt"}


def train(config: Config, run: str | Path, resume: bool = False, allow_code: str | None = None) -> Family:
    """Train a family and write it, with its settings, log and checkpoints, into a run folder.

    If torchrun started several processes, they train one family together. Every process must make the same
    call.

    Args:
        config: the settings. Settings that are left open (image size, weights, device) are decided here and
            stored in the run folder.
        run: the run folder. It is created if it does not exist.
        resume: whether to continue from the checkpoint in the folder. A finished run is only loaded.
        allow_code: a function, as package.module:function, that may be imported and called if it is the
            backbone of the old model or the teacher; by default only the backbone of the settings.

    Returns:
        The family, on the CPU, in evaluation mode.

    Raises:
        SfscError: a setting or the data set is invalid, too many images cannot be read, the folder contains
            another run or a run that was started with other images, the disk is full (the last checkpoint is
            kept), or training was interrupted.

    Example::

        config = sfsc.Config(dataset="folder:photos", backbone="small", epochs=3)
        family = sfsc.train(config, "runs/photos")
        print(family.widths, family.fingerprint)
    """
    with joined() as world:
        try:
            return _train(config, Path(run), resume, world, allow_code)
        except RankLost as error:
            raise (SfscError if world.speaks() else SaidElsewhere)(str(error)) from error


def _train(config: Config, run: Path, resume: bool, world: World, allow_code: str | None) -> Family:
    allowed = allow_code or code_of(config.backbone)
    config, dataset, found = world.on_first(lambda: _open(config, run, resume, world))
    device = world.on_all(lambda: world.device(config.device))
    world.on_first(lambda: None if holds_family(run) else check_fixed(config, run, found, allowed))
    world.on_first(lambda: _claim(run, config))
    if world.on_first(lambda: holds_family(run)):
        world.on_first(lambda: check(run, found.listing(dataset)))
        world.on_first(lambda: complete(run))
    else:
        images, contents = found.readable(config, world)
        world.on_first(lambda: record(run, found.listing(dataset, contents)))
        old = fixed_space("old", config, run, images, device, world, allowed)
        teacher: Teacher | OldSpace | None = fixed_space(
            "teacher", config, run, images, device, world, allowed
        )
        if teacher is None and config.method.teacher and len(config.widths) > 1:
            trained = _train(teacher_config(config), run / TEACHER_FOLDER, True, world, allow_code)
            teacher = Teacher.of(run, trained, device, world)
        last = starting_state(config, run, images.labelled, device, world, teacher)
        training = Training(config, run, images, dataset.mirrors, last, world, teacher, old)
        with interruptible(world) as interruption:
            family = training.run(interruption)
            world.on_first(lambda: _save(family.cpu(), run))
    world.on_first(lambda: _keep_place(run, config))
    # Only the first rank reads and writes the folder: another machine may not have it.
    family = world.on_all(
        lambda: Family.load(run, code_of(config.backbone)) if world.first else new_family(config, "none")
    )
    return equalise(family, world).eval()


def _save(family: Family, run: Path) -> None:
    save_direct_bridge(family, run)
    family.save(run)


def _open(config: Config, run: Path, resume: bool, world: World) -> tuple[Config, Dataset, TrainingImages]:
    """Return the resolved settings, the data set and the images to train on.

    Raises:
        SfscError: a setting or the data set is invalid, the backbone cannot take a depth or an image size,
            the ranks cannot share a normalisation, or the folder contains another run.
    """
    if not resume:
        refuse_used(run, "continue it with --resume or choose another folder")
    config = _with_method(config)
    dataset = open_dataset(config.dataset)
    images = TrainingImages.of(config, dataset)
    check(run, images.listing(dataset), same=lambda *_: True)
    if config.classifier == "d-simplex":
        simplex(len(np.unique(dataset.train.identities)), config.embedding_dim)
    all_batches(images, config.model_copy(update={"epochs": 1}), world)
    resolved = _resolve(config, dataset)
    if config.normalisation == "switchable_whitening" and config.sync_batch_norm and world.size > 1:
        raise SfscError(
            "switchable whitening normalises over each rank's images, not over those of all ranks: "
            "set sync_batch_norm to false, or choose another normalisation"
        )
    if not resume and any(isinstance(one, str) for one in config.widths):
        new_family(resolved, "none")  # refuses depths and image sizes that the backbone cannot take
    return resolved, dataset, images


def _with_method(config: Config) -> Config:
    """Return the settings with those that the recipe decides.

    Raises:
        SfscError: the recipe is unknown, or cannot train as the settings demand.
    """
    method = config.method
    if any(config.extra_steps) and (method.full_first or method.classifiers == "full"):
        raise SfscError(
            f"recipe {config.recipe} trains narrow sub-models with the full one's output: "
            "set extra_steps to [], or choose another recipe"
        )
    check_random_widths(config)
    if config.unlabelled is not None and not method.alignment:
        raise SfscError(
            f"recipe {config.recipe} learns nothing from images without labels: choose recipe sfsc+, or set "
            "alignment to 2"
        )
    if config.teacher is not None and not (method.teacher and config.classifier == "learned"):
        raise SfscError(
            f"a teacher brings a classifier of its own, which recipe {config.recipe} with classifier "
            f"{config.classifier} does not use: choose recipe sfsc+ and classifier learned"
        )
    if config.classifier != "learned" and method.classifiers != "shared":
        raise SfscError(
            f"recipe {config.recipe} has no classifier that all sub-models share, so it cannot be a "
            f"{config.classifier}: choose recipe sfsc, or set classifier to learned"
        )
    return config.model_copy(update={name: getattr(config.method, name) for name in ADJUSTABLE})


def _resolve(config: Config, dataset: Dataset) -> Config:
    """Return the settings with everything decided that depends on the data set, the machine or the folder.

    Raises:
        SfscError: a sub-model has an impossible image size, or there is no such backbone with the
            normalisation.
    """
    default_weights = find_backbone(config.backbone).normalised(config.normalisation).default_weights
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    image_size = config.image_size or dataset.image_size
    sizes_of([Written.parse(one) for one in config.widths], image_size)
    update = {
        "image_size": image_size,
        "weights": default_weights if config.weights == "default" else config.weights,
        "device": default_device if config.device == "auto" else config.device,
    }
    source, _, folder = config.backbone.partition(":")
    if source == "transformers" and default_weights == folder:
        update["backbone"] = f"{source}:{os.path.abspath(folder)}"
    return config.model_copy(update=update).relocated(os.path.abspath)


def _claim(run: Path, config: Config) -> None:
    """Write the settings into the folder; raise `SfscError` if it contains another run."""
    path = run / CONFIG_FILE
    settings = config.model_dump(mode="json")
    if path.exists():
        stored = _with_method(read_config(run)).model_dump(mode="json")
        changed = [n for n in settings if settings[n] != stored[n] and n not in NOT_RESULTS]
        if changed == ["dataset"] and _may_be_of(run, config.dataset):
            changed = []
        if changed:
            name = changed[0]
            raise SfscError(
                f"{run} was started with {name} {stored[name]}, not {settings[name]}: "
                "resume with the same settings or choose another folder"
            )
    elif begun(run):
        raise SfscError(f"{run} contains a family but no {CONFIG_FILE}: choose another folder")
    else:
        write_json(path, settings)
    write_json(run / ENVIRONMENT_FILE, _environment(run))


def _may_be_of(run: Path, dataset: str) -> bool:
    """Return whether the run's settings may mean this data set.

    They do if their path leads there, or if the run has a record of its images that decides it later.
    """
    kind, path = split_name(dataset) or ("", dataset)
    before, stored = split_name(stored_settings(run)["dataset"]) or ("", "")
    leads = os.path.realpath(path) in map(os.path.realpath, places(stored, run))
    return kind == before and (leads or has_record(run))


def _keep_place(run: Path, config: Config) -> None:
    """Store where the data set is now, after its images were found to be those of the run."""
    if read_config(run).dataset != config.dataset:
        settings = stored_settings(run)
        write_json(run / CONFIG_FILE, settings | {"dataset": config.dataset})


def _environment(run: Path) -> dict[str, str]:
    packages = ["sfsc", "torch", "kornia", "numpy", "opencv-python-headless", "safetensors"]
    packages += ["transformers", "timm", "torchvision"]
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    # Runs of earlier versions did not store the folder in which they were started.
    start = started_in(run) if (run / ENVIRONMENT_FILE).exists() else Path.cwd()
    return versions | ({STARTED_IN: str(start)} if start else {})
