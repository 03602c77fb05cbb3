"""The optimizer of a recipe: SGD, AdamW, or any other of `torch.optim` by its name."""

from collections.abc import Iterable
from difflib import get_close_matches

import torch
from torch import nn
from torch.optim import Optimizer

from maskgraft import fresh_rows, policy
from maskgraft.errors import Finding, UsageError
from maskgraft.model import MaskRCNN
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe

# Those that one loop of loss, gradient and step cannot serve, and why.
_UNFIT = {
    "lbfgs": "it asks for the loss several times a step",
    "muon": "it takes matrices only",
    "rprop": "it is for gradients of the whole dataset, and knows no weight decay",
    "sparseadam": "it takes sparse gradients only",
}


def build(
    model: MaskRCNN, trainable: Trainable, recipe: Recipe, *, lr: float, beside: Iterable[nn.Parameter] = ()
) -> Optimizer:
    """The optimizer over what trains, in groups by component (`policy.groups`), at the full rate `lr`.

    `beside` are parameters of no model, which train at `lr` without decay. Each group keeps its full rate as `base_lr`.
    Raises `UsageError` for a name that torch does not have, and for options that the optimizer does not take.
    """
    kind = _named(recipe.optimizer)
    groups = policy.param_groups(
        model,
        trainable,
        lr=lr,
        multipliers=recipe.rates,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
    )
    if further := list(beside):
        groups.append({"name": "losses", "params": further, "lr": lr, "base_lr": lr, "weight_decay": 0.0})
    options = (
        {"momentum": recipe.momentum, **recipe.optimizer_options}
        if kind is torch.optim.SGD
        else dict(recipe.optimizer_options)
    )
    try:
        built = kind(groups, **options)
    except (TypeError, ValueError) as error:
        message = f"optimizer_options: torch.optim.{kind.__name__} says: {error}"
        raise UsageError(Finding("spec.field", "error", message, ("optimizer_options",))) from None
    fresh_rows.hasten(built, model, recipe.fresh_rows)
    return built


def carry(before: Optimizer, after: Optimizer) -> None:
    """Take over the state (momenta, moments) of each parameter that trains on; what begins to train begins afresh."""
    for group in after.param_groups:
        for parameter in group["params"]:
            if parameter in before.state:
                after.state[parameter] = before.state[parameter]


def _named(name: str) -> type[Optimizer]:
    wanted = name.lower()
    known = {
        title.lower(): value
        for title, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    if wanted in known and wanted not in _UNFIT:
        return known[wanted]
    if wanted in _UNFIT:
        message, fix = f"optimizer {name} cannot be used here: {_UNFIT[wanted]}", "sgd or adamw"
    else:
        message = f"there is no optimizer {name!r} in torch.optim"
        near = get_close_matches(wanted, sorted(known.keys() - _UNFIT.keys()), 1)
        fix = f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(known.keys() - _UNFIT.keys()))}"
    raise UsageError(Finding("spec.field", "error", message, ("optimizer",), fix=fix))
