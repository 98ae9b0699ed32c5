"""Damage to the files of a gallery."""

from __future__ import annotations

from pathlib import Path

DAMAGES = ("truncated", "emptied", "zeroed", "removed")


def spoil(file: Path, damage: str) -> None:
    """Damage a file in one of the ways in `DAMAGES`."""
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        left = {"truncated": content[: len(content) // 2], "emptied": b"", "zeroed": bytes(len(content))}
        file.write_bytes(left[damage])
