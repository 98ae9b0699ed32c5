"""Backbones from elsewhere: transformers for real, timm and torchvision as far as a stand-in goes."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfsc.backbones.builtin import BACKBONES, Backbone
from sfsc.backbones.sources import find_backbone
from sfsc.backbones.weights import load_weights
from sfsc.errors import SfscError
from sfsc.family.embedder import Embedder, features_of
from sfsc.family.family import Family
from sfsc.training.config import Config
from sfsc.training.run import _resolve

# Small configurations of the model types that the documents name.
SMALL: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "efficientnet": {
        **{"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
        **{"in_channels": [32, 16], "out_channels": [16, 24], "kernel_sizes": [3, 3], "strides": [1, 2]},
        **{"num_block_repeats": [1, 1], "expand_ratios": [1, 2], "depthwise_padding": []},
    },
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "vit": {
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        **{"image_size": 32, "patch_size": 8},
    },
    "dinov2": {
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2},
        **{"image_size": 28, "patch_size": 7},
    },
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "image_size": 32},
    "hgnet_v2": {
        **{"stem_channels": [3, 8, 8], "stage_in_channels": [8, 16], "stage_mid_channels": [8, 8]},
        **{"stage_out_channels": [16, 32], "stage_num_blocks": [1, 1], "stage_numb_of_layers": [1, 1]},
        **{"stage_downsample": [False, True], "stage_light_block": [False, False]},
        **{"stage_kernel_size": [3, 3], "hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 8},
    },
}


def save_classifier(model_type: str, folder: Path, **settings: Any) -> nn.Module:
    """A small classifier of transformers, saved as people publish them."""
    import transformers

    config = transformers.CONFIG_MAPPING[model_type](num_labels=3, **{**SMALL[model_type], **settings})
    torch.manual_seed(1)
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    model.save_pretrained(folder)
    return model


def embedder_of(name: str, size: tuple[int, int], configuration: Any = None) -> Embedder:
    return Embedder.build(find_backbone(name, configuration), size, 8)


def images(size: tuple[int, int]) -> Tensor:
    return torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))


# --- transformers


@pytest.mark.parametrize("model_type", SMALL)
def test_a_folders_features_are_those_that_its_classifier_reads(model_type: str, tmp_path: Path) -> None:
    model = save_classifier(model_type, tmp_path)
    name, size = f"transformers:{tmp_path}", (32, 32)
    embedder = embedder_of(name, size).eval()
    load_weights(name, embedder.backbone, find_backbone(name).default_weights)
    with torch.no_grad():
        pooled = embedder._pool(features_of(embedder.backbone(images(size))))
        if model_type == "dinov2":  # its classifier reads the class token and the mean of the others
            tokens = model.dinov2(images(size)).last_hidden_state
            torch.testing.assert_close(pooled, tokens[:, 0])
        else:
            head = model.fc if model_type == "hgnet_v2" else model.classifier
            torch.testing.assert_close(head(pooled), model(images(size)).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", SMALL)
def test_a_network_has_nothing_that_is_not_used(model_type: str, tmp_path: Path) -> None:
    save_classifier(model_type, tmp_path)
    embedder = embedder_of(f"transformers:{tmp_path}", (32, 32))
    (embedder(images((32, 32))) * torch.arange(8)).sum().backward()
    assert [name for name, p in embedder.named_parameters() if p.grad is None] == []


def test_the_configuration_replaces_the_folder(tmp_path: Path) -> None:
    save_classifier("dinov2", tmp_path / "gone")
    name = f"transformers:{tmp_path / 'gone'}"
    embedder = embedder_of(name, (28, 28)).eval()
    configuration = json.loads(json.dumps(find_backbone(name).configuration))
    (tmp_path / "gone").rename(tmp_path / "away")
    again = embedder_of(name, (28, 28), configuration).eval()
    again.load_state_dict(embedder.state_dict())
    torch.testing.assert_close(again(images((28, 28))), embedder(images((28, 28))), atol=0, rtol=0)
    assert "id2label" not in configuration
    assert str(tmp_path) not in json.dumps(configuration)


def test_a_family_over_a_folder_is_trained_from_its_weights_and_loaded_again(tmp_path: Path) -> None:
    model = save_classifier("convnextv2", tmp_path / "model")
    name = f"transformers:{tmp_path / 'model'}"
    config = Config.make({"dataset": "csv:x.csv", "backbone": name, "image_size": [32, 32]})
    weights = _resolve(config, SimpleNamespace(image_size=(8, 8))).weights
    assert weights == str(tmp_path / "model")
    family = Family.create(name, "0.5,1.0", 8, (32, 32), weights)
    own = family.network.backbone.encoder.stages[0].layers[0].dwconv.weight.sort(0).values
    saved = model.convnextv2.encoder.stages[0].layers[0].dwconv.weight.sort(0).values
    torch.testing.assert_close(own, saved, atol=0, rtol=0)
    family.save(tmp_path / "family")
    (tmp_path / "model").rename(tmp_path / "gone")
    assert Family.load(tmp_path / "family").fingerprint == family.fingerprint


def test_a_model_type_is_built_for_the_familys_images() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(3)
        networks.append(find_backbone("transformers:mobilenet_v2").build((64, 48)))
    assert networks[0].config.image_size == [64, 48]
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert find_backbone("transformers:mobilenet_v2").default_weights == "none"


@pytest.mark.parametrize(
    ("model_type", "size", "expected"),
    [
        ("vit", (64, 64), 64),
        ("vit", (64, 32), [64, 32]),
        ("dinov2", (64, 64), 64),
        ("dinov2", (64, 32), 224),  # its positions form a square, it interpolates them
        ("hiera", (64, 64), [64, 64]),
    ],
)
def test_the_size_of_images_goes_where_the_type_wants_it(
    model_type: str, size: tuple[int, int], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    kept: list[Any] = []

    def build(config: Any, **arguments: Any) -> nn.Module:
        kept.append(config)
        return nn.Identity()

    monkeypatch.setattr(transformers.AutoModel, "from_config", build)
    find_backbone(f"transformers:{model_type}").build(size)
    assert kept[0].image_size == expected


def test_a_folder_made_for_another_size_names_it(tmp_path: Path) -> None:
    save_classifier("vit", tmp_path)
    with pytest.raises(SfscError, match=r"images of 64x48 pixels.*set image_size=\[32, 32\]") as caught:
        embedder_of(f"transformers:{tmp_path}", (64, 48))
    assert "\n" not in str(caught.value)


def test_dinov2_takes_images_of_other_sizes(tmp_path: Path) -> None:
    save_classifier("dinov2", tmp_path)
    name = f"transformers:{tmp_path}"
    embedder = embedder_of(name, (42, 21))
    load_weights(name, embedder.backbone, str(tmp_path))
    assert embedder(images((42, 21))).shape == (3, 8)


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("the network was asked")

    for function in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, function, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(
        SfscError, match=r"neither a model type .* nor a folder .*'hf download facebook/dino --local-dir DIR'"
    ):
        find_backbone("transformers:facebook/dino")
    save_classifier("resnet", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    network = find_backbone(f"transformers:{tmp_path}").build((32, 32))
    with pytest.raises(SfscError, match="contains no readable weights"):
        load_weights(f"transformers:{tmp_path}", network, str(tmp_path))


@pytest.mark.parametrize("name", ["bert", "clip", "encoder-decoder"])
def test_what_is_no_model_of_images_is_refused(name: str) -> None:
    with pytest.raises(SfscError, match=f"transformers:{name} cannot be a backbone"):
        find_backbone(f"transformers:{name}")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "nothing"}'])
def test_a_folder_whose_configuration_is_broken(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(SfscError, match=r"config\.json is not a configuration") as caught:
        find_backbone(f"transformers:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"depths": [1, 2]}, "lacks encoder"), ({"hidden_sizes": [8, 24]}, "has another shape for encoder")],
)
def test_a_folder_with_the_weights_of_another_network(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    save_classifier("resnet", tmp_path / "own", **settings)
    save_classifier("resnet", tmp_path / "other")
    name = f"transformers:{tmp_path / 'own'}"
    network = find_backbone(name).build((32, 32))
    with pytest.raises(
        SfscError, match=f"{tmp_path / 'other'} does not contain weights of {name}: it {reason}"
    ):
        load_weights(name, network, str(tmp_path / "other"))


def test_a_folder_of_weights_for_a_network_that_is_not_of_transformers(tmp_path: Path) -> None:
    with pytest.raises(SfscError, match="is a folder"):
        load_weights("small", BACKBONES["small"].build((32, 32)), str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        (None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        ({"do_normalize": False}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        # 2 x - 1, written as a factor of 8-bit values and a mean
        ({"rescale_factor": 2 / 255, "image_mean": 1.0, "image_std": 1.0}, (0.5,) * 3, (0.5,) * 3),
        ({"include_top": True, "image_mean": 0.5, "image_std": 0.5}, (0.5,) * 3, (0.25,) * 3),
    ],
)
def test_the_colours_are_those_of_the_image_processor(
    tmp_path: Path, settings: dict[str, Any] | None, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    save_classifier("resnet", tmp_path)
    if settings is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    backbone = find_backbone(f"transformers:{tmp_path}")
    assert backbone.mean == pytest.approx(mean)
    assert backbone.std == pytest.approx(std)


@pytest.mark.parametrize(
    "content", ["[]", '{"image_mean": [1, 2]}', '{"image_std": "x"}', '{"rescale_factor": 0}']
)
def test_an_image_processor_that_is_broken(tmp_path: Path, content: str) -> None:
    save_classifier("resnet", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(SfscError, match=r"preprocessor_config\.json does not describe"):
        find_backbone(f"transformers:{tmp_path}")


def test_the_documented_model_types_are_those_tested_here() -> None:
    document = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()
    rows = document.partition("| model type |")[2].partition("\n\n")[0].splitlines()[2:]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])} == set(SMALL)


# --- timm and torchvision, by stand-ins with their interfaces


class Classifier(nn.Module):
    """Pooled features of a convolution, and a head under some name."""

    def __init__(self, attribute: str, head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 6, 3)
        self.attribute = attribute
        setattr(self, attribute, head)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.attribute)(self.features(x).mean((2, 3)))


HEADS: dict[str, tuple[str, nn.Module]] = {
    "resnet": ("fc", nn.Linear(6, 10)),
    "mobile": ("classifier", nn.Sequential(nn.Linear(6, 5), nn.Hardswish(), nn.Linear(5, 10))),
    "vit_x": ("heads", nn.Sequential(nn.Linear(6, 10))),
    "swin": ("head", nn.Linear(6, 10)),
    "squeeze": ("classifier", nn.Sequential(nn.Dropout(), nn.Conv2d(6, 10, 1))),
    "unknown": ("output", nn.Linear(6, 10)),
}


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A torchvision in name; the arguments with which a network was last asked for."""
    asked: dict[str, Any] = {}
    models = ModuleType("torchvision.models")

    def get_model(name: str, **arguments: Any) -> nn.Module:
        asked.clear()
        asked.update(arguments)
        return Classifier(*HEADS[name])

    models.get_model = get_model
    models.list_models = lambda module: list(HEADS)
    package = ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    return asked


