"""A family: one network, its nested sub-models, one embedding space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sfsc.backbones.sources import check_code, find_backbone
from sfsc.backbones.weights import load_weights, no_larger_than, read_weights
from sfsc.dimensions import check_dimension, shorten
from sfsc.errors import SfscError, first_line
from sfsc.family.calibration import Calibration
from sfsc.family.embedder import Embedder, check_images
from sfsc.family.spec import FamilySpec, read_spec
from sfsc.files.tensors import write_tensors
from sfsc.files.writing import write_json
from sfsc.images.batches import as_pixels
from sfsc.runs.description import as_metadata, of_metadata
from sfsc.runs.paths import DESCRIPTION_FILE, FAMILY_FILE
from sfsc.switchable.convert import sort_by_importance
from sfsc.switchable.network import DEFAULT_WIDTHS, ROUND_TO, Switchable
from sfsc.switchable.stored import structure_from_text, structure_to_text
from sfsc.switchable.structure import Structure
from sfsc.switchable.tracer import analyse
from sfsc.switchable.verify import settle
from sfsc.widths import Widths

STRUCTURE = "structure"  # of the metadata in the file of the weights


class Family(Switchable):
    """A switchable network with its widths and embedding head; the sub-networks are its sub-models.

    Where the spec says that they do not share weights, each narrow sub-model has all of its own, in
    `independent`: what the methods train that know no switchable network.
    """

    network: Embedder

    def __init__(self, spec: FamilySpec, network: Embedder, structure: Structure) -> None:
        """Make a family of a dense embedder, which becomes the full sub-model."""
        super().__init__(network, structure, spec.widths, spec.round_to)
        self.spec = spec
        own = self.norms
        if not spec.shared:
            own = self.independent = nn.ModuleList(self.submodel(width) for width in self.widths.narrow)
            self.norms = nn.ModuleList()
        if spec.calibrated:
            for modules in own:
                modules.add_module("calibration", Calibration(spec.embedding_dim))
        if spec.calibrated or not spec.shared:
            self._build()

    def calibration(self, width: float) -> Calibration:
        """The calibration of a narrow sub-model of a calibrated family."""
        return cast(Calibration, cast(Embedder, self.at(width)).calibration)

    def _build(self) -> None:
        super()._build()
        if "independent" in self._modules:
            self._narrow = [*self.independent]
            self._gathered = [[] for _ in self._narrow]

    def corners(self) -> dict[str, list[nn.Parameter]]:
        """As those of `Switchable`; none where nothing is shared."""
        return super().corners() if self.spec.shared else {}

    def corner_orders(self) -> dict[str, list[dict[int, Tensor]]]:
        """As those of `Switchable`; none where nothing is shared."""
        return super().corner_orders() if self.spec.shared else {}

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
        shared: bool = True,
        nested_dims: Sequence[int] = (),
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
            shared: one switchable network; else an independent network for each width, which begin with the
                weights that sub-models would have, but with embedding heads of their own.
            nested_dims: how many of the embeddings' first components are to stand alone, increasing.

        Raises:
            SfscError: unknown backbone, wrong widths or nested dimensions, weights that do not fit, a module
                that cannot be cut.
        """
        configuration = find_backbone(backbone).configuration
        spec = FamilySpec(
            *(backbone, Widths.of(widths), embedding_dim, image_size),
            *(tuple(keep), round_to, configuration, shared),
            nested_dims=tuple(nested_dims),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = _new_network(spec)
        if weights is not None:
            load_weights(backbone, network.backbone, weights)
        structure = _analyse(spec, network, spec.widths.narrow)
        if weights is not None:
            sort_by_importance(network, structure)
        family = cls(spec, network, structure)
        if not shared:
            with torch.random.fork_rng():
                torch.manual_seed(seed + 1)
                for width in family.widths.narrow:
                    cast(Embedder, family.at(width)).linear.reset_parameters()
        return family

    def embed(self, images: Tensor, width: float = 1.0) -> Tensor:
        """Embed images with the sub-model of this width.

        Args:
            images: (batch, 3, height, width) RGB, uint8 or float32 in [0, 1], of `spec.image_size`.
            width: one of the family's widths.

        Returns:
            (batch, embedding_dim) float32, of length 1, on the family's device.

        Raises:
            SfscError: not one of the family's widths, or images of another shape, dtype or range.
        """
        check_images(images, self.spec.image_size)
        return self.at(width)(images.to(self.network.mean.device))

    @torch.inference_mode()
    def embed_pixels(
        self, images: np.ndarray, width: float = 1.0, dimension: int | None = None
    ) -> np.ndarray:
        """See `Model`."""
        self.check_width(width)
        if dimension is not None:
            self.check_dimension(dimension)
        pixels = as_pixels(images, self.image_size)
        if not len(pixels):
            return np.empty((0, dimension or self.dimension), np.float32)
        embeddings = self.embed(torch.from_numpy(pixels).permute(0, 3, 1, 2), width).cpu().numpy()
        return embeddings if dimension is None else shorten(embeddings, dimension)

    @property
    def dimension(self) -> int:
        """See `Model`."""
        return self.spec.embedding_dim

    @property
    def dimensions(self) -> tuple[int, ...]:
        """See `Model`."""
        return (*self.spec.nested_dims, self.spec.embedding_dim)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that it embeds."""
        return self.spec.image_size

    @property
    def widest(self) -> float:
        """The width of the full sub-model."""
        return 1.0

    def check_width(self, width: float) -> None:
        """Raise `SfscError` where there is no sub-model of this width."""
        self.widths.index(width)

    def check_dimension(self, dimension: int) -> None:
        """Raise `SfscError` where its embeddings have none of this dimension."""
        check_dimension(dimension, self.dimensions)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify this family: a hash of its description and all its weights.

        Of a calibrated family they are those of the family that it was before, whose space it keeps, followed
        by a dot and 8 digits that identify the calibration.
        """
        state = self.state_dict()
        own = [name for name in state if not name.startswith("network.")]
        fitted = {name: state[name] for name in own if ".calibration." in name}
        description = replace(self.spec, calibrated=False).describe()
        digits = _digest(description, {name: state[name] for name in state if name not in fitted})[:16]
        return f"{digits}.{_digest({}, fitted)[:8]}" if fitted else digits

    def save(self, folder: str | Path) -> None:
        """Write `family.safetensors` into a folder, atomically, then `family.json`: what it is, once more.

        Raises:
            SfscError: the folder cannot be written; what it held is unharmed.
        """
        description = {**self.spec.describe(), "fingerprint": self.fingerprint}
        metadata = {**as_metadata(description), STRUCTURE: structure_to_text(self.structure)}
        write_tensors(Path(folder) / FAMILY_FILE, self.state_dict(), metadata)
        write_json(Path(folder) / DESCRIPTION_FILE, description)

    @classmethod
    def load(cls, folder: str | Path, allow_code: str | None = None) -> Family:
        """Read a family that `save` wrote; it comes in evaluation mode.

        Args:
            folder: where it was saved. What the files there say is checked, and nothing in them is run.
            allow_code: the function package.module:function that is imported and called if it is the family's
                backbone.

        Raises:
            SfscError: the folder holds no family, a newer format, or damaged files; or its backbone is code
                that is not allowed.
        """
        weights_path = Path(folder) / FAMILY_FILE
        if not weights_path.is_file():
            raise SfscError(f"{folder} holds no trained family: it lacks {DESCRIPTION_FILE} or {FAMILY_FILE}")
        metadata, state = read_weights(weights_path)
        values, described_in = of_metadata(Path(folder), metadata)
        spec, fingerprint = read_spec(values, described_in)
        check_code(spec.backbone, allow_code, described_in)
        family = cls._built(spec, described_in, (metadata or {}).get(STRUCTURE))
        try:
            family.load_state_dict(state)
        except RuntimeError as error:
            raise SfscError(f"{weights_path} is damaged: {first_line(error)}") from None
        if family.fingerprint != fingerprint:
            raise SfscError(f"{weights_path} is not the file that {described_in} describes")
        return family.eval()

    @classmethod
    def _built(cls, spec: FamilySpec, path: Path, stored: str | None) -> Family:
        """Build the family that the file at `path` describes, with random weights.

        Earlier versions did not store the structure; it is then read off the network's graph again.
        """
        try:
            with no_larger_than(path.with_name(FAMILY_FILE).stat().st_size):
                network = _new_network(spec)
            if stored is None:
                structure = _analyse(spec, network, spec.widths.narrow[:1])
            else:
                structure = structure_from_text(stored, network)
            return cls(spec, network, structure)
        except SfscError:
            raise
        except Exception as error:  # packages raise what they like at a configuration that nobody tried
            raise SfscError(f"{path} does not describe a family: {first_line(error)}") from error


def _new_network(spec: FamilySpec) -> Embedder:
    backbone = find_backbone(spec.backbone, spec.configuration)
    return Embedder.build(backbone, spec.image_size, spec.embedding_dim)


def _analyse(spec: FamilySpec, network: Embedder, widths: Sequence[float]) -> Structure:
    """The structure of a network; that sub-models compute what they should is checked at these widths."""
    structure, graph = analyse(network, torch.zeros(2, 3, *spec.image_size), spec.keep)
    return settle(network, structure, graph, [structure.counts(width, spec.round_to) for width in widths])


def _digest(description: dict[str, Any], state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
