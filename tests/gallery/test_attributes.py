"""Tables of attributes: the kinds of their columns, and to which images their rows belong."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfsc import SfscError
from sfsc.gallery.attributes import AttributeTable, read_attributes


def read(folder: Path, *lines: str) -> AttributeTable:
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    return read_attributes(folder / "table.csv")


def column(folder: Path, *texts: str) -> list[object]:
    """What a column of these texts becomes."""
    table = read(folder, "path,a", *(f"{place},{text}" for place, text in enumerate(texts)))
    return [values["a"] for values in table.attributes.values()]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "-7", "0", ""], [1, -7, 0, None]),
        (["9223372036854775807", "-9223372036854775808"], [2**63 - 1, -(2**63)]),
        (["9", "9.5", "10.00"], [9.0, 9.5, 10.0]),
        (["1e-05", "1.5e+16", "2"], [1e-05, 1.5e16, 2.0]),
        (["2.5", "nan", "-inf", "NaN", "Infinity"], [2.5, None, None, None, None]),
        (["3", "nan"], [3, None]),
        (["nan", ""], [None, None]),
        (["true", "false", "", "nan"], [True, False, None, None]),
        (["red", "", "nan"], ["red", None, "nan"]),
    ],
)
def test_a_column_has_the_kind_of_all_of_its_values(
    tmp_path: Path, texts: list[str], expected: list[object]
) -> None:
    found = column(tmp_path, *texts)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize(
    "texts",
    [
        ["007", "7"],
        ["00012345600012", "12345600012"],
        ["+49", "49"],
        ["1_000", "2"],
        ["1e5", "2"],
        ["0x1f", "2"],
        ["٣", "3"],
        ["１２", "3"],
        ["9223372036854775808", "1"],
        ["-9223372036854775809", "1"],
        ["9007199254740993", "1.5"],
        ["0.12345678901234567890", "1"],
        ["1.1", "1.10"],
        [".5", "1"],
        ["5.", "1"],
        ["07.5", "1"],
        ["9,5", "9"],
        ["True", "false"],
        ["12 345", "1"],
        ["infinite", "1"],
        ["1" * 400, "1"],
        ["1e-400", "1"],
        ["1.0e999", "1"],
    ],
)
def test_what_would_not_come_out_as_it_went_in_is_text(tmp_path: Path, texts: list[str]) -> None:
    quoted = [f'"{text}"' for text in texts]
    assert column(tmp_path, *quoted) == texts


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("0123456789.-+e_ x٣", min_size=1, max_size=20), min_size=1, max_size=4, unique=True))
def test_no_two_values_become_one(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    texts = [text.strip() for text in texts]
    found = column(tmp_path_factory.mktemp("table"), *texts)
    for text, value in zip(texts, found, strict=True):
        assert value == (float(text) if isinstance(value, float) else text or None) or str(value) == text
    assert len({value for value in found if value is not None}) == len({text for text in texts if text})


def test_paths_start_at_the_table_and_rows_are_of_different_images(tmp_path: Path) -> None:
    table = read(tmp_path, "path,a", "x/../1.jpg,1", f"{tmp_path}/2.jpg,2")
    expected = {str(tmp_path / f"{place}.jpg"): {"a": place} for place in (1, 2)}
    assert table.attributes == expected
    with pytest.raises(SfscError, match=r"table\.csv, line 4: names the image of line 2 again"):
        read(tmp_path, "path,a", "1.jpg,1", "2.jpg,2", "./1.jpg,3")
    with pytest.raises(SfscError, match=r"table\.csv, line 3, column path: is empty"):
        read(tmp_path, "path,a", "1.jpg,1", ",2")
    with pytest.raises(SfscError, match=r"table\.csv: there is no row"):
        read(tmp_path, "path,a")
    assert read(tmp_path, "path", "1.jpg").attributes == {str(tmp_path / "1.jpg"): {}}


DECOMPOSED, COMPOSED = (unicodedata.normalize(form, "Müller") for form in ("NFD", "NFC"))


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("photos\\0.jpg", "photos/0.jpg"),
        ("..\\{name}\\photos\\0.jpg", "photos/0.jpg"),
        (f"{COMPOSED}.jpg", f"{DECOMPOSED}.jpg"),
        (f"{DECOMPOSED}.jpg", f"{COMPOSED}.jpg"),
        ("IMG_1.JPG", "img_1.jpg"),
        (f"Photos\\{COMPOSED.upper()}.jpg", f"photos/{DECOMPOSED}.jpg"),
    ],
)
def test_a_row_finds_its_image_in_spite_of_its_spelling(tmp_path: Path, written: str, there: str) -> None:
    table = read(tmp_path, "path,a", f"{written.format(name=tmp_path.name)},7")
    image = str(tmp_path / there)
    matched, remarks = table.match([image])
    assert matched == {image: {"a": 7}}
    [remark] = remarks
    assert remark.startswith(
        f"{table.path}: 1 of 1 rows differ from their image in slashes, accents or letter case"
    )
    assert remark.endswith("the first in line 2")


def test_what_is_ambiguous_is_not_matched(tmp_path: Path) -> None:
    table = read(tmp_path, "path,a", "a.jpg,1", "A.JPG,2", "b.jpg,3", "c.jpg,4", "x\\d.jpg,5")
    images = [str(tmp_path / name) for name in ("A.jpg", "b.jpg", "B.jpg", "C.JPG", "x/d.jpg", "x/D.jpg")]
    matched, remarks = table.match(images)
    assert matched == {images[1]: {"a": 3}, images[3]: {"a": 4}, images[4]: {"a": 5}}
    assert [remark.removeprefix(f"{table.path}: ") for remark in remarks] == [
        "2 of 5 rows differ from their image in slashes, accents or letter case, the first in line 5",
        f"2 of 5 rows match no image, the first: line 2, {tmp_path / 'a.jpg'}",
        f"3 of 6 images have no row, the first: {images[0]}",
    ]


def test_a_line_feed_in_a_path_is_said_in_one_line(tmp_path: Path) -> None:
    table = read(tmp_path, "path,a", '"1\n2.jpg",1')
    [unused, bare] = table.match([str(tmp_path / "3\n4.jpg")])[1]
    assert unused.endswith(r"1\n2.jpg")
    assert bare.endswith(r"3\n4.jpg")
    with pytest.raises(SfscError, match=r"line 4: names the image of line 2 again, .*1\\n2\.jpg") as caught:
        read(tmp_path, "path,a", '"1\n2.jpg",1', '"./1\n2.jpg",2')
    assert "\n" not in str(caught.value)


def test_where_all_match_there_is_nothing_to_remark(tmp_path: Path) -> None:
    table = read(tmp_path, "path,a", "a.jpg,1", "A.jpg,2")
    images = [str(tmp_path / "a.jpg"), str(tmp_path / "A.jpg")]
    assert table.match(images) == ({images[0]: {"a": 1}, images[1]: {"a": 2}}, [])
