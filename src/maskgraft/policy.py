"""What trains, and at which rate.

heads              everything but the backbone
3+  4+  5+         that stage of the backbone and all above it, with the heads (Matterport's names)
all                everything
predictors         class, box and mask predictors only
mask_head          mask head and mask predictor only
last:2             the last two layers of the predictors: box deltas and mask logits
backbone:2         all but the stem and C2 (Detectron2's FREEZE_AT)
fpn,rpn            components, or name globs such as backbone.res5.*; any of the above, too, with commas between
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from maskgraft.backbones.norms import BATCH_NORMS
from maskgraft.errors import Finding, UsageError
from maskgraft.model import MaskRCNN
from maskgraft.spec import COMPONENTS, component

NAMES = ("heads", "all", "3+", "4+", "5+", "predictors", "mask_head", "last:N", "backbone:N")
_PREDICTORS = ("box_predictor.cls", "box_predictor.deltas", "mask_predictor.logits")
_FEW = 8  # images in a batch, below which its statistics are noise


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


def apply(model: MaskRCNN, policy: str | Sequence[str], *, train_norms: bool = False) -> Trainable:
    """Freeze and unfreeze the parameters of `model` as `policy` says; a list is the text with commas between.

        policy.apply(model, "heads").parts      # a row for each component
        policy.apply(model, ["fpn", "backbone.res5.*"])

    `train_norms` lets the batch norms of what trains use and update batch statistics; otherwise they keep theirs, as is
    right for small batches. Raises `UsageError` when the policy is not known or leaves nothing to train.
    """
    policy = policy if isinstance(policy, str) else ",".join(policy)
    chosen = chosen_by(policy, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    set_norms(model, chosen, train_norms=train_norms)
    return Trainable(policy, chosen, parts_of(model, chosen, train_norms=train_norms))


def chosen_by(policy: str, model: MaskRCNN) -> frozenset[str]:
    """The names of the parameters that train under `policy`. Raises `UsageError` as `apply` does."""
    trains = _chooser(policy, model)
    chosen = frozenset(name for name, _ in model.named_parameters() if trains(name))
    if not chosen:
        message = f"the policy {policy!r} leaves nothing to train in a {model.spec.family} model"
        raise UsageError(Finding("train.nothing-trainable", "error", message, fix=f"one of {', '.join(NAMES)}"))
    return chosen


def set_norms(model: MaskRCNN, chosen: frozenset[str], *, train_norms: bool) -> None:
    """Put the model into training mode, with batch norms in evaluation mode unless they train."""
    model.train()
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS):
            module.train(train_norms and f"{name}.weight" in chosen)


def _chooser(policy: str, model: MaskRCNN) -> Callable[[str], bool]:
    """Whether a parameter trains under `policy`, by its name: where any of its parts says so."""
    parts = [_part(part.strip(), policy, model) for part in policy.split(",")]
    return lambda name: any(part(name) for part in parts)


def _part(part: str, policy: str, model: MaskRCNN) -> Callable[[str], bool]:
    """The same for one of the names between the commas of `policy`."""

    def from_stage(first: int) -> Callable[[str], bool]:
        return lambda name: component(name) != "backbone" or stage(model, name) >= first

    def of(*components: str) -> Callable[[str], bool]:
        return lambda name: component(name) in components

    match part:
        case "all":
            return lambda _: True
        case "heads":
            return lambda name: component(name) != "backbone"
        case "3+" | "4+" | "5+":
            return from_stage(int(part[0]))
        case "predictors":
            return of("box_predictor", "mask_predictor")
        case "mask_head":
            return of("mask_head", "mask_predictor")
    kind, colon, number = part.partition(":")
    if colon and kind == "backbone":
        if number not in list("012345"):
            told = f"a backbone is frozen up to a stage from 0 (nothing) to 5 (all), not {number!r}"
            raise _unknown(policy, told, fix="backbone:2, as Detectron2's models are trained")
        return from_stage(int(number) + 1)
    if colon and kind == "last":
        if number not in list("123"):
            told = f"there are {len(_PREDICTORS)} predicting layers, {number!r} is none of 1 to 3"
            raise _unknown(policy, told, fix="last:1, last:2 or last:3")
        return lambda name: name.rsplit(".", 1)[0] in _PREDICTORS[-int(number) :]
    if part not in COMPONENTS and not any(fnmatchcase(name, part) for name, _ in model.named_parameters()):
        near = get_close_matches(part, [*(one for one in NAMES if ":" not in one), *COMPONENTS], 1)
        fix = f"did you mean {near[0]}?" if near else f"one of {', '.join(NAMES)}, or components with commas"
        raise _unknown(policy, f"{part!r} names no component and matches no parameter", fix=fix)
    return lambda name: component(name) == part or fnmatchcase(name, part)


def _unknown(policy: str, fault: str, *, fix: str) -> UsageError:
    message = f"the policy {policy!r} cannot be applied: {fault}"
    return UsageError(Finding("train.nothing-trainable", "error", message, fix=fix))


def stage(model: MaskRCNN, name: str) -> int:
    """The stage of a backbone parameter: 1 for the stem, 2..5 for C2..C5."""
    starts: Mapping[str, int] = model.backbone.stage_of  # type: ignore[assignment]
    return next(number for start, number in starts.items() if name.startswith(f"backbone.{start}."))


def parts_of(model: MaskRCNN, chosen: frozenset[str], *, train_norms: bool) -> tuple[Part, ...]:
    """What trains where the parameters `chosen` do: a row for each component."""
    parts = []
    for one in COMPONENTS:
        sizes = {name: p.numel() for name, p in model.named_parameters() if component(name) == one}
        sizes |= {
            name: b.numel()
            for name, b in model.named_buffers()
            if component(name) == one and not name.endswith("num_batches_tracked")
        }
        modes = {
            "batch" if train_norms and f"{name}.weight" in chosen else "frozen"
            for name, module in model.named_modules()
            if component(name) == one and isinstance(module, BATCH_NORMS)
        }
        if sizes:
            training = sum(size for name, size in sizes.items() if name in chosen)
            norms = " and ".join(sorted(modes)) or ("frozen" if any("running_" in name for name in sizes) else "–")
            parts.append(Part(one, training, sum(sizes.values()) - training, norms))
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Group:
    """One group of an optimizer: its name, parameters' names, learning rate and weight decay."""

    name: str
    names: tuple[str, ...]
    lr: float
    weight_decay: float


