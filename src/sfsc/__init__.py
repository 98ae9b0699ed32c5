"""Visual search across platforms: one training run, nested sub-models, one embedding space.

Every public name is imported when it is first used, so `import sfsc` needs neither torch nor a store.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sfsc import _moved

if TYPE_CHECKING:
    from sfsc.bridges.bridge import Bridge
    from sfsc.bridges.making import bridge
    from sfsc.bridges.upgrading import refit_gallery, upgrade_gallery
    from sfsc.data.dataset import Dataset
    from sfsc.data.sources import open_dataset
    from sfsc.decisions.pair import Pair
    from sfsc.decisions.score_map import ScoreMap
    from sfsc.decisions.thresholds import Thresholds
    from sfsc.deploy.choosing import Limits, choose
    from sfsc.deploy.exporting import export
    from sfsc.deploy.profile import Profile
    from sfsc.deploy.profiling import profile
    from sfsc.embedding.engines import make_engine
    from sfsc.embedding.exported import ExportedModel
    from sfsc.embedding.files import embed
    from sfsc.embedding.model import Model, open_model
    from sfsc.errors import SfscError
    from sfsc.evaluation.compare import Comparison, compare
    from sfsc.evaluation.evaluate import Evaluation, evaluate
    from sfsc.evaluation.thresholds import fit_thresholds
    from sfsc.evaluation.upgrade_curve import UpgradeCurve, upgrade_curve
    from sfsc.family.family import Family
    from sfsc.gallery import Condition, Gallery, Hit
    from sfsc.gallery.cascading import search_cascade
    from sfsc.gallery.indexing import index, upgrade
    from sfsc.gallery.searching import search
    from sfsc.report.comparison import write_comparison
    from sfsc.report.html import write_report
    from sfsc.retrieval.matrix import CompatibilityMatrix
    from sfsc.serving import create_app
    from sfsc.switchable.inspection import Inspection, inspect
    from sfsc.switchable.network import Switchable, to_switchable
    from sfsc.training.adapt import Adaptation, adapt
    from sfsc.training.calibrate import CalibrationReport, calibrate
    from sfsc.training.config import Config
    from sfsc.training.norm_statistics import recalibrate
    from sfsc.training.run import train
    from sfsc.training.submodel import submodel
    from sfsc.widths import Widths

__all__ = [
    "Adaptation",
    "Bridge",
    "CalibrationReport",
    "Comparison",
    "CompatibilityMatrix",
    "Condition",
    "Config",
    "Dataset",
    "Evaluation",
    "ExportedModel",
    "Family",
    "Gallery",
    "Hit",
    "Inspection",
    "Limits",
    "Model",
    "Pair",
    "Profile",
    "ScoreMap",
    "SfscError",
    "Switchable",
    "Thresholds",
    "UpgradeCurve",
    "Widths",
    "adapt",
    "bridge",
    "calibrate",
    "choose",
    "compare",
    "create_app",
    "embed",
    "evaluate",
    "export",
    "fit_thresholds",
    "index",
    "inspect",
    "make_engine",
    "open_dataset",
    "open_model",
    "profile",
    "recalibrate",
    "refit_gallery",
    "search",
    "search_cascade",
    "submodel",
    "to_switchable",
    "train",
    "upgrade",
    "upgrade_curve",
    "upgrade_gallery",
    "write_comparison",
    "write_report",
]

_HOMES = {
    "Adaptation": "sfsc.training.adapt",
    "Bridge": "sfsc.bridges.bridge",
    "CalibrationReport": "sfsc.training.calibrate",
    "Comparison": "sfsc.evaluation.compare",
    "CompatibilityMatrix": "sfsc.retrieval.matrix",
    "Condition": "sfsc.gallery",
    "Config": "sfsc.training.config",
    "Dataset": "sfsc.data.dataset",
    "Evaluation": "sfsc.evaluation.evaluate",
    "ExportedModel": "sfsc.embedding.exported",
    "Family": "sfsc.family.family",
    "Gallery": "sfsc.gallery",
    "Hit": "sfsc.gallery",
    "Inspection": "sfsc.switchable.inspection",
    "Limits": "sfsc.deploy.choosing",
    "Model": "sfsc.embedding.model",
    "Pair": "sfsc.decisions.pair",
    "Profile": "sfsc.deploy.profile",
    "ScoreMap": "sfsc.decisions.score_map",
    "SfscError": "sfsc.errors",
    "Switchable": "sfsc.switchable.network",
    "Thresholds": "sfsc.decisions.thresholds",
    "UpgradeCurve": "sfsc.evaluation.upgrade_curve",
    "Widths": "sfsc.widths",
    "adapt": "sfsc.training.adapt",
    "bridge": "sfsc.bridges.making",
    "calibrate": "sfsc.training.calibrate",
    "choose": "sfsc.deploy.choosing",
    "compare": "sfsc.evaluation.compare",
    "create_app": "sfsc.serving",
    "embed": "sfsc.embedding.files",
    "evaluate": "sfsc.evaluation.evaluate",
    "export": "sfsc.deploy.exporting",
    "fit_thresholds": "sfsc.evaluation.thresholds",
    "index": "sfsc.gallery.indexing",
    "inspect": "sfsc.switchable.inspection",
    "make_engine": "sfsc.embedding.engines",
    "open_dataset": "sfsc.data.sources",
    "open_model": "sfsc.embedding.model",
    "profile": "sfsc.deploy.profiling",
    "recalibrate": "sfsc.training.norm_statistics",
    "refit_gallery": "sfsc.bridges.upgrading",
    "search": "sfsc.gallery.searching",
    "search_cascade": "sfsc.gallery.cascading",
    "submodel": "sfsc.training.submodel",
    "to_switchable": "sfsc.switchable.network",
    "train": "sfsc.training.run",
    "upgrade": "sfsc.gallery.indexing",
    "upgrade_curve": "sfsc.evaluation.upgrade_curve",
    "upgrade_gallery": "sfsc.bridges.upgrading",
    "write_comparison": "sfsc.report.comparison",
    "write_report": "sfsc.report.html",
}

_moved.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sfsc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
