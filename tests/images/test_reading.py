"""Paths to bytes: files of any name, members of archives, and what is said where there is neither."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfsc.images.reading import CorruptImage, absolute, read_image, split_member
from tests.data.folders import ODD_NAMES

WHOLE = b"all of it" * 9
fresh = count()


def pack(archive: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, method)
    return archive


def reason(path: str) -> str:
    with pytest.raises(CorruptImage) as caught:
        read_image(path)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.path == path
    return caught.value.reason


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(WHOLE)
    assert read_image(str(tmp_path / name)) == WHOLE


def test_a_file_of_exactly_this_name_comes_before_a_member(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"b.png": b"member"})
    path = f"{archive}::b.png"
    assert read_image(path) == b"member"
    Path(path).write_bytes(b"file")
    assert read_image(path) == b"file"


def test_archives_lie_in_folders_of_any_name(tmp_path: Path) -> None:
    for folder in ("Store::Item", "a:::b", os.fsdecode(b"\xff")):
        (tmp_path / folder).mkdir()
        archive = pack(tmp_path / folder / "x::y.zip", {"::b.png": WHOLE})
        assert split_member(f"{archive}::::b.png") == (str(archive), "::b.png")
        assert read_image(f"{archive}::::b.png") == WHOLE


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), max_size=4
    )
)
@settings(max_examples=30, deadline=None)
def test_members_of_any_name_are_read(tmp_path_factory: pytest.TempPathFactory, names: Sequence[str]) -> None:
    folder = tmp_path_factory.mktemp("packed")
    members = {name: name.encode() for name in names}
    archive = pack(folder / "a.zip", members)
    for name, data in members.items():
        path = f"{archive}::{name}"
        assert read_image(path) == data
        assert absolute(path) == path


def test_absolute_paths_end_where_the_member_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    pack(tmp_path / "a.zip", {"x/../y.png": WHOLE})
    assert absolute("in/../a.zip::x/../y.png") == f"{tmp_path}/a.zip::x/../y.png"
    assert absolute("in/../b::c.png") == f"{tmp_path}/b::c.png"


@given(st.one_of(st.text(), st.binary().map(os.fsdecode), st.just("a" * 5000)))
def test_what_is_not_there_is_named_whatever_it_is_called(name: str) -> None:
    with pytest.raises(CorruptImage):
        read_image(f"/nowhere/{name}")
    with pytest.raises(CorruptImage):
        read_image(f"/nowhere::{name}")


def test_causes_are_told_apart(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a.png": WHOLE})
    (tmp_path / "no.zip").write_bytes(b"text")
    assert reason(str(tmp_path / "a.png")) == "no such file"
    assert reason(f"{tmp_path / 'b.zip'}::a.png") == "no such file"
    assert reason(f"{archive}::b.png") == "no such member in the archive"
    assert "is damaged or not a zip file" in reason(f"{tmp_path / 'no.zip'}::a.png")
    assert reason(str(tmp_path)) == "cannot be read (Is a directory)"
    assert reason(f"{archive}/b.png") == "cannot be read (Not a directory)"
    assert reason(str(tmp_path / "a\0.png")) == "a file cannot have this name"
    assert "name too long" in reason(str(tmp_path / ("a" * 300)))


def test_members_that_need_more_than_bytes_are_explained(tmp_path: Path) -> None:
    data = pack(tmp_path / "a.zip", {"a.png": WHOLE}).read_bytes()
    central = data.index(b"PK\x01\x02")
    for place, value, said in ((8, 1, "is encrypted"), (10, 97, "cannot be unpacked")):
        changed = bytearray(data)
        changed[central + place] = value
        file = tmp_path / f"{value}.zip"
        file.write_bytes(changed)
        assert said in reason(f"{file}::a.png")


@given(
    st.data(),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
)
@settings(max_examples=200, deadline=None)
def test_a_damaged_archive_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, method: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    archive = pack(folder / f"{next(fresh)}.zip", {"a.png": WHOLE, "ä.png": WHOLE}, method)
    changed = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(changed[: data.draw(st.integers(0, len(changed)))])
    for member in ("a.png", "ä.png"):
        try:
            read_image(f"{archive}::{member}")
        except CorruptImage as error:
            assert len(str(error).splitlines()) == 1
    archive.unlink()
