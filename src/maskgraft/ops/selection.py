"""Which of many scored boxes are kept: proposals from anchors, detections from proposals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskgraft.ops import boxes as box_ops
from maskgraft.ops.boxes import Weights
from maskgraft.torchvision_ops import batched_nms

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Scored:
    """Boxes [N, 4] in pixels of the network's input, `scores` [N] descending, `labels` int64 [N]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    size: Size,
    *,
    rank: Literal["logit", "probability"],
    pre_nms: int,
    post_nms: int,
    nms_threshold: float,
    min_size: float,
    weights: Weights,
    clip: float,
) -> Scored:
    """Proposals of one image: per level the best `pre_nms` anchors are moved, cut to the image and suppressed.

    `logits` [M_l], `deltas` [M_l, 4] and `anchors` [M_l, 4] for each level; `size` (height, width) of the image without
    padding. `scores` are what `rank` says; `labels` are level indices.
    """
    boxes, scores, level = [], [], []
    for index, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
        score, best = logit.topk(min(pre_nms, len(logit)))
        boxes.append(box_ops.decode(delta[best], anchor[best], weights, clip)[:, 0])
        scores.append(score)
        level.append(torch.full_like(best, index))
    found = Scored(box_ops.clip(torch.cat(boxes), size), torch.cat(scores), torch.cat(level))
    if rank == "probability":
        found = Scored(found.boxes, found.scores.sigmoid(), found.labels)
    found = _at_least(found, min_size)
    kept = batched_nms(found.boxes, found.scores, found.labels, nms_threshold)[:post_nms]
    return Scored(found.boxes[kept], found.scores[kept], found.labels[kept])


def detections(
    logits: Tensor,
    deltas: Tensor,
    regions: Tensor,
    size: Size,
    *,
    score_threshold: float,
    min_size: float,
    nms_threshold: float,
    max_detections: int,
    weights: Weights,
    clip: float,
) -> Scored:
    """Detections of one image: every region may answer for several classes; suppression is per class.

    `logits` [N, K + 1] with the background last, `deltas` [N, R·4] for K, K + 1 or 1 rows, `regions` [N, 4].
    """
    scores = logits.softmax(1)[:, :-1]
    classes = scores.shape[1]
    moved = box_ops.clip(box_ops.decode(deltas, regions, weights, clip), size)
    which, label = torch.nonzero(scores > score_threshold, as_tuple=True)
    boxes = moved[which, label if moved.shape[1] >= classes and moved.shape[1] > 1 else 0]
    found = Scored(boxes, scores[which, label], label)
    if min_size > 0:
        found = _at_least(found, min_size)
    kept = batched_nms(found.boxes, found.scores, found.labels, nms_threshold)[:max_detections]
    return Scored(found.boxes[kept], found.scores[kept], found.labels[kept])


def _at_least(found: Scored, min_size: float) -> Scored:
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    kept = ((sides >= min_size) & (sides > 0)).all(1)
    return Scored(found.boxes[kept], found.scores[kept], found.labels[kept])