def groups(
    model: MaskRCNN,
    trainable: Trainable,
    *,
    lr: float,
    multipliers: Mapping[str, float],
    weight_decay: float,
    layer_decay: float | None = None,
) -> list[Group]:
    """The optimizer's groups: per component its multiple of `lr`; norms and biases are exempt from weight decay.

    `multipliers` maps components to factors; those not named have 1. `layer_decay` d multiplies the rate of the pyramid
    by d, of C5 by d², of C4 by d³, and so on down to the stem (as BEiT does for transformers, Bao et al. 2021). Raises
    `UsageError` for other names.
    """
    for name in multipliers:
        if name not in COMPONENTS:
            near = get_close_matches(name, COMPONENTS, 1)
            fix = f"did you mean {near[0]}?" if near else f"one of {', '.join(COMPONENTS)}"
            raise UsageError(Finding("spec.field", "error", f"multipliers: there is no component {name!r}", fix=fix))
    members: dict[tuple[str, int, bool], list[str]] = {}
    for name, parameter in model.named_parameters():
        if name in trainable.names:
            depth = _depth(model, name) if layer_decay is not None else 0
            members.setdefault((component(name), depth, parameter.ndim <= 1), []).append(name)
    result = []
    for one, depth, exempt in sorted(members, key=lambda key: (COMPONENTS.index(key[0]), key[1], key[2])):
        title = f"{one}{f' at depth {depth}' if depth else ''} {'norms and biases' if exempt else 'weights'}"
        rate = lr * multipliers.get(one, 1.0) * (layer_decay or 1.0) ** depth
        result.append(Group(title, tuple(members[one, depth, exempt]), rate, 0.0 if exempt else weight_decay))
    return result


