"""What the learning rate is multiplied by at each step."""

from math import cos, pi

from maskgraft.recipe import Recipe

_RISE, _LEAST, _LAST = 0.3, 1 / 25, 1e-4  # of one-cycle: share of the steps that rise, and the factors at both ends


def lr_factor(recipe: Recipe, step: int, *, steps: int, warmup: int) -> float:
    """The factor at `step` (0-based) of a stage of `steps`.

    Linear growth from a thousandth over `warmup` steps; then constant, × 0.1 after each milestone, or half a cosine.
    One-cycle needs no warm-up: half a cosine up to 1 over three tenths of the steps, and another one down (Smith &
    Topin 2018, in the form of `torch.optim.lr_scheduler.OneCycleLR`).
    """
    if recipe.schedule == "one-cycle":
        rise = max(1.0, _RISE * steps)
        if step < rise:
            return _cosine(_LEAST, 1.0, step / rise)
        return _cosine(1.0, _LEAST * _LAST, (step - rise) / max(1.0, steps - rise))
    if step < warmup:
        return 1e-3 + (1 - 1e-3) * step / warmup
    if recipe.schedule == "step":
        return float(0.1 ** sum(step >= milestone * steps for milestone in recipe.milestones))
    if recipe.schedule == "cosine":
        return _cosine(1.0, 0.0, (step - warmup) / max(1, steps - warmup))
    return 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + cos(pi * share))
