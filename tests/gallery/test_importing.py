"""Embeddings of other programs in a gallery: every source, every mistake, and imports that are killed."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import lance
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from sfsc.errors import SfscError
from sfsc.gallery import Gallery
from sfsc.gallery.export import export
from sfsc.gallery.imports import importing
from sfsc.gallery.imports.importing import PartlyImported, import_embeddings

DIM, ROWS = 16, 50
FACTS: dict[str, Any] = {"fingerprint": "f", "width": 0.5}


def embeddings(count: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


NAMES = [f"/photos/{row}.png" for row in range(ROWS)]


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery.open(tmp_path / "gallery", create=True)


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    file = tmp_path / "ids.txt"
    file.write_text("".join(f"{name}\n" for name in NAMES))
    return file


def as_npy(folder: Path, rows: np.ndarray) -> Path:
    np.save(folder / "rows.npy", rows)
    (folder / "rows.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return folder / "rows.npy"


def as_table(rows: np.ndarray, fixed: bool = True, **columns: list[Any]) -> pa.Table:
    type_ = pa.list_(pa.float32(), rows.shape[1]) if fixed else pa.list_(pa.float32())
    columns = columns or {"path": NAMES[: len(rows)]}
    return pa.table({**columns, "embedding": pa.array(rows.tolist(), type_)})


def as_parquet(folder: Path, rows: np.ndarray, **columns: Any) -> Path:
    parquet.write_table(as_table(rows, **columns), folder / "rows.parquet")
    return folder / "rows.parquet"


def as_parts(folder: Path, rows: np.ndarray) -> Path:
    (folder / "parts").mkdir()
    for number, places in enumerate(np.array_split(np.arange(len(rows)), 3)):
        table = as_table(rows[places], path=[NAMES[place] for place in places])
        parquet.write_table(table, folder / "parts" / f"part-{number}.parquet")
    return folder / "parts"


def as_faiss(folder: Path, rows: np.ndarray, metric: Any = faiss.IndexFlatIP) -> Path:
    index = metric(rows.shape[1])
    index.add(rows)
    faiss.write_index(index, str(folder / "rows.faiss"))
    return folder / "rows.faiss"


def as_numbered(folder: Path, rows: np.ndarray) -> Path:
    index = faiss.IndexIDMap(faiss.IndexFlatL2(rows.shape[1]))
    index.add_with_ids(rows[::-1].copy(), np.arange(len(rows))[::-1].copy())
    faiss.write_index(index, str(folder / "numbered.faiss"))
    return folder / "numbered.faiss"


def as_lance(folder: Path, rows: np.ndarray) -> Path:
    table = as_table(rows).rename_columns(["id", "vector"])
    lance.write_dataset(table, folder / "photos.lance")
    return folder / "photos.lance"


WRITERS = [as_npy, as_parquet, as_parts, as_faiss, as_numbered, as_lance]


@pytest.mark.parametrize("write", WRITERS)
def test_every_source_is_imported(write: Any, gallery: Gallery, ids: Path, tmp_path: Path) -> None:
    rows = embeddings()
    source = write(tmp_path, rows)
    chosen = {"ids": ids} if source.suffix == ".faiss" else {}
    assert import_embeddings(source, gallery, **FACTS, **chosen) == ROWS
    stored = {row["id"]: row for row in gallery.rows(embeddings=True)}
    assert sorted(stored) == sorted(NAMES)
    for name, row in zip(NAMES, unit(rows), strict=True):
        np.testing.assert_allclose(stored[name]["embedding"], row, atol=1e-6)
        assert (stored[name]["path"], stored[name]["width"], stored[name]["fingerprint"]) == (name, 0.5, "f")
    assert import_embeddings(source, gallery, **FACTS, **chosen) == ROWS
    assert len(gallery) == ROWS


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8"])
def test_arrays_of_all_floats_are_imported(kind: str, gallery: Gallery, tmp_path: Path) -> None:
    assert import_embeddings(as_npy(tmp_path, embeddings().astype(kind)), gallery, **FACTS) == ROWS
    assert gallery.search(embeddings()[3:4], "f", top=1)[0][0].id == NAMES[3]


def test_parts_are_put_together(gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("npy", "faiss_file", "tables", "importing"):
        monkeypatch.setattr(f"sfsc.gallery.imports.{module}.rows_per_part", lambda _: 7)
    for write in (as_npy, as_parts, as_numbered, as_lance):
        import_embeddings(write(tmp_path, embeddings()), gallery, **FACTS)
    assert len(gallery) == 2 * ROWS, "the numbers of an index are ids of their own"


def test_an_exported_gallery_comes_back(tmp_path: Path) -> None:
    gallery = Gallery.open(tmp_path / "old", create=True)
    common: dict[str, Any] = {"fingerprint": "ab.cd", "dimensions": (4, 8, DIM)}
    for number, form in enumerate(("float32", "float16", "int8")):
        names = [f"{form} {row}" for row in range(10)]
        gallery.add(
            embeddings(10, seed=number),
            names,
            paths=[f"{name}.png" for name in names],
            identities=[None, *names[1:]],
            cameras=names,
            width=(number + 1) / 4,
            form=form,
            attributes={"price": [None, *range(9)], "Stück": [0.5] * 10, "new": [True] * 10, "text": names},
            **common,
        )
    export(gallery, tmp_path / "rows.parquet")
    again = Gallery.open(tmp_path / "new", create=True)
    assert import_embeddings(tmp_path / "rows.parquet", again) == 30
    assert again.info() == gallery.info()
    before = {row["id"]: row for row in gallery.rows(embeddings=True)}
    for row in again.rows(embeddings=True):
        np.testing.assert_allclose(row.pop("embedding"), before[row["id"]].pop("embedding"), atol=1e-3)
        assert {**row, "time": 0} == {**before[row["id"]], "time": 0}


def test_longer_rows_are_shortened_to_the_gallery(gallery: Gallery, tmp_path: Path) -> None:
    gallery.add(embeddings()[:1, :4], ["x"], paths=["x"], width=1, fingerprint="f", dimensions=(4, DIM))
    import_embeddings(as_npy(tmp_path, embeddings()), gallery, **FACTS)
    assert gallery.info().dimension == 4
    rows = embeddings()
    rows[7, :4] = 0
    with pytest.raises(SfscError, match=r"row 7 .* is all zeros"):
        import_embeddings(as_npy(tmp_path, rows), gallery, **FACTS)


def changed(value: float, place: int = 7) -> np.ndarray:
    rows = embeddings()
    rows[place] = value
    return rows


def ragged(folder: Path, lists: list[Any]) -> Path:
    table = pa.table({"id": ["a", "b"], "embedding": pa.array(lists, pa.list_(pa.float32()))})
    parquet.write_table(table, folder / "ragged.parquet")
    return folder / "ragged.parquet"


def hnsw(folder: Path) -> Path:
    index = faiss.IndexHNSWFlat(DIM, 4)
    index.add(embeddings())
    faiss.write_index(index, str(folder / "rows.faiss"))
    return folder / "rows.faiss"


def text(folder: Path) -> Path:
    (folder / "rows.csv").write_text("a,b\n")
    return folder / "rows.csv"


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def objects(folder: Path) -> Path:
    np.save(folder / "rows.npy", np.array([[print]], object), allow_pickle=True)
    (folder / "rows.txt").write_text("a\n")
    return folder / "rows.npy"


BAD = {
    "nan": (lambda folder: as_npy(folder, changed(np.nan)), r"rows.npy: row 7 \(id '/photos/7.png'\): .*NaN"),
    "infinity": (lambda folder: as_faiss(folder, changed(np.inf)), r"row 7 .*NaN, infinity"),
    "too large": (lambda folder: as_npy(folder, changed(1e30)), r"row 7 .* or too large"),
    "zeros": (lambda folder: as_lance(folder, changed(0)), r"row 7 .* is all zeros"),
    "twice": (
        lambda folder: as_parquet(folder, embeddings(3), path=["a", "b", "a"]),
        r"row 2 \(id 'a'\) has the id of an earlier row: ids must be unique",
    ),
    "dimensions": (
        lambda folder: ragged(folder, [[1.0] * DIM, [1.0] * 5]),
        r"row 1 .* has an embedding of 5 dimensions instead of 16",
    ),
    "no embedding": (lambda folder: ragged(folder, [[1.0] * DIM, None]), r"row 1 .* has no embedding"),
    "a gap": (
        lambda folder: ragged(folder, [[1.0] * DIM, [1.0, None] * 8]),
        r"row 1 .* lacks components",
    ),
    "no id": (lambda folder: as_parquet(folder, embeddings(2), id=["a", None]), "row 1 has no id"),
    "other family": (
        lambda folder: as_parquet(folder, embeddings(2), id=["a", "b"], fingerprint=["f", "g"]),
        r"row 1 \(id 'b'\) has fingerprint g, but the options say f",
    ),
    "other width": (
        lambda folder: as_parquet(folder, embeddings(2), id=["a", "b"], width=[0.5, 1.0]),
        r"row 1 \(id 'b'\) has width 1.0, but the options say 0.5",
    ),
    "impossible form": (
        lambda folder: as_parquet(folder, embeddings(1), id=["a"], form=["int4"]),
        "unknown numeric form 'int4'",
    ),
    "no column": (lambda folder: as_parquet(folder, embeddings(1), name=["a"]), "a column id or path"),
    "dates": (
        lambda folder: as_parquet(folder, embeddings(1), id=["a"], day=[pa.scalar(1, pa.date32())]),
        "column day has type date32",
    ),
    "mixed numbers": (
        lambda folder: as_parquet(
            folder, embeddings(1), id=["a"], path=["\ud800".encode("utf-8", "surrogatepass")]
        ),
        "column path has type binary",
    ),
    "hnsw": (hnsw, "kind b'IHNf', which does not keep"),
    "text": (text, "is neither a .npy file, a Parquet file nor"),
    "empty folder": (lambda folder: made(folder / "empty"), "neither Parquet files nor a Lance table"),
    "missing": (lambda folder: folder / "none", "none: No such file"),
    "vector of one": (lambda folder: as_npy(folder, embeddings()[0]), r"shape \(16,\): save a C-ordered"),
    "integers": (lambda folder: as_npy(folder, np.ones((3, 4), np.int8)), "contains int8"),
    "columns first": (
        lambda folder: as_npy(folder, np.asfortranarray(embeddings())),
        r"in Fortran order: save a C-ordered",
    ),
    "objects": (objects, "contains object of shape"),
    "empty": (lambda folder: as_npy(folder, embeddings(0)), "contains no rows"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_imported_is_one_line_and_changes_nothing(
    kind: str, gallery: Gallery, ids: Path, tmp_path: Path
) -> None:
    write, message = BAD[kind]
    source = write(tmp_path)
    chosen = {"ids": ids} if source.suffix == ".faiss" else {}
    with pytest.raises(SfscError, match=message) as caught:
        import_embeddings(source, gallery, **FACTS, **chosen)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "gallery").exists()


def test_ids_that_repeat_far_apart_are_found(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfsc.gallery.imports.npy.rows_per_part", lambda _: 10)
    source = as_npy(tmp_path, embeddings())
    (tmp_path / "rows.txt").write_text("".join(f"{name}\n" for name in [*NAMES[:-1], NAMES[0]]))
    with pytest.raises(SfscError, match=r"contains the id '/photos/0.png' several times"):
        import_embeddings(source, gallery, **FACTS)
    assert not (tmp_path / "gallery").exists()


def test_missing_facts_name_the_option(gallery: Gallery, ids: Path, tmp_path: Path) -> None:
    source = as_npy(tmp_path, embeddings())
    with pytest.raises(SfscError, match="has no fingerprint: give --model MODEL or --fingerprint"):
        import_embeddings(source, gallery, width=1.0)
    with pytest.raises(SfscError, match="has no width: give --width"):
        import_embeddings(source, gallery, fingerprint="f")
    with pytest.raises(SfscError, match=r"width 2\.0: widths are numbers above 0"):
        import_embeddings(source, gallery, fingerprint="f", width=2.0)
    (tmp_path / "rows.txt").unlink()
    with pytest.raises(SfscError, match=r"there is no .*rows.txt: write one id per line"):
        import_embeddings(source, gallery, **FACTS)
    with pytest.raises(SfscError, match="contains no ids: give --ids FILE"):
        import_embeddings(as_faiss(tmp_path, embeddings()), gallery, **FACTS)
    gallery.add(embeddings(1), ["x"], paths=["x"], width=1.0, fingerprint="g")
    with pytest.raises(SfscError, match="belongs to the family g, but the embeddings belong to f"):
        import_embeddings(source, gallery, ids=ids, **FACTS)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"a\n" * 3, "has 3 lines, but .* has 50 rows"),
        ("".join(f"{n}\n" for n in range(51)).encode(), "has more than 50 lines"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\n\xff\n", "line 2 is not UTF-8"),
        (b"a" * (1 << 17), "line 1 is longer than"),
    ],
)
def test_lists_of_ids_that_do_not_fit(lines: bytes, message: str, gallery: Gallery, tmp_path: Path) -> None:
    source = as_npy(tmp_path, embeddings())
    (tmp_path / "rows.txt").write_bytes(lines)
    with pytest.raises(SfscError, match=message):
        import_embeddings(source, gallery, **FACTS)


def test_numbers_without_a_line_are_named(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("a\nb\n")
    with pytest.raises(SfscError, match=r"has the id 49, but .* has 2 lines"):
        import_embeddings(as_numbered(tmp_path, embeddings()), gallery, ids=tmp_path / "few.txt", **FACTS)


@pytest.mark.parametrize("size", [3, 40, 100, 1000])
@pytest.mark.parametrize("write", [as_npy, as_faiss, as_numbered, as_parquet])
def test_files_that_are_cut_or_lie_about_their_size_are_refused(
    write: Any, size: int, gallery: Gallery, ids: Path, tmp_path: Path
) -> None:
    source = write(tmp_path, embeddings())
    source.write_bytes(source.read_bytes()[:size])
    with pytest.raises(SfscError):
        import_embeddings(source, gallery, ids=ids, **FACTS)


def test_an_index_that_claims_a_billion_rows_is_refused(gallery: Gallery, ids: Path, tmp_path: Path) -> None:
    source = as_faiss(tmp_path, embeddings())
    data = bytearray(source.read_bytes())
    data[8:16] = struct.pack("<q", 10**9)
    source.write_bytes(data)
    with pytest.raises(SfscError, match="1000000000 rows of 16 dimensions do not fit its size"):
        import_embeddings(source, gallery, ids=ids, **FACTS)


def test_a_failure_after_the_first_part_says_how_much_was_done(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfsc.gallery.imports.npy.rows_per_part", lambda _: 20)
    source, done = as_npy(tmp_path, embeddings()), []
    add = Gallery.add

    def fail(*arguments: Any, **more: Any) -> int:
        if done:
            raise SfscError("the disk is full")
        done.append(add(*arguments, **more))
        return done[0]

    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "add", fail)
        with pytest.raises(PartlyImported, match="20 of 50 rows were imported: the disk is full; then run"):
            import_embeddings(source, gallery, **FACTS)
    assert len(gallery) == 20
    assert import_embeddings(source, gallery, **FACTS) == ROWS
    assert len(gallery) == ROWS


KILLED = """
import os, signal, sys
from sfsc.gallery import Gallery
from sfsc.gallery.imports import importing, npy
npy.rows_per_part = lambda _: 10
left = int(sys.argv[3])
add = Gallery.add
def counted(*arguments, **more):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return add(*arguments, **more)
Gallery.add = counted
gallery = Gallery.open(sys.argv[2], create=True)
importing.import_embeddings(sys.argv[1], gallery, fingerprint="f", width=0.5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("parts", [0, 1, 3])
def test_a_killed_import_keeps_its_parts_and_is_repeated(
    parts: int, gallery: Gallery, tmp_path: Path
) -> None:
    source = as_npy(tmp_path, embeddings())
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "gallery"), str(parts)]
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(gallery) == 10 * parts
    assert import_embeddings(source, gallery, **FACTS) == ROWS
    assert sorted(row["id"] for row in gallery.rows()) == sorted(NAMES)
    assert not gallery.verify().findings


def test_memory_is_that_of_a_part(tmp_path: Path) -> None:
    assert importing.rows_per_part(16) == 10_000
    assert importing.rows_per_part(65_536) == 64
