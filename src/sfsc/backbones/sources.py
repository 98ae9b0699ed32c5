"""Finding backbones by name: those of sfsc, transformers, timm and torchvision, and user-defined functions.

A family stores the name of its backbone and is built from it when it is loaded. A name must therefore always
mean the same network.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from sfsc.backbones import huggingface
from sfsc.backbones.builtin import BACKBONES, Backbone
from sfsc.errors import SfscError, first_line

CODE = "python:"
FORMS = "transformers:NAME, timm:NAME, torchvision:NAME or python:package.module:function"
CLASSIFIERS = ("fc", "classifier", "heads", "head")
# These torchvision models were trained with other colours, and have auxiliary classifiers.
INCEPTIONS = ("googlenet", "inception_v3")


def find_backbone(name: str, configuration: dict[str, Any] | None = None) -> Backbone:
    """Return the backbone with the given name.

    Args:
        name: a built-in name, `transformers:TYPE`, `transformers:FOLDER`, `timm:NAME`, `torchvision:NAME`
            or `python:package.module:function`.
        configuration: the `configuration` of the backbone that a family was made with. It is used instead of
            the folder in the name, which may no longer exist.

    Raises:
        SfscError: the backbone does not exist, or its package is not installed.
    """
    source, colon, rest = name.partition(":")
    if not colon and name in BACKBONES:
        return BACKBONES[name]
    if source == "transformers" and rest:
        return huggingface.find(rest, configuration)
    if source == "timm" and rest:
        return _timm(rest)
    if source == "torchvision" and rest:
        return _torchvision(rest)
    if source == "python" and rest:
        return _python(rest)
    raise SfscError(f"unknown backbone {name!r}; choose one of {', '.join(BACKBONES)} or {FORMS}")


def code_of(backbone: str) -> str | None:
    """Return the function of a `python:` backbone as `allow_code` expects it, or None for other backbones."""
    return backbone.removeprefix(CODE) if backbone.startswith(CODE) else None


def check_code(backbone: str, allow_code: str | None, path: Path) -> None:
    """Raise `SfscError` if a file names a function as its backbone that the user has not allowed.

    Args:
        backbone: the name of the backbone in the file.
        allow_code: the function that the user allows, as package.module:function.
        path: the path of the file.
    """
    code = code_of(backbone)
    if code is not None and code != allow_code:
        raise SfscError(
            f"{path} names code as its backbone, {code}: if you trust that function, allow it with "
            f"--allow-code {code}, or allow_code={code!r} in Python"
        )


def _timm(name: str) -> Backbone:
    """Return a network of timm without its classifier. Its output is pooled to (batch, channels)."""
    timm = _import_package("timm")
    try:
        settings = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # the network is known, but not the tag of its weights after the dot
        settings = None
    if settings is None:
        raise SfscError(f"timm has no network {name!r}; timm.list_models() lists its networks")

    def build(image_size: tuple[int, int]) -> nn.Module:
        size = {"img_size": image_size} if settings.fixed_input_size else {}
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **size)
        return network

    return Backbone(build, tuple(settings.mean), tuple(settings.std), made_for=tuple(settings.input_size[1:]))


def _torchvision(name: str) -> Backbone:
    """Return a classifier of torchvision without its last layer. Its output is (batch, channels)."""
    models = _import_package("torchvision").models
    if name not in models.list_models(module=models):
        raise SfscError(
            f"torchvision has no image classifier {name!r}; torchvision.models.list_models() lists its models"
        )

    def build(image_size: tuple[int, int]) -> nn.Module:
        arguments: dict[str, Any] = {}
        if name.startswith("vit_"):
            arguments = {"image_size": image_size[0]}
        elif name.startswith("maxvit_"):
            arguments = {"input_size": image_size}
        elif name in INCEPTIONS:
            arguments = {"aux_logits": False, "init_weights": True}
        network: nn.Module = models.get_model(name, weights=None, **arguments)
        _cut_classifier(network, name)
        return network

    grey = (0.5, 0.5, 0.5)
    return Backbone(build, grey, grey) if name in INCEPTIONS else Backbone(build)


def _cut_classifier(network: nn.Module, name: str) -> None:
    for attribute in CLASSIFIERS:
        head = getattr(network, attribute, None)
        if isinstance(head, nn.Linear):
            setattr(network, attribute, nn.Identity())
            return
        if isinstance(head, nn.Sequential) and isinstance(head[-1], nn.Linear):
            head[-1] = nn.Identity()
            return
    raise SfscError(
        f"torchvision's {name} has no linear classifier that can be removed: "
        "write a function that returns its features, and pass it as python:package.module:function"
    )


def _import_package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise SfscError(f"{name} is not installed: pip install {name}") from None
        raise SfscError(f"{name} cannot be imported: {first_line(error)}; install it again") from error
    except Exception as error:  # a package for another version of torch can fail in many ways
        raise SfscError(
            f"{name} cannot be imported: {first_line(error)}; install the version that fits your torch"
        ) from error


def _python(name: str) -> Backbone:
    """Return a backbone whose networks are built by a user-defined function."""
    find_function(name)

    def build(image_size: tuple[int, int]) -> nn.Module:
        with _importable_from(Path.cwd()):
            return _call(find_function(name), name)

    return Backbone(build)


def find_function(name: str) -> Any:
    """Import a function by its name, package.module:function, also from the working folder.

    Raises:
        SfscError: the name has another form, or there is no such module or function.
    """
    module_name, colon, function_name = name.rpartition(":")
    if not colon or not module_name or not function_name:
        raise SfscError(f"python:{name} does not have the form python:package.module:function")
    with _importable_from(Path.cwd()):
        return _imported(module_name, function_name)


def _imported(module_name: str, function_name: str) -> Any:
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise SfscError(
                f"there is no module {error.name} in {Path.cwd()} or on Python's search path; "
                "add its folder to PYTHONPATH"
            ) from None
        raise SfscError(f"importing {module_name} failed: {first_line(error)}; install it") from error
    except Exception as error:  # user code can raise any error
        raise SfscError(f"importing {module_name} failed: {_say(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise SfscError(f"{module.__file__} has no function {function_name}")
    return function


def _call(function: Any, name: str) -> nn.Module:
    try:
        network = function()
    except Exception as error:  # user code can raise any error
        raise SfscError(f"python:{name} failed: {_say(error)}; it is called without arguments") from error
    if not isinstance(network, nn.Module):
        raise SfscError(
            f"python:{name} must return a torch.nn.Module, it returned a {type(network).__name__}"
        )
    return network


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """Put a folder first on the search path for modules, as `python -m` does."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # an imported module may have changed the list
            sys.path.remove(str(folder))
