"""What can safely be changed about a recipe before its first step, and why."""

from collections.abc import Mapping
from typing import Any

from maskgraft.ailments.sampling import at_training_size
from maskgraft.anchor_fitting import fit_anchors
from maskgraft.coco import Dataset
from maskgraft.errors import Finding
from maskgraft.examining import Progress, examine
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Derived, Recipe, recipe_from

_SAMPLING = {  # what Faster R-CNN's authors and everybody since take
    "rpn_samples": 256,
    "rpn_positive_fraction": 0.5,
    "rpn_positive_iou": 0.7,
    "rpn_negative_iou": 0.3,
    "roi_samples": 512,
    "roi_positive_fraction": 0.25,
    "roi_positive_iou": 0.5,
    "rpn_nms_threshold": 0.7,
    "nms_threshold": 0.5,
    "score_threshold": 0.05,
    "rpn_post_nms_train": 1000,
    "rpn_pre_nms_train": 1000,
    "rpn_post_nms": 1000,
    "rpn_pre_nms": 1000,
    "rpn_min_size": 0.0,
}

_HOLDING = {"l2sp": 0.01, "distil": 1.0}


def treat(
    model: MaskRCNN, data: Dataset, recipe: Recipe, *, val: Dataset | None = None, progress: Progress | None = None
) -> tuple[Recipe, tuple[Derived, ...]]:
    """The recipe with what the examination found put right, and each change with its reason.

    Rates, clipping, weights of losses, training norms, precision, anchors and sampling are changed; data, weights and
    what trains are not.
    """
    examined = examine(model, data, recipe, val=val, progress=progress)
    changes: dict[str, Any] = {}
    numerics: dict[str, Any] = {}
    notes: list[Derived] = []
    for one in examined.findings:
        if one.severity == "info":
            continue
        fields, conventions = _remedy(one, model, data, recipe)
        changes |= fields
        numerics |= conventions
        notes += [Derived(name, value, f"doctor, {one.code}: {one.message}") for name, value in fields.items()]
        notes += [
            Derived(f"numerics.{name}", value, f"doctor, {one.code}: {one.message}")
            for name, value in conventions.items()
        ]
    if numerics:
        changes["numerics"] = {**recipe.numerics, **numerics}
    given = {name: getattr(recipe, name) for name in recipe.model_fields_set}
    return (recipe_from({**given, **changes}, "the doctor's recipe") if changes else recipe), tuple(notes)


def _remedy(
    finding: Finding, model: MaskRCNN, data: Dataset, recipe: Recipe
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Fields of the recipe, and conventions of the model, that take a cause away."""
    match finding.code:
        case "train.lr-high" | "train.lr-low" if finding.evidence.get("usual"):
            return _rate(finding, recipe), {}
        case "train.weight-decay":
            return {"weight_decay": 1e-4}, {}
        case "train.loss-dominates" | "train.loss-faint":
            kept = {name: weight for name, weight in recipe.weights.items() if name not in finding.names}
            return {"loss_weights": kept}, {}
        case "train.batchnorm" if recipe.train_norms:
            return {"train_norms": False}, {}
        case "numerics.norm-eps" if recipe.precision == "fp16":
            return {"precision": "float32"}, {}
        case "train.held":
            return {name: value for name, value in _HOLDING.items() if name in finding.names}, {}
        case "train.anchors-miss":
            return {}, fit_anchors(data, at_training_size(model.spec, recipe)).numerics
        case "train.rpn-starved" | "train.heads-starved" | "train.rpn-recall" | "train.thresholds":
            return {}, {name: _SAMPLING[name] for name in finding.names if name in _SAMPLING}
        case "train.loader-slow":
            return {"workers": min(16, max(2, 2 * recipe.workers))}, {}
    return {}, {}


def _rate(finding: Finding, recipe: Recipe) -> dict[str, Any]:
    """What brings the learning rate to where it usually is: the rate itself, or what held it down."""
    if finding.evidence.get("clipped_to", 1.0) < 0.1 and finding.code == "train.lr-low":
        return {"clip_norm": 10.0}
    if finding.evidence.get("mean_factor", 1.0) < 0.12 and finding.code == "train.lr-low":
        return {"warmup": None, "milestones": Recipe().milestones}
    if recipe.stages:
        usual = finding.evidence["usual"]
        return {"stages": tuple(one.model_copy(update={"lr": usual}) for one in recipe.stages)}
    return {"lr": finding.evidence["usual"]}
