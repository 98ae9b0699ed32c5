"""Backbones of the transformers package, by model type or from a folder that `save_pretrained` wrote.

This module never downloads anything.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfsc.backbones.builtin import IMAGENET_MEAN, IMAGENET_STD, Backbone
from sfsc.errors import SfscError, first_line, missing_extra
from sfsc.files.writing import read_json

Colours = tuple[float, float, float]

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
EXAMPLES = "resnet, convnextv2, vit, dinov2, swin, ..."
# Models whose table of positions must be square. They interpolate it for other image sizes.
SQUARE_POSITIONS = {"dinov2", "dinov2_with_registers"}
# Entries of a configuration that do not affect the network without its classifier.
IRRELEVANT = {
    *("_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id"),
    *("torch_dtype", "transformers_version"),
}


# Entries of a configuration that could make transformers fetch code or weights.
FETCHING = {"attn_implementation", "experts_implementation", "use_kernels", "use_pretrained_backbone"}


def find(name: str, configuration: dict[str, Any] | None = None) -> Backbone:
    """Return the backbone `transformers:NAME`.

    Args:
        name: a model type such as "convnextv2", to use its default configuration with the image size of the
            family; or a folder that `save_pretrained` wrote, to use the configuration in it.
        configuration: the `Backbone.configuration` of an earlier call. With it, the folder is not read and
            can be missing.

    Raises:
        SfscError: transformers is not installed, the type or folder does not exist, the folder cannot be
            read, or the model does not take only images.
    """
    transformers = _transformers()
    is_type = name in transformers.CONFIG_MAPPING
    folder = Path(name)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if is_type:
        _check_images(transformers, name, name)
    if configuration is None:
        config = transformers.CONFIG_MAPPING[name]() if is_type else _read_config(folder)
        configuration = _describe(config)
        mean, std = (mean, std) if is_type else read_colours(folder)
    _check_images(transformers, name, configuration["model_type"])

    def build(image_size: tuple[int, int]) -> nn.Module:
        return _build(transformers, configuration, image_size if is_type else None)

    size = configuration.get("image_size")
    return Backbone(
        build,
        mean,
        std,
        default_weights="none" if is_type else name,
        configuration=configuration,
        made_for=(size, size) if isinstance(size, int) else tuple(size) if size else None,
    )


def read_folder(folder: Path, network: nn.Module) -> dict[str, Tensor]:
    """Read the weights in a folder that `save_pretrained` wrote.

    Args:
        folder: the folder.
        network: a network that `Backbone.build` returned.

    Returns:
        The tensors by their names in the network. Missing names are left out. A tensor whose shape differs
        from that in the network is empty.

    Raises:
        SfscError: the network is not one of transformers, or the folder contains no readable weights.
    """
    model_class: Any = type(network)
    if not hasattr(model_class, "from_pretrained"):
        raise SfscError(
            f"{folder} is a folder, which only transformers:NAME supports: give the file of a state dict"
        )
    try:
        with _quiet():
            model, info = model_class.from_pretrained(
                str(folder),
                config=network.config,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                **_without_pooling(model_class),
            )
    except Exception as error:  # transformers raises errors of many unrelated classes
        raise SfscError(f"{folder} contains no readable weights: {first_line(error)}") from error
    state: dict[str, Tensor] = model.state_dict()
    for key in info["missing_keys"]:
        state.pop(key, None)
    for entry in info["mismatched_keys"]:  # depending on the version, a name or a name with two shapes
        state[entry if isinstance(entry, str) else entry[0]] = torch.empty(0)
    return state


def read_colours(folder: Path) -> tuple[Colours, Colours]:
    """Return the mean and standard deviation of RGB in [0, 1] of the image processor in a folder.

    Return those of ImageNet if there is no image processor.
    """
    path = folder / PREPROCESSOR_FILE
    if not path.is_file():
        return IMAGENET_MEAN, IMAGENET_STD
    settings = read_json(path)
    try:
        # Image processors compute (255 * factor * pixel - mean) / std for pixels in [0, 1].
        unit = 255 * settings.get("rescale_factor", 1 / 255)
        normalises = settings.get("do_normalize", True)
        mean = _three(settings.get("image_mean", IMAGENET_MEAN) if normalises else 0.0)
        std = _three(settings.get("image_std", IMAGENET_STD) if normalises else 1.0)
        # The image processor of EfficientNet divides by std twice.
        power = 2 if normalises and settings.get("include_top") else 1
        return (
            (mean[0] / unit, mean[1] / unit, mean[2] / unit),
            (std[0] ** power / unit, std[1] ** power / unit, std[2] ** power / unit),
        )
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise SfscError(f"{path} does not describe the colours of images: {first_line(error)}") from None


def _three(value: Any) -> Colours:
    red, green, blue = value if isinstance(value, list | tuple) else [value] * 3
    return float(red), float(green), float(blue)


def _transformers() -> Any:
    try:
        return import_module("transformers")
    except ModuleNotFoundError:
        raise missing_extra("transformers", "transformers") from None


def _read_config(folder: Path) -> Any:
    if not (folder / CONFIG_FILE).is_file():
        near = f"a folder with {CONFIG_FILE}"
        raise SfscError(
            f"transformers:{folder} is neither a model type ({EXAMPLES}) nor {near}; sfsc downloads nothing: "
            f"fetch it with 'hf download {folder} --local-dir DIR' and give transformers:DIR"
        )
    try:
        with _quiet():
            return _transformers().AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises errors of many unrelated classes
        path = folder / CONFIG_FILE
        raise SfscError(f"{path} is not a configuration of transformers: {first_line(error)}") from error


def _describe(config: Any) -> dict[str, Any]:
    """Return a configuration as a JSON value with all defaults, because other versions may change them."""
    values = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in values.items() if name not in IRRELEVANT}


def _check_images(transformers: Any, name: str, model_type: str) -> None:
    try:
        model = transformers.MODEL_MAPPING[transformers.CONFIG_MAPPING[model_type]]
        takes_images = model.main_input_name == "pixel_values"
    except (KeyError, AttributeError, ImportError):  # no base model, several, or a missing package
        takes_images = False
    if not takes_images:
        raise SfscError(f"transformers:{name} cannot be a backbone: it is not a model that takes only images")


def _build(transformers: Any, configuration: dict[str, Any], image_size: tuple[int, int] | None) -> nn.Module:
    config = transformers.CONFIG_MAPPING[configuration["model_type"]].from_dict(
        _without_fetching(configuration)
    )
    if image_size is not None:
        _set_image_size(config, image_size)
    if hasattr(config, "mask_ratio"):  # otherwise a masked autoencoder hides most of every image
        config.mask_ratio = 0.0
    with _quiet():
        model_class = transformers.MODEL_MAPPING[type(config)]
        model: nn.Module = transformers.AutoModel.from_config(
            config, trust_remote_code=False, **_without_pooling(model_class)
        )
    for module in model.modules():
        if "mask_token" in module._parameters:
            module.register_parameter("mask_token", None)
    return model.float()


def _without_fetching(configuration: Any) -> Any:
    """Return a configuration without entries, at any level, that could fetch or import more."""
    if not isinstance(configuration, dict):
        return configuration
    return {
        name: _without_fetching(value)
        for name, value in configuration.items()
        if name not in IRRELEVANT | FETCHING and not name.startswith("_")
    }


def _set_image_size(config: Any, image_size: tuple[int, int]) -> None:
    height, width = image_size
    default = getattr(config, "image_size", None)
    if isinstance(default, list | tuple):
        config.image_size = [height, width]
    elif height == width and default is not None:
        config.image_size = height
    elif default is not None and config.model_type not in SQUARE_POSITIONS:
        config.image_size = [height, width]


def _without_pooling(model_class: Any) -> dict[str, bool]:
    """Return the argument that omits the pooling layer of the pretraining classifier, if there is one."""
    arguments = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in arguments else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn off the progress bars and warnings of transformers, such as those about a new head."""
    logging = import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
