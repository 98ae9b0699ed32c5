import copy
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sfsc.backbones.builtin import BACKBONES
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.widths import cut

IMAGES = torch.rand(4, 3, 32, 32)


def make(backbone: str = "small", seed: int = 0) -> Family:
    """A family whose normalisation layers differ between widths, as after training."""
    family = Family.create(backbone, image_size=(32, 32), embedding_dim=16, seed=seed)
    with torch.no_grad():
        for width in family.widths:
            family.at(width)(IMAGES)
    return family.eval()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_switched_forward_equals_the_dense_sub_model(backbone: str) -> None:
    family = make(backbone)
    for width in family.widths:
        dense = family.submodel(width)
        torch.testing.assert_close(dense(IMAGES), family.embed(IMAGES, width), rtol=0, atol=1e-5)


def test_embeddings_have_length_one_and_differ_between_widths() -> None:
    family = make()
    embeddings = [family.embed(IMAGES, width) for width in family.widths]
    for embedding in embeddings:
        assert embedding.shape == (4, 16)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))
    assert not torch.allclose(embeddings[0], embeddings[-1], atol=1e-2)


def test_bytes_and_fractions_embed_alike() -> None:
    family = make()
    pixels = (IMAGES * 255).round().to(torch.uint8)
    torch.testing.assert_close(family.embed(pixels, 0.5), family.embed(pixels.float() / 255, 0.5))


def test_sub_models_are_plain_and_narrow() -> None:
    family = make("resnet18")
    narrow = family.submodel(0.25)
    assert type(narrow.backbone) is type(family.network.backbone)
    assert narrow.backbone.layer4[1].conv2.weight.shape == (cut(512, 0.25), cut(512, 0.25), 3, 3)
    assert narrow.backbone.conv1.in_channels == 3
    assert narrow.linear.out_features == 16
    assert narrow.backbone.layer1[0].conv1.out_channels == 16
    for parameter in narrow.parameters():
        assert parameter.is_contiguous()
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4
    full = family.parameter_count(1.0)
    assert 1 / 16 < family.parameter_count(0.25) / full < 1.1 / 16


def test_depthwise_convolutions_stay_depthwise() -> None:
    narrow = make("efficientnet_lite0").submodel(0.5)
    depthwise = [m for m in narrow.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == 16
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)


def test_a_change_of_the_full_weights_is_seen_by_every_width() -> None:
    family = make()
    before = family.embed(IMAGES, 0.25)
    with torch.no_grad():
        family.network.backbone.stem.weight[0].add_(1.0)
    assert not torch.allclose(family.embed(IMAGES, 0.25), before)


@pytest.mark.parametrize("how", ["deepcopy", "double_and_back", "state_dict"])
def test_widths_share_storage_after_the_family_moved(how: str) -> None:
    family = make()
    expected = family.embed(IMAGES, 0.25)
    if how == "deepcopy":
        family = copy.deepcopy(family)
    elif how == "double_and_back":
        family = family.double().float()
    else:
        other = make(seed=1)
        assert not torch.allclose(other.embed(IMAGES, 0.25), expected)
        other.load_state_dict(family.state_dict())
        family = other
    assert torch.equal(family.embed(IMAGES, 0.25), expected)
    for name, corners in family.corners().items():
        pointers = {corner.untyped_storage().data_ptr() for corner in corners}
        assert len(pointers) == 1, name


def test_parameters_are_counted_once() -> None:
    family = make()
    norms = sum(p.numel() for p in family.norms.parameters())
    assert sum(p.numel() for p in family.parameters()) == family.parameter_count(1.0) + norms
    assert len({id(p) for p in family.parameters()}) == len(list(family.parameters()))


def test_statistics_of_one_width_leave_the_others_alone() -> None:
    family = make().train()
    others = [family.embed(IMAGES, w) for w in (0.25, 0.75, 1.0) if family.eval()]
    family.train()
    family.at(0.5)(torch.rand(8, 3, 32, 32))
    family.eval()
    for width, before in zip((0.25, 0.75, 1.0), others, strict=True):
        assert torch.equal(family.embed(IMAGES, width), before)


def test_mode_reaches_every_width() -> None:
    family = make()
    for mode in (True, False):
        family.train(mode)
        assert all(m.training is mode for w in family.widths for m in family.at(w).modules())


