"""The five losses of Mask R-CNN: `rpn_cls`, `rpn_box`, `cls`, `box`, `mask`."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from maskgraft import processes
from maskgraft.ops import boxes as box_ops
from maskgraft.spec import Numerics
from maskgraft.targets import RegionSample, Target, match, sample
from maskgraft.torchvision_ops import generalized_box_iou_loss

LOSSES = ("rpn_cls", "rpn_box", "cls", "box", "mask")


def smooth_l1(error: Tensor, beta: float) -> Tensor:
    """Summed smooth L1 loss: square below `beta`, linear above; plain L1 for beta 0 (Girshick 2015, equation 3)."""
    size = error.abs()
    return torch.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta).sum() if beta else size.sum()


def rpn(
    logits: Tensor,
    deltas: Tensor,
    anchors: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[Target],
    numerics: Numerics,
    *,
    generators: Sequence[torch.Generator | None],
) -> dict[str, Tensor]:
    """Objectness and box losses of the proposal network; each image has its own generator to sample by.

    `logits` [B, M] and `deltas` [B, M, 4] over all levels, `anchors` [M_l, 4] of each; `sizes` (height, width) of each
    image without padding. The sums are divided by the number of sampled anchors, or by `rpn_samples` or `roi_samples`
    an image (`numerics.rpn_normaliser`); that of boxes by the coordinates of the positive ones where
    `numerics.rpn_box_mean`, and by those of each level apart where `numerics.rpn_box_levels` too. All this is of the
    batch, or of each image by itself (`numerics.loss_mean`).
    """
    if numerics.loss_mean == "image" and len(targets) > 1:
        each = ((slice(image, image + 1), generator) for image, generator in enumerate(generators))
        return _mean(
            [
                rpn(logits[one], deltas[one], anchors, sizes[one], targets[one], numerics, generators=[generator])
                for one, generator in each
            ]
        )
    every = torch.cat(tuple(anchors))
    apart = numerics.rpn_box_mean and numerics.rpn_box_levels
    ends = list(itertools.accumulate(map(len, anchors))) if apart else [len(every)]
    regression, positives = [logits.new_zeros(()) for _ in ends], [0 for _ in ends]
    classification, sampled = logits.new_zeros(()), 0
    for image, target in enumerate(targets):
        own = own_cells(anchors, sizes[image], numerics)
        which, kind = match_anchors(every, sizes[image], target, numerics, own=own)
        positive, negative = sample(
            kind,
            count=numerics.rpn_samples,
            positive_fraction=numerics.rpn_positive_fraction,
            generator=generators[image],
        )
        sampled += max(len(positive), numerics.rpn_both) + max(len(negative), numerics.rpn_both)
        for chosen, answer in ((positive, 1.0), (negative, 0.0)):
            given = logits[image, chosen]
            classification = classification + F.binary_cross_entropy_with_logits(
                given, torch.full_like(given, answer), reduction="sum"
            )
        asked = torch.nonzero(kind == 1).squeeze(1) if apart else positive
        for level, (start, end) in enumerate(itertools.pairwise([0, *ends])):
            chosen = asked[(asked >= start) & (asked < end)] if apart else asked
            positives[level] += len(chosen)
            if len(chosen):
                regression[level] = regression[level] + _of_boxes(
                    deltas[image, chosen],
                    every[chosen],
                    target.boxes[which[chosen]],
                    numerics.rpn_delta_weights,
                    numerics,
                    kind=numerics.rpn_box_loss,
                    beta=numerics.rpn_beta,
                    inclusive=numerics.inclusive_boxes or numerics.corner_boxes,
                )
    images = len(targets)
    by = {"sampled": sampled, "samples": numerics.rpn_samples * images, "regions": numerics.roi_samples * images}
    counts = [max(_counted(by[kind], numerics, logits.device), 1) for kind in numerics.rpn_normaliser.split("-")]
    parts = [
        total / (_positives(4 * number, numerics, logits.device) if numerics.rpn_box_mean else counts[-1])
        for total, number in zip(regression, positives, strict=True)
    ]
    return {"rpn_cls": classification / counts[0], "rpn_box": torch.stack(parts).sum()}


def _positives(number: int, numerics: Numerics, device: torch.device) -> float:
    """What a mean over so many values of positives divides by."""
    return max(_counted(number, numerics, device) + numerics.mean_offset, numerics.mean_offset or 1)


def _counted(number: int, numerics: Numerics, device: torch.device) -> float:
    """What the batch counts on the mean of all processes; of an image that is for itself, what it counts."""
    return processes.mean(number, device) if numerics.loss_mean == "batch" else number


def _mean(each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in each]).mean() for name in each[0]}


def own_cells(anchors: Sequence[Tensor], size: tuple[int, int], numerics: Numerics) -> Tensor | None:
    """Which anchors of all levels, bool [M], stand in cells that an image of `size` would have alone in a batch; None:
    all may be sampled (`numerics.rpn_own_cells`; `valid_flags` of mmdet 3.3.0)."""
    if not numerics.rpn_own_cells:
        return None
    multiple = numerics.pad_multiple
    height, width = (-(-side // multiple) * multiple for side in size)
    own = []
    for every, sizes in zip(anchors, numerics.anchor_sizes, strict=True):
        count = len(sizes) * len(numerics.anchor_ratios)
        x, y = (every[::count, :2] - every[:1, :2]).round().unbind(1)  # from the first cell
        own.append(((x < width) & (y < height)).repeat_interleave(count))
    return torch.cat(own)


def match_anchors(
    anchors: Tensor, size: tuple[int, int], target: Target, numerics: Numerics, *, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Match anchors [M, 4] to the truth of an image of `size` (height, width), as `targets.match` does.

    `own`, bool [M]: those that may be sampled at all; None: all. Where coordinates run from pixel to pixel
    (`numerics.corner_boxes`), anchors and objects are whole pixels for this.
    """
    inside = within(anchors, size, numerics)
    if own is not None:
        inside = own if inside is None else inside & own
    seen = slice(None) if inside is None or numerics.rpn_outside == "matched" else inside
    which = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    kind = torch.full_like(which, -1)
    which[seen], kind[seen] = match(
        box_ops.iou(target.boxes, anchors[seen], inclusive=numerics.inclusive_areas or numerics.corner_boxes),
        positive=numerics.rpn_positive_iou,
        negative=numerics.rpn_negative_iou,
        rescue=numerics.rpn_rescue,
        least=numerics.rpn_rescue_iou,
    )
    if inside is not None:
        kind[~inside] = -1
    return which, kind


