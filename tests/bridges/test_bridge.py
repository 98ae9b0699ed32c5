"""The file of a bridge: read as it was written, and refused if anything in it is odd."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from sfsc.bridges.bridge import PROPERTY, Bridge
from sfsc.errors import SfscError
from tests.bridges.spaces import NEW, OLD, embeddings, make_bridge

Change = Callable[[dict[str, np.ndarray], dict[str, Any]], object]


@pytest.fixture(scope="module")
def bridge() -> Bridge:
    return make_bridge()


@pytest.fixture
def file(bridge: Bridge, tmp_path: Path) -> Path:
    bridge.save(tmp_path / "bridge.safetensors")
    return tmp_path / "bridge.safetensors"


def test_a_file_is_read_as_it_was_written(bridge: Bridge, file: Path) -> None:
    read = Bridge.load(file)
    assert (read.old, read.new, read.pairs, read.digest) == (OLD, NEW, 300, bridge.digest)
    rows = embeddings(5)
    assert np.array_equal(read.forward(rows)[0], bridge.forward(rows)[0])
    before = file.read_bytes()
    read.save(file)
    assert file.read_bytes() == before


def test_a_bridge_that_was_chosen_by_the_cosine_is_read(file: Path) -> None:
    arrays, values = safetensors.numpy.load_file(file), said(file)
    for choice in values["choices"].values():
        del choice["found"]
    safetensors.numpy.save_file(arrays, file, {PROPERTY: json.dumps(values)})
    assert {name: one.found for name, one in Bridge.load(file).choices.items()} == {
        "forward": {},
        "backward": {},
    }


def said(file: Path) -> dict[str, Any]:
    """What the metadata of a bridge say."""
    with safetensors.safe_open(file, "numpy") as opened:
        values: dict[str, Any] = json.loads(opened.metadata()[PROPERTY])
    return values


def test_the_library_of_safetensors_reads_the_file(bridge: Bridge, file: Path) -> None:
    arrays = safetensors.numpy.load_file(file)
    assert np.array_equal(arrays["forward.matrix"], bridge.forward.matrix)


CHANGES: dict[str, tuple[Change, str]] = {
    "NaN": (lambda arrays, _: arrays["forward.shift"].fill(np.nan), "contains NaN or infinity"),
    "shape": (
        lambda arrays, _: arrays.update({"forward.shift": np.zeros(3, np.float32)}),
        "its arrays do not map 8 to 12 dimensions",
    ),
    "dtype": (
        lambda arrays, _: arrays.update({"forward.shift": np.zeros(12)}),
        "'forward.shift' is not of dtype F32",
    ),
    "missing": (lambda arrays, _: arrays.pop("backward.error"), "its arrays do not map 12 to 8"),
    "more": (
        lambda arrays, _: arrays.update({"other": np.zeros(1, np.float32)}),
        "arrays that are no part of a bridge",
    ),
    "kind": (lambda _, said: said["choices"]["forward"].update(kind="cubic"), "of no known kind"),
    "dimension": (lambda _, said: said["old"].update(dimension=1 << 20), "has 1048576 dimensions"),
    "fingerprint": (lambda _, said: said["new"].update(fingerprint=""), "a name or a fingerprint"),
    "format": (lambda _, said: said.update(format=99), "newer sfsc"),
    "field": (lambda _, said: said.pop("pairs"), "lacks pairs"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_refused(file: Path, name: str) -> None:
    change, message = CHANGES[name]
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    said = json.loads(header["__metadata__"][PROPERTY])
    arrays = {key: array.copy() for key, array in safetensors.numpy.load(data).items()}
    change(arrays, said)
    safetensors.numpy.save_file(arrays, file, {PROPERTY: json.dumps(said)})
    with pytest.raises(SfscError, match=message) as refused:
        Bridge.load(file)
    assert str(file) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("size", [0, 7, 20, -4])
def test_a_cut_file_is_refused(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(SfscError, match="is damaged"):
        Bridge.load(file)


def test_other_safetensors_files_are_refused(file: Path) -> None:
    safetensors.numpy.save_file({"a": np.zeros(2, np.float32)}, file)
    with pytest.raises(SfscError, match="is not a bridge: it has no description"):
        Bridge.load(file)


def test_a_bridge_between_other_spaces_is_refused(bridge: Bridge) -> None:
    bridge.check_old("space:last-year", "it")
    with pytest.raises(
        SfscError, match="leads from the space last-year to the family 0123456789abcdef, but it"
    ):
        bridge.check_old("fedcba9876543210", "it")
