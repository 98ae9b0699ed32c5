"""The thread that follows the changes of a gallery beside its searches, and its end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfsc.gallery import Gallery, follower

DIM = 8


def add(gallery: Gallery, name: str) -> np.ndarray:
    """Add a row, and return its embedding."""
    rows = np.random.default_rng(len(name)).standard_normal((1, DIM)).astype(np.float32)
    gallery.add(rows, [name], paths=[name], width=1.0, fingerprint="f")
    return rows


def found(gallery: Gallery) -> set[str]:
    [hits] = gallery.search(np.ones((1, DIM), np.float32), "f", top=100)
    return {hit.id for hit in hits}


def becomes(true: Callable[[], bool]) -> bool:
    """Whether a condition is fulfilled within a minute."""
    until = time.monotonic() + 60
    while not true() and time.monotonic() < until:
        time.sleep(0.005)
    return true()


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gallery follower"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        add(gallery, "first")
    return tmp_path / "gallery"


def test_changes_by_others_are_followed_before_the_next_search(path: Path) -> None:
    with Gallery.open(path, maintain=True) as gallery, Gallery.open(path) as other:
        assert found(gallery) == {"first"}
        store: Any = gallery._store
        before = store._index.view
        add(other, "second")
        assert becomes(lambda: store._index.view is not before), "no search was needed"
        assert found(gallery) == {"first", "second"}


def test_every_search_sees_what_was_acknowledged_before_it(path: Path) -> None:
    with Gallery.open(path, maintain=True) as gallery, Gallery.open(path) as other:
        there = found(gallery)
        for number in range(60):
            add(other, f"{number}")
            there.add(f"{number}")
            if number % 3 == 0:
                other.delete([f"{number // 2}"])
                there.discard(f"{number // 2}")
            assert found(gallery) == there


def test_a_gallery_that_is_not_maintained_has_no_thread(path: Path) -> None:
    with Gallery.open(path) as gallery:
        found(gallery)
        assert not followers()


def test_closing_ends_the_thread(path: Path) -> None:
    with Gallery.open(path, maintain=True) as gallery:
        assert not followers(), "a gallery that was never searched needs none"
        found(gallery)
        assert len(followers()) == 1
    assert not followers()


def test_the_thread_ends_without_searches_and_begins_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "UNUSED", 0.05)
    with Gallery.open(path, maintain=True) as gallery:
        found(gallery)
        assert becomes(lambda: not followers())
        monkeypatch.setattr(follower, "UNUSED", 60.0)
        found(gallery)
        assert followers()


def test_a_gallery_that_goes_away_is_no_error_of_the_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with Gallery.open(path, maintain=True) as gallery:
        found(gallery)
        path.rename(path.with_name("elsewhere"))
        time.sleep(0.1)
        path.with_name("elsewhere").rename(path)
        assert found(gallery) == {"first"}
    assert not failed


def test_a_program_ends_that_leaves_its_gallery_open(path: Path) -> None:
    program = (
        "import sys, numpy; from sfsc.gallery import Gallery\n"
        "gallery = Gallery.open(sys.argv[1], maintain=True)\n"
        f"print(len(gallery.search(numpy.ones((1, {DIM}), 'f'), 'f')[0]))"
    )
    command = [sys.executable, "-c", program, path]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == ("1\n", "")