def within(anchors: Tensor, size: tuple[float, float], numerics: Numerics) -> Tensor | None:
    """Which anchors [M, 4] reach at most `numerics.rpn_straddle` pixels beyond an image of `size` (Ren et al. 2015,
    §3.3); None where all may be sampled."""
    straddle = numerics.rpn_straddle
    if straddle is None:
        return None
    height, width = size
    x1, y1, x2, y2 = anchors.unbind(1)
    begun = (x1 >= -straddle) & (y1 >= -straddle)
    if numerics.rpn_straddle_closed:
        return begun & (x2 <= width + straddle) & (y2 <= height + straddle)
    return begun & (x2 < width + straddle) & (y2 < height + straddle)


def boxes(
    logits: Tensor,
    deltas: Tensor,
    samples: Sequence[RegionSample],
    targets: Sequence[Target],
    numerics: Numerics,
    *,
    agnostic: bool,
    scales: Sequence[float],
) -> dict[str, Tensor]:
    """Class and box losses of the sampled regions: `logits` [N, K + 1], `deltas` [N, R·4].

    With `agnostic` deltas the first row is that of all classes. Boxes and truth are made smaller by the `scales` of
    their images before deltas are asked of them. Both sums are divided by the number of regions; that of
    boxes by the coordinates of the positive ones where `numerics.box_mean`. All this is of the batch, or of each image
    by itself (`numerics.loss_mean`).
    """
    if numerics.loss_mean == "image" and len(samples) > 1:
        lengths = [len(one.labels) for one in samples]
        each = zip(torch.split(logits, lengths), torch.split(deltas, lengths), samples, targets, scales, strict=True)
        return _mean(
            [
                boxes(given, moves, [one], [target], numerics, agnostic=agnostic, scales=[scale])
                for given, moves, one, target, scale in each
            ]
        )
    labels = torch.cat([one.labels for one in samples])
    count = _counted(len(labels), numerics, logits.device)
    if not len(labels):
        return {"cls": logits.sum() * 0, "box": deltas.sum() * 0}
    classification = F.cross_entropy(logits, labels, reduction="sum")
    regression, start = deltas.new_zeros(()), 0
    for one, target, scale in zip(samples, targets, scales, strict=True):
        rows = slice(start, start + one.positives)
        start += len(one.labels)
        if not one.positives:
            continue
        given = deltas[rows].reshape(one.positives, -1, 4)
        column = torch.zeros_like(one.labels[: one.positives]) if agnostic else one.labels[: one.positives]
        given = given[torch.arange(one.positives, device=given.device), column]
        regression = regression + _of_boxes(
            given,
            one.boxes[: one.positives] / scale,
            target.boxes[one.which[: one.positives]] / scale,
            numerics.box_delta_weights,
            numerics,
            kind=numerics.box_loss,
            beta=numerics.box_beta,
            inclusive=numerics.inclusive_boxes,
        )
    coordinates = count
    if numerics.box_mean:
        coordinates = _positives(4 * sum(one.positives for one in samples), numerics, logits.device)
    return {"cls": classification / count, "box": regression / coordinates}


