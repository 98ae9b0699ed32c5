"""Visual search across platforms: one training run, nested sub-models, one embedding space.

Every public name is imported when it is first used, so `import sfsc` needs neither torch nor a store.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sfsc import _moved

if TYPE_CHECKING:
    from sfsc.data.dataset import Dataset
    from sfsc.data.sources import open_dataset
    from sfsc.errors import SfscError
    from sfsc.evaluation.compare import Comparison, compare
    from sfsc.evaluation.evaluate import Evaluation, evaluate
    from sfsc.family.family import Family
    from sfsc.gallery import Condition, Gallery, Hit
    from sfsc.gallery.indexing import index, upgrade
    from sfsc.gallery.searching import search
    from sfsc.report.comparison import write_comparison
    from sfsc.report.html import write_report
    from sfsc.retrieval.matrix import CompatibilityMatrix
    from sfsc.switchable.inspection import Inspection, inspect
    from sfsc.switchable.network import Switchable, to_switchable
    from sfsc.training.calibrate import CalibrationReport, calibrate
    from sfsc.training.config import Config
    from sfsc.training.norm_statistics import recalibrate
    from sfsc.training.run import train
    from sfsc.widths import Widths

__all__ = [
    "CalibrationReport",
    "Comparison",
    "CompatibilityMatrix",
    "Condition",
    "Config",
    "Dataset",
    "Evaluation",
    "Family",
    "Gallery",
    "Hit",
    "Inspection",
    "SfscError",
    "Switchable",
    "Widths",
    "calibrate",
    "compare",
    "evaluate",
    "index",
    "inspect",
    "open_dataset",
    "recalibrate",
    "search",
    "to_switchable",
    "train",
    "upgrade",
    "write_comparison",
    "write_report",
]

_HOMES = {
    "CalibrationReport": "sfsc.training.calibrate",
    "Comparison": "sfsc.evaluation.compare",
    "CompatibilityMatrix": "sfsc.retrieval.matrix",
    "Condition": "sfsc.gallery",
    "Config": "sfsc.training.config",
    "Dataset": "sfsc.data.dataset",
    "Evaluation": "sfsc.evaluation.evaluate",
    "Family": "sfsc.family.family",
    "Gallery": "sfsc.gallery",
    "Hit": "sfsc.gallery",
    "Inspection": "sfsc.switchable.inspection",
    "SfscError": "sfsc.errors",
    "Switchable": "sfsc.switchable.network",
    "Widths": "sfsc.widths",
    "calibrate": "sfsc.training.calibrate",
    "compare": "sfsc.evaluation.compare",
    "evaluate": "sfsc.evaluation.evaluate",
    "index": "sfsc.gallery.indexing",
    "open_dataset": "sfsc.data.sources",
    "inspect": "sfsc.switchable.inspection",
    "recalibrate": "sfsc.training.norm_statistics",
    "search": "sfsc.gallery.searching",
    "to_switchable": "sfsc.switchable.network",
    "train": "sfsc.training.run",
    "upgrade": "sfsc.gallery.indexing",
    "write_comparison": "sfsc.report.comparison",
    "write_report": "sfsc.report.html",
}

_moved.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sfsc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
