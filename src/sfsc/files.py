"""Writing files so that a crash or a full disk leaves the old one whole."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from sfsc.errors import SfscError


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`, durably and all at once.

    Raises:
        SfscError: the disk is full or not writable; what was at `path` is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        kept = "; the previous file is unharmed" if path.exists() else ""
        raise SfscError(
            f"cannot write {path}: {error.strerror}{kept}; make room there and run the command again"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; SfscError as `write_atomic`."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value of a JSON file; SfscError naming the file where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise SfscError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise SfscError(f"{path} is damaged: it is not JSON") from None
