"""Which of many scored boxes are kept: proposals from anchors, detections from proposals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from maskgraft.ops import boxes as box_ops
from maskgraft.ops.boxes import Weights, Window
from maskgraft.ops.ties import popped
from maskgraft.torchvision_ops import batched_nms, nms


@dataclass(frozen=True, slots=True)
class Scored:
    """Boxes [N, 4] in pixels of the network's input, `scores` [N] descending, `labels` int64 [N]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __getitem__(self, kept: Tensor) -> "Scored":
        """Those at the indices, or under the mask, `kept`."""
        return Scored(self.boxes[kept], self.scores[kept], self.labels[kept])


def proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    window: Window,
    *,
    scope: Literal["level", "image"],
    rank: Literal["logit", "probability", "probability-first"],
    pre_nms: int | None,
    score_threshold: float | None,
    level_post_nms: int | None,
    post_nms: int,
    nms_threshold: float,
    nms_at_threshold: bool,
    nms_apart: bool,
    nms_ties: Literal["first", "heap"],
    nms_flat_last: bool,
    min_size: float | None,
    clip_after: bool,
    weights: Weights,
    clip: float | None,
    clip_both: bool,
    inclusive: bool,
    inclusive_areas: bool,
    wider: bool,
) -> Scored:
    """Proposals of one image: per level the best `pre_nms` anchors are moved, cut to the `window` and suppressed.

    `logits` [M_l], `deltas` [M_l, 4] and `anchors` [M_l, 4] for each level; with the `scope` of an image all levels
    are one. Of each level at most `level_post_nms` stay, and of all of them `post_nms`. `scores` are what `rank` says;
    `labels` are level indices. Anchors of equal probability keep their order, but where `nms_ties` says otherwise:
    where all of them are candidates, they are queued as they come. With `clip_after` boxes are cut, and those of no
    area dropped, after the best `post_nms` are chosen.
    """
    if scope == "image":
        logits, deltas, anchors = [torch.cat(list(logits))], [torch.cat(list(deltas))], [torch.cat(list(anchors))]
    boxes, scores, level = [], [], []
    for index, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
        if rank == "probability-first" and pre_nms is None:
            score, best = logit.sigmoid(), torch.arange(len(logit), device=logit.device)
        elif rank == "probability-first":
            score, best = (one[:pre_nms] for one in logit.sigmoid().sort(descending=True, stable=True))
        else:
            score, best = logit.topk(len(logit) if pre_nms is None else min(pre_nms, len(logit)))
        moved = box_ops.decode(
            delta[best], anchor[best], weights, clip, both_ways=clip_both, inclusive=inclusive, wider=wider
        )
        boxes.append(moved[:, 0])
        scores.append(score)
        level.append(torch.full_like(best, index))
    found = Scored(torch.cat(boxes), torch.cat(scores), torch.cat(level))
    if rank == "probability":
        found = replace(found, scores=found.scores.sigmoid())
    if score_threshold is not None:
        found = found[(found.scores.sigmoid() if rank == "logit" else found.scores) > score_threshold]
    if not clip_after:
        found = replace(found, boxes=box_ops.clip(found.boxes, window))
    if min_size is not None and not clip_after:
        found = _at_least(found, min_size, inclusive_areas)
    kept = suppress(
        found,
        nms_threshold,
        at_threshold=nms_at_threshold,
        apart=nms_apart,
        ties=nms_ties,
        flat_last=nms_flat_last,
        inclusive=inclusive_areas,
        most=post_nms if nms_apart and scope == "image" else None,
    )
    found = found[_at_most(kept, found.labels, level_post_nms)[:post_nms]]
    if not clip_after:
        return found
    found = replace(found, boxes=box_ops.clip(found.boxes, window))
    return found if min_size is None else _at_least(found, min_size, inclusive_areas)


def best_of_batch(found: Sequence[Scored], most: int) -> list[Scored]:
    """The best `most` of what was found in all images together, each image's by itself.

    Detectron's training (`ops/collect_and_distribute_fpn_rpn_proposals.py`), and maskrcnn-benchmark's after it.
    """
    scores = torch.cat([one.scores for one in found])
    stays = torch.zeros_like(scores, dtype=torch.bool)
    stays[scores.topk(min(most, len(scores))).indices] = True
    parts = torch.split(stays, [len(one.scores) for one in found])
    return [one[part] for one, part in zip(found, parts, strict=True)]


