"""The examination of a training that has begun without one: its first batches are judged as they pass by.

So it is under torch.distributed, where nothing can be drawn beside the training, and for a doctor that is told not to
examine. Looking on changes nothing: what the training computes is the same to the byte.
"""

import math
from copy import deepcopy
from typing import Any

import torch

from maskgraft import first_batches, processes, pulse
from maskgraft.ailments import annotations, inputs, knowledge, rates, settings, weights
from maskgraft.coco import Dataset
from maskgraft.errors import Finding
from maskgraft.first_batches import Seen
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Resolved
from maskgraft.watching import Moment

_IMAGES, _LEAST, _MOST = 24, 4, 12  # images that are enough, over so many steps at least and at most


class FirstSteps:
    """Gathers what the first steps show, and judges it once: `look` before each update until `done`.

    `whole`: weights and annotations as well, which an examination in several processes has looked at already.
    """

    def __init__(self, model: MaskRCNN, data: Dataset, resolved: Resolved, *, whole: bool) -> None:
        self.model, self.data, self.resolved, self.whole = model, data, resolved, whole
        self.seen, self.looks = Seen(), annotations.Looks()
        self.pairs: list[tuple[float, float]] = []
        self.images, self.done = 0, False
        # each image by itself is a forward pass whose losses all processes would have to make together
        self.parts = () if processes.several() else knowledge.trained(model)

    def before_backward(self, moment: Moment) -> tuple[list[Finding], dict[str, Any]]:
        """Look at a batch; findings and figures once enough has passed, or when a loss is not finite."""
        model, batch, number = moment.model, moment.batch, len(self.seen.pulses) + 1
        found: list[Finding] = []
        if number == 1:
            self.seen.stem, self.seen.drawn = deepcopy(inputs.first_norm(model)), knowledge.drawn_parts(model)
        if number == 1 and self.whole:
            training = frozenset(name for name, one in model.named_parameters() if one.requires_grad)
            found += weights.examine(model, training)
        values = {name: moment.values[name] for name in moment.weights if name in moment.losses}
        self.seen.add(batch, pulse.take(model, batch), values)
        finite = all(map(math.isfinite, values.values()))
        if self.whole:
            first_batches.look(self.looks, batch, model.spec.numerics)
        if self.parts and finite and self.images < _IMAGES:
            with torch.random.fork_rng(devices=[]):
                self.pairs += inputs.both_ways(model, batch, self.parts)
        self.images += len(batch.targets)
        if finite and not (self.images >= _IMAGES and number >= _LEAST) and number < _MOST:
            return found, {}
        more, measured = self.judge()
        return [*found, *more], measured

    def judge(self) -> tuple[list[Finding], dict[str, Any]]:
        """Findings and figures from what has passed by so far."""
        self.done = True
        found, measured = first_batches.judge(self.model, self.data, self.resolved, self.seen)
        found += inputs.by_losses(self.model, self.pairs)
        if self.whole:
            found += annotations.judge(self.looks, path=str(self.data.path))[0]
        return found, {"examination": measured}

    def before_update(self, moment: Moment) -> list[Finding]:
        """The gradients of the first step say what the rates will do."""
        if self.seen.gradients or moment.norm is None or not math.isfinite(moment.norm):
            return []
        self.seen.measure(moment.model)
        found = rates.examine(self.resolved, self.seen.gradients, self.seen.sizes, numbers=self.seen.numbers)
        return [*found, *settings.examine(moment.model.spec, self.resolved, self.seen.first_losses)]
