"""Listings: what they tell apart, on random data sets and random changes of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfsc.data.dataset import SPLITS, Dataset
from sfsc.data.listing import TESTS, TRAIN, Entry, Listing, image_digest
from sfsc.errors import SfscError

Rows = list[tuple[str, str, str]]  # name of a file, identity, split

CHARACTERS = st.characters(exclude_characters="\0/:", exclude_categories=["Cs"])
NAMES, IDENTITIES = st.text(CHARACTERS, min_size=1, max_size=6), st.text(CHARACTERS, min_size=1, max_size=4)
ROWS = st.lists(
    st.tuples(NAMES, IDENTITIES, st.sampled_from(SPLITS)),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[0],
)


def dataset(rows: Rows, folder: str = "/data") -> Dataset:
    names, identities, splits = zip(*rows, strict=True)
    return Dataset(
        source=f"folder:{folder}",
        paths=tuple(f"{folder}/{name}" for name in names),
        identities=np.array(identities),
        cameras=None,
        splits=np.array(splits),
        image_size=(8, 8),
        mirrors=True,
    )


def listing(rows: Rows, folder: str = "/data") -> Listing:
    """With contents, of images that are all different."""
    contents = {f"{folder}/{name}": image_digest(name.encode()) for name, _, _ in rows}
    return Listing.of(dataset(rows, folder), contents)


def grouped(rows: Rows, splits: tuple[str, ...]) -> dict[tuple[str, str], list[str]]:
    """By split and identity, the names in their order: what a listing is a digest of."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, identity, split in rows:
        if split in splits:
            groups.setdefault((split, identity), []).append(name)
    return groups


@settings(max_examples=60)
@given(ROWS)
def test_what_is_written_is_read_again(rows: Rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        listing(rows).write(Path(folder, "images.json"))
        assert Listing.read(Path(folder, "images.json")) == listing(rows)


@settings(max_examples=100)
@given(ROWS, ROWS)
def test_there_are_changes_where_groups_differ_and_nowhere_else(before: Rows, now: Rows) -> None:
    for splits in (TRAIN, TESTS):
        equal = grouped(before, splits) == grouped(now, splits)
        for same in (Entry.same_names, Entry.same_contents) if splits == TRAIN else (Entry.same_names,):
            assert (listing(before).changes(listing(now), splits, same) == "") == equal
        assert (listing(before).digest(splits) == listing(now).digest(splits)) == equal


@settings(max_examples=60)
@given(ROWS, st.randoms(use_true_random=False))
def test_neither_the_folder_nor_the_order_of_identities_counts(rows: Rows, random: object) -> None:
    """Within an identity, the order counts: batches are drawn by places."""
    order = sorted(range(len(rows)), key=lambda place: (rows[place][1], place))
    assert listing([rows[place] for place in order], "/mnt/elsewhere") == listing(rows)


@settings(max_examples=60)
@given(ROWS.filter(lambda rows: any(split == "train" for _, _, split in rows)), IDENTITIES)
def test_a_renamed_identity_is_named_by_both_names(rows: Rows, name: str) -> None:
    old = next(identity for _, identity, split in rows if split == "train")
    if name in {identity for _, identity, _ in rows}:
        return
    new = [(file, name if identity == old else identity, split) for file, identity, split in rows]
    assert listing(rows).changes(listing(new), TRAIN) == f"renamed: {old} to {name}"


def test_changes_are_counted_and_the_first_ones_named() -> None:
    before = [(f"{name}{take}.jpg", name, "train") for name in "abcdefgh" for take in range(3)]
    now = [row for row in before if row[1] not in "abcde" and row[0] != "f2.jpg"]
    assert listing(before).changes(listing(now), TRAIN) == (
        "gone: a, b, c and 2 more; other images: f (3, now 2)"
    )
    assert listing(now).changes(listing(before), TRAIN) == (
        "added: a, b, c and 2 more; other images: f (2, now 3)"
    )


def test_what_could_not_be_read_may_be_taken_away() -> None:
    rows = [("a.jpg", "x", "train"), ("bad.jpg", "x", "train"), ("c.jpg", "x", "train")]
    contents = {f"/data/{name}": image_digest(name.encode()) for name in ("a.jpg", "c.jpg")}
    started = Listing.of(dataset(rows), contents)
    without = listing([rows[0], rows[2]])
    assert started.changes(without, TRAIN) == ""
    assert started.changes(without, TRAIN, Entry.same_contents) == ""
    assert started.changes(listing(rows), TRAIN, Entry.same_contents) == "other images: x (2, now 3)"
    assert started.changes(listing(rows[:1]), TRAIN) == "other images: x (2, now 1)"


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"rows": 3}', '{"rows": [["train", "x"]]}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "images.json"
    file.write_text(text)
    with pytest.raises(SfscError, match=r"images\.json is damaged"):
        Listing.read(file)