@pytest.mark.parametrize(("name", "channels"), [("resnet", 6), ("mobile", 5), ("vit_x", 6), ("swin", 6)])
def test_torchvisions_classifiers_lose_their_last_layer(
    torchvision: dict[str, Any], tmp_path: Path, name: str, channels: int
) -> None:
    embedder = embedder_of(f"torchvision:{name}", (48, 48))
    assert embedder.linear.in_features == channels
    assert torchvision == {"weights": None} | ({"image_size": 48} if name == "vit_x" else {})
    whole = Classifier(*HEADS[name])
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    load_weights(f"torchvision:{name}", embedder.backbone, str(tmp_path / "whole.pth"))
    assert torch.equal(embedder.backbone.features.weight, whole.features.weight)


@pytest.mark.parametrize("name", ["squeeze", "unknown"])
def test_a_classifier_that_cannot_be_cut_off(torchvision: dict[str, Any], name: str) -> None:
    with pytest.raises(SfscError, match=f"torchvision's {name} has no linear classifier.*python:"):
        embedder_of(f"torchvision:{name}", (32, 32))


def test_torchvision_has_no_such_model(torchvision: dict[str, Any]) -> None:
    with pytest.raises(SfscError, match="torchvision has no image classifier 'resnet19'"):
        find_backbone("torchvision:resnet19")


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A timm in name; the arguments with which a network was last asked for."""
    asked: dict[str, Any] = {}
    package = ModuleType("timm")

    def create_model(name: str, **arguments: Any) -> nn.Module:
        asked.clear()
        asked.update(arguments)
        return nn.Sequential(nn.Conv2d(3, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def get_pretrained_cfg(name: str) -> SimpleNamespace:
        if name.partition(".")[2] == "wrong":
            raise RuntimeError("Invalid pretrained tag")
        fixed = name.startswith("vit")
        return SimpleNamespace(
            mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), fixed_input_size=fixed, input_size=(3, 224, 160)
        )

    package.create_model = create_model
    package.get_pretrained_cfg = get_pretrained_cfg
    package.is_model = lambda name: name.partition(".")[0] in ("resnet", "vit")
    monkeypatch.setitem(sys.modules, "timm", package)
    return asked


@pytest.mark.parametrize(("name", "size"), [("resnet", {}), ("vit.tag", {"img_size": (48, 32)})])
def test_timms_networks_come_without_classifier_and_weights(
    timm: dict[str, Any], name: str, size: dict[str, Any]
) -> None:
    backbone = find_backbone(f"timm:{name}")
    assert Embedder.build(backbone, (48, 32), 8).linear.in_features == 7
    assert timm == {"pretrained": False, "num_classes": 0, **size}
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert backbone.made_for == (224, 160)


@pytest.mark.parametrize("name", ["resnet19", "hf-hub:timm/resnet", "resnet.wrong"])
def test_timm_has_no_such_network(timm: dict[str, Any], name: str) -> None:
    with pytest.raises(SfscError, match=f"timm has no network '{name}'"):
        find_backbone(f"timm:{name}")


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("timm", "pip install timm"),
        ("torchvision", "pip install torchvision"),
        ("transformers", r"pip install 'sfsc\[transformers\]'"),
    ],
)
def test_a_missing_package_is_named(package: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SfscError, match=f"{package} is not installed: {command}$"):
        find_backbone(f"{package}:resnet")


def test_a_package_that_does_not_fit_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator nms does not exist\\nand more')\n")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SfscError, match="timm cannot be imported: operator nms does not exist; install"):
        find_backbone("timm:resnet")


# --- the user's own function

OWN = """
import torch
from torch import nn

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)

    def forward(self, x):
        return self.patches(x).flatten(2).transpose(1, 2)