def detections(
    logits: Tensor,
    deltas: Tensor,
    regions: Tensor,
    window: Window,
    *,
    place: Callable[[Tensor], Tensor],
    agnostic: bool,
    class_choice: Literal["every", "best"],
    score_threshold: float,
    min_size: float,
    nms_threshold: float,
    nms_at_threshold: bool,
    nms_apart: bool,
    nms_ties: Literal["first", "heap"],
    nms_flat_last: bool,
    max_detections: int,
    max_per_class: int | None,
    clip_after: bool,
    weights: Weights,
    clip: float | None,
    clip_both: bool,
    inclusive: bool,
    inclusive_areas: bool,
    wider: bool,
) -> Scored:
    """Detections of one image, cut to the `window`; suppression is per class, of boxes moved by `place`.

    `logits` [N, K + 1] with the background last, `deltas` [N, R·4] for R rows, `regions` [N, 4]. With `agnostic` deltas
    the first row is that of all classes. `class_choice`: a region may answer for "every" class above the threshold, or
    only for the "best" of all, and for none where that is the background (Matterport). With `clip_after`, where `place`
    moves nothing, boxes are cut, and those of no area dropped, after suppression.
    """
    probabilities = logits.softmax(1)
    scores = probabilities[:, :-1]
    if class_choice == "best":
        best = one_hot(probabilities.argmax(1), probabilities.shape[1])[:, :-1].bool()
        which, label = torch.nonzero(best & (scores >= score_threshold), as_tuple=True)
    else:
        which, label = torch.nonzero(scores > score_threshold, as_tuple=True)
    row = torch.zeros_like(label) if agnostic else label
    chosen = deltas.reshape(len(regions), deltas.shape[1] // 4, 4)[which, row]
    boxes = box_ops.decode(
        chosen, regions[which], weights, clip, both_ways=clip_both, inclusive=inclusive, wider=wider
    )[:, 0]
    boxes = place(boxes if clip_after else box_ops.clip(boxes, window))
    found = Scored(boxes, scores[which, label], label)
    if min_size > 0:
        found = _at_least(found, min_size, inclusive_areas)
    kept = suppress(
        found,
        nms_threshold,
        at_threshold=nms_at_threshold,
        apart=nms_apart,
        ties=nms_ties,
        flat_last=nms_flat_last,
        inclusive=inclusive_areas,
    )
    if class_choice == "best":  # of equal scores that of the first region comes first, whatever its class
        kept = kept.sort().values
        kept = kept[found.scores[kept].sort(descending=True, stable=True).indices]
    found = found[_at_most(kept, found.labels, max_per_class)]
    if clip_after:
        found = _at_least(replace(found, boxes=box_ops.clip(found.boxes, window)), 0, inclusive_areas)
    return found[torch.arange(min(max_detections, len(found.scores)), device=kept.device)]


def suppress(
    found: Scored,
    threshold: float,
    *,
    at_threshold: bool,
    apart: bool,
    ties: Literal["first", "heap"],
    flat_last: bool,
    inclusive: bool,
    most: int | None = None,
) -> Tensor:
    """Greedy non-maximum suppression within each label: indices of what stays, int64, best first.

    A box goes when a better one of its label overlaps it by more than `threshold`, or, with `at_threshold`, by as much.
    `apart`: the labels are suppressed one after the other, and of equal scores those of lower labels come first.
    Otherwise all go together, shifted so far apart that labels do not meet, which rounds boxes of high labels to 1/100
    of a pixel (torchvision, Detectron2, mmcv). Of equal scores of a label the first comes first, or what a heap gives
    (`ops.ties.popped`).

    `flat_last`: once a box of no area is kept, its label keeps nothing more, as in TensorFlow 1.15 to 2.1. There what
    is kept is looked at again, and a box that does not overlap even itself is kept again and again until there are
    enough (tensorflow/tensorflow#35482). `most`: no more are wanted of boxes of one label, so that often the best of
    them will do.
    """
    if most is not None:
        first = 8 * most
        while first < len(found.scores):
            ahead = _best(found.scores, ties, first)
            kept = suppress(
                found[ahead],
                threshold,
                at_threshold=at_threshold,
                apart=apart,
                ties="first",
                flat_last=flat_last,
                inclusive=inclusive,
            )
            if len(kept) >= most:
                return ahead[kept]
            first *= 4
    boxes = found.boxes
    if inclusive:  # moved by one, the far sides give the same areas and intersections
        boxes = boxes + boxes.new_tensor((0, 0, 1, 1))
    if at_threshold:
        threshold = float(np.nextafter(np.float32(threshold), np.float32(-1)))
    if apart or ties == "heap":  # each label has a heap of its own
        kept = _one_by_one(boxes, found.scores, found.labels, threshold, ties)
    else:
        kept = batched_nms(boxes, found.scores, found.labels, threshold)
    if not flat_last or not len(kept):
        return kept
    flat = (boxes[kept, 2:] <= boxes[kept, :2]).any(1)
    before = one_hot(found.labels[kept]) * flat[:, None]
    passed = (before.cumsum(0) - before).gather(1, found.labels[kept, None])[:, 0]
    return kept[passed == 0]


def _one_by_one(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, ties: Literal["first", "heap"]
) -> Tensor:
    kept = [labels[:0]]
    for label in torch.unique(labels):
        of_label = torch.nonzero(labels == label).squeeze(1)
        of_label = of_label[_best(scores[of_label], ties)]
        kept.append(of_label[nms(boxes[of_label], scores[of_label], threshold)])
    chosen = torch.cat(kept)
    return chosen[scores[chosen].sort(descending=True, stable=True).indices]


def _best(scores: Tensor, ties: Literal["first", "heap"], most: int | None = None) -> Tensor:
    """Indices of the best scores, best first."""
    return popped(scores, most) if ties == "heap" else scores.sort(descending=True, stable=True).indices[:most]


def _at_most(kept: Tensor, labels: Tensor, most: int | None) -> Tensor:
    """Of the indices `kept`, best first, the first `most` of each label."""
    if most is None or not len(kept):
        return kept
    of_label = one_hot(labels[kept])
    return kept[(of_label.cumsum(0) * of_label).amax(1) <= most]


def _at_least(found: Scored, min_size: float, inclusive: bool) -> Scored:
    sides = found.boxes[:, 2:] - found.boxes[:, :2] + inclusive
    return found[((sides >= min_size) & (sides > 0)).all(1)]
