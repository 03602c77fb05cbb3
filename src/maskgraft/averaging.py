"""A running mean of the weights that train, which is often better than the last of them (Tarvainen & Valpola 2017)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from maskgraft.backbones.norms import BATCH_NORMS
from maskgraft.model import MaskRCNN
from maskgraft.policy import Trainable


class Average:
    """θ' ← d·θ' + (1 - d)·θ after each step, for all that has begun to train; `values` are θ' by name.

    d grows to `decay` as (1 + n) / (10 + n) over the first steps n, so that the start is soon forgotten. Statistics of
    training norms are taken as they are.
    """

    def __init__(self, decay: float, values: Mapping[str, Tensor] | None = None) -> None:
        self.decay = decay
        self.values = dict(values or {})

    def follow(self, model: MaskRCNN, trainable: Trainable) -> None:
        """Take in what trains from now on."""
        tensors = model.state_dict()
        for name in sorted(trainable.names | moving(model)):
            if name not in self.values:
                self.values[name] = tensors[name].detach().clone()

    @torch.no_grad()
    def update(self, model: MaskRCNN, step: int) -> None:
        """After the `step`-th step, from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        tensors, statistics = model.state_dict(), moving(model)
        for name, value in self.values.items():
            if name in statistics or not value.is_floating_point():
                value.copy_(tensors[name])
            else:
                value.lerp_(tensors[name], 1 - decay)

    @contextmanager
    def inside(self, model: MaskRCNN) -> Iterator[None]:
        """The model with the mean in the place of its weights; they are back in theirs afterwards."""
        own = self.own(model)
        self.put_into(model)
        try:
            yield
        finally:
            model.load_state_dict(own, strict=False)

    def put_into(self, model: MaskRCNN) -> None:
        """Give the model the mean for good."""
        model.load_state_dict(self.values, strict=False)

    def own(self, model: MaskRCNN) -> dict[str, Tensor]:
        """A copy of the model's own weights, where there is a mean of them."""
        tensors = model.state_dict()
        return {name: tensors[name].clone() for name in self.values}


def moving(model: MaskRCNN) -> frozenset[str]:
    """The statistics that change in training mode, by name."""
    return frozenset(
        f"{name}.{vector}"
        for name, module in model.named_modules()
        if isinstance(module, BATCH_NORMS) and module.training
        for vector in ("running_mean", "running_var", "num_batches_tracked")
    )
