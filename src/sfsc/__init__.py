"""Visual search across platforms: one training run, nested sub-models, one embedding space.

The public names are imported when they are first used: `import sfsc` needs neither torch nor a store.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfsc.calibrating import CalibrationReport, calibrate
    from sfsc.comparing import Comparison, compare
    from sfsc.data.dataset import Dataset, open_dataset
    from sfsc.errors import SfscError
    from sfsc.evaluation import Evaluation, evaluate
    from sfsc.gallery import Condition, Gallery, Hit
    from sfsc.indexing import index, upgrade
    from sfsc.recalibrating import recalibrate
    from sfsc.report.comparison import write_comparison
    from sfsc.report.html import write_report
    from sfsc.retrieval.matrix import CompatibilityMatrix
    from sfsc.searching import search
    from sfsc.switchable.family import Family
    from sfsc.switchable.inspection import Inspection, inspect
    from sfsc.switchable.switchable import Switchable, to_switchable
    from sfsc.training.config import Config
    from sfsc.training.loop import train
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
    "CalibrationReport": "sfsc.calibrating",
    "Comparison": "sfsc.comparing",
    "CompatibilityMatrix": "sfsc.retrieval.matrix",
    "Condition": "sfsc.gallery",
    "Config": "sfsc.training.config",
    "Dataset": "sfsc.data.dataset",
    "Evaluation": "sfsc.evaluation",
    "Family": "sfsc.switchable.family",
    "Gallery": "sfsc.gallery",
    "Hit": "sfsc.gallery",
    "Inspection": "sfsc.switchable.inspection",
    "SfscError": "sfsc.errors",
    "Switchable": "sfsc.switchable.switchable",
    "Widths": "sfsc.widths",
    "calibrate": "sfsc.calibrating",
    "compare": "sfsc.comparing",
    "evaluate": "sfsc.evaluation",
    "index": "sfsc.indexing",
    "open_dataset": "sfsc.data.dataset",
    "inspect": "sfsc.switchable.inspection",
    "recalibrate": "sfsc.recalibrating",
    "search": "sfsc.searching",
    "to_switchable": "sfsc.switchable.switchable",
    "train": "sfsc.training.loop",
    "upgrade": "sfsc.indexing",
    "write_comparison": "sfsc.report.comparison",
    "write_report": "sfsc.report.html",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sfsc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