def network():
    return Tokens()

def number():
    return 3

def broken():
    raise ValueError("no weights\\nat all")

def needy(channels):
    return Tokens()

constant = 1
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module own_package.nets in the current folder."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "nets.py").write_text(OWN)
    (tmp_path / "own_package" / "bad.py").write_text("1 / 0\n")
    (tmp_path / "own_package" / "lacks.py").write_text("import not_installed\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_package"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("own")
def test_a_function_in_the_current_folder_is_a_backbone(tmp_path: Path) -> None:
    before = list(sys.path)
    embedder = embedder_of("python:own_package.nets:network", (32, 16))
    assert embedder(images((32, 16))).shape == (3, 8)
    assert sys.path == before
    state = {f"patches.{key}": torch.ones(shape) for key, shape in [("weight", (6, 3, 4, 4)), ("bias", 6)]}
    torch.save(state, tmp_path / "own.pth")
    load_weights("python:own_package.nets:network", embedder.backbone, "own.pth")
    assert embedder.backbone.patches.weight.mean() == 1


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("own_package.nets", "not have the form python:package.module:function"),
        ("own_package.nets:", "not have the form"),
        (":network", "not have the form"),
        ("nowhere:network", "there is no module nowhere in"),
        ("own_package.nowhere:network", r"there is no module own_package\.nowhere"),
        ("own_package.bad:network", "importing own_package.bad failed: ZeroDivisionError: division by zero"),
        ("own_package.lacks:network", "importing own_package.lacks failed: No module named 'not_installed'"),
        ("own_package.nets:other", r"nets\.py has no function other"),
        ("own_package.nets:constant", r"nets\.py has no function constant"),
        ("own_package.nets:number", r"must return a torch\.nn\.Module, it returned a int"),
        ("own_package.nets:broken", "failed: ValueError: no weights; it is called without arguments"),
        ("own_package.nets:needy", "failed: TypeError: .*called without arguments"),
    ],
)
def test_what_can_be_wrong_with_a_function(name: str, reason: str) -> None:
    with pytest.raises(SfscError, match=reason) as caught:
        embedder_of(f"python:{name}", (32, 32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "resnet19", "transformers:", "timm:", "hub:resnet", "small:x"])
