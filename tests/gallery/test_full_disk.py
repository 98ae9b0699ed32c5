"""Operations on a gallery while its disk is full: one line, nothing lost, and success once there is room."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfsc.gallery.lists import _new_mapped
from tests.gallery.full_disk import OPERATIONS

SIZE = 8 << 20  # bytes of the disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk in memory."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(mount)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system cannot be mounted here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_full_disk_loses_nothing(operation: str, disk: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "tests.gallery.full_disk", operation, str(disk), str(elsewhere)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *failed, last = (json.loads(line) for line in done.stdout.splitlines())
    assert last["code"] == 0, "at last there was room"
    assert len(failed) > 1, "the disk was full at different moments"
    for report in failed:
        check_failure(report)
        assert report["unchanged"] or operation == "upgrade", "an upgrade consists of parts"
        assert report["end"] == last["end"], "the same command succeeds once there is room"


def check_failure(report: dict[str, Any]) -> None:
    assert report["code"] == 2
    assert report["said"].startswith("sfsc: ")
    assert "No space left on device" in report["said"]
    assert "free disk space" in report["said"]
    assert report["findings"] == []
    assert report["again"][0] == 0, report["again"][1]


def test_space_is_taken_before_a_file_is_mapped(tmp_path: Path) -> None:
    """Otherwise the system would end a process that writes into the file on a full disk."""
    size = (3 << 20) + 5
    mapped = _new_mapped(tmp_path / "file", size)
    assert (mapped.shape, mapped.dtype, mapped.any()) == ((size,), np.uint8, False)
    assert (tmp_path / "file").stat().st_blocks * 512 >= size
