"""Modules under the names that they had before 0.1: imported with a warning that says the new one."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "sfsc.aggregation": "sfsc.training.aggregation",
    "sfsc.attributes": "sfsc.gallery.attributes",
    "sfsc.calibrating": "sfsc.training.calibrate",
    "sfsc.comparing": "sfsc.evaluation.compare",
    "sfsc.data.images": "sfsc.images.reading",
    "sfsc.data.loading": "sfsc.training.loading",
    "sfsc.data.records": "sfsc.data.dataset",
    "sfsc.deploy.members": "sfsc.evaluation.members",
    "sfsc.deploy.runtime": "sfsc.embedding.exported",
    "sfsc.engines": "sfsc.embedding.engines",
    "sfsc.image_set": "sfsc.embedding.image_set",
    "sfsc.indexing": "sfsc.gallery.indexing",
    "sfsc.losses": "sfsc.training.losses",
    "sfsc.model": "sfsc.embedding.model",
    "sfsc.recalibrating": "sfsc.training.norm_statistics",
    "sfsc.recipes": "sfsc.training.recipes",
    "sfsc.searching": "sfsc.gallery.searching",
    "sfsc.switchable.backbones": "sfsc.backbones.builtin",
    "sfsc.switchable.calibration": "sfsc.family.calibration",
    "sfsc.switchable.embedder": "sfsc.family.embedder",
    "sfsc.switchable.family": "sfsc.family.family",
    "sfsc.switchable.sources": "sfsc.backbones.sources",
    "sfsc.switchable.switchable": "sfsc.switchable.network",
    "sfsc.switchable.weights": "sfsc.backbones.weights",
    "sfsc.training.loop": "sfsc.training.run",
    "sfsc.training.step": "sfsc.training.gradients",
    "sfsc.training.steps": "sfsc.training.trainer",
    "sfsc.vectors": "sfsc.embedding.files",
}


class OldNames(MetaPathFinder, Loader):
    """Finds a module of an old name: the very module of the new name, so that both are one."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return a spec for the old name of a module, and None for all other names."""
        return ModuleSpec(fullname, self) if new_name(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module under its new name."""
        new = new_name(spec.name)
        assert new is not None
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        module = import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system notes in the module, which was executed under its new name."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def new_name(name: str) -> str | None:
    """Return the new name of a module of an old name, or None."""
    if name in MOVED:
        return MOVED[name]
    package, _, module = name.rpartition(".")
    return f"{MOVED[package]}.{module}" if package in MOVED else None


def install() -> None:
    """Let old names be imported."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
