"""The bridge between an old model and a family that was trained to search its galleries directly."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfsc.bridges.bridge import MAPS, Bridge, Choice, Space
from sfsc.bridges.space_map import SpaceMap
from sfsc.family.family import Family
from sfsc.runs.paths import OLD_BRIDGE_FILE, OLD_FILE
from sfsc.training.old.space import OldSpace


def direct_bridge(old: OldSpace, new: Space) -> Bridge:
    """Return the bridge that compares embeddings as the training did.

    Old embeddings become the first components of new ones, or are projected into them if they have more
    dimensions; new embeddings are mapped by the transposed matrix. The expected error of every row is 1,
    because it was not measured: `sfsc.bridge` fits maps with measured errors.

    Args:
        old: the space that the family was trained towards.
        new: the space of the family.
    """
    said = old.description
    same = np.eye(said.dimension, new.dimension)
    matrix = same if old.projection is None else old.projection.numpy()
    forward, backward = (SpaceMap.linear(one, np.zeros(one.shape[1])) for one in (matrix, matrix.T))
    choices = {name: Choice("orthogonal", {}) for name in MAPS}
    space = Space(said.name, said.fingerprint, said.dimension)
    return Bridge(space, new, len(old.embeddings), choices, forward, backward)


def save_direct_bridge(family: Family, run: Path) -> None:
    """Write the bridge into a run folder if the run has an old model; call it before the family is saved."""
    if (run / OLD_FILE).exists():
        new = Space.of(run.absolute().name, family)
        direct_bridge(OldSpace.load(run / OLD_FILE), new).save(run / OLD_BRIDGE_FILE)
