"""What a training refuses before anything is written, and what it leaves behind when a step goes wrong."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from maskgraft import policy, processes
from maskgraft import state as states
from maskgraft.backbones.norms import BATCH_NORMS
from maskgraft.coco import Dataset
from maskgraft.errors import DataError, Finding, UsageError
from maskgraft.files.writing import atomic
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Recipe, Resolved
from maskgraft.spec import FROM_SCRATCH, NUMERICS_FIELDS, Numerics, Spec, component
from maskgraft.targets import Batch


def check(model: MaskRCNN, data: Dataset, val: Dataset | None, recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """Raise `UsageError` with everything that would only show later."""
    findings = [] if resume else _folder_faults(folder)
    if missing := [name for name in data.classes if name not in model.spec.classes]:
        message = (
            f"{len(missing)} classes of {data.path} are not among the model's {len(model.spec.classes)}: "
            f"{', '.join(missing[:8])}"
        )
        fix = "mg.load(path, classes=data.classes) keeps the rows of the names that are there"
        findings.append(Finding("shape.classes", "error", message, names=tuple(missing), fix=fix))
    if val is not None and not set(val.classes) & set(model.spec.classes):
        message = f"the model knows none of the classes of {val.path}: {', '.join(val.classes[:8])}"
        fix = "read it with classes=data.classes"
        findings.append(Finding("shape.classes", "error", message, names=val.classes, fix=fix))
    if recipe.schedule == "plateau" and (val is None or not recipe.evaluate_every):
        message = "schedule is plateau, which goes by evaluations, and there are none while it trains"
        findings.append(Finding("spec.field", "error", message, ("schedule",), fix="give val and evaluate_every=1"))
    fixed = model.spec.numerics.fixed_size
    if fixed is not None and (recipe.min_size is not None or recipe.max_size is not None):
        message = f"min_size and max_size do nothing: this model's input is always {fixed[0]} × {fixed[1]}"
        fix = 'mg.load(path, numerics={"fixed_size": [512, 512]})'
        findings.append(Finding("spec.field", "error", message, ("min_size", "max_size"), fix=fix))
    gathering = [name for name, one in model.named_modules() if isinstance(one, nn.SyncBatchNorm)]
    if gathering and processes.several() and model.device.type == "cpu":
        message = (
            f"{len(gathering)} norms gather the statistics of {processes.count()} processes, which torch can do "
            "between GPUs only, and this model is on a CPU"
        )
        fix = "--device cuda, or one process; from scratch --norm gn, whose norms gather nothing"
        findings.append(Finding("train.batchnorm", "error", message, tuple(gathering), fix=fix))
    if findings:
        raise UsageError(findings)


def check_parts(recipe: Recipe, images: int) -> None:
    """Raise `UsageError` when a batch cannot be shared alike among the processes and its parts."""
    parts = recipe.accumulate * processes.count()
    if recipe.batch % parts or (parts > 1 and images < recipe.batch):
        message = (
            f"a batch of {recipe.batch} of {images} images cannot be shared alike by {processes.count()} processes in "
            f"{recipe.accumulate} parts each"
        )
        fix = f"batch={parts * max(1, min(recipe.batch, images) // parts)}"
        raise UsageError(Finding("spec.field", "error", message, ("batch", "accumulate"), fix=fix))


_SETTABLE = (  # what modules are not built by
    "rpn_pre_nms rpn_score_threshold rpn_level_post_nms rpn_post_nms rpn_nms_threshold rpn_min_size rpn_min_size_in "
    "rpn_pre_nms_train rpn_level_post_nms_train rpn_post_nms_train rpn_post_nms_shared rpn_min_size_train "
    "anchor_clip_train rpn_positive_iou rpn_negative_iou rpn_straddle rpn_straddle_closed rpn_outside rpn_rescue "
    "rpn_rescue_iou rpn_own_cells rpn_both roi_rescue_iou "
    "rpn_samples rpn_positive_fraction rpn_normaliser rpn_box_mean rpn_box_levels rpn_beta rpn_box_loss rpn_filled "
    "roi_positive_iou roi_samples roi_positive_fraction roi_truth roi_negatives roi_filled box_beta box_mean box_loss "
    "loss_mean mask_loss mean_offset mask_targets loss_weights score_threshold nms_threshold max_detections "
    "max_by max_per_class anchor_sizes anchor_ratios"
).split()
_BETAS = {"rpn_beta": 1 / 9, "box_beta": 1.0}  # Detectron's, for a model whose home takes plain L1


def trained(spec: Spec, recipe: Recipe) -> Spec:
    """A model's spec as a recipe changes it, for training and for what is saved.

    Raises `UsageError` for conventions that are fixed when a model is built, such as `norm_eps`.
    """
    return spec.with_numerics(_conventions(recipe, spec.numerics), "the recipe")


def _conventions(recipe: Recipe, numerics: Numerics) -> dict[str, Any]:
    """The fields of `Numerics` that a recipe changes."""
    if fixed := [name for name in recipe.numerics if name in NUMERICS_FIELDS and name not in _SETTABLE]:
        message = f"numerics: {', '.join(fixed)} cannot change once a model is built"
        fix = f"mg.load(path, numerics={{{fixed[0]!r}: …}}), or --set {fixed[0]}=…"
        raise UsageError(Finding("spec.field", "error", message, tuple(fixed), fix=fix))
    for name in ("anchor_sizes", "anchor_ratios"):
        counts = [
            _lengths(one) for one in (recipe.numerics.get(name, getattr(numerics, name)), getattr(numerics, name))
        ]
        if counts[0] != counts[1]:
            message = f"numerics: {name} has {counts[0]} entries and the model was built for {counts[1]}"
            fix = "`maskgraft data anchors` fits as many as the model has"
            raise UsageError(Finding("spec.field", "error", message, (name,), fix=fix))
    changes: dict[str, Any] = {}
    if recipe.box_loss is not None:
        kind = "giou" if recipe.box_loss == "giou" else "smooth-l1"
        changes |= {"rpn_box_loss": kind, "box_loss": kind}
    if recipe.box_loss == "l1":
        changes |= dict.fromkeys(_BETAS, 0.0)
    elif recipe.box_loss == "smooth-l1":
        changes |= {name: getattr(numerics, name) or beta for name, beta in _BETAS.items()}
    if recipe.mask_loss is not None:
        changes["mask_loss"] = recipe.mask_loss
    return {**changes, **recipe.numerics}


def _lengths(values: Any) -> Any:
    """How many numbers each list holds; a single list has one length."""
    if isinstance(values, list | tuple) and values and isinstance(values[0], list | tuple):
        return [len(level) if isinstance(level, list | tuple) else 0 for level in values]
    return len(values) if isinstance(values, list | tuple) else 0


def doubts(model: MaskRCNN, resolved: Resolved) -> tuple[Finding, ...]:
    """What is doubtful about each stage, told once. Raises `UsageError` for a policy that cannot be."""
    recipe, found = resolved.recipe, list[Finding]()
    images = recipe.batch // (recipe.accumulate * processes.count())
    still = [name for name, one in model.named_modules() if isinstance(one, BATCH_NORMS)]
    if still and model.spec.family == FROM_SCRATCH and model.graft is None and not recipe.train_norms:
        message = f"{len(still)} batch norms of random weights would keep their first statistics, 0 and 1"
        fix = "train_norms=True with batches of 8 and more, or norm='gn'"
        raise UsageError(Finding("train.batchnorm", "error", message, tuple(still), fix=fix))
    every = frozenset[str]().union(*(policy.chosen_by(span.policy, model) for span in resolved.stages))
    for span in resolved.stages:
        trainable = policy.apply(model, span.policy, train_norms=recipe.train_norms)
        for one in policy.doubts(model, trainable, train_norms=recipe.train_norms, batch=images):
            in_time = one.code == "train.frozen-random" and every.issuperset(one.names)  # it trains in another stage
            if one.code == "train.frozen-random" and not in_time and model.spec.family == FROM_SCRATCH:
                fix = "from_scratch=True, or policy=all"  # nothing in this model has learnt anything
                raise UsageError(replace(one, severity="error", fix=fix))
            if not in_time and one not in found:
                found.append(one)
        if recipe.balance == "gradient-norm" and not any(
            component(name) in ("backbone", "fpn") for name in trainable.names
        ):
            message = (
                f"balance is gradient-norm, but under {span.policy!r} the features that all losses share do not train"
            )
            raise UsageError(Finding("spec.field", "error", message, ("balance",), fix="balance=uncertainty"))
    if recipe.balance == "gradient-norm" and not recipe.gradient_norms:
        message = "balance is gradient-norm, which goes by gradient norms, and gradient_norms is 0"
        raise UsageError(Finding("spec.field", "error", message, ("gradient_norms",), fix="gradient_norms=20"))
    return tuple(found)


def _folder_faults(folder: Path) -> list[Finding]:
    if (folder / states.RECIPE).exists():
        message, fix = f"{folder} holds a run already", "choose another folder, or resume this run"
    elif folder.exists() and not folder.is_dir():
        message, fix = f"{folder} is a file, not a folder", "choose another folder"
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        message, fix = f"{folder} exists and is not empty", "choose another folder"
    else:
        return []
    return [Finding("file.exists", "error", message, fix=fix)]


def keep_batch(batch: Batch, about: Mapping[str, Any], step: int, folder: Path) -> Path:
    """Write the images and boxes of a batch that cannot be learnt from into the folder of the run."""
    boxes = {str(number): target.boxes.tolist() for number, target in zip(batch.ids, batch.targets, strict=True)}
    path = folder / f"bad-batch-{step}.json"
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({**about, "boxes": boxes}, indent=1))
    return path


def not_finite(values: Mapping[str, float], batch: Batch, step: int, folder: Path) -> DataError:
    """The error of a step whose losses or gradient are not finite; the batch is written into the run's folder."""
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    broken = [name for name in broken if name != "total"] or broken
    mine = [(str(number), target.boxes.tolist()) for number, target in zip(batch.ids, batch.targets, strict=True)]
    boxes = dict(processes.gathered(mine))
    told = {"losses": {name: str(value) for name, value in values.items()}, "boxes": boxes}
    path = folder / f"bad-batch-{step}.json"
    if processes.leads():
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(told, indent=1))
    return DataError(
        Finding(
            "train.nan",
            "error",
            f"step {step}: {', '.join(broken)} is not finite on images {', '.join(boxes)}",
            names=tuple(boxes),
            evidence={name: str(value) for name, value in values.items()},
            fix=f"lower lr or set clip_norm; the batch is in {path}, {folder / states.LAST} is untouched",
        )
    )
