"""One step of a training: the losses of a batch, their gradients, and the update."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from maskgraft import admission, precision, processes, watching
from maskgraft import state as states
from maskgraft.ailments.not_finite import unlearnable
from maskgraft.balance import pulls, shared_features
from maskgraft.errors import DataError
from maskgraft.losses import LOSSES
from maskgraft.onlooking import Onlookers
from maskgraft.targets import Batch
from maskgraft.underway import Training
from maskgraft.watching import Moment, Retainer


def step(
    training: Training,
    parts: Sequence[Batch],
    *,
    epoch: int,
    labels: Tensor,
    retainers: Sequence[Retainer],
    onlookers: Onlookers,
) -> dict[str, Any]:
    """Train on one batch, which comes in as many `parts` as the recipe accumulates; gives its line of metrics.jsonl.

    `labels` are the model's rows of the data's classes. Raises `DataError` for a batch that nothing can be learnt from
    and for losses or gradients that are not finite, with the batch kept in the run's folder, and what `Onlookers` do.
    """
    model, state, optimizer = training.model, training.state, training.optimizer
    scaler, balance, recipe = training.scaler, training.balance, training.recipe
    rate = training.set_rates()
    fixed = {**dict.fromkeys(LOSSES, 1.0), **recipe.weights}
    weights = balance.weights(fixed)
    looks = recipe.gradient_norms > 0 and state.step % recipe.gradient_norms == 0
    values: dict[str, float] = {}

    states.seed(recipe, state.step)
    optimizer.zero_grad(set_to_none=True)
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        batch = _relabelled(part, labels, training, onlookers)
        with nullcontext() if last else processes.alone(training.network):
            with precision.autocast(model.device, recipe.precision):
                with shared_features(model, kept=looks) as maps:
                    losses = training.network(batch)
                further = watching.added(retainers, model, batch)
            total = torch.stack([balance.total(losses, fixed), *further.values()]).sum()
            losses = {**losses, **further}
            own = _numbers({"total": total, **losses})
            found = processes.means(own, model.device)
            broken = _not_finite(found, batch, training)
            moment = Moment(state.step + 1, epoch, model, batch, losses, own, weights, total, optimizer, recipe)
            onlookers.before_backward(moment)
            if broken:
                raise broken
            for name, value in found.items():
                values[name] = values.get(name, 0.0) + value / len(parts)
            norms, cosines = pulls(losses, maps) if looks and last else ({}, {})
            scaler.scale(total / len(parts)).backward()  # type: ignore[no-untyped-call]

    scaler.unscale_(optimizer)
    processes.average([one.grad for one in balance.parameters() if one.grad is not None])
    norm = _norm(training.parameters)
    broken = None if precision.overflows(scaler) else _not_finite({**values, "gradient": norm}, batch, training)
    onlookers.before_update(moment, norm)
    if broken:
        raise broken
    if recipe.clip_value is not None:
        torch.nn.utils.clip_grad_value_(training.parameters, recipe.clip_value)
    if recipe.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(training.parameters, recipe.clip_norm)
    scaler.step(optimizer)
    scaler.update()
    if norms:
        balance.adjust(norms, values, fixed)
    state.step += 1
    if training.average:
        training.average.update(model, state.step)

    whole = values.pop("total")
    return {
        "step": state.step,
        "epoch": epoch,
        "lr": rate,
        "total": whole,
        "losses": values,
        "shares": _shares(values, weights),
        "gradient": norm if math.isfinite(norm) else None,
        **({"weights": weights} if recipe.balance != "fixed" else {}),
        **({"gradients": norms, "cosines": cosines} if norms else {}),
    }


def _relabelled(part: Batch, labels: Tensor, training: Training, onlookers: Onlookers) -> Batch:
    """A part of a batch with the model's labels, where the model is, of the same size in all processes."""
    if fault := unlearnable(part, len(labels)):
        admission.keep_batch(part, {"fault": fault.message}, training.state.step + 1, training.folder)
        onlookers.unlearnable(fault)
        raise DataError(fault)
    device = training.model.device
    return processes.alike(part.relabelled(labels).to(device), device)


def _numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """The values of losses; the device is waited for once."""
    together = torch.stack([one.detach().double() for one in losses.values()])
    return dict(zip(losses, together.tolist(), strict=True))


def _not_finite(values: Mapping[str, float], batch: Batch, training: Training) -> DataError | None:
    """What is raised when a number is not finite, once the batch is kept; steps count from 1, as they are told."""
    if all(map(math.isfinite, values.values())):
        return None
    return admission.not_finite(values, batch, training.state.step + 1, training.folder)


def _norm(parameters: Iterable[nn.Parameter]) -> float:
    """The norm of the whole gradient."""
    return torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None]).item()


def _shares(values: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """What part of the weighted sum each loss is."""
    weighted = {name: value * weights.get(name, 1.0) for name, value in values.items()}
    whole = sum(weighted.values())
    return {name: round(value / whole, 4) if whole else 0.0 for name, value in weighted.items()}
