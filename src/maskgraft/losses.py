"""The five losses of Mask R-CNN: `rpn_cls`, `rpn_box`, `cls`, `box`, `mask`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from maskgraft.ops import boxes as box_ops
from maskgraft.spec import Numerics
from maskgraft.targets import RegionSample, Target, match, sample

LOSSES = ("rpn_cls", "rpn_box", "cls", "box", "mask")


def smooth_l1(error: Tensor, beta: float) -> Tensor:
    """Summed smooth L1 loss: square below `beta`, linear above; plain L1 for beta 0 (Girshick 2015, equation 3)."""
    size = error.abs()
    return torch.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta).sum() if beta else size.sum()


def rpn(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[Target],
    numerics: Numerics,
) -> dict[str, Tensor]:
    """Objectness and box losses of the proposal network.

    `logits` [B, M] and `deltas` [B, M, 4] over all levels, `anchors` [M, 4]; `sizes` (height, width) of each image
    without padding. Both sums are divided by the number of sampled anchors, or by `rpn_samples` an image
    (`numerics.rpn_normaliser`).
    """
    classification, regression, sampled = logits.new_zeros(()), logits.new_zeros(()), 0
    for image, target in enumerate(targets):
        which, kind = match(
            box_ops.iou(target.boxes, anchors, inclusive=numerics.inclusive_areas),
            positive=numerics.rpn_positive_iou,
            negative=numerics.rpn_negative_iou,
            rescue=True,
        )
        if numerics.rpn_straddle is not None:
            kind[~_within(anchors, sizes[image], numerics.rpn_straddle)] = -1
        positive, negative = sample(kind, count=numerics.rpn_samples, positive_fraction=numerics.rpn_positive_fraction)
        sampled += len(positive) + len(negative)
        for chosen, answer in ((positive, 1.0), (negative, 0.0)):
            given = logits[image, chosen]
            classification = classification + F.binary_cross_entropy_with_logits(
                given, torch.full_like(given, answer), reduction="sum"
            )
        if len(positive):
            wanted = box_ops.encode(
                target.boxes[which[positive]],
                anchors[positive],
                numerics.rpn_delta_weights,
                inclusive=numerics.inclusive_boxes,
            )
            regression = regression + smooth_l1(deltas[image, positive] - wanted, numerics.rpn_beta)
    count = sampled if numerics.rpn_normaliser == "sampled" else numerics.rpn_samples * len(targets)
    return {"rpn_cls": classification / max(count, 1), "rpn_box": regression / max(count, 1)}


def _within(anchors: Tensor, size: tuple[int, int], straddle: float) -> Tensor:
    """Which anchors [M, 4] reach at most `straddle` pixels beyond the image (Ren et al. 2015, §3.3)."""
    height, width = size
    x1, y1, x2, y2 = anchors.unbind(1)
    return (x1 >= -straddle) & (y1 >= -straddle) & (x2 < width + straddle) & (y2 < height + straddle)


def boxes(
    logits: Tensor,
    deltas: Tensor,
    samples: Sequence[RegionSample],
    targets: Sequence[Target],
    numerics: Numerics,
    *,
    agnostic: bool,
) -> dict[str, Tensor]:
    """Class and box losses of the sampled regions: `logits` [N, K + 1], `deltas` [N, R·4].

    With `agnostic` deltas the first row is that of all classes.
    """
    labels = torch.cat([one.labels for one in samples])
    if not len(labels):
        return {"cls": logits.sum() * 0, "box": deltas.sum() * 0}
    classification = F.cross_entropy(logits, labels)
    regression, start = deltas.new_zeros(()), 0
    for one, target in zip(samples, targets, strict=True):
        rows = slice(start, start + one.positives)
        start += len(one.labels)
        if not one.positives:
            continue
        given = deltas[rows].reshape(one.positives, -1, 4)
        column = torch.zeros_like(one.labels[: one.positives]) if agnostic else one.labels[: one.positives]
        given = given[torch.arange(one.positives, device=given.device), column]
        wanted = box_ops.encode(
            target.boxes[one.which[: one.positives]],
            one.boxes[: one.positives],
            numerics.box_delta_weights,
            inclusive=numerics.inclusive_boxes,
        )
        regression = regression + smooth_l1(given - wanted, numerics.box_beta)
    return {"cls": classification, "box": regression / len(labels)}


def masks(logits: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Mask loss of the foreground regions: `logits` [N, R, m, m], `labels` [N], `wanted` [N, m, m] in [0, 1]."""
    if not len(labels):
        return {"mask": logits.sum() * 0}
    column = labels if logits.shape[1] > 1 else torch.zeros_like(labels)
    given = logits[torch.arange(len(labels), device=logits.device), column]
    return {"mask": F.binary_cross_entropy_with_logits(given, wanted)}