def test_two_threads_at_two_widths_do_not_disturb_each_other() -> None:
    family = make()
    expected = {width: family.embed(IMAGES, width) for width in (0.25, 1.0)}
    wrong: list[float] = []
    barrier = threading.Barrier(2)

    def embed_often(width: float) -> None:
        barrier.wait()
        for _ in range(50):
            if not torch.equal(family.embed(IMAGES, width), expected[width]):
                wrong.append(width)

    threads = [threading.Thread(target=embed_often, args=(width,)) for width in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    family = make()
    family.save(tmp_path)
    loaded = Family.load(tmp_path)
    assert loaded.spec == family.spec
    assert loaded.fingerprint == family.fingerprint
    assert not loaded.training
    for width in family.widths:
        assert torch.equal(loaded.embed(IMAGES, width), family.embed(IMAGES, width))


def test_the_fingerprint_tells_families_apart() -> None:
    family = make()
    fingerprint = family.fingerprint
    assert len(fingerprint) == 16
    assert make().fingerprint == fingerprint
    assert make(seed=1).fingerprint != fingerprint
    with torch.no_grad():
        next(iter(family.norms.parameters())).add_(1e-6)
    assert family.fingerprint != fingerprint


def test_first_components_stand_alone_where_the_family_says_so(tmp_path: Path) -> None:
    family = Family.create("small", (0.5, 1.0), 16, (32, 32), nested_dims=(4, 8)).eval()
    family.save(tmp_path)
    loaded = Family.load(tmp_path)
    assert (loaded.dimension, loaded.dimensions) == (16, (4, 8, 16))
    assert (loaded.spec, loaded.fingerprint) == (family.spec, family.fingerprint)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    whole = loaded.embed_pixels(pixels, 0.5)
    for dimension in (4, 8, 16):
        short = loaded.embed_pixels(pixels, 0.5, dimension)
        assert short.shape == (3, dimension)
        lengths = np.linalg.norm(whole[:, :dimension], axis=1, keepdims=True)
        np.testing.assert_allclose(short * lengths, whole[:, :dimension], atol=1e-6)
    with pytest.raises(SfscError, match="dimension 5 is not one of this family's dimensions: 4, 8, 16"):
        loaded.embed_pixels(pixels, 0.5, 5)
    with pytest.raises(SfscError, match="stay below the embedding dimension 16, got 8, 4"):
        Family.create("small", (0.5, 1.0), 16, (32, 32), nested_dims=(8, 4))


def test_without_nested_dimensions_the_description_is_as_before(tmp_path: Path) -> None:
    make().save(tmp_path)
    description = json.loads((tmp_path / "family.json").read_text())
    assert description["format"] == 2
    assert "nested_dims" not in description
    assert Family.load(tmp_path).dimensions == (16,)


def test_wrong_width_and_wrong_size_are_named() -> None:
    family = make()
    with pytest.raises(SfscError, match=r"width 0\.3 is not one of this family's widths"):
        family.embed(IMAGES, 0.3)
    with pytest.raises(SfscError, match=r"\(batch, 3, 32, 32\), got float32 of \(4, 3, 16, 32\)"):
        family.embed(IMAGES[:, :, :16])


def test_a_folder_without_a_family_is_named(tmp_path: Path) -> None:
    with pytest.raises(SfscError, match=r"contains no trained family: .*family\.safetensors is missing"):
        Family.load(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "newer", "json", "fields"])
def test_damaged_families_are_refused(tmp_path: Path, damage: str) -> None:
    make().save(tmp_path)
    weights, description = tmp_path / "family.safetensors", tmp_path / "family.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "newer":
        description.write_text(json.dumps({**json.loads(description.read_text()), "format": 99}))
    elif damage == "json":
        description.write_text("{")
    else:
        description.write_text('{"format": 1}')
    expected = {"truncated": "damaged", "newer": "newer sfsc", "json": "damaged"}
    with pytest.raises(SfscError, match=expected.get(damage, "does not describe")) as caught:
        Family.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_family_starts_from_the_backbone_of_another(tmp_path: Path) -> None:
    full = Family.create("small", (1.0,), 16, (32, 32), seed=5)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.mul_(1 + torch.rand_like(parameter))
        full.at(1.0)(IMAGES)
    full.eval().save(tmp_path)
    family = Family.create("small", (0.5, 1.0), 16, (32, 32), weights=str(tmp_path)).eval()
    theirs, ours = (f.network.backbone(IMAGES) for f in (full, family))
    # Sorted by importance, the same channels come in another order.
    torch.testing.assert_close(ours.sort(1).values, theirs.sort(1).values)
    with pytest.raises(SfscError, match=r"does not contain weights of resnet18: it lacks"):
        Family.create("resnet18", (0.5, 1.0), 16, (32, 32), weights=str(tmp_path))
