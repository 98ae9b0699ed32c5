"""Exported files that are tested beside the sub-models of their family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sfsc.embedding.exported import ExportedModel
from sfsc.embedding.model import Model, same_space
from sfsc.errors import SfscError


def open_members(files: Sequence[str | Path], family: Model) -> dict[str, ExportedModel]:
    """The sub-models of files that `sfsc export` made of a family, each under a label of its own.

    A label is the width and the form, as "0.25 int8"; the name of the file where several agree in both.

    Raises:
        SfscError: a file cannot be run, or is of another family; or two of one width and form have one name.
    """
    paths = [Path(file) for file in files]
    models = [ExportedModel.load(path) for path in paths]
    for path, model in zip(paths, models, strict=True):
        _check(path, model, family)
    short = [f"{model.widest:g} {model.exported.form}" for model in models]
    labels = [name if short.count(name) == 1 else path.name for name, path in zip(short, paths, strict=True)]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise SfscError(f"two of the exported files are called {twice[0]}: rename one, or name it once")
    return dict(zip(labels, models, strict=True))


def _check(path: Path, model: ExportedModel, family: Model) -> None:
    if not same_space(model.fingerprint, family.fingerprint):
        raise SfscError(
            f"{path} is of the family {model.fingerprint}, not of {family.fingerprint}: "
            "export it from this run, or evaluate the run that it was made from"
        )
    if model.image_size != family.image_size:
        raise SfscError(
            f"{path} embeds images of {model.image_size}, the family of {family.image_size}: "
            "export it from this run"
        )
    if model.dimension != family.dimension:
        raise SfscError(
            f"{path} has {model.dimension} dimensions, the family {family.dimension}: export it without --dim"
        )
    family.check_width(model.widest)
