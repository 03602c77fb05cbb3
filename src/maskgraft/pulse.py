"""What a forward pass shows of a network in training beside its losses: anchors, proposals, regions, activations."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maskgraft import losses, targets
from maskgraft.model import MaskRCNN
from maskgraft.ops import boxes as box_ops
from maskgraft.targets import Batch

_REGIONS = 64  # true boxes of an image that the heads are asked about


@dataclass(frozen=True, slots=True)
class Pulse:
    """Measured over `images` images with `truths` instances; shares are None where there was nothing to count.

    `anchored`: share of instances that an anchor meets by `rpn_positive_iou`. `positives`, `negatives`: anchors an
    image that may be sampled. `recall`: share of instances that a proposal meets by 0.5, of `proposals` an image.
    `foreground`: regions an image that the heads would learn as objects, and `foreground_share` of those sampled.
    `answers`: for true boxes (label, best class) → how often; `unsure` is the mean probability of background there.
    `mask_fill`: mean of the mask targets; `mask_iou` of predicted masks with them. `dead`: share of channels that are
    nought everywhere; `largest`: the largest absolute value. `broken`: the first place that is not finite, or "".
    """

    images: int
    truths: int
    anchored: float | None
    positives: float
    negatives: float
    proposals: float
    recall: float | None
    foreground: float
    foreground_share: float | None
    answers: Mapping[tuple[int, int], int]
    unsure: float | None
    mask_fill: float | None
    mask_iou: float | None
    dead: Mapping[str, float]
    largest: Mapping[str, float]
    broken: str

    @property
    def correct(self) -> float | None:
        """Share of true boxes whose best class is their own."""
        count = sum(self.answers.values())
        return sum(times for (label, best), times in self.answers.items() if label == best) / count if count else None

    def as_json(self) -> dict[str, Any]:
        """The figures as plain JSON types."""
        told = asdict(self)
        told["answers"] = {f"{label} {best}": times for (label, best), times in self.answers.items()}
        told["correct"] = self.correct
        return {name: _plain(value) for name, value in told.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return (round(value, 4) if math.isfinite(value) else None) if isinstance(value, float) else value


@contextmanager
def as_in_training(model: MaskRCNN) -> Iterator[None]:
    """The model as it samples in training, its batch norms with the statistics that they keep, nothing moved."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    for module in modes:
        if isinstance(module, nn.BatchNorm2d):
            module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def take(model: MaskRCNN, batch: Batch) -> Pulse:
    """The pulse of a model on a batch: about a third of a step's time; draws nothing and changes nothing."""
    with as_in_training(model):
        return _taken(model, batch)


