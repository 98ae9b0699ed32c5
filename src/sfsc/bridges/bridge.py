"""`Bridge`: maps between the space of an old model and the space of a family, in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sfsc.bridges.space_map import KINDS, SpaceMap
from sfsc.embedding.model import Model, same_space, space_of
from sfsc.errors import SfscError, one_line
from sfsc.files.arrays import read_arrays, write_arrays
from sfsc.files.json_text import parse_json
from sfsc.files.schema import conform

FORMAT = 1
PROPERTY = "sfsc.bridge"
MOST_DIMENSIONS, MOST_BYTES, MOST_TEXT = 1 << 14, 1 << 28, 1 << 16
MAPS = ("forward", "backward")


@dataclass(frozen=True)
class Space:
    """A space of embeddings.

    Attributes:
        name: what people call the model, such as the name of its run folder.
        fingerprint: the fingerprint that rows of this space have.
        dimension: the dimension of the embeddings.
        dimensions: the dimensions that the family supports, ascending; empty if there is only one.
    """

    name: str
    fingerprint: str
    dimension: int
    dimensions: tuple[int, ...] = ()

    @classmethod
    def of(cls, name: str, model: Model) -> Space:
        """Return the space of a model's embeddings."""
        nested = model.dimensions if len(model.dimensions) > 1 else ()
        return cls(name, model.fingerprint, model.dimension, nested)


@dataclass(frozen=True)
class Choice:
    """How a map was chosen.

    Attributes:
        kind: its kind.
        cosines: the mean cosine of each kind on held-out pairs.
        found: the share of held-out rows of each kind that find their own target first; empty in a bridge of
            an earlier version, which was chosen by the cosine.
    """

    kind: str
    cosines: Mapping[str, float]
    found: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bridge:
    """Maps between two spaces: `forward` from old to new embeddings, `backward` from new to old ones.

    Attributes:
        old: the space of the old model.
        new: the space of the family.
        pairs: the number of images that the maps were fitted on.
        choices: how each map was chosen, by "forward" and "backward".
        forward: the map of old embeddings.
        backward: the map of new embeddings.

    Example::

        bridge = Bridge.load("old-to-new.safetensors")
        rows, errors = bridge.forward(old_embeddings)  # (n, dim) float32 of length 1, (n,) float32
    """

    old: Space
    new: Space
    pairs: int
    choices: Mapping[str, Choice]
    forward: SpaceMap = field(repr=False)
    backward: SpaceMap = field(repr=False)

    @property
    def digest(self) -> str:
        """The SHA-256 of everything that the bridge consists of, in hexadecimal digits."""
        digest = hashlib.sha256(self._description().encode())
        for array in self._arrays().values():
            digest.update(array.tobytes())
        return digest.hexdigest()

    def check_old(self, fingerprint: str, what: str) -> None:
        """Raise `SfscError` unless `what` has embeddings of the old model."""
        self._check(self.old, fingerprint, what)

    def check_new(self, fingerprint: str, what: str) -> None:
        """Raise `SfscError` unless `what` has embeddings of the family."""
        self._check(self.new, fingerprint, what)

    def _check(self, space: Space, fingerprint: str, what: str) -> None:
        if not same_space(space.fingerprint, fingerprint):
            raise SfscError(
                f"the bridge leads from {space_of(self.old.fingerprint)} to "
                f"{space_of(self.new.fingerprint)}, but {what} "
                f"belongs to {space_of(fingerprint)}: fit a bridge for it with sfsc bridge"
            )

    def save(self, path: str | Path) -> None:
        """Write the bridge into a safetensors file, durably and atomically."""
        write_arrays(Path(path), self._arrays(), {PROPERTY: self._description()})

    @classmethod
    def load(cls, path: str | Path) -> Bridge:
        """Read a file that `save` wrote. Its content is data from anyone; no code in it is run.

        Raises:
            SfscError: the file cannot be read, is damaged, too large, of another kind or of a newer sfsc.
        """
        path = Path(path)
        arrays, metadata = read_arrays(path, MOST_BYTES)
        try:
            said = metadata.get(PROPERTY, "")
            if not said or len(said) > MOST_TEXT:
                raise ValueError("it has no description of a bridge")
            values = conform(parse_json(said), dict[str, Any], "its description")
            if conform(values.pop("format", None), int, "its format") > FORMAT:
                raise SfscError(f"{path} was written by a newer sfsc: upgrade sfsc to read it")
            described: _Described = conform(values, _Described)
            _check_described(described)
            size, to = described.old.dimension, described.new.dimension
            parts = {name: _part(arrays, name) for name in MAPS}
            if len(arrays) != sum(map(len, parts.values())):
                raise ValueError("it has arrays that are no part of a bridge")
            forward = SpaceMap.from_arrays(parts["forward"], (size, to))
            backward = SpaceMap.from_arrays(parts["backward"], (to, size))
        except ValueError as error:
            raise SfscError(
                f"{path} is not a bridge: {one_line(str(error), 200)}: make one with sfsc bridge"
            ) from None
        return cls(**vars(described), forward=forward, backward=backward)

    def _description(self) -> str:
        described = _Described(self.old, self.new, self.pairs, self.choices)
        return json.dumps({"format": FORMAT, **asdict(described)}, sort_keys=True)

    def _arrays(self) -> dict[str, Any]:
        maps = {"forward": self.forward, "backward": self.backward}
        return {f"{name}.{key}": array for name, one in maps.items() for key, array in one.arrays().items()}


@dataclass(frozen=True)
class _Described:
    """What the metadata of the file say."""

    old: Space
    new: Space
    pairs: int
    choices: Mapping[str, Choice]


def _check_described(described: _Described) -> None:
    for space in (described.old, described.new):
        if not space.fingerprint or len(space.fingerprint) > 200 or len(space.name) > 1000:
            raise ValueError("a name or a fingerprint is missing or too long")
        if not all(0 < size <= MOST_DIMENSIONS for size in (space.dimension, *space.dimensions)):
            raise ValueError(f"a space has {space.dimension} dimensions")
    if {*described.choices} != {*MAPS} or any(one.kind not in KINDS for one in described.choices.values()):
        raise ValueError("its maps are of no known kind")


def _part(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    start = f"{name}."
    return {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}
