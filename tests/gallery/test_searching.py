"""Writing a gallery with some sub-models and searching it with others, through the Python API."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfsc.data import CorruptImage, decode, open_dataset, write_png
from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.gallery import Gallery
from sfsc.gallery.indexing import index, upgrade
from sfsc.gallery.searching import search
from sfsc.images.boxes import Box
from sfsc.report.ranked_list import SIDE, draw_hits


def make_family(seed: int = 0) -> Family:
    return Family.create("small", (0.25, 0.5, 1.0), 16, (32, 32), seed=seed).eval()


@pytest.fixture(scope="module")
def family() -> Family:
    """An untrained family: its sub-models disagree, and each agrees with itself."""
    return make_family()


@pytest.fixture(scope="module")
def folder(shapes: str) -> Path:
    return Path(shapes.partition(":")[2]).parent


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery.open(tmp_path / "gallery", create=True)


def embed(family: Family, path: str | Path, width: float) -> np.ndarray:
    """(16,) float32, by the family alone."""
    pixels = torch.from_numpy(decode(str(path), (32, 32))).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return family.embed(pixels, width)[0].numpy()


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_an_image_finds_itself_at_the_width_it_was_written(
    family: Family, shapes: str, gallery: Gallery, width: float
) -> None:
    assert index(family, shapes, gallery, width, workers=0) == []
    for path in open_dataset(shapes).gallery.paths[::5]:
        first = search(family, path, gallery, width, top=1)[0]
        assert first.score == pytest.approx(1, abs=1e-5)
        assert np.array_equal(decode(first.path, None), decode(path, None))
        assert first.width == width


@pytest.mark.parametrize(("wrote", "asks"), [(1.0, 0.25), (0.25, 1.0), (0.5, 0.5)])
def test_scores_are_the_cosines_between_the_two_sub_models(
    family: Family, shapes: str, gallery: Gallery, wrote: float, asks: float
) -> None:
    index(family, shapes, gallery, wrote, workers=0)
    paths = open_dataset(shapes).gallery.paths
    hits = search(family, paths[3], gallery, asks, top=len(paths) + 1)
    query = embed(family, paths[3], asks)
    expected = {path: float(query @ embed(family, path, wrote)) for path in paths}
    assert {hit.path: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_gallery_may_hold_rows_of_several_widths(family: Family, folder: Path, gallery: Gallery) -> None:
    names = [folder / f"{identity:02d}_c0_0.png" for identity in range(6)]
    for path, width in zip(names, [0.25, 0.25, 0.5, 1.0, 1.0, 1.0], strict=True):
        index(family, path, gallery, width, workers=0)
    assert gallery.info().rows_by_width == {0.25: 2, 0.5: 1, 1.0: 3}
    hits = search(family, names[2], gallery, 0.5)
    assert {hit.path: hit.width for hit in hits} == {
        str(path.absolute()): width
        for path, width in zip(names, [0.25, 0.25, 0.5, 1.0, 1.0, 1.0], strict=True)
    }
    assert hits[0].path == str(names[2].absolute())


def test_indexing_again_replaces_whatever_the_path_is_called(
    family: Family, folder: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for images, width in [(folder, 1.0), (".", 0.5), ("../" + folder.name, 0.25), (Path(), 0.25)]:
        index(family, images, gallery, width, workers=0)
        assert gallery.info().rows_by_width == {width: 72}


def test_a_data_set_brings_labels_and_a_folder_none(
    family: Family, shapes: str, folder: Path, gallery: Gallery, tmp_path: Path
) -> None:
    split = open_dataset(shapes).gallery
    index(family, shapes, gallery, workers=0)
    hits = search(family, split.paths[0], gallery, top=99)
    assert split.cameras is not None
    assert {hit.path: (hit.identity, hit.camera) for hit in hits} == {
        path: (identity, camera)
        for path, identity, camera in zip(split.paths, split.identities, split.cameras, strict=True)
    }
    plain = Gallery.open(tmp_path / "plain", create=True)
    index(family, folder / "09_c0_0.png", plain, workers=0)
    assert [(hit.identity, hit.camera) for hit in search(family, split.paths[0], plain)] == [(None, None)]


def test_what_cannot_be_read_is_returned_and_the_rest_is_stored(
    family: Family, folder: Path, gallery: Gallery, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        write_png(images / f"{number}.png", decode(str(folder / f"0{number}_c0_0.png"), None))
    (images / "0.png").write_bytes((images / "0.png").read_bytes()[:-20])
    (images / "2.png").write_bytes(b"")
    corrupt = index(family, images, gallery, workers=0)
    assert all(isinstance(error, CorruptImage) for error in corrupt)
    assert [error.path for error in corrupt] == [str(images / "0.png"), str(images / "2.png")]
    assert [hit.path for hit in search(family, images / "1.png", gallery)] == [str(images / "1.png")]


def test_only_the_family_that_wrote_a_gallery_may_use_it(
    family: Family, folder: Path, gallery: Gallery
) -> None:
    other = make_family(seed=1)
    index(family, folder / "00_c0_0.png", gallery, workers=0)
    for use in (
        lambda: search(other, folder / "00_c0_0.png", gallery),
        lambda: index(other, folder / "01_c0_0.png", gallery, workers=0),
    ):
        with pytest.raises(SfscError) as caught:
            use()
        assert family.fingerprint in str(caught.value)
        assert other.fingerprint in str(caught.value)
    assert len(gallery) == 1


@pytest.mark.parametrize("width", [0.3, 0.75])
def test_a_width_of_no_sub_model_is_refused(
    family: Family, folder: Path, gallery: Gallery, width: float
) -> None:
    reason = f"width {width} is not one of this family's widths: 0.25, 0.5, 1"
    with pytest.raises(SfscError, match=reason):
        index(family, folder, gallery, width, workers=0)
    index(family, folder / "00_c0_0.png", gallery, workers=0)
    with pytest.raises(SfscError, match=reason):
        search(family, folder / "00_c0_0.png", gallery, width)
    assert len(gallery) == 1


def test_hits_are_drawn_in_rank_order(family: Family, folder: Path, gallery: Gallery, tmp_path: Path) -> None:
    index(family, folder, gallery, workers=0)
    query = folder / "04_c1_1.png"
    pictures = []
    for top in (1, 4):
        draw_hits(query, search(family, query, gallery, top=top), tmp_path / "hits.png")
        pictures.append(decode(str(tmp_path / "hits.png"), None))
    one, four = pictures
    assert four.shape[1] - one.shape[1] >= 3 * SIDE
    assert np.array_equal(one, four[:, : one.shape[1]]), "further hits stand at the right of the first"


def test_a_part_of_an_image_is_a_row_of_its_own_and_a_query(
    family: Family, gallery: Gallery, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    write_png(tmp_path / "scene.png", pixels)
    write_png(tmp_path / "part.png", pixels[10:50, 20:60])
    scene, box = tmp_path / "scene.png", Box(20, 10, 40, 40)
    for part in (None, box, Box(0, 0, 8, 8)):
        assert index(family, scene, gallery, 0.25, workers=0, box=part) == []
    ids = {f"{scene}", f"{scene}#xywh=20,10,40,40", f"{scene}#xywh=0,0,8,8"}
    assert {row["id"] for row in gallery.rows()} == ids
    for hits in (
        search(family, tmp_path / "part.png", gallery, 0.25),
        search(family, scene, gallery, 0.25, box=box),
    ):
        assert hits[0].path == f"{scene}#xywh=20,10,40,40"
        assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert upgrade(family, gallery, 1.0, workers=0) == []  # the part, not the whole image, is embedded again
    assert search(family, scene, gallery, 1.0, box=box)[0].score == pytest.approx(1, abs=1e-5)
    [skipped] = index(family, scene, gallery, 0.25, workers=0, box=Box(70, 0, 40, 40))
    assert "is not inside the image, which has 80 x 60 pixels" in str(skipped)
    with pytest.raises(SfscError, match="is not inside the image"):
        search(family, scene, gallery, box=Box(70, 0, 40, 40))


def test_several_images_of_one_object_are_one_query(family: Family, shapes: str, gallery: Gallery) -> None:
    index(family, shapes, gallery, workers=0)
    paths = open_dataset(shapes).query.paths[:3]
    mean = sum(embed(family, path, 0.5) for path in paths)
    expected = gallery.search((mean / np.linalg.norm(mean))[None], family.fingerprint, 7)[0]
    found = search(family, paths, gallery, 0.5, 7)
    assert [hit.id for hit in found] == [hit.id for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    with pytest.raises(SfscError, match="no query image"):
        search(family, [], gallery)
