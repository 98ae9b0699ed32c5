"""The one walk through folders: what it takes, what it passes over, and what it says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sfsc.progress
from sfsc.data import find_images
from sfsc.data.walking import Walk, is_system_entry, say_passed_over, subfolders, walk
from sfsc.errors import SfscError
from tests.data.folders import ODD_NAMES, touch

SYSTEM = [
    *(".DS_Store", "._a.png", ".Trash-1000", ".thumbnails", "Thumbs.db", "THUMBS.DB", "desktop.ini"),
    *("$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found", "@eaDir", "#recycle"),
]
PARTS = ["a", "b", "Ä b", "a::b", "c\nd", os.fsdecode(b"\xe9"), ".hidden", "@eaDir", "lost+found"]
FILES = ["0.png", "1.JPG", ".x.png", "notes.txt", "Thumbs.db", "2.webp"]
folders = st.lists(st.sampled_from(PARTS), max_size=3).map(tuple)
files = st.tuples(folders, st.sampled_from(FILES))


def shown(root: Path) -> list[str]:
    return [os.path.relpath(image, root) for image in walk(root).images]


@pytest.fixture(autouse=True)
def said_anew() -> None:
    sfsc.progress.say.cache_clear()


@pytest.mark.parametrize("name", SYSTEM)
def test_hidden_and_system_entries_are_passed_over(tmp_path: Path, name: str) -> None:
    assert is_system_entry(name)
    touch(tmp_path / "a.png", tmp_path / name / "b.png", tmp_path / "c" / name / "d.png")
    assert shown(tmp_path) == ["a.png"]
    assert subfolders(tmp_path) == [tmp_path / "c"]


@pytest.mark.parametrize("name", ["photos", "Thumbs", "lost and found", "eaDir", "desktop.png", "macosx"])
def test_other_names_are_taken(tmp_path: Path, name: str) -> None:
    assert not is_system_entry(name)
    touch(tmp_path / name / "a.png")
    assert shown(tmp_path) == [f"{name}/a.png"]


def test_the_folder_itself_may_have_any_name(tmp_path: Path) -> None:
    for name in SYSTEM:
        touch(tmp_path / name / "a.png")
        assert find_images(tmp_path / name) == [str(tmp_path / name / "a.png")]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_images_of_any_name_are_taken(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name)
    assert shown(tmp_path) == [name]


def test_images_come_folder_by_folder(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.PNG", "a/b/0.jpeg", "a-b/0.webp", "a.bmp", "c.jpg"]
    touch(*(tmp_path / name for name in names))
    assert shown(tmp_path) == sorted(names, key=lambda name: Path(name).parts)


def images_by_folder(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """The real paths of all images that can be reached, by another way: recursion over real folders."""
    if folder in seen:
        return
    seen.add(folder)
    for entry in folder.iterdir():
        if entry.name.startswith(".") or entry.name in ("@eaDir", "lost+found", "Thumbs.db"):
            continue
        if entry.is_dir():
            yield from images_by_folder(entry.resolve(), seen)
        elif entry.suffix.lower() in (".png", ".jpg", ".webp"):
            yield entry.resolve()


@given(st.lists(files, max_size=12), st.lists(st.tuples(folders, folders), max_size=5))
@settings(max_examples=60, deadline=None)
def test_every_folder_is_taken_once_whatever_links_there_are(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[tuple[str, ...], str]],
    links: list[tuple[tuple[str, ...], tuple[str, ...]]],
) -> None:
    root = tmp_path_factory.mktemp("tree")
    touch(*(root.joinpath(*parts, name) for parts, name in drawn))
    for number, (place, target) in enumerate(links):
        if root.joinpath(*place).is_dir():
            root.joinpath(*place, f"link{number}").symlink_to(root.joinpath(*target))
    found = walk(root)
    real = [Path(image).resolve() for image in found.images]
    assert len(real) == len(set(real))
    assert set(real) == set(images_by_folder(root, set()))
    unlinked = {root.joinpath(*parts, name) for parts, name in drawn} & set(real)
    assert {path for path in unlinked if not any(map(is_system_entry, path.relative_to(root).parts))} <= {
        Path(image) for image in found.images
    }, "a folder is taken under its own path where it has one"


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "disk" / "a.png", tmp_path / "photos" / "own.png", tmp_path / "photos" / "z" / "b.png")
    for name, target in (("album", "disk"), ("again", "disk"), ("loop", "photos"), ("a-z", "photos/z")):
        (tmp_path / "photos" / name).symlink_to(tmp_path / target)
    assert shown(tmp_path / "photos") == ["again/a.png", "own.png", "z/b.png"]


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.png", tmp_path / "locked" / "b.png")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "pipe.png")
    scan = os.scandir

    def refuse(folder: str) -> object:
        if folder.endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr("os.scandir", refuse)
    found = walk(tmp_path)
    assert found.images == [str(tmp_path / "a.png")]
    reasons = {Path(error.path).name: error.reason for error in found.unreadable}
    assert reasons == {
        "gone": "a broken link",
        "self": "Too many levels of symbolic links",
        "locked": "Permission denied",
    }
    with pytest.raises(SfscError, match="locked: Permission denied"):
        subfolders(tmp_path / "locked")
    with pytest.raises(SfscError, match=r"locked contains no images: .*Permission denied"):
        find_images(tmp_path / "locked")


def test_what_was_passed_over_is_said_in_one_line_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(*(tmp_path / name for name in ("a.png", ".x.png", "Thumbs.db", "b.heic", "c.heic", "d\n")))
    for _ in range(2):
        say_passed_over("a\nb", [walk(tmp_path), Walk()], ["more"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "a\\nb: skipped 2 hidden or system entries, 3 files that are not images (.heic, no suffix); more\n"
    )
    say_passed_over("photos", [Walk()])
    assert capsys.readouterr().err == ""


def test_find_images(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b/2.PNG", "b/1.jpeg", "a.webp", "notes.txt", ".hidden.png")))
    expected = [str(tmp_path / name) for name in ("a.webp", "b/1.jpeg", "b/2.PNG")]
    assert find_images(tmp_path) == expected
    assert find_images(tmp_path / "a.webp") == expected[:1]
    (tmp_path / "empty").mkdir()
    for nothing, said in (("empty", "expected .bmp"), ("absent", "No such file")):
        with pytest.raises(SfscError, match=f"{nothing} contains no images: .*{said}"):
            find_images(tmp_path / nothing)