def _taken(model: MaskRCNN, batch: Batch) -> Pulse:
    numerics, seen = model.spec.numerics, _Seen()
    seen.look("pixels", batch.pixels)
    maps = model.features(batch.pixels)
    for name, map_ in maps.items():
        seen.look(name, map_, dead=name.startswith("c"))
    levels = model.proposal_maps(maps)
    hook = model.rpn.objectness.register_forward_pre_hook(lambda _, given: seen.look("rpn", given[0], dead=True))
    heads = [model.rpn(map_, level) for level, map_ in enumerate(levels.values())]
    hook.remove()
    logits, deltas = [_flat(one, 1)[..., 0] for one, _ in heads], [_flat(one, 4) for _, one in heads]
    for name, outputs in (("rpn.objectness", logits), ("rpn.deltas", deltas)):
        seen.look(name, torch.cat(outputs, 1))
    padded = int(batch.pixels.shape[2]), int(batch.pixels.shape[3])
    anchors = model.anchors(levels, padded)
    every = torch.cat(anchors)
    count = {"anchored": 0, "positives": 0, "negatives": 0, "proposals": 0, "met": 0, "foreground": 0, "regions": 0}
    truths, asked, fills, given, wanted = 0, [], [], [], []
    for image, (size, target) in enumerate(zip(batch.sizes, batch.targets, strict=True)):
        truths += len(target.boxes)
        overlaps = box_ops.iou(target.boxes, every, inclusive=numerics.inclusive_areas)
        _, kind = losses.match_anchors(every, size, target, numerics)
        positives = min(int((kind == 1).sum()), int(numerics.rpn_samples * numerics.rpn_positive_fraction))
        count["positives"] += positives
        count["negatives"] += min(int((kind == 0).sum()), numerics.rpn_samples - positives)
        found = model.propose(
            [one[image].float() for one in logits],
            [one[image].float() for one in deltas],
            anchors,
            size,
            scale=batch.scales[image] if batch.scales else 1.0,
        )
        count["proposals"] += len(found.boxes)
        regions = torch.cat((found.boxes, target.boxes)) if numerics.roi_truth else found.boxes
        met = box_ops.iou(target.boxes, regions, inclusive=numerics.inclusive_areas)
        if len(target.boxes):
            count["anchored"] += int((overlaps.amax(1) >= numerics.rpn_positive_iou).sum())
            if len(found.boxes):
                count["met"] += int((met[:, : len(found.boxes)].amax(1) >= 0.5).sum())
            objects = int((met.amax(0) >= numerics.roi_positive_iou).sum())
        else:
            objects = 0
        objects = min(objects, int(numerics.roi_samples * numerics.roi_positive_fraction))
        count["foreground"] += objects
        count["regions"] += objects + min(len(regions) - objects, numerics.roi_samples - objects)
        asked.append(target.boxes[:_REGIONS])
    labels = torch.cat([target.labels[:_REGIONS] for target in batch.targets])
    answers: Counter[tuple[int, int]] = Counter()
    unsure: float | None = None
    if len(labels):
        vectors = model.box_head(model.pool(maps, asked, numerics.box_pool_size, padded))
        seen.look("box_head", vectors[:, :, None], dead=True)
        classes, moves = model.box_predictor(vectors)
        seen.look("box_predictor", torch.cat((classes, moves), 1))
        probabilities = classes.float().softmax(1)
        unsure = float(probabilities[:, -1].mean())
        answers.update(zip(labels.tolist(), probabilities[:, :-1].argmax(1).tolist(), strict=True))
        hook = model.mask_predictor.register_forward_pre_hook(
            lambda _, given: seen.look("mask_head", given[0], dead=True)
        )
        mask_logits = model.mask_logits(maps, asked, padded).float()
        hook.remove()
        seen.look("mask_predictor", mask_logits)
        column = labels if mask_logits.shape[1] > 1 else torch.zeros_like(labels)
        given = [mask_logits[torch.arange(len(labels), device=labels.device), column] > 0]
        wanted = [
            targets.mask_targets(
                target, torch.arange(len(boxes), device=boxes.device), boxes, side=mask_logits.shape[-1],
                method=numerics.mask_targets, page=padded,
            )
            for target, boxes in zip(batch.targets, asked, strict=True)
        ]  # fmt: skip
        fills = [one.mean() for one in wanted if len(one)]
    images = max(1, len(batch.targets))
    return Pulse(
        images=len(batch.targets),
        truths=truths,
        anchored=count["anchored"] / truths if truths else None,
        positives=count["positives"] / images,
        negatives=count["negatives"] / images,
        proposals=count["proposals"] / images,
        recall=count["met"] / truths if truths else None,
        foreground=count["foreground"] / images,
        foreground_share=count["foreground"] / count["regions"] if count["regions"] else None,
        answers=dict(answers),
        unsure=unsure,
        mask_fill=float(torch.stack(fills).mean()) if fills else None,
        mask_iou=_iou(torch.cat(given), torch.cat(wanted) >= 0.5) if given else None,
        dead=seen.dead,
        largest=seen.largest,
        broken=seen.broken,
    )


class _Seen:
    """What was met on the way through the network."""

    def __init__(self) -> None:
        self.dead: dict[str, float] = {}
        self.largest: dict[str, float] = {}
        self.broken = ""

    def look(self, name: str, values: Tensor, *, dead: bool = False) -> None:
        """Keep the largest value of a tensor [N, C, …], and with `dead` the share of channels that are never above 0;
        of a place that is met several times, such as the proposal head, what holds for all of them."""
        if not values.numel():
            return
        largest = float(values.abs().amax())
        if not math.isfinite(largest) and not self.broken:
            self.broken = name
        self.largest[name] = max(largest, self.largest.get(name, 0.0))
        if dead:
            share = float((values.amax([axis for axis in range(values.ndim) if axis != 1]) <= 0).float().mean())
            self.dead[name] = min(share, self.dead.get(name, 1.0))


def _iou(given: Tensor, wanted: Tensor) -> float | None:
    either = (given | wanted).sum((1, 2))
    return float(((given & wanted).sum((1, 2)) / either.clamp(min=1)).mean()) if len(given) else None


def _flat(maps: Tensor, values: int) -> Tensor:
    """[B, A·values, H, W] to [B, H·W·A, values]."""
    images, channels, rows, columns = maps.shape
    maps = maps.view(images, channels // values, values, rows, columns).permute(0, 3, 4, 1, 2)
    return maps.reshape(images, -1, values)
