"""Class rows that start from nothing, and take longer steps than those beside them that have learnt.

A row is part of a tensor, and an optimizer has one rate for a tensor. So the step that it takes on a fresh row is
multiplied once it is done, which for SGD, Adam and all whose step is in proportion to the rate is a higher rate.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from maskgraft.class_surgery import CLASS_TENSORS, rows_per_class
from maskgraft.model import MaskRCNN


def fresh_classes(model: MaskRCNN) -> tuple[int, ...]:
    """The classes whose rows start from nothing, where others beside them come from a file."""
    rows = model.graft.rows if model.graft else ()
    fresh = tuple(index for index, row in enumerate(rows) if row.source is None)
    return fresh if len(fresh) < len(rows) else ()


def hasten(optimizer: Optimizer, model: MaskRCNN, factor: float) -> None:
    """Let fresh rows take `factor` times the steps that `optimizer` takes; nothing where a model has none."""
    classes = fresh_classes(model)
    rows = [(parameter, index) for parameter, index in _rows(model, classes) if parameter.requires_grad]
    before: list[Tensor] = []

    def note(*_: Any) -> None:
        before[:] = [parameter.detach()[index].clone() for parameter, index in rows]

    def lengthen(*_: Any) -> None:
        with torch.no_grad():
            for (parameter, index), start in zip(rows, before, strict=True):
                parameter[index] = torch.lerp(start, parameter[index], factor)

    if rows and factor != 1:
        optimizer.register_step_pre_hook(note)
        optimizer.register_step_post_hook(lengthen)


def _rows(model: MaskRCNN, classes: tuple[int, ...]) -> list[tuple[torch.nn.Parameter, Tensor]]:
    """Each tensor that has rows of classes, and which of its rows are those of `classes`."""
    parameters, found = dict(model.named_parameters()), []
    for name in CLASS_TENSORS:
        if classes and (each := rows_per_class(name, model.spec.arch)):
            index = [row * each + part for row in classes for part in range(each)]
            found.append((parameters[name], torch.tensor(index, device=parameters[name].device)))
    return found