def _of_boxes(
    deltas: Tensor,
    boxes: Tensor,
    truth: Tensor,
    weights: box_ops.Weights,
    numerics: Numerics,
    *,
    kind: Literal["smooth-l1", "giou"],
    beta: float,
    inclusive: bool,
) -> Tensor:
    """Summed loss of `deltas` that are to take `boxes` to `truth`, all [N, 4]."""
    if kind == "smooth-l1":
        wanted = box_ops.encode(truth, boxes, weights, inclusive=inclusive)
        return smooth_l1(deltas - wanted, beta)
    moved = box_ops.decode(
        deltas,
        boxes,
        weights,
        numerics.delta_clip,
        both_ways=numerics.delta_clip_both,
        inclusive=inclusive,
        wider=numerics.decoded_wider,
    )
    loss: Tensor = generalized_box_iou_loss(moved[:, 0], truth, reduction="sum")
    return loss


_EDGE = 4.0  # a pixel at the edge of a mask counts this much more under the boundary loss


def masks(
    logits: Tensor,
    labels: Tensor,
    wanted: Tensor,
    *,
    kind: Literal["bce", "boundary", "dice", "bce-dice"] = "bce",
    offset: float = 0.0,
) -> dict[str, Tensor]:
    """Mask loss of the foreground regions: `logits` [N, R, m, m], `labels` [N], `wanted` [N, m, m] in [0, 1].

    Cross-entropy is the mean over the pixels of all regions, `offset` added to their number. "boundary": pixels at an
    edge of what is wanted count five times as much, all together as before. "dice": 1 - Dice of each region, the mean
    over regions.
    """
    count = processes.mean(len(labels), logits.device)
    if not len(labels):
        return {"mask": logits.sum() * 0}
    column = labels if logits.shape[1] > 1 else torch.zeros_like(labels)
    given = logits[torch.arange(len(labels), device=logits.device), column]
    loss = given.new_zeros(())
    if kind != "dice":
        weight = _edges(wanted) if kind == "boundary" else None
        pixels = F.binary_cross_entropy_with_logits(given, wanted, weight, reduction="sum")
        loss = loss + pixels / (count * wanted[0].numel() + offset)
    if kind in ("dice", "bce-dice"):
        likely = given.sigmoid()
        both, all_ = (likely * wanted).sum((1, 2)), likely.sum((1, 2)) + wanted.sum((1, 2))
        loss = loss + (1 - (2 * both + 1) / (all_ + 1)).sum() / count  # the ones: an empty mask has a gradient too
    return {"mask": loss}


def _edges(wanted: Tensor) -> Tensor:
    """Weights of pixels, 1 on average over each region: 1 + `_EDGE` where a neighbour is another, before scaling."""
    inside = (wanted >= 0.5).float()[:, None]
    near = F.max_pool2d(inside, 3, 1, 1) + F.max_pool2d(-inside, 3, 1, 1)
    weight = 1 + _EDGE * near[:, 0]
    return weight / weight.mean((1, 2), keepdim=True)
