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
from sfsc.notation import read_written
from sfsc.runs.datasets import relocated, split_name
from sfsc.runs.paths import CONFIG_FILE, find, split_detail
from sfsc.training.recipes import ADJUSTABLE, Recipe, find_recipe

MOST_BYTES = 1 << 20  # maximum size of a settings file
NO_PATHS = {"default", "none", "imagenet"}  # values of `weights` that are not paths


def _read_widths(value: Any) -> tuple[float | str, ...]:
    return tuple(one.value for one in read_written(value))


class Config(BaseModel):
    """The settings of a training run, with their defaults and ranges.

    Every setting is described in docs/training.md. A setting that is unknown or out of range raises
    `pydantic.ValidationError`, or `SfscError` with a one-line message if the settings are made by `make`.
    Settings that contradict each other raise `SfscError` in both cases.

    Example::

        config = sfsc.Config(dataset="folder:photos", backbone="small", epochs=3)
        config = sfsc.Config.make({"dataset": "folder:photos", "widths": "0.5,1.0"})
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
        description="pretrained weights: default (the backbone's own, if any), none, a file or a folder",
    )
    normalisation: Literal["batch", "instance_batch", "switchable_whitening"] = Field(
        "batch",
        description="normalisation of a built-in backbone: batch, or instance_batch or switchable_whitening "
        "in place of some BatchNorms, against [shifts of domain](#normalisation)",
    )
    widths: Annotated[tuple[float | str, ...], BeforeValidator(_read_widths)] = Field(
        (0.25, 0.5, 0.75, 1.0),
        description="channel ratios of the sub-models, increasing to 1.0; `0.25@48` adds an "
        "[image size](#image-sizes), `0.25/0.5` a [depth](#depth)",
    )
    random_widths: int = Field(
        0, ge=0, description="number of random widths that each joint step trains besides these"
    )
    keep: tuple[str, ...] = Field((), description="names of modules that keep all channels at every width")
    round_to: int = Field(
        8, ge=1, description="channel counts are rounded up to multiples of this; 1 for no rounding"
    )
    embedding_dim: int = Field(128, ge=2, description="dimension of the embeddings")
    nested_dims: tuple[int, ...] = Field(
        (), description="prefix lengths that are trained to work as shorter embeddings, increasing"
    )
    image_size: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="height and width in pixels; by default the size that suits the data set"
    )
    epochs: int = Field(20, ge=1, description="passes over the training images")
    identities_per_batch: int = Field(16, ge=2, description="P of the P x K sampler, over all ranks")
    images_per_identity: int = Field(4, ge=1, description="K of the P x K sampler")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw or sgd (Nesterov, momentum 0.9)")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(
        0.05, ge=0, description="weight decay of all parameters but those of normalisation layers and biases"
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="share of the steps during which the learning rate rises"
    )
    clip_norm: float = Field(5.0, gt=0, description="maximum norm of the aggregated gradient")
    augment: float = Field(1.0, ge=0, le=1, description="strength of the augmentation; 0 for none")
    random_erasing: float | None = Field(
        None, ge=0, le=1, description="probability of a white patch in an image; by default half of augment"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of a label that is distributed over all identities"
    )
    unlabelled: str | None = Field(
        None,
        description="[images without labels](#images-without-labels) that narrow sub-models are aligned on, "
        "too: a folder, or KIND:PATH, whose training images are taken",
    )
    unlabelled_per_batch: int = Field(32, ge=1, description="number of them in a batch, over all ranks")
    triplet: float = Field(
        0.0, ge=0, description="weight of the triplet loss with the hardest images of a batch"
    )
    extra_steps: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="steps of each narrow sub-model alone after each joint step, narrow first"
    )
    scale: float = Field(10.0, gt=0, description="logit of a cosine of 1 between embedding and class")
    loss: Literal["cross_entropy", "evidential"] | None = Field(
        None,
        description="classification loss; by default the recipe's, like the settings down to granularity",
    )
    full_loss: Literal["cross_entropy", "evidential"] | None = Field(
        None, description="classification loss of the full sub-model"
    )
    logits: Literal["cosine", "linear"] | None = Field(
        None, description="cosine (times scale), or linear, of embeddings before their normalisation"
    )
    evidence: Literal["exp", "softplus"] | None = Field(
        None, description="evidence of a logit in the evidential loss"
    )
    evidence_kl: float | None = Field(
        None, ge=0, description="weight of the penalty on evidence of wrong identities in the evidential loss"
    )
    evidence_kl_ramp: float | None = Field(
        None, ge=0, le=1, description="share of the steps during which evidence_kl rises from 0"
    )
    aggregation: Literal["sum", "projection", "agreement", "upgrad", "cagrad", "mgda"] | None = Field(
        None, description="how the gradients of the sub-models are combined into one"
    )
    influence: float | None = Field(
        None, ge=0, description="weight of the influence loss under the full sub-model's classifier"
    )
    asymmetric: float | None = Field(
        None, ge=0, description="weight of the contrastive loss against the full sub-model's embeddings"
    )
    alignment: float | None = Field(
        None, ge=0, description="weight of the alignment with the full sub-model's embeddings"
    )
    granularity: Literal["kernel", "tensor", "layer", "model"] | None = Field(
        None, description="unit in which gradients are compared: kernel, tensor, layer or the whole model"
    )
    classifier: Literal["learned", "d-simplex"] = Field(
        "learned", description="learned, or d-simplex: fixed directions with equal angles between them"
    )
    teacher: str | None = Field(
        None,
        description="trained model to use instead of the recipe's own teacher, given like old",
    )
    old: str | None = Field(
        None,
        description="old model whose galleries every sub-model learns to search: a run folder, RUN:WIDTH, "
        "an ONNX file, python:module:function, a gallery or a table of embeddings",
    )
    old_influence: float = Field(
        3.0, ge=0, description="weight of the influence loss under the old model's classifier"
    )
    old_contrast: float = Field(
        3.0, ge=0, description="weight of the contrastive loss against the old model's embeddings"
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="dtype of the forward pass")
    channels_last: bool = Field(
        False, description="use the channels-last memory layout: faster for depthwise networks on a CPU"
    )
    compile: bool = Field(
        False, description="compile the sub-models: takes minutes once and makes each step faster"
    )
    sync_batch_norm: bool = Field(
        True, description="with several ranks, normalise over the images of all ranks instead of each rank's"
    )
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    seed: int = Field(0, ge=0, description="seed of all random numbers")
    workers: int = Field(2, ge=0, description="number of processes per rank that decode images")
    log_every: int = Field(10, ge=1, description="steps between two lines of the log")
    checkpoint_every: int = Field(200, ge=1, description="steps between two checkpoints")
    max_corrupt: float = Field(
        0.01, ge=0, le=1, description="maximum share of training images that cannot be read"
    )

    @field_validator("nested_dims")
    @classmethod
    def _check_nested_dims(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if "embedding_dim" in info.data:  # otherwise embedding_dim itself is invalid
            all_dimensions(value, info.data["embedding_dim"])
        return value

    @field_validator("extra_steps")
    @classmethod
    def _check_extra_steps(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        narrow = len(info.data.get("widths", ())) - 1
        if value and narrow >= 0 and len(value) != narrow:
            written = ", ".join(map(str, value))
            raise SfscError(
                f"extra_steps must have one number for each narrow width, here {narrow}, got {written}"
            )
        return value

    @property
    def method(self) -> Recipe:
        """The recipe with the changes of the settings. Raises `SfscError` for an unknown recipe."""
        return find_recipe(self.recipe, {name: getattr(self, name) for name in ADJUSTABLE})

    @property
    def cycle(self) -> tuple[int | None, ...]:
        """The steps that follow each other: None for all sub-models together, or the index of one."""
        return None, *(index for index, count in enumerate(self.extra_steps) for _ in range(count))

    def relocated(self, place: Callable[[str], str]) -> Config:
        """Return the settings with `place` applied to every path in them."""
        update = {"dataset": relocated(self.dataset, place)}
        if self.weights not in NO_PATHS:
            update["weights"] = place(self.weights)
        source, _, name = self.backbone.partition(":")
        if source == "transformers" and os.sep in name:
            update["backbone"] = f"{source}:{place(name)}"
        if self.unlabelled is not None:
            prefix, path = split_name(self.unlabelled) or ("", self.unlabelled)
            update["unlabelled"] = prefix + place(path)
        for setting in ("teacher", "old"):
            model = getattr(self, setting)
            if model is not None and not model.startswith("python:"):
                path, detail = split_detail(model)
                update[setting] = place(path) + (detail and f":{detail}")
        return self.model_copy(update=update)

    @classmethod
    def make(cls, settings: dict[str, Any]) -> Config:
        """Return a configuration; raise `SfscError` naming the first setting that is invalid."""
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise SfscError(
                    f"unknown setting {name!r}; known settings are {', '.join(cls.model_fields)}"
                ) from None
            if first["type"] == "missing":
                raise SfscError(f"the setting {name!r} is required") from None
            got = one_line(reprlib.repr(first["input"]), 100)
            raise SfscError(f"setting {name}: {first['msg']}, got {got}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML (or JSON) file; raise `SfscError` if it is not such a file."""
    try:
        settings = yaml.safe_load(read_bytes(path, MOST_BYTES).decode())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SfscError(f"{path} is not YAML: {_reason(error)}") from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise SfscError(f"{path} must contain settings as 'name: value' lines")
    return settings


