"""Weights that cannot be what they are taken for: not numbers, or as they were drawn."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from maskgraft.errors import Finding
from maskgraft.model import MaskRCNN
from maskgraft.spec import component

_SAMPLE = 20_000
_ALIKE = 0.06  # how much the norms of fresh filters differ at most, beside what chance makes of their size


def examine(model: MaskRCNN, training: frozenset[str]) -> list[Finding]:
    """Findings about the weights as they are; `training` are the names of the parameters that will change."""
    found = []
    tensors = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        found.append(
            Finding(
                "values.nan",
                "error",
                f"{len(broken)} tensors of the model hold NaN or infinity, first {broken[0]}",
                names=tuple(broken),
                effect="every loss is NaN from the first step on",
                fix="start from a checkpoint that was saved before its training diverged",
            )
        )
    for part in ("backbone", "fpn", "rpn", "box_head", "mask_head"):
        found += _fresh_and_frozen(model, part, training)
    zero = [name for name, variance in tensors.items() if name.endswith("running_var") and (variance <= 0).any()]
    if zero:
        eps = model.spec.numerics.norm_eps
        found.append(
            Finding(
                "numerics.norm-eps",
                "error" if eps == 0 else "warning",
                f"{len(zero)} norms have variances of nought, first {zero[0]}, and eps is {eps:g}",
                names=tuple(zero),
                evidence={"eps": eps},
                effect="the channel is divided by nought"
                if eps == 0
                else f"the channel is multiplied by {eps**-0.5:.3g}",
                fix='numerics={"norm_eps": 1e-5}',
            )
        )
    return found


def _fresh_and_frozen(model: MaskRCNN, part: str, training: frozenset[str]) -> list[Finding]:
    """Frozen convolutions whose values are as an initialisation draws them."""
    modules = dict(model.named_modules())
    frozen = [
        (name, module.weight)
        for name, module in modules.items()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and component(f"{name}.weight") == part
        and f"{name}.weight" not in training
        and module.weight.numel() >= 512
    ]
    fresh = [name for name, weight in frozen if _is_drawn(modules, name, weight)]
    if not frozen or len(fresh) < 0.5 * len(frozen):
        return []
    return [
        Finding(
            "train.frozen-random",
            "error",
            f"{len(fresh)} of {len(frozen)} frozen layers of the {part} hold values as they are drawn at random, first "
            f"{fresh[0]}: filters alike in size, values spread as by a normal or an even draw, norms that change "
            "nothing",
            names=tuple(fresh),
            evidence={"fresh": len(fresh), "frozen": len(frozen)},
            effect="they keep their random values for ever, and what is above them cannot learn much",
            fix="load trained weights, or train these too: policy=all",
        )
    ]


def fresh_layers(model: MaskRCNN, part: str) -> list[str]:
    """The convolutions of a component, where nine of ten or more are as an initialisation draws them."""
    modules = dict(model.named_modules())
    every = [
        (name, module.weight)
        for name, module in modules.items()
        if isinstance(module, nn.Conv2d) and component(f"{name}.weight") == part and module.weight.numel() >= 512
    ]
    fresh = [name for name, weight in every if _is_drawn(modules, name, weight)]
    return fresh if len(fresh) >= 0.9 * len(every) else []


def _is_drawn(modules: Mapping[str, nn.Module], name: str, weight: Tensor) -> bool:
    return is_fresh(weight.detach()) and not _is_scaled(modules, name)


def _is_scaled(modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether the norm behind a convolution has learnt to scale or to shift: then the weights have been trained too."""
    norm = modules.get(f"{name.rpartition('.')[0]}.norm")
    affine = [getattr(norm, part, None) for part in ("weight", "bias")]
    return any(
        isinstance(one, Tensor) and bool((one != start).any()) for one, start in zip(affine, (1, 0), strict=True)
    )


def is_fresh(weight: Tensor) -> bool:
    """Whether values look as drawn: filters of one size, and the shape of a normal or a uniform distribution.

    What was trained for long has filters of different sizes and heavy tails; some hundred steps do not show.
    """
    filters = weight.flatten(1).double()
    if filters.shape[1] < 8 or not filters.isfinite().all():
        return False
    sizes = filters.square().mean(1).sqrt()
    if not sizes.min() > 0:
        return False
    values = filters.flatten()[:_SAMPLE]
    kurtosis = float(((values - values.mean()) / values.std()).pow(4).mean())
    by_chance = (2 * filters.shape[1]) ** -0.5
    alike = float(sizes.std() / sizes.mean()) < by_chance * 1.6 + _ALIKE
    error = 5 * (24 / len(values)) ** 0.5
    return alike and (abs(kurtosis - 3) < error or abs(kurtosis - 1.8) < error) and bool(torch.isfinite(sizes).all())
