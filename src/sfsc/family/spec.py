"""The specification of a family, and how its stored description is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from sfsc.dimensions import all_dimensions
from sfsc.errors import SfscError
from sfsc.files.schema import conform
from sfsc.notation import Size, check_depths, check_sizes
from sfsc.switchable.network import ROUND_TO
from sfsc.widths import Widths

FORMAT = 7
# Fields that the first format lacked: the format that introduced each, and the value in older families.
LATER: dict[str, tuple[int, Any]] = {
    "keep": (2, []),
    "round_to": (2, 1),
    "configuration": (2, None),
    "shared": (3, True),
    "calibrated": (3, False),
    "nested_dims": (4, []),
    "image_sizes": (5, []),
    "added": (5, []),
    "depths": (6, []),
    "ratios": (6, []),
    "normalisation": (7, "batch"),
}
MOST_DIMENSIONS, MOST_PIXELS, MOST_WIDTHS = 1 << 14, 1 << 22, 64


class Description(TypedDict):
    """The contents of `family.json`."""

    format: int
    backbone: str
    widths: list[float]
    embedding_dim: int
    image_size: tuple[int, int]
    fingerprint: NotRequired[str]
    keep: NotRequired[tuple[str, ...]]
    round_to: NotRequired[int]
    configuration: NotRequired[dict[str, Any] | None]
    shared: NotRequired[bool]
    calibrated: NotRequired[bool]
    nested_dims: NotRequired[tuple[int, ...]]
    image_sizes: NotRequired[tuple[tuple[float, Size], ...]]
    added: NotRequired[tuple[float, ...]]
    depths: NotRequired[tuple[tuple[float, float], ...]]
    ratios: NotRequired[tuple[tuple[float, tuple[float, ...]], ...]]
    normalisation: NotRequired[str]


@dataclass(frozen=True)
class FamilySpec:
    """The specification that a family is built from.

    Attributes:
        backbone: the name of the backbone, as `find_backbone` takes it.
        widths: the channel ratios of the sub-models.
        embedding_dim: the dimension of the embeddings.
        image_size: (height, width) in pixels.
        keep: dotted names of modules that keep all channels, as for `to_switchable`.
        round_to: channel counts are rounded up to multiples of this, as for `to_switchable`.
        configuration: the backbone's configuration, if its name alone does not determine it.
        shared: whether the sub-models share one switchable network; otherwise each width has an independent
            network.
        calibrated: whether the narrow sub-models have a `Calibration`.
        nested_dims: the prefix lengths that also work as embeddings, increasing.
        image_sizes: the (height, width) in pixels of the images of narrow sub-models, by width, where it is
            not `image_size`.
        added: the narrow widths that were added to the trained family, increasing.
        depths: the share of the blocks of each stage that a narrow sub-model keeps, by width, where it is not
            1.
        ratios: for added widths whose groups of channels have ratios of their own, the width and the channel
            ratio of each group, in the order of `Structure.groups`. Such a width is the name of its sub-model
            and its place among the others.
        normalisation: the normalisation of a built-in backbone, as `Backbone.normalised` takes it.

    Raises:
        SfscError: the nested dimensions do not increase, or one of them is below 2 or not below
            `embedding_dim`; an image size is not one of a narrow sub-model, or exceeds `image_size`; a depth
            is not one of a narrow sub-model, or not within (0, 1]; an added width is not a narrow one; ratios
            are outside (0, 1] or not those of one added width; or a number exceeds `MOST_DIMENSIONS`,
            `MOST_PIXELS` or `MOST_WIDTHS`.
    """

    backbone: str
    widths: Widths
    embedding_dim: int
    image_size: tuple[int, int]
    keep: tuple[str, ...] = ()
    round_to: int = ROUND_TO
    configuration: dict[str, Any] | None = None
    shared: bool = True
    calibrated: bool = False
    nested_dims: tuple[int, ...] = ()
    image_sizes: tuple[tuple[float, Size], ...] = ()
    added: tuple[float, ...] = ()
    depths: tuple[tuple[float, float], ...] = ()
    ratios: tuple[tuple[float, tuple[float, ...]], ...] = ()
    normalisation: str = "batch"

    def __post_init__(self) -> None:
        all_dimensions(self.nested_dims, self.embedding_dim)
        if not {*self.added} <= {*self.widths.narrow}:
            raise SfscError(
                f"the added widths {self.added} are not all among the narrow ones of {self.widths}"
            )
        shaped = [width for width, _ in self.ratios]
        if len({*shaped}) < len(shaped) or not {*shaped} <= {*self.added}:
            raise SfscError("the ratios of groups of channels must each belong to one added width")
        if not all(0 < ratio <= 1 for _, ratios in self.ratios for ratio in ratios):
            raise SfscError("the ratios of groups of channels must lie within (0, 1]")
        height, width = self.image_size
        if not 0 < self.embedding_dim <= MOST_DIMENSIONS:
            raise SfscError(
                f"embeddings must have 1 to {MOST_DIMENSIONS} dimensions, not {self.embedding_dim}"
            )
        if min(height, width) < 1 or height * width > MOST_PIXELS:
            raise SfscError(f"images must have 1 to {MOST_PIXELS} pixels, not {height} x {width}")
        if len(self.widths) > MOST_WIDTHS:
            raise SfscError(f"a family has at most {MOST_WIDTHS} widths, not {len(self.widths)}")
        check_sizes(self.image_sizes, self.widths.ratios, self.image_size)
        check_depths(self.depths, self.widths.ratios)

    def image_size_of(self, width: float) -> Size:
        """Return the (height, width) in pixels of the images that the sub-model of a width embeds.

        Raises:
            SfscError: the family has no such width.
        """
        self.widths.index(width)
        return dict(self.image_sizes).get(width, self.image_size)

    def depth_of(self, width: float) -> float:
        """Return the share of the blocks of each stage that the sub-model of a width keeps.

        Raises:
            SfscError: the family has no such width.
        """
        self.widths.index(width)
        return dict(self.depths).get(width, 1.0)

    def ratios_of(self, width: float) -> float | tuple[float, ...]:
        """Return the channel ratio of a sub-model, or that of each group of channels if they differ."""
        return dict(self.ratios).get(width, width)

    def trained(self) -> FamilySpec:
        """Return the specification of the trained family: without calibration and added widths."""
        widths = Widths(tuple(width for width in self.widths if width not in self.added))
        sizes = tuple((width, size) for width, size in self.image_sizes if width not in self.added)
        depths = tuple((width, depth) for width, depth in self.depths if width not in self.added)
        fitted: dict[str, Any] = {"calibrated": False, "added": (), "ratios": ()}
        return replace(self, widths=widths, image_sizes=sizes, depths=depths, **fitted)

    def describe(self) -> dict[str, Any]:
        """Return the spec as JSON values, with the oldest format that can express it."""
        names = ("widths", "keep", "nested_dims", "image_sizes", "added", "depths", "ratios")
        description = {**asdict(self), **{name: list(getattr(self, name)) for name in names}}
        # Fields with the values of older families are left out, so that fingerprints do not change.
        unsaid = {name for name, (_, before) in LATER.items() if description[name] == before}
        version = max([1, *(since for name, (since, _) in LATER.items() if name not in unsaid)])
        return {"format": version, **{k: v for k, v in description.items() if k not in unsaid}}


def read_spec(values: Any, path: Path) -> tuple[FamilySpec, str | None]:
    """Return the spec in a description, and the fingerprint of the weights that belong to it.

    Args:
        values: the description as parsed from JSON.
        path: the file that contains it, for messages.

    Raises:
        SfscError: it does not describe a family, or it has a newer format.
    """
    try:
        if conform(conform(values, dict[str, Any]).get("format"), int, "its format") > FORMAT:
            raise SfscError(f"{path} was written by a newer sfsc: upgrade sfsc to read it")
        said = conform(values, Description)
        later: dict[str, Any] = {name: said.get(name, before) for name, (_, before) in LATER.items()}
        sizes = said["embedding_dim"], said["image_size"]
    except ValueError as error:
        raise SfscError(f"{path} does not describe a family: {error}") from None
    try:
        later |= {name: tuple(value) for name, value in later.items() if isinstance(value, list)}
        spec = FamilySpec(said["backbone"], Widths.of(said["widths"]), *sizes, **later)
    except SfscError as error:
        raise SfscError(f"{path} does not describe a family: {error}") from None
    return spec, said.get("fingerprint")
