"""Why a loss is not a number: the image, the weights, the precision, or the rate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from maskgraft import processes
from maskgraft.errors import Finding
from maskgraft.model import MaskRCNN
from maskgraft.pulse import as_in_training, take
from maskgraft.recipe import Recipe
from maskgraft.targets import Batch

_HALF = 65504.0
_GROWN = 3.0
_RECENT = 12


def explain(
    model: MaskRCNN,
    batch: Batch,
    losses: Mapping[str, float],
    *,
    step: int,
    recipe: Recipe,
    history: Sequence[float],
) -> list[Finding]:
    """The cause, where it shows, and then `train.nan` itself; `history` are the sums of the losses before."""
    broken = [name for name, value in losses.items() if not math.isfinite(value) and name != "total"]
    pulse = take(model, batch)
    ids = ", ".join(map(str, batch.ids))
    nan = Finding(
        "train.nan",
        "error",
        f"step {step}: {', '.join(broken) or 'the sum of the losses'} is not finite on images {ids}"
        + (f"; the first place that is not finite is {pulse.broken}" if pulse.broken else ""),
        names=tuple(map(str, batch.ids)),
        evidence={"losses": {name: str(value) for name, value in losses.items()}, "first_place": pulse.broken},
        effect="a step with it makes every weight NaN",
        fix="lower lr or set clip_norm",
    )
    cause = (
        unlearnable(batch, len(model.spec.classes)) or _of_weights(model, step) or _of_precision(recipe, pulse.largest)
    )
    cause = cause or _of_rate(recipe, step, history) or _of_images(model, batch, step)
    return [cause, nan] if cause else [nan]


def unlearnable(batch: Batch, classes: int) -> Finding | None:
    """Pixels, boxes or labels that no step could be made of."""
    odd: dict[str, Any] = {}
    code = "data.pixels"
    for image, target, pixels in zip(batch.ids, batch.targets, batch.pixels, strict=True):
        sides = target.boxes[:, 2:] - target.boxes[:, :2]
        if not pixels.isfinite().all():
            odd[str(image)] = "pixels are NaN or infinite"
        elif not target.boxes.isfinite().all() or (sides <= 0).any():
            odd[str(image)], code = f"boxes {_shown(target.boxes)}", "train.boxes"
        elif ((target.labels < 0) | (target.labels >= classes)).any():
            odd[str(image)], code = f"labels {target.labels.tolist()[:8]} of {classes} classes", "train.labels"
    if not odd:
        return None
    told = "; ".join(f"image {image}: {what}" for image, what in odd.items())
    return Finding(code, "error", f"the batch cannot be learnt from: {told}", tuple(odd), odd, "the loss is NaN",
                   "correct or leave out these images")  # fmt: skip


def _shown(boxes: Tensor) -> str:
    sides = boxes[:, 2:] - boxes[:, :2]
    odd = boxes[~boxes.isfinite().all(1) | (sides <= 0).any(1)]
    return "; ".join(" ".join(f"{value:g}" for value in box) for box in odd[:3].tolist())


def _of_weights(model: MaskRCNN, step: int) -> Finding | None:
    broken = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if not broken:
        return None
    return Finding(
        "values.nan",
        "error",
        f"{len(broken)} tensors of the model hold NaN or infinity before step {step}, first {broken[0]}",
        names=tuple(broken[:50]),
        effect="every loss is NaN from here on",
        fix="start from a checkpoint that was saved before its training diverged",
    )


def _of_precision(recipe: Recipe, largest: Mapping[str, float]) -> Finding | None:
    over = {name: value for name, value in largest.items() if math.isfinite(value) and value > _HALF}
    if recipe.precision != "fp16" or not over:
        return None
    name = max(over, key=lambda one: over[one])
    return Finding(
        "values.precision",
        "error",
        f"{name} reaches {over[name]:.3g}, and fp16 ends at {_HALF:.0f}",
        names=tuple(over),
        evidence=over,
        effect="the value becomes infinite, and what follows NaN",
        fix='precision="bf16", or float32',
    )


def _of_rate(recipe: Recipe, step: int, history: Sequence[float]) -> Finding | None:
    recent = [value for value in history[-_RECENT:] if math.isfinite(value)]
    if len(recent) < 3 or max(recent[-3:]) < _GROWN * min(recent):
        return None
    return Finding(
        "train.lr-high",
        "error",
        f"the losses had grown from {min(recent):.3g} to {max(recent[-3:]):.3g} in the steps before step {step}, at lr "
        f"{recipe.lr:g}",
        names=("lr",),
        evidence={"losses": [round(value, 4) for value in recent], "lr": recipe.lr},
        effect="the weights are thrown further at each step, until they are NaN",
        fix=f"lr={(recipe.lr or 0) / 10:g}, or clip_norm=10",
    )


@torch.no_grad()
def _of_images(model: MaskRCNN, batch: Batch, step: int) -> Finding | None:
    """Images on which the loss is not finite when they come alone, where others are fine."""
    if len(batch.targets) < 2 or processes.several():  # losses are means over all processes, which are not here
        return None
    alone = []
    with as_in_training(model):
        for index, image in enumerate(batch.ids):
            if not all(math.isfinite(loss.item()) for loss in model(batch.alone(index)).values()):
                alone.append(str(image))
    if not alone or len(alone) == len(batch.targets):
        return None
    return Finding(
        "train.outlier",
        "error",
        f"step {step}: the loss is not finite on image {', '.join(alone)} alone, and finite on the others of the batch",
        names=tuple(alone),
        effect="one image ends the training, each time that it comes",
        fix="look at its annotations, or leave it out",
    )
