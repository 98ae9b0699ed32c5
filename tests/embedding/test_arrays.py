"""Families, sub-models and exported files take the same images, and refuse others in the same words."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfsc import Family, SfscError
from sfsc.embedding.exported import ExportedModel

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def file(files: Path) -> ExportedModel:
    return ExportedModel.load(files / "narrow.onnx")


TAKEN = {
    "colours reversed": lambda images: images[..., ::-1],
    "mirrored": lambda images: images[:, :, ::-1],
    "batch reversed": lambda images: images[::-1],
    "every other": lambda images: images[::2],
    "in Fortran's order": np.asfortranarray,
    "turned": lambda images: np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
    "read-only": lambda images: np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape),
    "a list": list,
    "a tensor": torch.from_numpy,
    "empty": lambda images: images[:0],
}
REFUSED = {
    "float32": IMAGES.astype(np.float32),
    "float64 up to 1": IMAGES / 255,
    "int64": IMAGES.astype(int),
    "bool": IMAGES > 9,
    "int8": IMAGES.view(np.int8),
    "one image": IMAGES[0],
    "channels first": IMAGES.transpose(0, 3, 1, 2),
    "gray": IMAGES[..., :1],
    "gray without channels": IMAGES[..., 0],
    "RGBA": np.concatenate([IMAGES, IMAGES[..., :1]], 3),
    "another size": IMAGES[:, :16],
    "empty of another size": IMAGES[:0, :16],
    "a number": np.uint8(3),
    "ragged": [IMAGES[0], IMAGES[1, :9]],
    "objects": np.array([None, "x"]),
    "of images of nothing": np.zeros((0,), np.uint8),
}


@pytest.mark.parametrize("name", TAKEN)
def test_every_layout_is_taken(family: Family, file: ExportedModel, name: str) -> None:
    make = TAKEN[name]
    expected = family.embed_pixels(np.asarray(make(IMAGES)).copy(), 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = family.embed_pixels(make(IMAGES), 0.25), file.embed_pixels(make(IMAGES))
    for embeddings in found:
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert file.embed_pixels(make(IMAGES), dimension=8).shape == (len(expected), 8)
    assert family.embed_pixels(make(IMAGES), 0.25, 8).shape == (len(expected), 8)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_in_the_same_words(family: Family, file: ExportedModel, name: str) -> None:
    words = []
    for model in (family, file):
        with pytest.raises(SfscError) as caught:
            model.embed_pixels(REFUSED[name], 0.25)
        words.append(str(caught.value))
    assert words[0] == words[1]
    assert "\n" not in words[0]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.sampled_from([0, 1, 3, 4, 32]), max_size=5),
    dtype=st.sampled_from(["uint8", "float32", "int64"]),
)
def test_whatever_the_shape_they_agree(
    family: Family, file: ExportedModel, shape: list[int], dtype: str
) -> None:
    images = np.zeros(shape, dtype)
    answers = []
    for model in (family, file):
        try:
            answers.append(str(model.embed_pixels(images, 0.25).shape))
        except SfscError as error:
            answers.append(str(error))
    assert answers[0] == answers[1]


def test_tensors_are_taken_by_the_family_and_its_sub_model_alike(family: Family) -> None:
    submodel = family.submodel(0.25).eval()
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    expected = torch.from_numpy(family.embed_pixels(IMAGES, 0.25))
    for images in (
        pixels,
        pixels / 255,
        pixels.double() / 255,
        (pixels / 255).contiguous(),
        pixels.flip(3).flip(3),
    ):
        for embed in (lambda images: family.embed(images, 0.25), submodel):
            torch.testing.assert_close(embed(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda images: images.float(), "must be in \\[0, 1\\], got 0 to 255: divide"),
        (lambda images: (images / 255 - 0.5) / 0.2, "must be in \\[0, 1\\]"),
        (lambda images: images / torch.zeros(1), "must be in \\[0, 1\\]"),
        (lambda images: images.int(), "got int32 of"),
        (lambda images: images[0], "makes a batch of one"),
        (lambda images: images.permute(0, 2, 3, 1), "move the colours with permute"),
        (lambda images: images[:, :1], "make them RGB"),
        (lambda images: images.numpy(), "must be a tensor"),
    ],
)
def test_tensors_are_refused_alike(family: Family, change: object, remedy: str) -> None:
    images = change(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    submodel = family.submodel(0.25).eval()
    for embed in (lambda images: family.embed(images, 0.25), submodel):
        with pytest.raises(SfscError, match=remedy):
            embed(images)
