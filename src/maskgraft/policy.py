"""What trains, and at which rate.

heads              everything but the backbone
3+  4+  5+         that stage of the backbone and all above it, with the heads (Matterport's names)
all                everything
predictors         class, box and mask predictors only
mask_head          mask head and mask predictor only
last:2             the last two layers of the predictors: box deltas and mask logits
backbone:2         all but the stem and C2 (Detectron2's FREEZE_AT)
fpn,rpn            components, or name globs such as backbone.res5.*
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from maskgraft.errors import Finding, UsageError
from maskgraft.model import MaskRCNN
from maskgraft.spec import COMPONENTS, component

NAMES = ("heads", "all", "3+", "4+", "5+", "predictors", "mask_head", "last:N", "backbone:N")
_PREDICTORS = ("box_predictor.cls", "box_predictor.deltas", "mask_predictor.logits")


@dataclass(frozen=True, slots=True)
class Part:
    """One component: numbers that train, numbers that are frozen, and what its batch norms do."""

    component: str
    training: int
    frozen: int
    norms: str


@dataclass(frozen=True, slots=True)
class Trainable:
    """What a policy chose: the names of the parameters that train, and a row for each component."""

    policy: str
    names: frozenset[str]
    parts: tuple[Part, ...]


def apply(model: MaskRCNN, policy: str, *, train_norms: bool = False) -> Trainable:
    """Freeze and unfreeze the parameters of `model` as `policy` says.

        policy.apply(model, "heads").parts      # a row for each component

    `train_norms` lets the batch norms of what trains use and update batch statistics; otherwise they keep theirs, as is
    right for small batches. Raises `UsageError` when the policy is not known or leaves nothing to train.
    """
    chosen = frozenset(name for name in dict(model.named_parameters()) if _trains(name, policy, model))
    if not chosen:
        message = f"the policy {policy!r} leaves nothing to train in a {model.spec.family} model"
        raise UsageError(Finding("train.nothing-trainable", "error", message, fix=f"one of {', '.join(NAMES)}"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    set_norms(model, chosen, train_norms=train_norms)
    return Trainable(policy, chosen, tuple(_parts(model, chosen)))


def set_norms(model: MaskRCNN, chosen: frozenset[str], *, train_norms: bool) -> None:
    """Put the model into training mode, with batch norms in evaluation mode unless they train."""
    model.train()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(train_norms and f"{name}.weight" in chosen)


def _trains(name: str, policy: str, model: MaskRCNN) -> bool:
    in_backbone = component(name) == "backbone"
    match policy:
        case "all":
            return True
        case "heads":
            return not in_backbone
        case "3+" | "4+" | "5+":
            return not in_backbone or stage(model, name) >= int(policy[0])
        case "predictors":
            return component(name) in ("box_predictor", "mask_predictor")
        case "mask_head":
            return component(name) in ("mask_head", "mask_predictor")
    kind, colon, number = policy.partition(":")
    if colon and kind in ("last", "backbone"):
        if not number.isdigit():
            raise _unknown(policy, f"{number!r} is no number")
        if kind == "backbone":
            return not in_backbone or stage(model, name) > int(number)
        return name.rsplit(".", 1)[0] in _PREDICTORS[max(0, len(_PREDICTORS) - int(number)) :]
    patterns = [one.strip() for one in policy.split(",")]
    for pattern in patterns:
        if pattern not in COMPONENTS and not any(fnmatchcase(known, pattern) for known in model.state_dict()):
            raise _unknown(policy, f"{pattern!r} names no component and matches no parameter")
    return any(component(name) == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _unknown(policy: str, fault: str) -> UsageError:
    near = get_close_matches(policy, [*NAMES, *COMPONENTS], 1)
    return UsageError(
        Finding(
            "train.nothing-trainable",
            "error",
            f"the policy {policy!r} cannot be applied: {fault}",
            fix=f"did you mean {near[0]}?" if near else f"one of {', '.join(NAMES)}, or components with commas",
        )
    )


def stage(model: MaskRCNN, name: str) -> int:
    """The stage of a backbone parameter: 1 for the stem, 2..5 for C2..C5."""
    starts: Mapping[str, int] = model.backbone.stage_of  # type: ignore[assignment]
    return next(number for start, number in starts.items() if name.startswith(f"backbone.{start}."))


def _parts(model: MaskRCNN, chosen: frozenset[str]) -> list[Part]:
    parts = []
    for one in COMPONENTS:
        sizes = {name: p.numel() for name, p in model.named_parameters() if component(name) == one}
        sizes |= {
            name: b.numel()
            for name, b in model.named_buffers()
            if component(name) == one and not name.endswith("num_batches_tracked")
        }
        modes = {
            "batch" if module.training else "frozen"
            for name, module in model.named_modules()
            if component(name) == one and isinstance(module, nn.BatchNorm2d)
        }
        if sizes:
            training = sum(size for name, size in sizes.items() if name in chosen)
            norms = " and ".join(sorted(modes)) or ("frozen" if any("running_" in name for name in sizes) else "–")
            parts.append(Part(one, training, sum(sizes.values()) - training, norms))
    return parts


@dataclass(frozen=True, slots=True)
class Group:
    """One group of an optimizer: its name, parameters' names, learning rate and weight decay."""

    name: str
    names: tuple[str, ...]
    lr: float
    weight_decay: float


def groups(
    model: MaskRCNN, trainable: Trainable, *, lr: float, multipliers: Mapping[str, float], weight_decay: float
) -> list[Group]:
    """The optimizer's groups: per component its multiple of `lr`; norms and biases are exempt from weight decay.

    `multipliers` maps components to factors; those not named have 1. Raises `UsageError` for other names.
    """
    for name in multipliers:
        if name not in COMPONENTS:
            near = get_close_matches(name, COMPONENTS, 1)
            fix = f"did you mean {near[0]}?" if near else f"one of {', '.join(COMPONENTS)}"
            raise UsageError(Finding("spec.field", "error", f"multipliers: there is no component {name!r}", fix=fix))
    sizes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    result = []
    for one in COMPONENTS:
        names = [name for name in sizes if name in trainable.names and component(name) == one]
        rate = lr * multipliers.get(one, 1.0)
        for kind, exempt in (("weights", False), ("norms and biases", True)):
            members = tuple(name for name in names if (sizes[name] <= 1) == exempt)
            if members:
                result.append(Group(f"{one} {kind}", members, rate, 0.0 if exempt else weight_decay))
    return result


def untrained(model: MaskRCNN, trainable: Trainable) -> Finding | None:
    """A warning when frozen tensors came from no file: they stay at their random start (`train.frozen-random`)."""
    if model.graft is None:
        return None
    random = [name for name, _ in model.named_parameters() if name not in model.graft.moved]
    frozen: Sequence[str] = [name for name in random if name not in trainable.names]
    if not frozen:
        return None
    return Finding(
        "train.frozen-random",
        "warning",
        f"the policy {trainable.policy!r} freezes {len(frozen)} tensors that came from no file, first {frozen[0]}",
        names=tuple(frozen),
        effect="they keep their random values for ever, and what is above them cannot learn much",
        fix="train them too, for instance with --policy heads or all",
    )
