"""What a training refuses before anything is written, and what it leaves behind when a step goes wrong."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from maskgraft import state as states
from maskgraft.coco import Dataset
from maskgraft.errors import DataError, Finding, UsageError
from maskgraft.files.writing import atomic
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Recipe
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
    if findings:
        raise UsageError(findings)


def _folder_faults(folder: Path) -> list[Finding]:
    if (folder / states.RECIPE).exists():
        message, fix = f"{folder} holds a run already", "choose another folder, or resume this run"
    elif folder.exists() and not folder.is_dir():
        message, fix = f"{folder} is a file, not a folder", "choose another folder"
    elif folder.is_dir() and any(folder.iterdir()):
        message, fix = f"{folder} exists and is not empty", "choose another folder"
    else:
        return []
    return [Finding("file.exists", "error", message, fix=fix)]


def not_finite(values: Mapping[str, float], batch: Batch, step: int, folder: Path) -> DataError:
    """The error of a step whose losses or gradient are not finite; the batch is written into the run's folder."""
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    boxes = {str(number): target.boxes.tolist() for number, target in zip(batch.ids, batch.targets, strict=True)}
    told = {"losses": {name: str(value) for name, value in values.items()}, "boxes": boxes}
    path = folder / f"bad-batch-{step}.json"
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(told, indent=1))
    return DataError(
        Finding(
            "train.nan",
            "error",
            f"step {step}: {', '.join(broken)} is not finite on images {', '.join(map(str, batch.ids))}",
            names=tuple(map(str, batch.ids)),
            evidence={name: str(value) for name, value in values.items()},
            fix=f"lower lr or set clip_norm; the batch is in {path}, {folder / states.LAST} is untouched",
        )
    )
