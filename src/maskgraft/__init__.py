"""Any Mask R-CNN checkpoint, alive in PyTorch.

import maskgraft as mg

model = mg.load("mask_rcnn_coco.h5")             # the numbers of its home framework
detections = model.predict(["street.jpg"])[0]    # boxes, scores, labels, masks

Names are loaded when they are first used, so that what needs no torch answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskgraft.anchor_fitting import anchor_coverage as anchor_coverage
    from maskgraft.anchor_fitting import fit_anchors as fit_anchors
    from maskgraft.coco import Dataset as Dataset
    from maskgraft.coco import read as read_coco  # noqa: F401
    from maskgraft.completing import complete_labels as complete_labels
    from maskgraft.conversion import convert as convert
    from maskgraft.data_checking import DataReport as DataReport
    from maskgraft.data_checking import check_data as check_data
    from maskgraft.data_conversion import convert_data as convert_data
    from maskgraft.data_splitting import split_data as split_data
    from maskgraft.detections import Detections as Detections
    from maskgraft.diagnosis import Report as Report
    from maskgraft.diagnosis import diagnose as diagnose
    from maskgraft.errors import CheckpointError as CheckpointError
    from maskgraft.errors import DataError as DataError
    from maskgraft.errors import Finding as Finding
    from maskgraft.errors import MaskgraftError as MaskgraftError
    from maskgraft.errors import UsageError as UsageError
    from maskgraft.evaluation import evaluate as evaluate
    from maskgraft.examining import Examination as Examination
    from maskgraft.examining import doctor as doctor
    from maskgraft.exporting import export as export
    from maskgraft.files import Tensors as Tensors
    from maskgraft.files import open_checkpoint as open  # noqa: F401
    from maskgraft.forgetting import retention as retention
    from maskgraft.graft import load as load
    from maskgraft.model import MaskRCNN as MaskRCNN
    from maskgraft.planning import Plan as Plan
    from maskgraft.planning import plan as plan
    from maskgraft.planning import read_plan as read_plan
    from maskgraft.previews import preview_augmented as preview_augmented
    from maskgraft.probing import probe as probe
    from maskgraft.recipe import Recipe as Recipe
    from maskgraft.reporting import report as report
    from maskgraft.shortfalls import shortfall as shortfall
    from maskgraft.spec import Arch as Arch
    from maskgraft.spec import Numerics as Numerics
    from maskgraft.spec import Spec as Spec
    from maskgraft.store import save as save
    from maskgraft.training import train as train

__version__ = "0.1.0"

_HOME = {
    "Arch": "spec.Arch",
    "CheckpointError": "errors.CheckpointError",
    "DataError": "errors.DataError",
    "Dataset": "coco.Dataset",
    "Detections": "detections.Detections",
    "Finding": "errors.Finding",
    "MaskRCNN": "model.MaskRCNN",
    "MaskgraftError": "errors.MaskgraftError",
    "Numerics": "spec.Numerics",
    "Plan": "planning.Plan",
    "Recipe": "recipe.Recipe",
    "Report": "diagnosis.Report",
    "Spec": "spec.Spec",
    "Tensors": "files.Tensors",
    "UsageError": "errors.UsageError",
    "anchor_coverage": "anchor_fitting.anchor_coverage",
    "complete_labels": "completing.complete_labels",
    "convert": "conversion.convert",
    "DataReport": "data_checking.DataReport",
    "check_data": "data_checking.check_data",
    "split_data": "data_splitting.split_data",
    "convert_data": "data_conversion.convert_data",
    "diagnose": "diagnosis.diagnose",
    "doctor": "examining.doctor",
    "Examination": "examining.Examination",
    "evaluate": "evaluation.evaluate",
    "export": "exporting.export",
    "fit_anchors": "anchor_fitting.fit_anchors",
    "load": "graft.load",
    "plan": "planning.plan",
    "read_plan": "planning.read_plan",
    "open": "files.open_checkpoint",
    "preview_augmented": "previews.preview_augmented",
    "probe": "probing.probe",
    "read_coco": "coco.read",
    "report": "reporting.report",
    "retention": "forgetting.retention",
    "save": "store.save",
    "shortfall": "shortfalls.shortfall",
    "train": "training.train",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
