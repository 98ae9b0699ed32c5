"""A family: one network, its nested sub-models, one embedding space."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sfsc.errors import SfscError, first_line
from sfsc.files import read_json, write_atomic, write_json
from sfsc.switchable.backbones import find_backbone, load_weights
from sfsc.switchable.convert import cut_norms, narrow, norm_names, sort_by_importance
from sfsc.switchable.embedder import Embedder
from sfsc.switchable.structure import channel_groups
from sfsc.widths import Widths

FORMAT = 1
DEFAULT_WIDTHS = Widths()
WEIGHTS_FILE = "family.safetensors"
DESCRIPTION_FILE = "family.json"


@dataclass(frozen=True)
class FamilySpec:
    """What a family is built from; `image_size` is (height, width) in pixels."""

    backbone: str
    widths: Widths
    embedding_dim: int
    image_size: tuple[int, int]


class Family(nn.Module):
    """A switchable network with its widths and embedding head.

    Each sub-model is a dense network over corners of one set of weights (views, no copies) with
    normalisation layers of its own. No state says which width is in force: it is an argument, so any
    number of threads may embed at different widths at once.

    `parameters()` are those of the full network, then the narrower widths' normalisation layers.
    """

    def __init__(self, spec: FamilySpec, network: Embedder) -> None:
        """Make a family of a dense embedder, which becomes the full sub-model.

        Raises:
            SfscError: a module of the network cannot be cut; the message names it.
        """
        super().__init__()
        self.spec = spec
        self.network = network
        self.groups = channel_groups(network, torch.zeros(2, 3, *spec.image_size))
        self.norms = nn.ModuleList(
            nn.ModuleDict(
                {
                    name.replace(".", "/"): norm
                    for name, norm in cut_norms(network, self.groups, width).items()
                }
            )
            for width in self.narrow_widths
        )
        self._build()

    @classmethod
    def create(
        cls,
        backbone: str = "efficientnet_lite0",
        widths: str | Sequence[float] | Widths = DEFAULT_WIDTHS,
        embedding_dim: int = 128,
        image_size: tuple[int, int] = (64, 64),
        weights: str | None = None,
        seed: int = 0,
    ) -> Family:
        """A new, untrained family of a built-in backbone.

        Args:
            backbone: a name of `sfsc.switchable.backbones.BACKBONES`.
            widths: the channel ratios, increasing to 1.0.
            embedding_dim: the embeddings' dimension d.
            image_size: (height, width) in pixels.
            weights: pretrained weights of the backbone, as in `load_weights`: its channels are then
                sorted by importance, so that narrow sub-models keep the best of them.
            seed: of the random initialisation.

        Raises:
            SfscError: unknown backbone, wrong widths, weights that do not fit.
        """
        spec = FamilySpec(backbone, Widths.of(widths), embedding_dim, image_size)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = _new_network(spec)
        if weights is not None:
            load_weights(backbone, network.backbone, weights)
            sort_by_importance(network, channel_groups(network, torch.zeros(2, 3, *image_size)))
        return cls(spec, network)

    @property
    def widths(self) -> Widths:
        """The widths, increasing; the last is 1.0, the full sub-model."""
        return self.spec.widths

    @property
    def narrow_widths(self) -> tuple[float, ...]:
        """The widths below 1.0."""
        return self.widths.ratios[:-1]

    def at(self, width: float) -> nn.Module:
        """The live sub-model of this width: a dense network that shares the family's weights."""
        index = self.widths.index(width)
        return self.network if width == 1.0 else self._narrow[index]

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

    def submodel(self, width: float) -> nn.Module:
        """A plain dense copy of one sub-model, with contiguous weights and no trace of the others."""
        return copy.deepcopy(self.at(width))

    def corners(self) -> dict[str, list[nn.Parameter]]:
        """For each shared parameter of the full network, by name: its part in every sub-model, narrow first.

        All are views of one storage. Normalisation parameters are not shared and not among them.
        """
        own = norm_names(self.network)
        networks = [dict(self.at(width).named_parameters()) for width in self.widths]
        return {
            name: [network[name] for network in networks]
            for name in networks[-1]
            if name.rpartition(".")[0] not in own
        }

    def parameter_count(self, width: float) -> int:
        """The number of parameters of one sub-model."""
        return sum(p.numel() for p in self.at(width).parameters())

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
            )
            return cls(spec, _new_network(spec))
        except (KeyError, TypeError) as error:
            raise SfscError(f"{path} does not describe a family: {error!r}") from None

    def _describe(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self.spec), "widths": list(self.widths)}

    def _build(self) -> None:
        """Lay the narrow networks over the full one's storage; needed whenever that storage moves."""
        self._narrow = tuple(
            narrow(
                self.network,
                self.groups,
                width,
                {name.replace("/", "."): norm for name, norm in _items(norms)},
            )
            for width, norms in zip(self.narrow_widths, self.norms, strict=True)
        )

    def train(self, mode: bool = True) -> Family:
        """Set training or evaluation mode for every sub-model."""
        super().train(mode)
        for network in self._narrow:
            network.train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Family:
        super()._apply(fn, recurse)
        self._build()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_narrow"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._build()


def _items(norms: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(norms.named_children())


def _new_network(spec: FamilySpec) -> Embedder:
    backbone = find_backbone(spec.backbone)
    network = backbone.build()
    with torch.no_grad():
        channels = network.eval()(torch.zeros(1, 3, *spec.image_size)).shape[1]
    return Embedder(network, channels, spec.embedding_dim, backbone.mean, backbone.std).train()
