"""A family: one network, its nested sub-models, one embedding space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sfsc.errors import SfscError, first_line
from sfsc.files import read_json, write_atomic, write_json
from sfsc.switchable.convert import sort_by_importance
from sfsc.switchable.embedder import Embedder
from sfsc.switchable.sources import find_backbone
from sfsc.switchable.structure import Structure, analyse
from sfsc.switchable.switchable import DEFAULT_WIDTHS, ROUND_TO, Switchable
from sfsc.switchable.verify import settle
from sfsc.switchable.weights import load_weights
from sfsc.widths import Widths

FORMAT = 2
FORMAT_1: dict[str, Any] = {"keep": [], "round_to": 1, "configuration": None}
WEIGHTS_FILE = "family.safetensors"
DESCRIPTION_FILE = "family.json"


@dataclass(frozen=True)
class FamilySpec:
    """What a family is built from.

    `image_size` is (height, width) in pixels; `keep` and `round_to` are those of `to_switchable`;
    `configuration` is what else the backbone was built from, where its name alone does not say.
    """

    backbone: str
    widths: Widths
    embedding_dim: int
    image_size: tuple[int, int]
    keep: tuple[str, ...] = ()
    round_to: int = ROUND_TO
    configuration: dict[str, Any] | None = None


class Family(Switchable):
    """A switchable network with its widths and embedding head; the sub-networks are its sub-models."""

    network: Embedder

    def __init__(self, spec: FamilySpec, network: Embedder, structure: Structure) -> None:
        """Make a family of a dense embedder, which becomes the full sub-model."""
        super().__init__(network, structure, spec.widths, spec.round_to)
        self.spec = spec

    @classmethod
    def create(
        cls,
        backbone: str = "efficientnet_lite0",
        widths: str | Sequence[float] | Widths = DEFAULT_WIDTHS,
        embedding_dim: int = 128,
        image_size: tuple[int, int] = (64, 64),
        weights: str | None = None,
        seed: int = 0,
        keep: Sequence[str] = (),
        round_to: int = ROUND_TO,
    ) -> Family:
        """A new, untrained family.

        Args:
            backbone: a name, as in `find_backbone`.
            widths: the channel ratios, increasing to 1.0.
            embedding_dim: the embeddings' dimension d.
            image_size: (height, width) in pixels.
            weights: pretrained weights of the backbone, as in `load_weights`: its channels are then
                sorted by importance, so that narrow sub-models keep the best of them.
            seed: of the random initialisation.
            keep: dotted names of modules that are to stay whole.
            round_to: channel counts are rounded up to multiples of this; 1 for none.

        Raises:
            SfscError: unknown backbone, wrong widths, weights that do not fit, a module that cannot be cut.
        """
        configuration = find_backbone(backbone).configuration
        spec = FamilySpec(
            backbone, Widths.of(widths), embedding_dim, image_size, tuple(keep), round_to, configuration
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = _new_network(spec)
        if weights is not None:
            load_weights(backbone, network.backbone, weights)
        structure = _analyse(spec, network, spec.widths.narrow)
        if weights is not None:
            sort_by_importance(network, structure)
        return cls(spec, network, structure)

    def embed(self, images: Tensor, width: float = 1.0) -> Tensor:
        """Embed images with the sub-model of this width.

        Args:
            images: (batch, 3, height, width) RGB, uint8 or float32 in [0, 1], of `spec.image_size`.
            width: one of the family's widths.

        Returns:
            (batch, embedding_dim) float32, of length 1, on the family's device.

        Raises:
            SfscError: not one of the family's widths, or images of another size.
        """
        if tuple(images.shape[1:]) != (3, *self.spec.image_size):
            height, across = self.spec.image_size
            raise SfscError(
                f"this family embeds images of shape (3, {height}, {across}), got {tuple(images.shape[1:])}"
            )
        images = images.to(self.network.mean.device)
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return self.at(width)(images)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify this family: a hash of its description and all its weights."""
        digest = hashlib.sha256(json.dumps(self._describe(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def save(self, folder: str | Path) -> None:
        """Write `family.safetensors` and `family.json` into a folder, each atomically.

        Raises:
            SfscError: the folder cannot be written; what it held is unharmed.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_atomic(Path(folder) / WEIGHTS_FILE, safetensors.torch.save(tensors))
        write_json(Path(folder) / DESCRIPTION_FILE, {**self._describe(), "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, folder: str | Path) -> Family:
        """Read a family that `save` wrote; it comes in evaluation mode.

        Raises:
            SfscError: the folder holds no family, a newer format, or damaged files.
        """
        description_path, weights_path = Path(folder) / DESCRIPTION_FILE, Path(folder) / WEIGHTS_FILE
        if not description_path.is_file() or not weights_path.is_file():
            raise SfscError(
                f"{folder} holds no trained family: it lacks {DESCRIPTION_FILE} or {WEIGHTS_FILE}"
            )
        description = read_json(description_path)
        family = cls._from_description(description, description_path)
        try:
            family.load_state_dict(safetensors.torch.load_file(weights_path))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise SfscError(f"{weights_path} is damaged: {first_line(error)}") from None
        if family.fingerprint != description.get("fingerprint"):
            raise SfscError(f"{weights_path} is not the file that {description_path} describes")
        return family.eval()

    @classmethod
    def _from_description(cls, description: Any, path: Path) -> Family:
        try:
            if description["format"] > FORMAT:
                raise SfscError(f"{path} was written by a newer sfsc: upgrade to read it")
            spec = FamilySpec(
                description["backbone"],
                Widths.of(description["widths"]),
                description["embedding_dim"],
                tuple(description["image_size"]),
                tuple(description.get("keep", FORMAT_1["keep"])),
                description.get("round_to", FORMAT_1["round_to"]),
                description.get("configuration", FORMAT_1["configuration"]),
            )
            network = _new_network(spec)
            return cls(spec, network, _analyse(spec, network, spec.widths.narrow[:1]))
        except (KeyError, TypeError) as error:
            raise SfscError(f"{path} does not describe a family: {error!r}") from None

    def _describe(self) -> dict[str, Any]:
        description = {**asdict(self.spec), "widths": list(self.widths), "keep": list(self.spec.keep)}
        # What format 1 did not know is left out where it says nothing: such families keep their fingerprints.
        unsaid = {name for name, value in FORMAT_1.items() if description[name] == value}
        version = 1 if unsaid == set(FORMAT_1) else FORMAT
        return {"format": version, **{k: v for k, v in description.items() if k not in unsaid}}


def _new_network(spec: FamilySpec) -> Embedder:
    backbone = find_backbone(spec.backbone, spec.configuration)
    return Embedder.build(backbone, spec.image_size, spec.embedding_dim)


def _analyse(spec: FamilySpec, network: Embedder, widths: Sequence[float]) -> Structure:
    """The structure of a network; that sub-models compute what they should is checked at these widths."""
    structure, graph = analyse(network, torch.zeros(2, 3, *spec.image_size), spec.keep)
    return settle(network, structure, graph, [structure.counts(width, spec.round_to) for width in widths])