def param_groups(
    model: MaskRCNN,
    trainable: Trainable,
    *,
    lr: float,
    multipliers: Mapping[str, float] | None = None,
    weight_decay: float = 1e-4,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """`groups` as an optimizer of torch takes them; each keeps its full rate as `base_lr` for a schedule to multiply.

    torch.optim.SGD(param_groups(model, trainable, lr=0.01, multipliers={"backbone": 0.1}), momentum=0.9)
    """
    parameters = dict(model.named_parameters())
    chosen = groups(
        model,
        trainable,
        lr=lr,
        multipliers=multipliers or {},
        weight_decay=weight_decay,
        layer_decay=layer_decay,
    )
    return [
        {
            "name": group.name,
            "params": [parameters[name] for name in group.names],
            "lr": group.lr,
            "base_lr": group.lr,
            "weight_decay": group.weight_decay,
        }
        for group in chosen
    ]


def _depth(model: MaskRCNN, name: str) -> int:
    """How far below the heads a parameter lies: 1 the pyramid, 2 C5, and so on to the stem, 6."""
    if component(name) == "backbone":
        return 7 - stage(model, name)
    return int(component(name) == "fpn")


def doubts(model: MaskRCNN, trainable: Trainable, *, train_norms: bool, batch: int) -> list[Finding]:
    """Warnings about what a policy does to this model.

    `train.frozen-random`: frozen tensors, or class rows, that came from no file keep their random start.
    `train.batchnorm`: batch norms are to use batch statistics, but there are none to train, or `batch` images are few.
    """
    findings = []
    frozen = [name for name, _ in model.named_parameters() if name not in trainable.names]
    if random := [name for name in frozen if _is_random(name, model)]:
        findings.append(
            Finding(
                "train.frozen-random",
                "warning",
                f"the policy {trainable.policy!r} freezes {len(random)} tensors that came from no file, or that hold "
                f"rows of classes that did not, first {random[0]}",
                names=tuple(random),
                effect="they keep their random values for ever, and what is above them cannot learn much",
                fix="train them too: policy heads or all",
            )
        )
    norms = [
        name
        for name, module in model.named_modules()
        if isinstance(module, BATCH_NORMS) and f"{name}.weight" in trainable.names
    ]
    if train_norms and not norms:
        kind = model.spec.arch.norm
        message = f"train_norms is set, but no batch norm trains: this model's norms are of the kind {kind!r}"
        findings.append(Finding("train.batchnorm", "warning", message, effect="train_norms does nothing"))
    elif train_norms and batch < _FEW:
        findings.append(
            Finding(
                "train.batchnorm",
                "warning",
                f"{len(norms)} batch norms use the statistics of batches of {batch}",
                names=tuple(norms),
                evidence={"batch": batch},
                effect="so few images give noise for statistics; training is unsteady and evaluation differs from it "
                "(Wu & He 2018, figure 1)",
                fix=f"leave train_norms off, or take batches of {_FEW} and more",
            )
        )
    return findings


def _is_random(name: str, model: MaskRCNN) -> bool:
    """Whether a parameter, or a class row of it, came from no file."""
    if model.graft is None or name not in model.graft.moved:
        return True
    arch = model.spec.arch
    shared = arch.mask_rows == "agnostic" if name.startswith("mask") else arch.box_rows.startswith("agnostic")
    of_classes = name.startswith(_PREDICTORS) and not (shared and not name.startswith("box_predictor.cls"))
    return of_classes and any(row.source is None for row in model.graft.rows)
