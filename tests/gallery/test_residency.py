"""Mapped memory is released when more of it was read than is allowed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sfsc.gallery import Gallery
from sfsc.gallery.residency import Residency

MB = 1 << 20


def resident(file: Path) -> int:
    """The bytes of a mapped file that this process holds in memory."""
    lines, found = Path("/proc/self/smaps").read_text().splitlines(), 0
    for place, line in enumerate(lines):
        if line.endswith(str(file)):
            found += 1024 * int(next(one for one in lines[place:] if one.startswith("Rss:")).split()[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="memory is released on Linux alone")
def test_pages_are_dropped_once_too_many_were_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    np.arange(16 * MB // 8).tofile(file)
    mapped = np.memmap(file, np.int64, "r")
    whole = Residency(10 * MB, [(mapped.ctypes.data, mapped.nbytes)])
    assert mapped[: 8 * MB // 8].sum() > 0
    whole.touched(8 * MB)
    assert resident(file) >= 8 * MB
    whole.touched(4 * MB)
    assert resident(file) < MB
    assert mapped[-1] == len(mapped) - 1, "they are read again"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is released on Linux alone")
def test_a_gallery_larger_than_its_memory_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfsc.gallery.index.INDEXED_FROM", 100)
    rows = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
    names = [str(row) for row in range(len(rows))]
    with Gallery.open(tmp_path / "gallery", create=True) as gallery:
        gallery.add(rows, names, paths=names, width=1.0, fingerprint="f")
        gallery.refresh()
    whole, small = (Gallery.open(tmp_path / "gallery", memory=most) for most in (1e9, MB))
    for exact in (True, False):
        for where in ([], ["id!=3"]):
            expected = whole.search(rows[:50], "f", 5, where, exact)
            assert small.search(rows[:50], "f", 5, where, exact) == expected
    vectors = next((tmp_path / "gallery").glob("index/*/vectors"))
    whole.close()
    del whole
    assert resident(vectors) <= MB
