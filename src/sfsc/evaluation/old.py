"""An old model as a row and a column of the compatibility matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfsc.bridges.old import OldModel, open_old
from sfsc.data.dataset import Dataset
from sfsc.dimensions import shorten
from sfsc.embedding.image_set import ImageSet
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.progress import say
from sfsc.retrieval.matrix import METRICS
from sfsc.retrieval.ranking import evaluate_ranking
from sfsc.training.config import read_config
from sfsc.training.old.fixed import FILES
from sfsc.training.old.space import OldDescription, OldSpace


@dataclass(frozen=True)
class OldMember:
    """An old model that is evaluated together with a family.

    Attributes:
        model: the old model.
        space: how its embeddings are compared with the family's.
    """

    model: OldModel
    space: OldSpace


@dataclass(frozen=True)
class OldTests:
    """The accuracy of a family and an old model together, as fractions.

    Attributes:
        description: what identifies the old model.
        column: for each metric, M(w, old) of each sub-model and exported file w, in the order of the matrix.
        row: for each metric, M(old, w) in the same order.
        self_test: for each metric, M(old, old), with all dimensions of the old model.
        widths: the number of the family's sub-models, which come first.
    """

    description: OldDescription
    column: Mapping[str, list[float]]
    row: Mapping[str, list[float]]
    self_test: Mapping[str, float]
    widths: int

    def criterion(self, metric: str = "mAP") -> list[bool]:
        """Return whether M(w, old) >= M(old, old) for each width w (Shen et al., CVPR 2020)."""
        return [value >= self.self_test[metric] for value in self.column[metric][: self.widths]]

    def to_json(self) -> dict[str, Any]:
        """Return the tests as plain lists and numbers."""
        return {
            **vars(self.description),
            "column": {name: list(values) for name, values in self.column.items()},
            "row": {name: list(values) for name, values in self.row.items()},
            "self_test": dict(self.self_test),
            "criterion": self.criterion(),
        }


def open_member(
    run: Path, family: Family, name: str | None, allow_code: str | None, workers: int = 2
) -> OldMember | None:
    """Open the old model that a family is evaluated with.

    Args:
        run: the run folder of the family.
        family: the family.
        name: the old model, as `open_old` takes it; by default the one that the run was trained with or,
            if there is none, its teacher.
        allow_code: as for `Family.load`.
        workers: the number of threads that decode images.

    Returns:
        The old model; None if none was named and the run was trained without one, or if the one that it was
        trained with is not there any more or is another one now. A remark then says so.

    Raises:
        SfscError: the named model cannot be opened, or its embeddings cannot be compared with the family's.
    """
    known = [OldSpace.load(run / file) for file in FILES.values() if (run / file).exists()]
    if name is not None:
        model = open_old(name, allow_code=allow_code, workers=workers)
        return OldMember(model, _space(model, family, known, run))
    if not known:
        return None
    config = read_config(run)
    try:
        model = open_old(str(config.old or config.teacher), allow_code=allow_code, workers=workers)
        if not model.was(known[0].description.fingerprint):
            raise SfscError(f"the old model of {run} has changed: restore it, or name another one with --old")
    except SfscError as error:
        say(f"remark: {error}; the old model is not evaluated")
        return None
    return OldMember(model, known[0])


def _space(model: OldModel, family: Family, known: list[OldSpace], run: Path) -> OldSpace:
    """Return the space of the run with this fingerprint; otherwise, components are compared as they are."""
    for space in known:
        if model.was(space.description.fingerprint):
            return space
    size = model.space.dimension
    if size > family.dimension:
        raise SfscError(
            f"old model {model.name} has {size} dimensions, more than the {family.dimension} of "
            f"{run}, which was not trained with it: train with --old {model.name}"
        )
    empty = torch.empty(0, size)
    said = OldDescription(model.name, model.space.fingerprint, size, size)
    return OldSpace(said, empty, empty, None)


def evaluate_old(
    old: OldMember,
    family: Family,
    dataset: Dataset,
    images: ImageSet,
    exported: Mapping[str, float],
) -> OldTests:
    """Test every sub-model and exported file against an old model, in both directions.

    Queries and gallery are those of `evaluate`. New embeddings are shortened to the components of the old
    model's space.

    Args:
        old: the old model.
        family: the family.
        dataset: the data set; its query and gallery splits are used.
        images: the embeddings of its query and gallery images.
        exported: the width of each exported file, by label.

    Raises:
        SfscError: an image cannot be read, or the old model is a table that lacks its embedding.
    """
    query, gallery = dataset.query, dataset.gallery
    paths = sorted({*query.paths, *gallery.paths})
    rows = {path: row for row, path in enumerate(paths)}
    whole = old.model.embed(paths)
    placed = old.space.place(torch.from_numpy(whole)).numpy()
    of_queries, of_gallery = ([rows[path] for path in split.paths] for split in (query, gallery))
    embedded, found = images.of(query.paths), images.of(gallery.paths)
    components = old.space.description.components

    def short(vectors: np.ndarray) -> np.ndarray:
        return vectors if vectors.shape[1] == components else shorten(vectors, components)

    tested = [*family.widths, *exported]
    test = partial(evaluate_ranking, query=query, gallery=gallery)
    column = [test(short(embedded[key]), placed[of_gallery]).metrics for key in tested]
    row = [test(placed[of_queries], short(found[key])).metrics for key in tested]
    alone = test(whole[of_queries], whole[of_gallery]).metrics
    return OldTests(
        description=old.space.description,
        column={name: [cell[name] for cell in column] for name in METRICS},
        row={name: [cell[name] for cell in row] for name in METRICS},
        self_test={name: alone[name] for name in METRICS},
        widths=len(family.widths),
    )
