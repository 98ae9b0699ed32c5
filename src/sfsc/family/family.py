"""The `Family`: one network with nested sub-models that embed into one space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from sfsc.backbones.sources import check_code, find_backbone
from sfsc.backbones.weights import load_weights, no_larger_than, read_weights
from sfsc.decisions.thresholds import THRESHOLDS_FILE, Thresholds
from sfsc.dimensions import check_dimension, shorten
from sfsc.errors import SfscError, first_line
from sfsc.family.build import analysed, new_network
from sfsc.family.calibration import Calibration
from sfsc.family.embedder import Embedder, check_images
from sfsc.family.fingerprint import fingerprint_of
from sfsc.family.spec import FamilySpec, read_spec
from sfsc.files.tensors import write_tensors
from sfsc.files.writing import write_json
from sfsc.images.batches import as_pixels
from sfsc.notation import Size, depths_of, name_of, read_written, sizes_of
from sfsc.runs.description import as_metadata, of_metadata
from sfsc.runs.paths import DESCRIPTION_FILE, FAMILY_FILE
from sfsc.switchable.convert import sort_by_importance
from sfsc.switchable.network import DEFAULT_WIDTHS, ROUND_TO, Switchable
from sfsc.switchable.stored import structure_from_text, structure_to_text
from sfsc.switchable.structure import Structure
from sfsc.widths import Widths

STRUCTURE = "structure"  # of the metadata in the file of the weights


class Family(Switchable):
    """A switchable network with an embedding head; its sub-networks are the sub-models.

    `train` and `Family.load` return families.

    Example::

        family = sfsc.Family.load("runs/photos")
        images = torch.rand(8, 3, *family.image_size)
        small = family.embed(images, width=0.25)  # (8, embedding_dim), of length 1
        large = family.embed(images)
        print((small * large).sum(1))  # cosines: both are in the same space
    """

    network: Embedder
    _folder: Path | None = None

    def __init__(self, spec: FamilySpec, network: Embedder, structure: Structure) -> None:
        """Make a family from a dense embedder, which becomes the full sub-model."""
        self._check_stages(spec, structure)
        self.spec = spec
        super().__init__(network, structure, spec.widths, spec.round_to)
        if spec.calibrated:
            for modules in self._own:
                modules.add_module("calibration", Calibration(spec.embedding_dim))
            self._build()

    def _depth(self, width: float) -> float:
        return self.spec.depth_of(width)

    @staticmethod
    def _check_stages(spec: FamilySpec, structure: Structure) -> None:
        if spec.depths and not structure.stages:
            width, depth = spec.depths[0]
            raise SfscError(
                f"backbone {spec.backbone} has no residual blocks that a sub-model can leave out, so width "
                f"{width:g} cannot have depth {depth:g}: leave the depth out, or choose another backbone"
            )

    @property
    def _own(self) -> nn.ModuleList:
        """The modules that every narrow sub-model has of its own."""
        return self.norms

    def _ratios(self, width: float) -> float | Sequence[float]:
        return self.spec.ratios_of(width)

    def _coincide(self, first: int, second: int) -> bool:
        sizes = [self.image_size_of(self.widths.ratios[place]) for place in (first, second)]
        return super()._coincide(first, second) and sizes[0] == sizes[1]

    def calibration(self, width: float) -> Calibration:
        """Return the calibration of a narrow sub-model of a calibrated family."""
        return cast(Calibration, cast(Embedder, self.at(width)).calibration)

    @classmethod
    def create(
        cls,
        backbone: str = "efficientnet_lite0",
        widths: str | Sequence[float | str] | Widths = DEFAULT_WIDTHS,
        embedding_dim: int = 128,
        image_size: tuple[int, int] = (64, 64),
        weights: str | None = None,
        seed: int = 0,
        keep: Sequence[str] = (),
        round_to: int = ROUND_TO,
        shared: bool = True,
        nested_dims: Sequence[int] = (),
        normalisation: str = "batch",
    ) -> Family:
        """Create a new, untrained family.

        Args:
            backbone: the name of the backbone, as `find_backbone` takes it.
            widths: the channel ratios, increasing to 1.0. A narrow one can be followed by its depth, the
                share of the residual blocks of each stage that it keeps, and by the size of its images:
                `"0.25@48,0.5/0.75@96x48,1"` for 48 pixels, and for three quarters of the blocks, a height of
                96 and a width of 48. A single number is the height; the width then has the ratio of
                `image_size`.
            embedding_dim: the dimension of the embeddings.
            image_size: (height, width) in pixels of the images of the full sub-model, and of narrow ones
                without a size of their own.
            weights: pretrained weights of the backbone, as `load_weights` takes them. The channels are then
                sorted by importance, so narrow sub-models keep the most important ones.
            seed: the seed of the random initialisation.
            keep: dotted names of modules that keep all channels.
            round_to: channel counts are rounded up to multiples of this; 1 for no rounding.
            shared: whether the sub-models share one switchable network. Otherwise each width gets an
                independent network, which starts with the weights of the sub-model but a new embedding head.
            nested_dims: the prefix lengths that will also work as embeddings, increasing.
            normalisation: batch, instance_batch or switchable_whitening; the last two replace some
                BatchNorms of a built-in backbone.

        Raises:
            SfscError: the backbone is unknown or lacks the normalisation, the widths, image sizes or nested
                dimensions are invalid, the backbone cannot process images of a size, the weights do not fit,
                or a module cannot be cut.

        Example::

            family = sfsc.Family.create("small", widths="0.5,1.0", embedding_dim=64, image_size=(32, 32))
            print([family.parameter_count(width) for width in family.widths])
        """
        configuration = find_backbone(backbone).configuration
        written = read_written(widths)
        spec = FamilySpec(
            backbone=backbone,
            widths=Widths(tuple(one.width for one in written)),
            embedding_dim=embedding_dim,
            image_size=image_size,
            keep=tuple(keep),
            round_to=round_to,
            configuration=configuration,
            shared=shared,
            nested_dims=tuple(nested_dims),
            normalisation=normalisation,
            image_sizes=sizes_of(written, image_size),
            depths=depths_of(written),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = new_network(spec)
        if weights is not None:
            load_weights(backbone, network.backbone, weights)
        structure = analysed(spec, network, spec.widths.narrow)
        if weights is not None:
            sort_by_importance(network, structure)
        family = _family(spec, network, structure)
        check_image_sizes(family)
        if not shared:
            with torch.random.fork_rng():
                torch.manual_seed(seed + 1)
                for width in family.widths.narrow:
                    cast(Embedder, family.at(width)).linear.reset_parameters()
        return family

    def embed(self, images: Tensor, width: float = 1.0) -> Tensor:
        """Embed images with the sub-model of one width.

        Args:
            images: (batch, 3, height, width) RGB, uint8 or float32 in [0, 1], of size
                `image_size_of(width)`.
            width: one of the family's widths.

        Returns:
            (batch, embedding_dim) float32, of length 1, on the family's device.

        Raises:
            SfscError: the family has no such width, or the images have another shape, dtype or range.
        """
        check_images(images, self.image_size_of(width))
        return self.at(width)(images.to(self.network.mean.device))

    @torch.inference_mode()
    def embed_pixels(
        self, images: np.ndarray, width: float = 1.0, dimension: int | None = None
    ) -> np.ndarray:
        """Embed decoded images with the sub-model of one width.

        Args:
            images: (batch, height, width, 3) uint8 RGB, of size `image_size_of(width)`.
            width: one of the family's widths.
            dimension: the number of first components to return, one of `dimensions`; by default all.

        Returns:
            (batch, dimension) float32, of length 1.

        Raises:
            SfscError: the family has no such width or dimension, or the images have another shape or dtype.
        """
        size = self.image_size_of(width)
        if dimension is not None:
            self.check_dimension(dimension)
        pixels = as_pixels(images, size)
        if not len(pixels):
            return np.empty((0, dimension or self.dimension), np.float32)
        embeddings = self.embed(torch.from_numpy(pixels).permute(0, 3, 1, 2), width).cpu().numpy()
        return embeddings if dimension is None else shorten(embeddings, dimension)

    @property
    def dimension(self) -> int:
        """The dimension of the embeddings."""
        return self.spec.embedding_dim

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The dimensions that embeddings can be shortened to, ascending, and the full dimension."""
        return (*self.spec.nested_dims, self.spec.embedding_dim)

    @property
    def image_size(self) -> tuple[int, int]:
        """The (height, width) in pixels of the images that the full sub-model embeds."""
        return self.spec.image_size

    def image_size_of(self, width: float) -> Size:
        """Return the (height, width) in pixels of the images that the sub-model of a width embeds.

        Raises:
            SfscError: the family has no such width.
        """
        return self.spec.image_size_of(width)

    def depth_of(self, width: float) -> float:
        """Return the share of the residual blocks of each stage that the sub-model of a width keeps.

        Raises:
            SfscError: the family has no such width.
        """
        return self.spec.depth_of(width)

    def name_of(self, width: float) -> str:
        """Return the name of a sub-model: its width, and its depth and image size if they are its own."""
        return name_of(width, self.image_size_of(width), self.image_size, self.depth_of(width))

    def examples(self) -> list[Tensor]:
        """Return a black image for each width, (1, 3, height, width) float32 on the family's device."""
        device = self.network.mean.device
        return [torch.zeros(1, 3, *self.image_size_of(width), device=device) for width in self.widths]

    @property
    def widest(self) -> float:
        """The width of the full sub-model."""
        return 1.0

    @cached_property
    def thresholds(self) -> Thresholds | None:
        """The thresholds in the folder that the family was loaded from, or None; read when first used."""
        if self._folder is None or not (self._folder / THRESHOLDS_FILE).exists():
            return None
        return Thresholds.load(self._folder / THRESHOLDS_FILE)

    def check_width(self, width: float) -> None:
        """Raise `SfscError` if the family has no sub-model of this width."""
        self.widths.index(width)

    def check_dimension(self, dimension: int) -> None:
        """Raise `SfscError` if embeddings of the family cannot have this dimension."""
        check_dimension(dimension, self.dimensions)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify this family: a hash of its description and all its weights.

        A family that was calibrated, or to which widths were added, keeps the space of the trained family.
        Its fingerprint is that family's, followed by a dot and 8 digits that identify what is new.
        """
        return fingerprint_of(self.spec, self.state_dict())

    def save(self, folder: str | Path) -> None:
        """Write the family into a folder: `family.safetensors`, and its description as `family.json`.

        Each file is replaced atomically.

        Raises:
            SfscError: the folder cannot be written; its previous contents are kept.
        """
        description = {**self.spec.describe(), "fingerprint": self.fingerprint}
        metadata = {**as_metadata(description), STRUCTURE: structure_to_text(self.structure)}
        write_tensors(Path(folder) / FAMILY_FILE, self.state_dict(), metadata)
        write_json(Path(folder) / DESCRIPTION_FILE, description)

    @classmethod
    def load(cls, folder: str | Path, allow_code: str | None = None) -> Family:
        """Load a family that `save` wrote.

        The files are checked, and no code in them is run.

        Args:
            folder: the folder that the family was saved in.
            allow_code: a function, as package.module:function, that may be imported and called if it is the
                family's backbone.

        Returns:
            The family, on the CPU, in evaluation mode.

        Raises:
            SfscError: the folder contains no family, a newer format or damaged files, or the backbone is code
                that is not allowed.

        Example::

            family = sfsc.Family.load("runs/photos")
            print(family.widths, family.dimension, family.fingerprint)
        """
        weights_path = Path(folder) / FAMILY_FILE
        if not weights_path.is_file():
            raise SfscError(
                f"{folder} contains no trained family: {DESCRIPTION_FILE} or {FAMILY_FILE} is missing"
            )
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
            raise SfscError(f"{weights_path} does not match its description in {described_in}")
        family._folder = Path(folder)
        return family.eval()

    @classmethod
    def _built(cls, spec: FamilySpec, path: Path, stored: str | None) -> Family:
        """Build the family that the file at `path` describes, with random weights.

        Earlier versions did not store the structure; it is then read off the network's graph again.
        """
        try:
            with no_larger_than(path.with_name(FAMILY_FILE).stat().st_size):
                network = new_network(spec)
            if stored is None:
                structure = analysed(spec, network, spec.widths.narrow[:1])
            else:
                structure = structure_from_text(stored, network)
            return _family(spec, network, structure)
        except SfscError:
            raise
        except Exception as error:  # packages raise arbitrary errors for unknown configurations
            raise SfscError(f"{path} does not describe a family: {first_line(error)}") from error


class IndependentFamily(Family):
    """A family whose sub-models share no weights: each narrow one is a network of its own, in `independent`.

    Rival methods that do not use a switchable network train such families.
    """

    def _divide(self) -> None:
        super()._divide()
        Switchable._build(self)
        self.independent = nn.ModuleList(self.submodel(width) for width in self.widths.narrow)
        self.norms = nn.ModuleList()

    @property
    def _own(self) -> nn.ModuleList:
        return self.independent

    def _build(self) -> None:
        super()._build()
        self._narrow = [*self.independent]
        self._gathered = [[] for _ in self._narrow]

    def corners(self) -> dict[str, list[nn.Parameter]]:
        """Return an empty dictionary: no parameter is shared."""
        return {}

    def corner_orders(self) -> dict[str, list[dict[int, Tensor]]]:
        """Return an empty dictionary: no parameter is shared."""
        return {}


def _family(spec: FamilySpec, network: Embedder, structure: Structure) -> Family:
    """Make a family from a dense embedder, which becomes the full sub-model."""
    return (Family if spec.shared else IndependentFamily)(spec, network, structure)


@torch.no_grad()
def check_image_sizes(family: Family) -> None:
    """Raise `SfscError` if a sub-model cannot process images of its own size."""
    training = family.training
    family.eval()
    for width, image in zip(family.widths, family.examples(), strict=True):
        try:
            family.at(width)(image)
        except Exception as error:  # networks of other packages raise arbitrary errors
            height, across = family.image_size_of(width)
            raise SfscError(
                f"the backbone cannot process images of {height}x{across} pixels, the size of width "
                f"{width:g}: {first_line(error)}; choose another size or leave it out"
            ) from error
    family.train(training)
