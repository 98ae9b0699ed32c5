"""Tables in csv files: what is read of them, and which line is named where one is wrong."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfsc import SfscError, open_dataset
from sfsc.data.table import DELIMITERS, read_table

VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map(str.strip)
NAMES = VALUES.filter(lambda name: name not in ("", "path"))


def table(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(NAMES, max_size=3, unique=True),
    values=st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=4),
    delimiter=st.sampled_from(DELIMITERS),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    values: list[list[str]],
    delimiter: str,
    end: str,
    mark: str,
) -> None:
    names = ["path", *names]
    rows = [[f"image {place}", *row][: len(names)] for place, row in enumerate(values)]
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    path = table(tmp_path_factory.mktemp("table"), mark + file.getvalue())
    assert [[*row.values.values()] for row in read_table(path, ["path"], None)] == rows
    assert all([*row.values] == names for row in read_table(path, ["path"], None))


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    path = table(tmp_path, 'path,says\na,"two\nlines"\n\n , \nb,one\n')
    assert [(row.line, row.values["path"]) for row in read_table(path, ["path"], None)] == [
        (2, "a"),
        (6, "b"),
    ]


def test_blanks_around_names_and_values_are_dropped(tmp_path: Path) -> None:
    [row] = read_table(table(tmp_path, "path, price \n a b.jpg , 9\n"), ["path"], None)
    assert row.values == {"path": "a b.jpg", "price": "9"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"line 1: there is no column 'path'"),
        ("a,b\n1,2\n", r"line 1: there is no column 'path', only 'a', 'b'"),
        ("path,a\nx,1\ny\n", r"line 3, column a: is missing: there are 1 values for 2 columns"),
        ("path,a\nx,1\ny,2,3\n", r"line 3: there are 3 values for 2 columns"),
        ("path;a\nx;1\ny;2;3\n", r"line 3: there are 3 values for 2 columns"),
        ("path,a,a\nx,1,2\n", r"line 1: there are two columns 'a'"),
        ("path,a,\nx,1,\n", r"line 1: column 3 has no name"),
        ('path,a\nx,1\ny,"2\nz,3\n', r"line 3: cannot be read \(unexpected end of data\)"),
        ('path,a\nx,"1"2\n', r"line 2: cannot be read"),
        ("path,a\nx,1\ny,grün\n".encode("cp1252"), r"is not a csv file in UTF-8, line 3 .* CSV UTF-8"),
        ("path,a\nx,1\n".encode("utf-16"), r"is not a csv file in UTF-8, line 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(SfscError, match=message) as caught:
        read_table(table(tmp_path, content), ["path"], None)
    assert str(caught.value).startswith(str(tmp_path / "table.csv"))
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SfscError, match=r"cannot read .*none\.csv: No such file"):
        read_table(tmp_path / "none.csv", ["path"])


@pytest.mark.parametrize(
    "again", ["a.jpg", "./a.jpg", "b/../a.jpg", "{folder}/a.jpg", "{folder}/b//../a.jpg"]
)
def test_an_image_that_is_listed_twice_is_named_with_both_lines(tmp_path: Path, again: str) -> None:
    again = again.format(folder=tmp_path)
    path = table(tmp_path, f"path,identity,split\na.jpg,x,test\nb.jpg,y,test\n{again},z,test\n")
    with pytest.raises(SfscError, match=r"table\.csv, line 4: names the image of line 2 again"):
        open_dataset(f"csv:{path}")


def test_a_data_set_from_windows_is_found(tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/b\\c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    content = "path;identity;split;price\nin\\a.jpg;x;test;1\nin/b\\c.jpg;y;test;2\nin\\d.jpg;z;test;3\n"
    dataset = open_dataset(f"csv:{table(tmp_path, content)}")
    assert dataset.paths == tuple(str(tmp_path / name) for name in ("in/a.jpg", "in/b\\c.jpg", "in\\d.jpg"))
