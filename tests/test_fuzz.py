"""Whatever bytes a parser gets, it reads them or raises the error that it documents, in one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfsc.errors import one_line
from tests.fuzzing import INDEX, MOST_BYTES, Parser, changed, parsers

NAMES = (
    *(
        "bridge",
        "header",
        "image",
        "conditions",
        "json",
        "family",
        "config",
        "settings",
        "result",
        "log",
        "images",
    ),
    *(
        "profile",
        "device",
        "environment",
        "table",
        "attributes",
        "metadata",
        "thresholds",
        "onnx",
        "checkpoint",
        "gallery",
    ),
    *("quantity", "model", "structure", "built", "weights", "printed", *INDEX),
    *("npy", "faiss", "parquet", "ids", "change", "backup", "thresholds"),
)
SLOW = ("report", "curves")  # a tenth of a second each, and more


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[str, Parser]:
    return parsers(folder)


def test_all_parsers_are_tried_on_what_they_understand(known: dict[str, Parser], folder: Path) -> None:
    assert set(known) == {*NAMES, *SLOW}
    for parser in known.values():
        for seed in parser.seeds:
            parser.read(seed, folder)
            assert len(seed) < MOST_BYTES / 2  # otherwise `changed` cuts what it returns


@pytest.mark.parametrize("name", NAMES)
@given(chance=st.randoms(use_true_random=True))
@settings(max_examples=60, deadline=None)
def test_changed_files_are_read_or_refused(
    known: dict[str, Parser], folder: Path, name: str, chance: random.Random
) -> None:
    read_or_refused(known[name], folder, chance)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
@given(chance=st.randoms(use_true_random=True))
@settings(max_examples=5, deadline=None)
def test_so_is_what_takes_longer(
    known: dict[str, Parser], folder: Path, name: str, chance: random.Random
) -> None:
    read_or_refused(known[name], folder, chance)


def read_or_refused(parser: Parser, folder: Path, chance: random.Random) -> None:
    data = changed(chance.choice(parser.seeds), chance)
    try:
        parser.read(data, folder)
    except parser.errors as error:
        assert str(error)
        assert len(one_line(str(error)).splitlines()) == 1
