"""Training a family from a configuration into a run folder."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from sfsc.aggregation.projection import random_order
from sfsc.data.dataset import open_dataset
from sfsc.data.loading import augment, find_corrupt, identity_batches, load_batches
from sfsc.data.records import Dataset, Split
from sfsc.errors import SfscError, first_line
from sfsc.files import read_json, write_json
from sfsc.progress import track
from sfsc.recipes import find_recipe
from sfsc.switchable.family import WEIGHTS_FILE, Family
from sfsc.switchable.sources import find_backbone
from sfsc.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from sfsc.training.classifier import initialise
from sfsc.training.config import CONFIG_FILE, Config
from sfsc.training.log import TrainingLog
from sfsc.training.optimizer import make_optimizer, set_learning_rate
from sfsc.training.step import NestedGradients, family_step

ENVIRONMENT_FILE = "environment.json"
NOT_RESULTS = {"workers", "log_every", "checkpoint_every", "device", "max_corrupt"}


def train(config: Config, run: str | Path, resume: bool = False) -> Family:
    """Train a family and write it, with its configuration, log and checkpoints, into a run folder.

    Args:
        config: the settings; what they leave open (image size, weights, device) is resolved and kept.
        run: the folder, made where it does not exist.
        resume: go on from the folder's checkpoint; a finished run is only loaded.

    Returns:
        The family, on the CPU, in evaluation mode.

    Raises:
        SfscError: a setting or the data set is wrong, too many images are unreadable, the folder holds
            another run, or the disk is full (the last checkpoint is then kept).
    """
    run = Path(run)
    find_recipe(config.recipe)
    dataset = open_dataset(config.dataset)
    config = _resolve(config, dataset)
    _check_device(config.device)
    _all_batches(dataset.train.labels(), config.model_copy(update={"epochs": 1}))
    _claim(run, config, resume)
    if not (run / WEIGHTS_FILE).exists():
        images = _readable(dataset.train, config)
        _optimize(config, run, images, dataset.mirrors).cpu().save(run)
    return Family.load(run)


def _resolve(config: Config, dataset: Dataset) -> Config:
    """The configuration with everything decided that depends on the data set and the machine."""
    default_weights = find_backbone(config.backbone).default_weights
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    return config.model_copy(
        update={
            "image_size": config.image_size or dataset.image_size,
            "weights": default_weights if config.weights == "default" else config.weights,
            "device": default_device if config.device == "auto" else config.device,
        }
    )


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise SfscError(f"device {name!r} cannot be used: {first_line(error)}") from None


def _claim(run: Path, config: Config, resume: bool) -> None:
    """Make the folder this run's, or find that it is; SfscError where it holds another."""
    path = run / CONFIG_FILE
    settings = config.model_dump(mode="json")
    if path.exists():
        if not resume:
            raise SfscError(f"{run} already holds a run: go on with --resume or choose another folder")
        stored = read_json(path)
        changed = [n for n in settings if settings[n] != stored.get(n) and n not in NOT_RESULTS]
        if changed:
            name = changed[0]
            raise SfscError(
                f"{run} was started with {name} {stored.get(name)}, not {settings[name]}: "
                "resume with the same settings or choose another folder"
            )
    else:
        write_json(path, settings)
    write_json(run / ENVIRONMENT_FILE, _environment())


def _environment() -> dict[str, str]:
    packages = ["sfsc", "torch", "kornia", "numpy", "opencv-python-headless", "safetensors"]
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _readable(images: Split, config: Config) -> Split:
    """The training images that can be decoded; SfscError where too many cannot."""
    corrupt = find_corrupt(images.paths, config.workers)
    if not corrupt:
        return images
    for error in corrupt:
        Console(stderr=True).print(f"left out: {error}", highlight=False, markup=False, soft_wrap=True)
    if len(corrupt) > config.max_corrupt * len(images):
        raise SfscError(
            f"{len(corrupt)} of {len(images)} training images cannot be read, the first: {corrupt[0]}; "
            "repair or remove them, or allow a larger share with max_corrupt"
        )
    bad = {error.path for error in corrupt}
    return images.select(np.array([path not in bad for path in images.paths]))


def _optimize(config: Config, run: Path, images: Split, mirrors: bool) -> Family:
    labels = images.labels()
    batches = _all_batches(labels, config)
    state, start = _prepare(config, run, images)
    gradients = NestedGradients(state.family, state.classifier, config.granularity)
    log = TrainingLog(run, start)
    recipe = find_recipe(config.recipe)
    state.family.train()
    loaded = load_batches(images.paths, batches[start:], state.family.spec.image_size, config.workers)
    bar = track(loaded, "training", total=len(batches), completed=start)
    for step, pixels in enumerate(bar, start):
        lr = set_learning_rate(state.optimizer, step, len(batches), config)
        seed = config.seed * 1_000_003 + step
        pictures = augment(pixels.to(config.device).float() / 255, mirrors, seed, config.augment)
        targets = torch.from_numpy(labels[batches[step]]).to(config.device)
        order = random_order(len(config.widths), seed)
        log.add(family_step(state, gradients, pictures, targets, recipe, config, order))
        nn.utils.clip_grad_norm_(state.parameters(), config.clip_norm)
        state.optimizer.step()
        done, last = step + 1, step + 1 == len(batches)
        if done % config.log_every == 0 or last:
            log.write(done, done * config.epochs / len(batches), lr)
        if done % config.checkpoint_every == 0 or last:
            save_checkpoint(run, state, done)
    return state.family


def _prepare(config: Config, run: Path, images: Split) -> tuple[TrainingState, int]:
    """A new state, or that of the run's checkpoint, and the number of steps done."""
    assert config.image_size is not None
    weights = None if config.weights == "none" else config.weights
    family = Family.create(
        config.backbone, config.widths, config.embedding_dim, config.image_size, weights, config.seed
    ).to(config.device)
    classes = int(images.labels().max()) + 1
    classifier = nn.Parameter(torch.empty(classes, config.embedding_dim, device=config.device))
    state = TrainingState(family, classifier, make_optimizer(family, classifier, config))
    start = load_checkpoint(run, state)
    if start == 0:
        initialise(classifier, family, images, config)
    return state, start


def _all_batches(labels: np.ndarray, config: Config) -> list[np.ndarray]:
    """The image indices of every step of the whole run."""
    return [
        batch
        for epoch in range(config.epochs)
        for batch in identity_batches(
            labels, config.identities_per_batch, config.images_per_identity, config.seed, epoch
        )
    ]
