"""Folders of images for tests, and the names that real ones have."""

from __future__ import annotations

import os
from pathlib import Path

# Names that are legal on Linux: not UTF-8, with line feeds, with the separator of archives, with quotes.
ODD_NAMES = [os.fsdecode(b"caf\xe9.png"), "a\nb.png", "Store::Item.png", "o'ne, 3=4.png", "\u2028.png"]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
