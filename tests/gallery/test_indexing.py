"""Writing images into galleries and files: attributes, forms, what is left out, upgrades, Ray."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import sfsc.embedding.engines
from sfsc import Condition, Family, Gallery, SfscError, index, open_dataset, upgrade
from sfsc.data import decode, find_images, write_png
from sfsc.embedding.embedded import Embedded
from sfsc.embedding.engines import Engine, local_engine, make_engine
from sfsc.embedding.files import write_embeddings
from sfsc.embedding.image_set import embed_all
from sfsc.gallery.attributes import read_attributes
from sfsc.gallery.export import export

WIDTHS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def family() -> Family:
    return Family.create("small", WIDTHS, 16, (32, 32)).eval()


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery.open(tmp_path / "gallery", create=True)


@pytest.fixture
def folder(shapes: str, tmp_path: Path) -> Path:
    """Ten images and one that is none."""
    (tmp_path / "images").mkdir()
    for number, path in enumerate(open_dataset(shapes).gallery.paths[:10]):
        shutil.copy(path, tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "x.png").write_text("not an image")
    return tmp_path / "images"


def write_table(folder: Path) -> Path:
    lines = [f"{n}.png,{n},{n / 2},{str(n < 5).lower()},{'red' if n % 2 else ''}" for n in range(10)]
    table = folder / "table.csv"
    table.write_text("\n".join(["path,number,price,sold,colour", *lines]))
    return table


def counting(engine: Engine, embedded: list[str]) -> Engine:
    def counted(paths: list[str]) -> Iterator[object]:
        embedded.extend(paths)
        return engine(paths)

    return counted


def test_attributes_are_read_with_their_kinds(family: Family, gallery: Gallery, folder: Path) -> None:
    attributes = read_attributes(write_table(folder))
    assert [error.path for error in index(family, folder, gallery, 0.5, 0, attributes=attributes)] == [
        str(folder / "x.png")
    ]
    kinds = {"number": "integer", "price": "number", "sold": "boolean", "colour": "text"}
    assert gallery.info().attributes == kinds
    found = list(gallery.rows(["number>=8"]))
    assert sorted((row["price"], row["sold"], row["colour"]) for row in found) == [
        (4.0, False, None),
        (4.5, False, "red"),
    ]


def test_resume_leaves_out_what_the_same_sub_model_wrote(
    family: Family, gallery: Gallery, folder: Path
) -> None:
    embedded: list[str] = []
    index(family, folder / "3.png", gallery, 0.5, 0)
    index(family, folder / "4.png", gallery, 1.0, 0)
    engine = counting(local_engine(family, 0.5, 0), embedded)
    index(family, folder, gallery, 0.5, resume=True, engine=engine)
    assert str(folder / "4.png") in embedded
    assert str(folder / "3.png") not in embedded
    assert gallery.info().rows_by_width == {0.5: 10}


def test_an_upgrade_begins_with_the_narrowest_and_keeps_the_rest(
    family: Family, gallery: Gallery, folder: Path
) -> None:
    attributes = read_attributes(write_table(folder))
    for number, width in enumerate((0.5, 0.25, 1.0, 0.25)):
        index(family, folder / f"{number}.png", gallery, width, 0, "int8", attributes)
    gallery.add(np.ones((1, 16)), ["gone"], paths=["/none.png"], width=0.25, fingerprint=family.fingerprint)
    embedded: list[str] = []
    corrupt = upgrade(family, gallery, engine=counting(local_engine(family, 1.0, 0), embedded))
    assert [error.path for error in corrupt] == ["/none.png"]
    assert {Path(path).name for path in embedded[:3]} == {"1.png", "3.png", "none.png"}
    assert Path(embedded[3]).name == "0.png"
    assert len(embedded) == 4
    assert gallery.info().rows_by_width == {0.25: 1, 1.0: 4}
    assert gallery.info().rows_by_form == {"float32": 1, "int8": 4}
    expected = embed_all(family, [str(folder / "1.png")], 0).vectors[1.0]
    row = next(gallery.rows(["number=1"], embeddings=True))
    assert (row["colour"], row["price"], row["width"]) == ("red", 0.5, 1.0)
    assert row["embedding"] @ expected[0] > 0.999


def test_an_upgrade_that_was_stopped_goes_on(family: Family, gallery: Gallery, folder: Path) -> None:
    index(family, folder / "0.png", gallery, 0.25, 0)
    index(family, folder / "1.png", gallery, 0.5, 0)
    engine = local_engine(family, 1.0, 0)

    def stopped(paths: Sequence[str]) -> Iterator[Embedded[float]]:
        yield from engine(paths[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upgrade(family, gallery, engine=stopped)
    assert gallery.info().rows_by_width == {0.5: 1, 1.0: 1}
    upgrade(family, gallery, workers=0)
    assert gallery.info().rows_by_width == {1.0: 2}


@given(st.sets(st.binary(min_size=1, max_size=20), max_size=5))
@settings(max_examples=15, deadline=None)
def test_images_of_any_name_are_stored_or_named(
    tmp_path_factory: pytest.TempPathFactory, family: Family, stems: set[bytes]
) -> None:
    out = tmp_path_factory.mktemp("names")
    photos = out / "photos"
    photos.mkdir()
    # Beside the drawn names there are a good one and those that were met: Latin-1, line feed, "::".
    for stem in {*stems, b"good", b"caf\xe9", b"a\nb", b"x::y"}:
        name = os.fsdecode(stem.translate(None, b"/\0").lstrip(b".") + b".png")
        write_png(out / "one.png", np.zeros((8, 8, 3), np.uint8))
        (out / "one.png").rename(photos / name) if not name.startswith(".") else None
    there = {str(path) for path in photos.iterdir()}
    storable = {path for path in there if path.encode(errors="replace").decode() == path}
    gallery = Gallery.open(out / "gallery", create=True)
    engine = counting(lambda paths: iter([fake(paths)]), [])
    skipped = index(family, photos, gallery, 0.5, engine=engine)
    assert {row["path"] for row in gallery.rows()} == storable
    assert {error.path for error in skipped} == there - storable
    assert [error.path for error in write_embeddings(photos, out / "parts", engine, 0.5)] == [
        e.path for e in skipped
    ]
    assert set(parquet.read_table(out / "parts")["path"].to_pylist()) == storable


def fake(paths: Sequence[str]) -> Embedded[float]:
    return Embedded({0.5: np.eye(len(paths), 16, dtype=np.float32) + 1}, np.arange(len(paths)), [])


def test_where_no_image_can_be_stored_it_is_said(family: Family, gallery: Gallery, tmp_path: Path) -> None:
    bad = tmp_path / "images" / os.fsdecode(b"caf\xe9.png")
    bad.parent.mkdir()
    write_png(bad.with_name("x.png"), np.zeros((8, 8, 3), np.uint8))
    bad.with_name("x.png").rename(bad)
    engine = local_engine(family, 0.5, 0)
    for source in (bad, bad.parent):
        assert [e.path for e in index(family, source, gallery, 0.5, engine=engine)] == [str(bad)]
        assert [e.path for e in write_embeddings(source, tmp_path / "out", engine, 0.5)] == [str(bad)]
        with pytest.raises(SfscError, match=r"nothing to write into .*v\.npy: .*the path is not valid UTF-8"):
            write_embeddings(source, tmp_path / "v.npy", engine, 0.5)


def test_a_data_set_without_a_gallery_split_is_taken_whole(
    family: Family, gallery: Gallery, shapes: str, tmp_path: Path
) -> None:
    paths = open_dataset(shapes).gallery.paths[:3]
    rows = [f"{path},of {number},train" for number, path in enumerate(paths)]
    (tmp_path / "t.csv").write_text("\n".join(["path,identity,split", *rows]))
    assert index(family, f"csv:{tmp_path / 't.csv'}", gallery, 0.5, 0) == []
    assert {row["path"]: row["identity"] for row in gallery.rows()} == {
        path: f"of {number}" for number, path in enumerate(paths)
    }
    assert (
        write_embeddings(f"csv:{tmp_path / 't.csv'}", tmp_path / "v.npy", local_engine(family, 0.5, 0), 0.5)
        == []
    )
    assert np.load(tmp_path / "v.npy").shape == (3, 16)


def test_embeddings_become_an_array(family: Family, folder: Path, tmp_path: Path) -> None:
    corrupt = write_embeddings(folder, tmp_path / "out" / "v.npy", local_engine(family, 0.5, 0), 0.5)
    assert [Path(error.path).name for error in corrupt] == ["x.png"]
    paths = (tmp_path / "out" / "v.txt").read_text().splitlines()
    expected = embed_all(family, paths, 0).of(paths)[0.5]
    np.testing.assert_allclose(np.load(tmp_path / "out" / "v.npy"), expected, atol=1e-6)
    assert len(paths) == 10


def test_embeddings_become_parquet_and_are_gone_on_with(family: Family, folder: Path, tmp_path: Path) -> None:
    embedded: list[str] = []
    engine = counting(local_engine(family, 0.5, 0), embedded)
    write_embeddings(folder / "3.png", tmp_path / "out", engine, 0.5)
    write_embeddings(folder, tmp_path / "out", engine, 0.5)
    assert sum(path.endswith("3.png") for path in embedded) == 1
    table = parquet.read_table(tmp_path / "out")
    paths = table["path"].to_pylist()
    assert len(set(paths)) == len(paths) == 10
    expected = embed_all(family, paths, 0).of(paths)[0.5]
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected, atol=1e-6)
    (tmp_path / "out" / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(SfscError, match=r"part-00000\.parquet cannot be read"):
        write_embeddings(folder, tmp_path / "out", engine, 0.5)


def test_a_gallery_is_exported(family: Family, gallery: Gallery, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SfscError, match="contains no rows to export"):
        export(gallery, tmp_path / "rows.parquet")
    index(family, folder, gallery, 0.5, 0, "float16", read_attributes(write_table(folder)))
    assert export(gallery, tmp_path / "out" / "rows.parquet") == 10
    table = parquet.read_table(tmp_path / "out" / "rows.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    stored = {row["id"]: row for row in gallery.rows(embeddings=True)}
    for row in table.to_pylist():
        expected = stored[row["id"]]
        np.testing.assert_array_equal(row.pop("embedding"), expected.pop("embedding"))
        assert row == expected
    (tmp_path / "file").touch()
    with pytest.raises(SfscError, match="cannot write"):
        export(gallery, tmp_path / "file" / "rows.parquet")


@pytest.mark.slow
def test_ray_embeds_as_this_process_does(family: Family, folder: Path, tmp_path: Path) -> None:
    family.save(tmp_path / "run")
    engine = make_engine("ray", tmp_path / "run", family, 0.5, 2)
    paths = find_images(folder)
    parts = list(engine(paths))
    found = {paths[i]: part.vectors[0.5][n] for part in parts for n, i in enumerate(part.indices)}
    assert [Path(error.path).name for part in parts for error in part.corrupt] == ["x.png"]
    expected = embed_all(family, list(found), 0)
    np.testing.assert_allclose(np.stack(list(found.values())), expected.of(list(found))[0.5], atol=1e-5)
    gallery = Gallery.open(tmp_path / "by-ray", create=True)
    assert len(index(family, folder, gallery, 0.5, engine=engine)) == 1
    assert len(gallery) == 10


def test_an_unknown_engine_and_a_missing_one_are_refused(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SfscError, match="unknown engine 'spark'; choose one of local, ray"):
        make_engine("spark", tmp_path, family, 0.5, 2)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SfscError, match=r"pip install 'sfsc\[ray\]'"):
        make_engine("ray", tmp_path, family, 0.5, 2)
    with pytest.raises(SfscError, match=r"width 0\.3 is not one"):
        make_engine("local", tmp_path, family, 0.3, 2)


def test_embeddings_are_shortened_where_they_are_made(
    family: Family, folder: Path, gallery: Gallery, tmp_path: Path
) -> None:
    nested = Family.create("small", WIDTHS, 16, (32, 32), nested_dims=(4, 8)).eval()
    nested.save(tmp_path / "run")
    index(nested, folder, gallery, 0.5, 0, dimension=8)
    assert (gallery.info().dimension, gallery.info().dimensions) == (8, (4, 8, 16))
    upgrade(nested, gallery, 1.0, 0)
    [row] = gallery.rows([Condition("path", "=", (str(folder / "1.png"),))], embeddings=True)
    pixels = decode(row["path"], (32, 32))[None]
    np.testing.assert_allclose(row["embedding"], nested.embed_pixels(pixels, 1.0, 8)[0], atol=1e-5)
    batch = {"index": np.arange(1), "path": np.array([row["path"]])}
    for dimension in (None, 4):
        actor = sfsc.embedding.engines.Actor(str(Path.cwd()), str(tmp_path / "run"), 1.0, dimension, None)
        expected = nested.embed_pixels(pixels, 1.0, dimension)
        np.testing.assert_allclose(actor(batch)["embedding"], expected, atol=1e-5)
    for refused in (
        lambda: index(nested, folder, gallery, 0.5, 0, dimension=5),
        lambda: make_engine("local", tmp_path, nested, 0.5, 0, 5),
    ):
        with pytest.raises(SfscError, match="dimension 5 is not one of this family's dimensions: 4, 8, 16"):
            refused()
    with pytest.raises(SfscError, match="has rows of 8 dimensions, but the embeddings have 4"):
        index(nested, folder, gallery, 0.5, 0, dimension=4)


def test_an_actor_names_what_it_cannot_read(family: Family, folder: Path, tmp_path: Path) -> None:
    family.save(tmp_path / "run")
    actor = sfsc.embedding.engines.Actor(str(Path.cwd()), str(tmp_path / "run"), 0.5, None, None)
    batch = actor({"index": np.arange(2), "path": np.array([str(folder / "x.png"), str(folder / "1.png")])})
    assert batch["error"][0]
    assert batch["error"][1] == ""
    assert np.linalg.norm(batch["embedding"][1]) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_named(
    address: str, family: Family, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", address)
    engine = make_engine("ray", tmp_path / "run", family, 0.5, 2)
    with pytest.raises(SfscError, match=f"no Ray cluster answers at RAY_ADDRESS={address}"):
        next(engine(find_images(folder)))


@pytest.mark.slow
def test_the_error_of_an_actor_is_one_line(family: Family, folder: Path, tmp_path: Path) -> None:
    engine = make_engine("ray", tmp_path / "run", family, 0.5, 2)
    with pytest.raises(SfscError, match=r"^Ray failed: .*contains no trained family: family\.json.*$"):
        next(engine(find_images(folder)))
