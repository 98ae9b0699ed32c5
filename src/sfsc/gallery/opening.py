"""Opening the store that the address of a gallery names."""

from __future__ import annotations

import math
from pathlib import Path

from sfsc.errors import missing_extra
from sfsc.gallery.milvus_address import is_milvus
from sfsc.gallery.store import Store


def open_store(path: str, create: bool, maintain: bool = False, memory: float = math.inf) -> Store:
    """Open the store that a path or a URL names; the arguments are as for `Gallery.open`."""
    if is_milvus(path):
        from sfsc.gallery.milvus import MilvusStore

        return MilvusStore(path, create=create)
    try:
        from sfsc.gallery.lance import LanceStore

        return LanceStore(Path(path), create=create, maintain=maintain, memory=memory)
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "gallery") from error
