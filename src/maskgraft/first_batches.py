"""What the first batches of a training tell, whether drawn for an examination or passing by in the first steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from maskgraft.ailments import annotations, inputs, knowledge, rates, sampling, settings
from maskgraft.coco import Dataset
from maskgraft.errors import Finding
from maskgraft.losses import LOSSES
from maskgraft.model import MaskRCNN
from maskgraft.pulse import Pulse
from maskgraft.recipe import Resolved
from maskgraft.spec import Numerics, component
from maskgraft.targets import Batch

_PIXELS = 4  # batches whose pixels are kept


@dataclass(slots=True)
class Seen:
    """What was gathered of some batches: the first few themselves, a pulse and the losses of each; the norm of the
    first gradient and of the weights then, by component, of `numbers` values; `stem` is the first convolution with its
    norm, and `drawn` what `knowledge.drawn_parts` gave, if the training has moved them."""

    batches: list[Batch] = field(default_factory=list)
    pulses: list[Pulse] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    gradients: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)
    numbers: int = 0
    stem: inputs.Stem | None = None
    drawn: dict[str, list[str]] | None = None

    def add(self, batch: Batch, pulse: Pulse, losses: dict[str, float]) -> None:
        """One more batch."""
        if len(self.batches) < _PIXELS:
            self.batches.append(batch)
        self.pulses.append(pulse)
        self.losses.append(losses)

    def measure(self, model: MaskRCNN, gradients: dict[str, float] | None = None) -> None:
        """The gradients that a model has now (or has had), beside its weights."""
        self.gradients = norms(model, lambda parameter: parameter.grad) if gradients is None else gradients
        self.sizes = norms(model, lambda parameter: parameter.detach())
        self.numbers = sum(one.numel() for one in model.parameters() if one.requires_grad)

    @property
    def first_losses(self) -> dict[str, float]:
        """Each of the five losses, the mean over the batches on which all are finite; empty where none is."""
        finite = [one for one in self.losses if all(map(math.isfinite, one.values()))][:_PIXELS]
        return {name: sum(one[name] for one in finite) / len(finite) for name in LOSSES} if finite else {}


def judge(model: MaskRCNN, data: Dataset, resolved: Resolved, seen: Seen) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about pixels, anchors, sampling, rates, settings and labels; and what was measured."""
    recipe, first = resolved.recipe, seen.first_losses
    usable = {name: norm for name, norm in seen.gradients.items() if math.isfinite(norm)}
    found, stem = inputs.examine(model, seen.batches, stem=seen.stem)
    sampled, cover = sampling.examine(data, model.spec, recipe, seen.pulses)
    found += [
        *sampled,
        *rates.examine(resolved, usable, seen.sizes, numbers=seen.numbers),
        *settings.examine(model.spec, resolved, first),
    ]
    found += [
        *knowledge.examine(model, seen.pulses, first, drawn=seen.drawn),
        *knowledge.diverged(first, len(model.spec.classes)),
    ]
    undecided = math.log(len(model.spec.classes) + 1)
    return found, {
        "first_losses": {name: round(value, 4) for name, value in first.items()},
        "undecided": {"rpn_cls": round(math.log(2), 4), "cls": round(undecided, 4), "mask": round(math.log(2), 4)},
        "pulse": seen.pulses[0].as_json(),
        "anchors": cover.as_json(),
        "input": {name: round(value, 4) for name, value in stem.items()},
        "gradients": {name: float(f"{value:.4g}") for name, value in usable.items()},
    }


def norms(model: MaskRCNN, of: Callable[[Tensor], Tensor | None]) -> dict[str, float]:
    """The norm of something of each parameter that trains, by component."""
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        value = of(parameter) if parameter.requires_grad else None
        if value is not None:
            part = component(name)
            squares[part] = squares.get(part, 0.0) + float(value.float().square().sum())
    return {name: value**0.5 for name, value in squares.items()}


def look(looks: annotations.Looks, batch: Batch, numerics: Numerics) -> None:
    """Add the pictures of a batch, as the network is given them, with their annotations; mirrored ones the way round
    that they were annotated, since annotations with x and y exchanged are mirrored into another fault."""
    for index, (target, (height, width)) in enumerate(zip(batch.targets, batch.sizes, strict=True)):
        pixels = inputs.raw_pixels(batch.pixels[index, :, :height, :width].float().cpu(), numerics)
        picture = pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy()
        boxes, masks = target.boxes.tolist(), target.masks.planes()[:, :height, :width]
        if batch.mirrored and batch.mirrored[index]:
            picture, masks = np.ascontiguousarray(picture[:, ::-1]), masks[:, :, ::-1]
            boxes = [[width - x2, y1, width - x1, y2] for x1, y1, x2, y2 in boxes]
        looks.add(picture, boxes, masks)
