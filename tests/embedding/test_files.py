"""Embeddings in files: no run loses what another wrote, and each embedding keeps its path."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import sfsc.gallery.indexing
from sfsc import Family, SfscError
from sfsc.embedding.embedded import Embedded
from sfsc.embedding.files import write_embeddings
from sfsc.images.reading import decode
from tests.cutting import cuts

NOT_UTF_8 = "the path is not valid UTF-8: rename it"
WIDTH = 0.5


def vector(path: str) -> np.ndarray:
    """(2,) float32 that tells images apart by their names."""
    name = os.fsencode(Path(path).name)
    return np.array([len(name), sum(name)], np.float32)


def engine(paths: Sequence[str]) -> Iterator[Embedded[float]]:
    """Embeds without a model, two images at a time."""
    for start in range(0, len(paths), 2):
        places = np.arange(start, min(start + 2, len(paths)))
        yield Embedded({WIDTH: np.stack([vector(paths[place]) for place in places])}, places, [])


def make(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def stored(folder: Path) -> Counter[str]:
    """How often each image is in the files of a folder; the embeddings are checked."""
    table = parquet.read_table(folder)
    for path, embedding in zip(table["path"].to_pylist(), table["embedding"].to_pylist(), strict=True):
        np.testing.assert_array_equal(embedding, vector(path))
    return Counter(Path(path).name for path in table["path"].to_pylist())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=5))
def test_whatever_part_is_taken_away_the_next_run_makes_it_again(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    tmp_path = tmp_path_factory.mktemp("vectors")
    names: list[str] = []
    for more, taken in steps:
        names += [f"{len(names) + place}.jpg" for place in range(more)]
        write_embeddings(make(tmp_path / "images", *names), tmp_path / "out", engine, WIDTH)
        assert stored(tmp_path / "out") == Counter(names)
        parts = sorted((tmp_path / "out").iterdir())
        parts[taken % len(parts)].unlink()
    write_embeddings(tmp_path / "images", tmp_path / "out", engine, WIDTH)
    assert stored(tmp_path / "out") == Counter(names)


def test_two_runs_at_once_lose_nothing_and_store_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sfsc.embedding.embedded, "BATCHES_PER_PART", 1)
    images = make(tmp_path / "images", *(f"{place}.jpg" for place in range(9)))
    others = make(tmp_path / "others", "a.jpg", "b.jpg")

    def with_others(paths: Sequence[str]) -> Iterator[Embedded[float]]:
        for count, part in enumerate(engine(paths)):
            yield part
            if count == 1:
                write_embeddings(images, tmp_path / "out", engine, WIDTH)
                write_embeddings(others, tmp_path / "out", engine, WIDTH)

    write_embeddings(images, tmp_path / "out", with_others, WIDTH)
    assert stored(tmp_path / "out") == Counter([f"{place}.jpg" for place in range(9)] + ["a.jpg", "b.jpg"])


def test_parts_of_earlier_versions_are_gone_on_with(tmp_path: Path) -> None:
    images = make(tmp_path / "images", "a.jpg")
    write_embeddings(images, tmp_path / "out", engine, WIDTH)
    [part] = (tmp_path / "out").iterdir()
    part.rename(part.with_name("part-00000.parquet"))
    write_embeddings(make(images, "b.jpg"), tmp_path / "out", engine, WIDTH)
    assert (tmp_path / "out" / "part-00000.parquet").exists()
    assert stored(tmp_path / "out") == Counter(["a.jpg", "b.jpg"])


BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("line_break", BREAKS)
def test_a_name_with_a_line_break_shifts_no_list(tmp_path: Path, line_break: str) -> None:
    bad = [f"1{line_break}.jpg", f"1{line_break}1.jpg"]
    images = make(tmp_path / "images", "0.jpg", *bad, "2.jpg")
    corrupt = write_embeddings(images, tmp_path / "v.npy", engine, WIDTH)
    assert sorted(Path(error.path).name for error in corrupt) == sorted(bad)
    assert all("line break" in error.reason for error in corrupt)
    lines = (tmp_path / "v.txt").read_text(encoding="utf-8").splitlines()
    assert [Path(line).name for line in lines] == ["0.jpg", "2.jpg"]
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), [vector(line) for line in lines])
    assert write_embeddings(images, tmp_path / "out", engine, WIDTH) == []
    assert stored(tmp_path / "out") == Counter(["0.jpg", *bad, "2.jpg"])


@pytest.mark.parametrize("out", ["v.npy", "out"])
def test_a_name_that_is_not_utf_8_is_left_out(tmp_path: Path, out: str) -> None:
    images = make(tmp_path / "images")
    (images / os.fsdecode(b"\xff.jpg")).touch()
    if out == "out":
        assert [error.reason for error in write_embeddings(images, tmp_path / out, engine, WIDTH)] == [
            NOT_UTF_8
        ]
    else:
        with pytest.raises(SfscError, match=r"nothing to write into .*v\.npy: .*the path is not valid UTF-8"):
            write_embeddings(images, tmp_path / out, engine, WIDTH)
    [error] = write_embeddings(make(images, "0.jpg"), tmp_path / out, engine, WIDTH)
    assert error.reason == NOT_UTF_8


def test_embeddings_that_are_cut_anywhere_have_no_list_of_others(tmp_path: Path) -> None:
    few, many = make(tmp_path / "few", "0.jpg"), make(tmp_path / "many", "10.jpg", "11.jpg")
    out, seen = tmp_path / "v.npy", set()
    for _ in cuts(
        lambda: write_embeddings(few, out, engine, WIDTH), lambda: write_embeddings(many, out, engine, WIDTH)
    ):
        rows = np.load(out)
        seen.add(len(rows))
        if out.with_suffix(".txt").exists():
            names = out.with_suffix(".txt").read_text().splitlines()
            np.testing.assert_array_equal(rows, np.stack([vector(name) for name in names]))
    assert seen == {1, 2}


def test_a_list_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    images = make(tmp_path / "images", "0.jpg")
    (tmp_path / "v.txt").write_text("notes")
    with pytest.raises(SfscError, match=r"v\.txt exists without .*v\.npy"):
        write_embeddings(images, tmp_path / "v.npy", engine, WIDTH)
    assert (tmp_path / "v.txt").read_text() == "notes"
    (tmp_path / "v.txt").unlink()
    for _ in range(2):
        write_embeddings(images, tmp_path / "v.npy", engine, WIDTH)


def test_a_model_writes_what_it_embeds(family: Family, images: list[str], tmp_path: Path) -> None:
    folder = Path(images[0]).parent
    assert sfsc.embed(family, folder, tmp_path / "v.npy", workers=0) == []
    assert sfsc.embed(family, folder, tmp_path / "short.npy", 0.25, workers=0, dimension=8) == []
    paths = (tmp_path / "v.txt").read_text().splitlines()
    assert {*images} <= {*paths}
    pixels = np.stack([decode(path, family.image_size) for path in paths])
    for name, expected in (
        ("v.npy", family.embed_pixels(pixels)),
        ("short.npy", family.embed_pixels(pixels, 0.25, 8)),
    ):
        np.testing.assert_allclose(np.load(tmp_path / name), expected, atol=1e-5)
    for wrong in ({"width": 0.3}, {"dimension": 5}):
        with pytest.raises(SfscError, match=str(*wrong.values())):
            sfsc.embed(family, folder, tmp_path / "no.npy", **wrong)
    assert not (tmp_path / "no.npy").exists()