def test_an_unknown_form_lists_all(name: str) -> None:
    with pytest.raises(SfscError, match=r"unknown backbone .*small.* transformers:NAME, timm:NAME"):
        find_backbone(name)


# --- what a backbone may return


class Returns(nn.Module):
    """Features in one of the forms that backbones have."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.form = form
        if form == "class token":
            self.cls_token = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Any:
        grid = self.patches(x)
        tokens = grid.flatten(2).transpose(1, 2)
        if self.form == "class token":
            first = self.cls_token + tokens.square().mean(1, keepdim=True)
            return torch.cat([first, tokens], 1)
        return {
            "map": grid,
            "tokens": tokens,
            "vector": tokens.mean(1),
            "tuple": (grid, x),
            "pooled": SimpleNamespace(last_hidden_state=tokens, pooler_output=grid.mean((2, 3))),
            "hidden": SimpleNamespace(last_hidden_state=tokens, pooler_output=None),
            "maps": SimpleNamespace(feature_maps=(x, grid)),
        }[self.form]


FORMS = ["map", "tokens", "class token", "vector", "tuple", "pooled", "hidden", "maps"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_features_is_pooled(form: str) -> None:
    embedder = Embedder.build(Backbone(lambda size: Returns(form)), (16, 8), 5).eval()
    x = images((16, 8))
    patches = embedder.backbone.patches((x - embedder.mean) / embedder.std)
    if form == "class token":
        expected = embedder.backbone.cls_token[:, 0] + patches.square().mean((2, 3))
    else:
        expected = patches.mean((2, 3))
    expected = nn.functional.normalize(embedder.norm(embedder.linear(expected)))
    torch.testing.assert_close(embedder(x), expected)


@pytest.mark.parametrize("form", ["map", "tokens", "class token", "pooled"])
def test_an_embedder_is_exported_for_any_batch(form: str) -> None:
    embedder = Embedder.build(Backbone(lambda size: Returns(form)), (16, 8), 5).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(embedder, (images((16, 8)),), dynamic_shapes=({0: batch},))
    x = images((16, 8))[:1].repeat(7, 1, 1, 1)
    torch.testing.assert_close(program.module()(x), embedder(x))


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.flatten(), r"features of shape \(1536,\) for 2 images"),
        (lambda x: x.flatten(0, 1), r"features of shape \(6, 16, 16\) for 2 images"),
        (lambda x: x[None], "it must return"),
        (lambda x: {"logits": x}, "the backbone returns a dict"),
        (lambda x: (), "the backbone returns a tuple"),
        (lambda x: x.view(1, 7), r"cannot process images of 16x16 pixels: shape .*; set another image_size"),
    ],
)
def test_what_are_no_features(function: Any, reason: str) -> None:
    with pytest.raises(SfscError, match=reason):
        Embedder.build(Backbone(lambda size: Lambda(function)), (16, 16), 4)


def test_the_names_in_an_embedders_state_stay() -> None:
    """Trained families hold them."""
    state = embedder_of("small", (32, 32)).state_dict()
    outside = [name for name in state if not name.startswith("backbone.")]
    norm = [f"norm.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    assert outside == ["mean", "std", "linear.weight", *norm]
    assert {f"backbone.{name}" for name in BACKBONES["small"].build((32, 32)).state_dict()} < set(state)
