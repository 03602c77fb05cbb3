"""How much each of the five losses counts, fixed or found while training, and the gradients that show it."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maskgraft import processes
from maskgraft.losses import LOSSES
from maskgraft.model import MaskRCNN

Kind = Literal["fixed", "uncertainty", "gradient-norm"]

_ALPHA = 0.5  # gradient-norm: how much more a loss counts that has fallen less than the others
_PACE = 0.25  # gradient-norm: how far, on a log scale, weights go in one adjustment
_WIDEST = 10.0  # and no weight leaves a tenth to ten times its fixed one


class Balance:
    """The weights of the losses beside the fixed ones of the recipe, 1 at the start.

    "uncertainty": each loss L has a learnt s and counts as exp(-s)·L + s (Kendall, Gal & Cipolla 2018, with the same
    factor for all losses); s trains with the model. "gradient-norm": every so many steps, weights move to where all
    losses pull alike at the shared features, and those that have fallen less pull more (the equilibrium of GradNorm,
    Chen et al. 2018, reached by steps of bounded size); their sum stays.
    """

    def __init__(self, kind: Kind, device: torch.device) -> None:
        self.kind = kind
        self.spread = nn.Parameter(torch.zeros(len(LOSSES), device=device))
        self.factors = dict.fromkeys(LOSSES, 1.0)
        self.start: dict[str, float] = {}

    def parameters(self) -> list[nn.Parameter]:
        """What an optimizer is to train beside the model."""
        return [self.spread] if self.kind == "uncertainty" else []

    def weights(self, fixed: Mapping[str, float]) -> dict[str, float]:
        """The weight of each loss now, all told."""
        if self.kind == "uncertainty":
            learnt = dict(zip(LOSSES, (-self.spread.detach()).exp().tolist(), strict=True))
            return {name: fixed[name] * learnt[name] for name in LOSSES}
        return {name: fixed[name] * self.factors[name] for name in LOSSES}

    def total(self, losses: Mapping[str, Tensor], fixed: Mapping[str, float]) -> Tensor:
        """What is to go backward."""
        if self.kind != "uncertainty":
            weights = self.weights(fixed)
            return torch.stack([losses[name] * weights[name] for name in LOSSES]).sum()
        each = torch.stack([losses[name] * fixed[name] for name in LOSSES])
        counts = torch.tensor([fixed[name] > 0 for name in LOSSES], device=each.device)
        return (each * (-self.spread).exp() + self.spread * counts).sum()

    def adjust(self, norms: Mapping[str, float], values: Mapping[str, float], fixed: Mapping[str, float]) -> None:
        """Look at the `norms` of the losses' gradients at the shared features, and at their values."""
        counting = [name for name in LOSSES if fixed[name] > 0 and norms[name] > 0 and values[name] > 0]
        if self.kind != "gradient-norm" or not counting:
            return
        for name in counting:
            self.start.setdefault(name, values[name])
        left = {name: values[name] / self.start[name] for name in counting}
        mean_left = sum(left.values()) / len(left)
        pulls = {name: fixed[name] * self.factors[name] * norms[name] for name in counting}
        mean_pull = sum(pulls.values()) / len(pulls)
        for name in counting:
            wanted = mean_pull * (left[name] / mean_left) ** _ALPHA
            moved = self.factors[name] * (wanted / pulls[name]) ** _PACE
            self.factors[name] = min(max(moved, 1 / _WIDEST), _WIDEST)
        scale = len(counting) / sum(self.factors[name] for name in counting)
        self.factors |= {name: self.factors[name] * scale for name in counting}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"spread": self.spread.detach().cpu(), "factors": self.factors, "start": self.start}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.spread.data.copy_(state["spread"])
        self.factors, self.start = dict(state["factors"]), dict(state["start"])


@contextmanager
def shared_features(model: MaskRCNN, *, kept: bool) -> Iterator[list[Tensor]]:
    """The maps that all losses read, of the forward pass inside: those of the pyramid, or of the backbone.

    None where they are not to be `kept`.
    """
    maps: list[Tensor] = []
    if not kept:
        yield maps
        return

    def keep(_: nn.Module, __: object, found: dict[str, Tensor]) -> None:
        maps.extend(found.values())

    hook = (model.fpn or model.backbone).register_forward_hook(keep)
    try:
        yield maps
    finally:
        hook.remove()


def pulls(losses: Mapping[str, Tensor], maps: list[Tensor]) -> tuple[dict[str, float], dict[str, float]]:
    """How the losses, unweighted, pull at the shared features: the norm of each gradient, and the cosine of each two.

    Cosines ("box mask": 0.3; below 0 they pull apart) are those of the first image, which is a fifth of the memory and
    more. Both are empty where the features do not train.
    """
    maps = [one for one in maps if one.requires_grad]
    if not maps:
        return {}, {}
    norms, first = dict[str, float](), dict[str, Tensor]()
    for name in LOSSES:
        found: Sequence[Tensor | None] = [None] * len(maps)
        if losses[name].requires_grad:  # a batch without positive anchors has no loss of their boxes
            found = torch.autograd.grad(losses[name], maps, retain_graph=True, allow_unused=True)
        norms[name] = torch.nn.utils.get_total_norm([one.float() for one in found if one is not None]).item()
        parts = [torch.zeros_like(map_[0]) if one is None else one[0] for one, map_ in zip(found, maps, strict=True)]
        first[name] = torch.cat([one.float().flatten() for one in parts])
    cosines = {
        f"{one} {other}": round(torch.cosine_similarity(first[one], first[other], dim=0).item(), 4)
        for one, other in itertools.combinations(LOSSES, 2)
    }
    return processes.means(norms, maps[0].device), processes.means(cosines, maps[0].device)
