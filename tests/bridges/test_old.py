"""Old models of every kind, tables of their embeddings, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sfsc import Gallery, SfscError, bridge, index, open_dataset, search
from sfsc.bridges.bridge import Space
from sfsc.bridges.model import BridgedModel
from sfsc.bridges.old import OldModel, open_any_model, open_old
from sfsc.bridges.upgrading import upgrade_gallery
from sfsc.data import find_images
from sfsc.evaluation.upgrade_curve import upgrade_curve
from sfsc.gallery.imports.importing import import_embeddings
from sfsc.report.upgrade_curve import write_curve
from tests.bridges.spaces import NEW, OLD, embeddings, model


@pytest.fixture
def folder(shapes: str) -> Path:
    return Path(shapes.partition(":")[2]).parent


def old_function() -> tuple[tuple[int, int], Any]:
    """What `python:` names: the size of images, and a function that embeds them."""
    return (8, 8), lambda pixels: pixels.reshape(len(pixels), -1)[:, :6] + 1.0


def write_onnx(path: Path, shape: list[Any], inputs: int = 1, dtype: int = TensorProto.FLOAT) -> Path:
    """A model that averages the pixels of each image by colour."""
    names = [f"in{number}" for number in range(inputs)]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3] if shape[1] == 3 else [1, 2])
    nodes = [
        helper.make_node("Cast", [names[0]], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast", "axes"], ["out"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info(name, dtype, shape) for name in names],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [shape[0], 3])],
        [axes],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(made, path)
    return path


def table(folder: Path, rows: np.ndarray, names: list[str]) -> Path:
    np.save(folder / "old.npy", rows)
    (folder / "old.txt").write_text("".join(f"{name}\n" for name in names))
    return folder / "old.npy"


def test_a_table_or_a_gallery_can_stand_for_the_old_model(folder: Path, tmp_path: Path) -> None:
    old, new = model(8), model(8, NEW.fingerprint, seed=2)
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    index(old, folder, gallery, workers=0)
    rows = [*gallery.rows(embeddings=True)][3:]
    file = table(tmp_path, np.stack([row["embedding"] for row in rows]), [row["path"] for row in rows])
    by_table = bridge(f"{file}:last-year", new, folder, workers=0, kind="relaxed")
    by_gallery = bridge(str(tmp_path / "gallery"), new, folder, workers=0, kind="relaxed")
    assert by_table.old.fingerprint == by_gallery.old.fingerprint == OLD.fingerprint
    assert (by_table.pairs, by_gallery.pairs) == (len(rows), len(rows) + 3)
    copy = Gallery.open(tmp_path / "copy", create=True)
    import_embeddings(file, copy, fingerprint="space:last-year", width=1.0)
    assert upgrade_gallery(copy, by_table) == len(rows)


def test_a_table_without_a_name_is_known_by_its_content(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(path) for path in find_images(folder)][:40]
    first = open_old(table(tmp_path, embeddings(40), names))
    assert "name their space as sfsc gallery import --space does" in " ".join(capsys.readouterr().err.split())
    assert first.was(open_old(f"{tmp_path / 'old.npy'}").space.fingerprint)
    np.testing.assert_allclose(first.embed(names[:1] * 2), embeddings(40)[[0, 0]], atol=1e-6)
    other = open_old(table(tmp_path, embeddings(40, seed=1), names))
    assert other.space.fingerprint != first.space.fingerprint
    assert not other.was(first.space.fingerprint)


def test_a_bridge_leads_queries_into_the_old_space(folder: Path, tmp_path: Path) -> None:
    old, new = model(8), model(8, NEW.fingerprint, seed=2)
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    index(old, folder, gallery, workers=0)
    made = bridge(str(tmp_path / "gallery"), new, folder, workers=0)
    query = find_images(folder)[0]
    with pytest.raises(SfscError, match=r"belongs to the space last-year, .* or a bridge"):
        search(new, query, gallery)
    hits = search(BridgedModel(new, made), query, gallery, top=len(gallery))
    own = next(hit for hit in hits if hit.path == str(query))
    assert own.score > np.median([hit.score for hit in hits])
    with pytest.raises(SfscError, match="but the model belongs to the space last-year"):
        BridgedModel(old, made)


def test_the_curve_leads_from_bridged_to_embedded_rows(shapes: str, tmp_path: Path) -> None:
    old, new = model(8), model(8, NEW.fingerprint, seed=2)
    gallery = Gallery.open(tmp_path / "gallery", create=True)
    index(old, shapes, gallery, workers=0)
    with pytest.raises(SfscError, match="has no rows that can be upgraded"):
        upgrade_curve(old, gallery, open_dataset(shapes), workers=0)
    folder = Path(shapes.partition(":")[2]).parent
    upgrade_gallery(gallery, bridge(old_of(old), new, folder, workers=0, kind="orthogonal"))
    curve = upgrade_curve(new, gallery, open_dataset(shapes), workers=0)
    assert {*curve.accuracies} == {"width", "uncertainty", "age", "queries", "spread", "random"}
    assert len({values[0] for values in curve.accuracies.values()}) == 1
    assert len({values[-1] for values in curve.accuracies.values()}) == 1
    files = write_curve(curve, tmp_path / "curve")
    assert files[0].read_text().splitlines()[0].startswith("order,0,0.05,")
    assert all(file.stat().st_size for file in files)
    other = Gallery.open(tmp_path / "fresh", create=True)
    index(new, shapes, other, workers=0)
    expected = {row["id"]: row["embedding"] for row in other.rows(embeddings=True)}
    assert gallery.count(["bridge_error="]) == 0, "nothing was changed"
    assert len(expected) == len(gallery)


def old_of(one: Any) -> Any:
    def embed(paths: Any) -> Any:
        from sfsc.embedding.embedded import Embedded
        from sfsc.embedding.engines import local_engine

        found = Embedded.join(list(local_engine(one, 1.0, 0)(paths)))
        return found.vectors[1.0], found.indices

    return OldModel("old", Space.of("old", one), embed)


@pytest.mark.parametrize("shape", [["n", 3, 8, 8], ["n", 8, 8, 3], [1, 3, 8, 8]])
def test_other_onnx_files_embed(tmp_path: Path, shape: list[Any]) -> None:
    file = write_onnx(tmp_path / "old.onnx", shape)
    opened = open_any_model(file, "fraction")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    means = pixels.mean((1, 2))
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(opened.embed_pixels(pixels, 1.0), expected, atol=1e-5)
    assert opened.fingerprint == open_any_model(file, "fraction").fingerprint
    assert opened.fingerprint != open_any_model(file, "imagenet").fingerprint


@pytest.mark.parametrize(
    ("shape", "inputs", "dtype", "message"),
    [
        (["n", 3, 8, 8], 2, TensorProto.FLOAT, "has 2 inputs: "),
        (["n", 4, 8, 8], 1, TensorProto.FLOAT, "has an input of tensor.float. and shape"),
        (["n", 3, 8, 8], 1, TensorProto.INT32, "has an input of tensor.int32."),
        (["n", 3, "h", "w"], 1, TensorProto.FLOAT, "export it again with a fixed size"),
    ],
)
def test_onnx_files_that_want_other_input_are_refused(
    tmp_path: Path, shape: list[Any], inputs: int, dtype: int, message: str
) -> None:
    with pytest.raises(SfscError, match=message):
        open_old(str(write_onnx(tmp_path / "old.onnx", shape, inputs, dtype)))


def test_a_function_is_called_only_if_it_is_allowed() -> None:
    name = "tests.bridges.test_old:old_function"
    with pytest.raises(SfscError, match=f"allow it with --allow-code {name}"):
        open_old(f"python:{name}")
    opened = open_old(f"python:{name}", allow_code=name)
    assert opened.space.dimension == 6
    with pytest.raises(SfscError, match=r"must return \(\(height, width\), function of images\)"):
        open_any_model("python:tests.bridges.spaces:model", allow_code="tests.bridges.spaces:model")


BAD = {
    "NaN": (lambda rows, names: rows.__setitem__(1, np.nan), "contains NaN"),
    "zeros": (lambda rows, names: rows.__setitem__(1, 0), "is all zeros"),
    "twice": (lambda rows, names: names.__setitem__(1, names[0]), "ids must be unique"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_tables_are_refused(folder: Path, tmp_path: Path, what: str) -> None:
    change, message = BAD[what]
    rows, names = embeddings(40), [str(path) for path in find_images(folder)][:40]
    change(rows, names)
    file = table(tmp_path, rows, names)
    with pytest.raises(SfscError, match=message):
        bridge(f"{file}:last-year", model(8, NEW.fingerprint), folder, workers=0)


def test_what_cannot_be_fitted_is_refused(folder: Path, tmp_path: Path) -> None:
    new = model(8, NEW.fingerprint)
    file = table(tmp_path, embeddings(15), [str(path) for path in find_images(folder)][:15])
    with pytest.raises(SfscError, match=r"a space cannot be named 'last\.year'"):
        open_old(f"{file}:last.year")
    with pytest.raises(SfscError, match="15 images are too few"):
        bridge(f"{file}:last-year", new, folder, workers=0)
    with pytest.raises(SfscError, match="has embeddings of none of the images"):
        elsewhere = table(tmp_path, embeddings(15), [f"/elsewhere/{row}" for row in range(15)])
        bridge(f"{elsewhere}:last-year", new, folder, workers=0)
    with pytest.raises(SfscError, match="they need no bridge"):
        bridge(f"{file}:x", model(8, "space:x"), folder, workers=0)
