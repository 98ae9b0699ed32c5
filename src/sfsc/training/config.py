"""The settings of a training run."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from sfsc.dimensions import all_dimensions
from sfsc.errors import SfscError, first_line, one_line
from sfsc.files.schema import conform
from sfsc.files.writing import read_bytes, read_json
from sfsc.runs.datasets import relocated, split_name
from sfsc.runs.paths import CONFIG_FILE, find
from sfsc.training.recipes import ADJUSTABLE, Recipe, find_recipe
from sfsc.widths import Widths

MOST_BYTES = 1 << 20  # of a file of settings
NO_PATHS = {"default", "none", "imagenet"}  # settings of weights


def _read_widths(value: Any) -> tuple[float, ...]:
    return Widths.of(value).ratios


class Config(BaseModel):
    """Everything that decides what a training run computes.

    Raises:
        SfscError: through `make`, for an unknown setting or a value that is out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    dataset: str = Field(description="KIND:PATH of the data set")
    recipe: str = Field("sfsc", description="training method")
    backbone: str = Field(
        "efficientnet_lite0",
        description="name of a backbone: built-in, transformers:..., timm:..., torchvision:..., python:...",
    )
    weights: str = Field(
        "default",
        description="pretrained weights: default (its package's or folder's, if any), none, a file, a folder",
    )
    widths: Annotated[tuple[float, ...], BeforeValidator(_read_widths)] = Field(
        (0.25, 0.5, 0.75, 1.0), description="channel ratios of the sub-models, increasing to 1.0"
    )
    keep: tuple[str, ...] = Field((), description="names of modules that all widths leave whole")
    round_to: int = Field(
        8, ge=1, description="channel counts are rounded up to multiples of this; 1 for none"
    )
    embedding_dim: int = Field(128, ge=2, description="dimension of the embeddings")
    nested_dims: tuple[int, ...] = Field(
        (), description="how many of the first components are trained to stand alone, increasing"
    )
    image_size: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="height and width in pixels; by default what suits the data set"
    )
    epochs: int = Field(20, ge=1, description="passes over the training images")
    identities_per_batch: int = Field(16, ge=2, description="P of the P x K sampler, over all ranks")
    images_per_identity: int = Field(4, ge=1, description="K of the P x K sampler")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw or sgd (Nesterov, momentum 0.9)")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.05, ge=0, description="not applied to normalisation layers and biases")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the aggregated gradient")
    augment: float = Field(1.0, ge=0, le=1, description="strength of the augmentation; 0 for none")
    scale: float = Field(10.0, gt=0, description="logit of cosine 1 between embedding and class")
    loss: Literal["cross_entropy", "evidential"] | None = Field(
        None, description="of the classifier's logits; by default the recipe's, as the next four"
    )
    aggregation: Literal["sum", "projection", "upgrad", "cagrad", "mgda"] | None = Field(
        None, description="how the sub-models' gradients become one"
    )
    influence: float | None = Field(
        None, ge=0, description="weight of the influence loss under the full sub-model's classifier"
    )
    asymmetric: float | None = Field(
        None, ge=0, description="weight of the contrastive loss to the full sub-model's embeddings"
    )
    alignment: float | None = Field(
        None, ge=0, description="weight of the alignment to the full sub-model's embeddings"
    )
    granularity: Literal["tensor", "layer", "model"] = Field(
        "tensor", description="what gradients are compared over: each tensor, each layer, the whole model"
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the forward pass")
    channels_last: bool = Field(False, description="memory layout: faster for depthwise networks on a CPU")
    compile: bool = Field(False, description="compile the sub-models: minutes once, then faster steps")
    sync_batch_norm: bool = Field(
        True, description="several ranks: normalise over all their images; else each over its own"
    )
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    seed: int = Field(0, ge=0, description="of everything random")
    workers: int = Field(2, ge=0, description="processes that decode images, for each rank")
    log_every: int = Field(10, ge=1, description="steps between lines of the log")
    checkpoint_every: int = Field(200, ge=1, description="steps between checkpoints")
    max_corrupt: float = Field(
        0.01, ge=0, le=1, description="share of the training images that may be unreadable"
    )

    @field_validator("nested_dims")
    @classmethod
    def _check_nested_dims(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if "embedding_dim" in info.data:  # else that is what is wrong
            all_dimensions(value, info.data["embedding_dim"])
        return value

    @property
    def method(self) -> Recipe:
        """The recipe with what the settings change of it; SfscError where there is none of its name."""
        return find_recipe(self.recipe, {name: getattr(self, name) for name in ADJUSTABLE})

    def relocated(self, place: Callable[[str], str]) -> Config:
        """The settings with other paths: what `place` makes of each that they name."""
        update = {"dataset": relocated(self.dataset, place)}
        if self.weights not in NO_PATHS:
            update["weights"] = place(self.weights)
        source, _, name = self.backbone.partition(":")
        if source == "transformers" and os.sep in name:
            update["backbone"] = f"{source}:{place(name)}"
        return self.model_copy(update=update)

    @classmethod
    def make(cls, settings: dict[str, Any]) -> Config:
        """A configuration from settings; SfscError naming the first that is wrong."""
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise SfscError(
                    f"unknown setting {name!r}; there are {', '.join(cls.model_fields)}"
                ) from None
            if first["type"] == "missing":
                raise SfscError(f"the setting {name!r} is needed") from None
            got = one_line(reprlib.repr(first["input"]), 100)
            raise SfscError(f"setting {name}: {first['msg']}, got {got}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a YAML (or JSON) file; SfscError naming the file where it is none."""
    try:
        settings = yaml.safe_load(read_bytes(path, MOST_BYTES).decode())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SfscError(f"{path} is not YAML: {_reason(error)}") from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise SfscError(f"{path} must hold settings as 'name: value' lines")
    return settings


def parse_setting(text: str) -> tuple[str, Any]:
    """The name and value of "NAME=VALUE"; SfscError where it is not of that form."""
    name, equals, value = text.partition("=")
    if not equals:
        raise SfscError(f"a setting is NAME=VALUE, got {text!r}")
    try:
        return name, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SfscError(f"the value of setting {name} is not YAML: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What is wrong with a YAML text, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return first_line(error)


def read_config(run: Path) -> Config:
    """The configuration of a run folder, with the paths that it names where they are now.

    Raises:
        SfscError: the folder is none.
    """
    if not (run / CONFIG_FILE).is_file():
        raise SfscError(f"{run} is not a run folder: it has no {CONFIG_FILE}; make one with sfsc train")
    try:
        config = Config.make(stored_settings(run))
    except SfscError as error:
        raise SfscError(f"{run / CONFIG_FILE} is damaged: {error}") from None
    return config.relocated(partial(find, run=run))


def stored_settings(run: Path) -> dict[str, Any]:
    """The settings in a run folder as they stand there; SfscError where they are damaged."""
    try:
        settings: dict[str, Any] = conform(read_json(run / CONFIG_FILE), dict[str, Any])
    except ValueError as error:
        raise SfscError(f"{run / CONFIG_FILE} is damaged: {error}") from None
    return settings


def dataset_of(run: Path) -> str:
    """KIND:PATH of the data set that a run was trained on; SfscError where it is gone."""
    name = read_config(run).dataset
    parts = split_name(name)
    if parts and not os.path.exists(parts[1]):
        raise SfscError(
            f"{run} was trained on {name}, which is neither there nor below a folder above the run: "
            f"name another, or say where it is now with `sfsc train KIND:PATH --out {run} --resume`"
        )
    return name
