"""Learning rates that will not do: against what is usual, and against the gradients that this model has."""

from collections.abc import Mapping
from statistics import mean, median
from typing import Any

from maskgraft.errors import Finding
from maskgraft.losses import LOSSES
from maskgraft.recipe import ADAM_LR, ADAMS, Recipe, Resolved
from maskgraft.schedules import lr_factor
from maskgraft.stages import Span

_EVEN = dict.fromkeys(LOSSES, 1.0)
_MOMENTUM = 0.9  # of the usual rate
_HIGH, _SURELY_HIGH = 6.0, 40.0  # multiples of the usual rate
_LOW = 1 / 60
_IDLE = 0.12  # of the rate on the mean of a stage: what leaves out neither warm-up nor decay has more
_BIG_UPDATE = 0.03  # of a component's norm in one step: ten times what a training starts with
_DECAYED = 2.0  # exponents by which weight decay alone shrinks the weights
_SHRUNK = 2e-3  # the same in a single step


def usual(recipe: Recipe, resolved: Resolved) -> float | None:
    """The learning rate that is usual for an optimizer and batch; None where there is none."""
    if resolved.usual_lr is not None:
        return resolved.usual_lr * (1 - recipe.momentum) / (1 - _MOMENTUM)
    return ADAM_LR if recipe.optimizer.lower() in ADAMS else None


def examine(
    resolved: Resolved, gradients: Mapping[str, float], weights: Mapping[str, float], *, numbers: int = 0
) -> list[Finding]:
    """Findings about the rates of each stage; `gradients` and `weights` are norms by component, at the start, and
    `numbers` is how many there are in all."""
    recipe, found = resolved.recipe, list[Finding]()
    wanted = usual(recipe, resolved)
    for span in resolved.stages:
        usually = mean(
            lr_factor(recipe, step, steps=span.end - span.first, warmup=span.warmup) for step in _looks(span)
        )
        found += _of_stage(recipe, span, wanted, usually, gradients, weights, numbers)
    decay = recipe.weight_decay * sum(span.lr * (span.end - span.first) for span in resolved.stages)
    if recipe.optimizer.lower() == "sgd":
        decay /= 1 - recipe.momentum
    step = recipe.weight_decay * max((span.lr for span in resolved.stages), default=0.0)
    if (decay > _DECAYED and recipe.weight_decay > 5e-4) or step > _SHRUNK:
        found.append(
            Finding(
                "train.weight-decay",
                "warning",
                f"weight_decay {recipe.weight_decay:g} at these rates shrinks all weights to "
                f"{100 * 2.718281828**-decay:.2g} % over {resolved.steps} steps, whatever is learnt",
                names=("weight_decay",),
                evidence={"weight_decay": recipe.weight_decay, "exponent": round(decay, 2)},
                effect="weights vanish, and with them what the network knows",
                fix="weight_decay=1e-4",
            )
        )
    return found


def _looks(span: Span) -> range:
    steps = span.end - span.first
    return range(0, steps, max(1, steps // 200))


def _of_stage(
    recipe: Recipe,
    span: Span,
    wanted: float | None,
    usually: float,
    gradients: Mapping[str, float],
    weights: Mapping[str, float],
    numbers: int,
) -> list[Finding]:
    rates = {part: span.lr * recipe.rates.get(part, 1.0) for part in gradients} or {"all": span.lr}
    norm = sum(value**2 for value in gradients.values()) ** 0.5
    bounds = {"clip_norm": recipe.clip_norm, "clip_value": recipe.clip_value and recipe.clip_value * numbers**0.5}
    bound, clip = min(((value, name) for name, value in bounds.items() if value), default=(0.0, ""))
    clipped = min(1.0, bound / norm) if bound and norm else 1.0
    sgd = recipe.optimizer.lower() == "sgd"
    updates = {
        part: rates[part] * gradients[part] * clipped / (1 - recipe.momentum) / weights[part]
        for part in gradients
        if sgd and weights.get(part)
    }
    evidence: dict[str, Any] = {
        "lr": span.lr,
        "usual": wanted,
        "mean_factor": round(usually, 6),
        "clipped_to": round(clipped, 6),
        "update_by_weight": {part: float(f"{value:.3g}") for part, value in updates.items()},
    }
    counted = [one for one in {**_EVEN, **recipe.weights}.values() if one > 0]
    fastest, weight = max(rates, key=lambda part: rates[part]), median(counted or [1.0])
    times = max(1.0, rates[fastest] / span.lr) * (weight if sgd and weight > 1 else 1.0)
    multiple = times * span.lr / wanted if wanted else None
    by = [f"multipliers of {rates[fastest] / span.lr:g} for the {fastest}"] if rates[fastest] > span.lr else []
    by += [f"loss_weights of {weight:g}"] if sgd and weight > 1 else []
    told = (
        f"lr is {span.lr:g}"
        + (f", with {' and '.join(by)}" if by else "")
        + (
            f", {multiple:.3g} times the {wanted:g} that is usual for {recipe.optimizer} and a batch of {recipe.batch}"
            if wanted and multiple
            else ""
        )
    )
    biggest = max(updates, key=lambda part: updates[part], default="")
    if multiple and (multiple > _SURELY_HIGH or (multiple > _HIGH and updates and updates[biggest] > _BIG_UPDATE)):
        moves = f"; a step moves the {biggest} by {100 * updates[biggest]:.2g} % of its norm" if updates else ""
        return [
            Finding(
                "train.lr-high",
                "error" if multiple > _SURELY_HIGH else "warning",
                f"{told}{moves}",
                names=("lr",),
                evidence=evidence,
                effect="losses grow or become NaN, and what the weights knew is lost in the first steps",
                fix=f"lr={wanted:g}" if not by else "multipliers={}" if weight <= 1 else "loss_weights={}",
            )
        ]
    trained = {part: rate for part, rate in rates.items() if rate > 0}
    slowest = max(trained.values(), default=0.0) / span.lr
    faint = min(weight, 1.0) if sgd else 1.0  # Adam and its kin do not see how large a loss is
    effective = (span.lr / wanted if wanted else 1.0) * usually * (clipped if sgd else 1.0) * slowest * faint
    if effective >= _LOW and usually >= _IDLE:
        return []
    if not trained:
        why, fix = f"multipliers set the rate of {', '.join(rates)} to nought", "multipliers={}"
    elif usually < _IDLE:
        why = (
            f"its schedule leaves {usually:.2g} of that on the mean: a warm-up of {span.warmup} for "
            f"{span.end - span.first} steps, milestones {', '.join(map(str, recipe.milestones))}"
        )
        fix = "warmup=0, and milestones after most of the steps"
    elif clipped < 0.1 and sgd:
        why, fix = (
            f"{clip} {getattr(recipe, clip):g} cuts a gradient of norm {norm:.3g} to {clipped:.2g} of it",
            "clip_norm=10" if clip == "clip_norm" else "clip_norm=10 in the place of clip_value",
        )
    elif faint < 1 / 3:
        why, fix = f"loss_weights of {weight:g} make every gradient as much smaller", "loss_weights={}"
    else:
        why, fix = "", f"lr={wanted:g}" if wanted else "a larger lr"
    return [
        Finding(
            "train.lr-low" if trained else "train.nothing-trainable",
            "warning" if trained else "error",
            f"{told}{'; ' + why if why else ''}",
            names=("lr",),
            evidence=evidence,
            effect="nothing is learnt in the time that there is: losses stay flat",
            fix=fix,
        )
    ]
