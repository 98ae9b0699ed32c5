"""The fixed models of a run: its old model, and a teacher that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path

import torch

from sfsc.bridges.old import OldModel, open_old
from sfsc.errors import SfscError
from sfsc.runs.paths import FIXED_TEACHER_FILE, OLD_FILE
from sfsc.training.config import Config
from sfsc.training.distributed import World
from sfsc.training.images import TrainingImages
from sfsc.training.old.space import OldSpace
from sfsc.training.record import begun

# For each setting that names a fixed model, the file of the run folder with its space.
FILES = {"old": OLD_FILE, "teacher": FIXED_TEACHER_FILE}


def check_fixed(config: Config, run: Path, images: TrainingImages, allow_code: str | None) -> None:
    """Open the fixed models of a run, and compare them with its settings, its images and its record.

    Args:
        config: the settings.
        run: the run folder.
        images: the training images; those that cannot be read may be missing in a table.
        allow_code: as for `Family.load`.

    Raises:
        SfscError: a model cannot be opened, lacks the embedding of an image, has too few dimensions for a
            teacher, or is not the one that the run was started with.
    """
    for setting in FILES:
        if (name := getattr(config, setting)) is None:
            continue
        model = open_old(name, allow_code=allow_code)
        if setting == "teacher" and model.space.dimension < config.embedding_dim:
            raise SfscError(
                f"teacher {name} has {model.space.dimension} dimensions, fewer than the family: "
                f"set embedding_dim to {model.space.dimension} or less"
            )
        _recorded(run, setting, model)
        model.check(_targets(setting, images))


def fixed_space(
    setting: str,
    config: Config,
    run: Path,
    images: TrainingImages,
    device: torch.device,
    world: World,
    allow_code: str | None,
) -> OldSpace | None:
    """Return the space of a fixed model on the training device, or None if the settings name no such model.

    Rank 0 opens the model and embeds the images. The run folder keeps the space, so that a run continues
    with the same targets.

    Args:
        setting: a key of `FILES`.
        config: the settings.
        run: the run folder.
        images: the training images.
        device: the training device.
        world: the ranks that train together.
        allow_code: as for `Family.load`.
    """
    name = getattr(config, setting)
    if name is None:
        return None

    def prepared() -> OldSpace:
        model = open_old(name, allow_code=allow_code, workers=config.workers, device=device)
        space = _recorded(run, setting, model)
        if space is None:
            paths = _targets(setting, images)
            space = OldSpace.fit(model, paths, images.labelled.labels(), config.embedding_dim)
            space.save(run / FILES[setting])
        return space

    return world.on_first(prepared).to(device)


def _targets(setting: str, images: TrainingImages) -> tuple[str, ...]:
    """Return the paths of the images whose embeddings a fixed model gives: a teacher those of all."""
    return images.paths if setting == "teacher" else images.labelled.paths


def _recorded(run: Path, setting: str, model: OldModel) -> OldSpace | None:
    """Return the space in a run folder, or None if nothing was trained with it; refuse another model."""
    if not begun(run):
        return None
    path = run / FILES[setting]
    if not path.exists():
        raise SfscError(f"{run} lacks {path.name}, which it was started with: train into a new folder")
    space = OldSpace.load(path)
    if not model.was(space.description.fingerprint):
        raise SfscError(
            f"{run} was started with {setting} {space.description.fingerprint}, but {model.name} is now "
            f"{model.space.fingerprint}: restore it, or train into a new folder"
        )
    return space
