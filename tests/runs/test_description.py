"""A family and its description change together, wherever the save is cut."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch

from sfsc.errors import SfscError
from sfsc.family.family import Family
from sfsc.runs.description import complete, holds_family, read_description
from sfsc.runs.results import is_current
from tests.cutting import cuts

WEIGHTS, COPY = "family.safetensors", "family.json"


@cache
def make(seed: int) -> Family:
    return Family.create("small", (0.5, 1.0), 8, (32, 32), seed=seed).eval()


def make_earlier(folder: Path) -> None:
    """Turn a family into one of an earlier version, whose weights do not say what they are."""
    weights = folder / WEIGHTS
    weights.write_bytes(safetensors.torch.save(safetensors.torch.load_file(weights)))


def change(folder: Path, **changes: object) -> None:
    content = json.loads((folder / COPY).read_text())
    (folder / COPY).write_text(json.dumps(content | changes))


@pytest.mark.parametrize("old", ["now", "earlier", "none"])
def test_a_save_that_is_cut_anywhere_leaves_the_old_family_or_the_new_one(tmp_path: Path, old: str) -> None:
    run, before, after = tmp_path / "run", make(0), make(1)

    def prepare() -> None:
        shutil.rmtree(run, ignore_errors=True)
        if old != "none":
            before.save(run)
        if old == "earlier":
            make_earlier(run)

    states, found = set(), set()
    for _ in cuts(prepare, lambda: after.save(run)):
        state = tuple((run / name).read_bytes() if (run / name).exists() else b"" for name in (WEIGHTS, COPY))
        if state not in states:
            states.add(state)
            found.add(fingerprint_there(run))
            after.save(run)
            assert sorted(path.name for path in run.iterdir()) == [COPY, WEIGHTS]
    assert len(states) == 2
    assert found == {None if old == "none" else before.fingerprint, after.fingerprint}
    assert fingerprint_there(run) == after.fingerprint


def fingerprint_there(run: Path) -> str | None:
    """That of the family in a folder, about which all that read it agree."""
    if not holds_family(run):
        with pytest.raises(SfscError, match="contains no trained family"):
            Family.load(run)
        return None
    fingerprint = Family.load(run).fingerprint
    assert read_description(run)[0]["fingerprint"] == fingerprint
    assert is_current(run, {"fingerprint": fingerprint})
    complete(run)
    assert json.loads((run / COPY).read_text())["fingerprint"] == fingerprint
    return fingerprint


def test_a_family_of_an_earlier_version_is_read_as_before(tmp_path: Path) -> None:
    family = make(0)
    family.save(tmp_path)
    make_earlier(tmp_path)
    assert Family.load(tmp_path).fingerprint == family.fingerprint
    make(1).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / COPY, tmp_path)
    with pytest.raises(SfscError, match=rf"{WEIGHTS} does not match its description in .*{COPY}"):
        Family.load(tmp_path)
    (tmp_path / COPY).unlink()
    assert not holds_family(tmp_path)
    with pytest.raises(SfscError, match=f"contains no trained family: {COPY} is missing"):
        Family.load(tmp_path)


def test_the_weights_say_what_they_are(tmp_path: Path) -> None:
    """They may be moved alone, and a copy of another family's description does not count."""
    family = make(0)
    family.save(tmp_path / "one")
    make(1).save(tmp_path / "two")
    shutil.copy(tmp_path / "one" / WEIGHTS, tmp_path / "two")
    assert Family.load(tmp_path / "two").fingerprint == family.fingerprint
    (tmp_path / "one" / COPY).unlink()
    assert Family.load(tmp_path / "one").fingerprint == family.fingerprint


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda run: change(run, widths=[0.75, 1.0]), "is damaged|does not match its description"),
        (lambda run: change(run, round_to=4), "is damaged|does not match its description"),
        (lambda run: (run / COPY).write_text("{"), f"{COPY} is damaged"),
        (lambda run: (run / COPY).write_text("null"), f"{COPY} does not describe a family"),
        (lambda run: (run / COPY).write_text("[]"), f"{COPY} does not describe a family"),
        (lambda run: (run / COPY).write_text("{}"), f"{COPY} does not describe a family"),
    ],
)
def test_a_description_that_was_changed_by_hand_is_refused(
    tmp_path: Path, edit: Callable[[Path], object], message: str
) -> None:
    make(0).save(tmp_path)
    edit(tmp_path)
    with pytest.raises(SfscError, match=message) as caught:
        Family.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "{}", "1", '"family"', "null"])
def test_hostile_metadata_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    make(0).save(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).write_bytes(safetensors.torch.save(tensors, {"family": text}))
    for read in (Family.load, read_description):
        with pytest.raises(SfscError, match=f"{WEIGHTS} is damaged: it does not describe a family$"):
            read(tmp_path)
