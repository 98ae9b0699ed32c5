"""Exported sub-models: they embed as the family does, and say what they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import sfsc.deploy.exporting
from sfsc import Family, Gallery, SfscError, index, open_dataset, search
from sfsc.data import decode
from sfsc.deploy.exporting import export
from sfsc.embedding.exported import FORMAT, PROPERTY, Exported, ExportedModel
from sfsc.embedding.model import open_model

WIDTHS = (0.25, 1.0)
NESTED = (4, 8)


def pixels(images: list[str], count: int) -> np.ndarray:
    return np.stack([decode(path, (32, 32)) for path in images[:count]])


@pytest.mark.parametrize("count", [1, 5, 12])
def test_an_exported_sub_model_embeds_as_the_family_does(
    family: Family, images: list[str], files: Path, count: int
) -> None:
    model = ExportedModel.load(files / "narrow.onnx")
    shown = pixels(images, count)
    expected = family.embed_pixels(shown, 0.25)
    np.testing.assert_allclose(model.embed_pixels(shown), expected, atol=1e-5)
    rounded = ExportedModel.load(files / "narrow-int8.onnx").embed_pixels(shown)
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-4)
    cosines = (rounded * expected).sum(1)
    assert cosines.min() > 0.9
    assert not np.array_equal(rounded, model.embed_pixels(shown))


def test_a_file_says_what_it_is(family: Family, files: Path) -> None:
    for name, form in (("narrow.onnx", "float32"), ("narrow-int8.onnx", "int8")):
        model = open_model(files / name)
        assert isinstance(model, ExportedModel)
        said = model.exported
        assert (said.fingerprint, said.width, said.form) == (family.fingerprint, 0.25, form)
        assert (model.dimension, model.image_size, model.widest) == (16, (32, 32), 0.25)
    sizes = [(files / name).stat().st_size for name in ("narrow.onnx", "narrow-int8.onnx")]
    assert sizes[1] < 0.8 * sizes[0]


def test_a_file_of_fewer_dimensions_holds_first_components(
    family: Family, images: list[str], files: Path, tmp_path: Path
) -> None:
    model, shown = ExportedModel.load(files / "short.onnx"), pixels(images, 5)
    assert (model.dimension, model.dimensions) == (8, (*NESTED, 16))
    for dimension in (None, 8, 4):
        found = model.embed_pixels(shown, dimension=dimension)
        np.testing.assert_allclose(found, family.embed_pixels(shown, 0.25, dimension or 8), atol=1e-5)
    for wrong in (5, 16):
        with pytest.raises(SfscError, match=f"the file supports dimensions 4, 8, not {wrong}"):
            model.embed_pixels(shown, dimension=wrong)
    rounded = ExportedModel.load(files / "short-int8.onnx").embed_pixels(shown)
    assert (rounded * family.embed_pixels(shown, 0.25, 8)).sum(1).min() > 0.9
    export(family, 0.25, tmp_path / "short.pt2", images, dimension=8)
    module = torch.export.load(tmp_path / "short.pt2").module()
    found = module(torch.from_numpy(shown)).detach().numpy()
    np.testing.assert_allclose(found, family.embed_pixels(shown, 0.25, 8), atol=1e-5)


def test_phones_and_servers_of_other_dimensions_search_one_gallery(
    family: Family, shapes: str, files: Path, tmp_path: Path
) -> None:
    phone, path = open_model(files / "short.onnx"), open_dataset(shapes).gallery.paths[3]
    small, large = (Gallery.open(tmp_path / name, create=True) for name in ("small", "large"))
    index(phone, shapes, small, 0.25, 0)
    index(family, shapes, large, 0.25, 0)
    assert (small.info().dimension, large.info().dimension) == (8, 16)
    for model, gallery in ((family, small), (phone, small), (phone, large)):
        hit = search(model, path, gallery, 0.25, top=1)[0]
        assert hit.score == pytest.approx(1, abs=1e-5)
        assert np.array_equal(decode(hit.path, None), decode(path, None))
    with pytest.raises(SfscError, match="has rows of 16 dimensions, but the embeddings have 8"):
        index(phone, shapes, large, 0.25, 0)


def test_files_of_the_first_format_have_one_dimension(files: Path, tmp_path: Path) -> None:
    first = changed(files / "narrow.onnx", tmp_path / "first.onnx", format=1)
    model = onnx.load(first)
    values = json.loads(model.metadata_props[0].value)
    del values["dimensions"]
    model.metadata_props[0].value = json.dumps(values)
    onnx.save(model, first)
    loaded = ExportedModel.load(first)
    assert (loaded.dimension, loaded.dimensions) == (16, (16,))


def test_torch_export_embeds_alike(family: Family, images: list[str], tmp_path: Path) -> None:
    export(family, 1.0, tmp_path / "full.pt2", images)
    extra = {f"{PROPERTY}.json": ""}
    module = torch.export.load(tmp_path / "full.pt2", extra_files=extra).module()
    assert json.loads(extra[f"{PROPERTY}.json"])["width"] == 1.0
    shown = pixels(images, 5)
    found = module(torch.from_numpy(shown)).detach().numpy()
    np.testing.assert_allclose(found, family.embed_pixels(shown, 1.0), atol=1e-5)


def test_an_exported_sub_model_writes_and_searches_galleries(
    family: Family, shapes: str, files: Path, tmp_path: Path
) -> None:
    model, gallery = open_model(files / "narrow.onnx"), Gallery.open(tmp_path / "gallery", create=True)
    assert index(model, shapes, gallery, 0.25, 0) == []
    path = open_dataset(shapes).gallery.paths[3]
    for searcher in (model, family):
        hit = search(searcher, path, gallery, 0.25, top=1)[0]
        assert hit.score == pytest.approx(1, abs=1e-5)
        assert np.array_equal(decode(hit.path, None), decode(path, None))
    with pytest.raises(SfscError, match=r"the file contains the sub-model at width 0\.25, not at 1"):
        search(model, path, gallery, 1.0)


def test_torch_is_not_needed_to_run_a_file(files: Path, shapes: str, tmp_path: Path) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'kornia', 'safetensors', 'yaml']))\n"
    query = open_dataset(shapes).gallery.paths[0]
    folder, gallery = str(Path(query).parent), f"{tmp_path}/gallery"
    for arguments in (
        ["embed", f"{files}/narrow-int8.onnx", folder, "--out", f"{tmp_path}/v.npy"],
        ["index", f"{files}/narrow.onnx", folder, "--gallery", gallery],
        ["search", f"{files}/narrow-int8.onnx", query, "--gallery", gallery],
    ):
        code = f"{blocked}sys.argv = ['sfsc', *{arguments!r}]\nfrom sfsc.cli import main\nmain()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "v.npy").shape[1] == 16


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("a.tflite", {}, r"a\.tflite must end in \.onnx or \.pt2"),
        ("a.pt2", {"int8": True}, "int8 is only available for ONNX files"),
        ("a.onnx", {"width": 0.3}, r"width 0\.3 is not one of this family's"),
        ("a.onnx", {"dimension": 5}, r"dimension 5 is not one of this family's dimensions: 4, 8, 16"),
        ("a.onnx", {"few": True}, "2 images are too few to make and check"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    family: Family, images: list[str], tmp_path: Path, out: str, options: dict[str, Any], message: str
) -> None:
    shown = images[:2] if options.pop("few", False) else images
    with pytest.raises(SfscError, match=message):
        export(family, options.pop("width", 0.25), tmp_path / out, shown, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_embeds_otherwise_is_not_written(
    family: Family, images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = sfsc.deploy.exporting._to_onnx
    wrong = Family.create("small", WIDTHS, 16, (32, 32), seed=1).eval()
    other = sfsc.deploy.exporting.Graph(wrong.submodel(0.25), 32).eval()
    monkeypatch.setattr(sfsc.deploy.exporting, "_to_onnx", lambda _, *more: right(other, *more))
    with pytest.raises(SfscError, match=r"a\.onnx was not written: with 1 images, its embeddings differ"):
        export(family, 0.25, tmp_path / "a.onnx", images)
    assert list(tmp_path.iterdir()) == []


def changed(source: Path, target: Path, **changes: object) -> Path:
    """The file with another text about itself."""
    model = onnx.load(source)
    values = json.loads(model.metadata_props[0].value) | changes
    model.metadata_props[0].value = json.dumps(values)
    onnx.save(model, target)
    return target


def test_a_gallery_knows_its_family(
    family: Family, shapes: str, files: Path, images: list[str], tmp_path: Path
) -> None:
    other = open_model(changed(files / "narrow-int8.onnx", tmp_path / "other.onnx", fingerprint="0123"))
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    index(family, shapes, gallery, 1.0, 0)
    refused = f"belongs to the family {family.fingerprint}, but the embeddings belong to 0123"
    with pytest.raises(SfscError, match=refused):
        search(other, images[0], gallery, 0.25)
    with pytest.raises(SfscError, match=refused):
        index(other, shapes, gallery, 0.25, 0)


def test_files_that_are_none_of_ours_are_named(files: Path, tmp_path: Path) -> None:
    newer = changed(files / "narrow.onnx", tmp_path / "newer.onnx", format=FORMAT + 1)
    strange = changed(files / "narrow.onnx", tmp_path / "strange.onnx", colour="red")
    foreign = onnx.load(files / "narrow.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    future = onnx.load(files / "narrow.onnx")
    future.opset_import[0].version = 1000
    onnx.save(future, tmp_path / "future.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "model.bin").write_text("hello")
    for path, message in (
        (newer, "was written by a newer sfsc: upgrade"),
        (strange, "was not exported by sfsc .*: make a file with sfsc export"),
        (tmp_path / "foreign.onnx", "was not exported by sfsc"),
        (tmp_path / "future.onnx", "cannot be run by onnxruntime .*upgrade onnxruntime"),
        (tmp_path / "text.onnx", "cannot be run by onnxruntime"),
        (tmp_path / "none.onnx", "cannot read .*none.onnx: No such file"),
        (tmp_path / "model.bin", "neither a run folder nor a file written by sfsc export"),
    ):
        with pytest.raises(SfscError, match=message) as caught:
            open_model(path)
        assert "\n" not in str(caught.value)


def test_the_page_in_the_browser_reads_what_is_exported() -> None:
    page = Path(__file__).parents[2] / "examples" / "browser" / "model.js"
    assert f"\nconst FORMAT = {FORMAT};\n" in page.read_text()


def test_images_of_another_size_are_refused(files: Path) -> None:
    model = ExportedModel.load(files / "narrow.onnx")
    with pytest.raises(SfscError, match=r"of shape \(batch, 32, 32, 3\), got uint8 of \(1, 16, 16, 3\)"):
        model.embed_pixels(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(SfscError, match="got float32"):
        model.embed_pixels(np.zeros((1, 32, 32, 3), np.float32))


def test_a_description_survives_its_text() -> None:
    said = Exported("f", 0.25, 16, (32, 48), "int8", "0.1.0", dimensions=(4, 16))
    assert Exported.from_text(said.to_text(), Path("x")) == said
