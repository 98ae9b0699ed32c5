"""Opening exported files that are evaluated together with the sub-models of their family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sfsc.embedding.exported import ExportedModel
from sfsc.embedding.model import Model, same_space
from sfsc.errors import SfscError


def open_members(files: Sequence[str | Path], family: Model) -> dict[str, ExportedModel]:
    """Open the files that `sfsc export` made from a family, each under a unique label.

    A label consists of the width and the numeric form, for example "0.25 int8". If several files have the
    same width and form, their labels are the names of the files.

    Raises:
        SfscError: a file cannot be run or belongs to another family, or two files have the same label.
    """
    paths = [Path(file) for file in files]
    models = [ExportedModel.load(path) for path in paths]
    for path, model in zip(paths, models, strict=True):
        _check(path, model, family)
    short = [f"{model.widest:g} {model.exported.form}" for model in models]
    labels = [name if short.count(name) == 1 else path.name for name, path in zip(short, paths, strict=True)]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise SfscError(f"two of the exported files are called {twice[0]}: rename one, or pass it only once")
    return dict(zip(labels, models, strict=True))


def _check(path: Path, model: ExportedModel, family: Model) -> None:
    if not same_space(model.fingerprint, family.fingerprint):
        raise SfscError(
            f"{path} belongs to the family {model.fingerprint}, not to {family.fingerprint}: "
            "export it from this run, or evaluate the run that it was made from"
        )
    if model.dimension != family.dimension:
        raise SfscError(
            f"{path} has {model.dimension} dimensions, but the family has {family.dimension}: "
            "export it without --dim"
        )
    expected = family.image_size_of(model.widest)
    if model.image_size != expected:
        raise SfscError(
            f"{path} embeds images of size {model.image_size}, but the family uses {expected} at width "
            f"{model.widest:g}: export it from this run"
        )