def parse_setting(text: str) -> tuple[str, Any]:
    """Return the name and value of "NAME=VALUE"; raise `SfscError` for any other form."""
    name, equals, value = text.partition("=")
    if not equals:
        raise SfscError(f"a setting must have the form NAME=VALUE, got {text!r}")
    try:
        return name, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SfscError(f"the value of setting {name} is not YAML: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Describe what is wrong with a YAML text, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return first_line(error)


def read_config(run: Path) -> Config:
    """Read the settings of a run folder; paths that have moved with it are adjusted.

    Raises:
        SfscError: the folder is not a run folder, or its settings are damaged.
    """
    if not (run / CONFIG_FILE).is_file():
        raise SfscError(f"{run} is not a run folder: it has no {CONFIG_FILE}; make one with sfsc train")
    try:
        config = Config.make(stored_settings(run))
    except SfscError as error:
        raise SfscError(f"{run / CONFIG_FILE} is damaged: {error}") from None
    return config.relocated(partial(find, run=run))


def stored_settings(run: Path) -> dict[str, Any]:
    """Return the settings in a run folder exactly as stored; raise `SfscError` if they are damaged."""
    try:
        settings: dict[str, Any] = conform(read_json(run / CONFIG_FILE), dict[str, Any])
    except ValueError as error:
        raise SfscError(f"{run / CONFIG_FILE} is damaged: {error}") from None
    return settings


def dataset_of(run: Path) -> str:
    """Return KIND:PATH of the data set that a run was trained on; raise `SfscError` if it is missing."""
    name = read_config(run).dataset
    parts = split_name(name)
    if parts and not os.path.exists(parts[1]):
        raise SfscError(
            f"{run} was trained on {name}, which was found neither there nor relative to the run folder: "
            f"name another data set, or its new path with `sfsc train KIND:PATH --out {run} --resume`"
        )
    return name
