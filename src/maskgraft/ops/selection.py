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
from maskgraft.ops.ties import suppressed_from_heap
from maskgraft.ops.tiles import stays_in_tiles
from maskgraft.spec import Numerics, ScoreKind
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
    numerics: Numerics,
    *,
    pre_nms: int | None,
    level_post_nms: int | None,
    post_nms: int,
    min_size: float | None,
) -> Scored:
    """Proposals of one image: per level the best `pre_nms` anchors are moved, cut to the `window` and suppressed.

    `logits` [M_l], `deltas` [M_l, 4] and `anchors` [M_l, 4] for each level; where `numerics.rpn_scope` is the image all
    levels are one. Of each level at most `level_post_nms` stay, and of all of them `post_nms`; no side is below
    `min_size`. These four differ in training. `scores` are what `numerics.rpn_rank` says; `labels` are level indices.
    Anchors of equal probability keep their order, but where `numerics.nms_ties` says otherwise: where all of them are
    candidates, they are queued as they come. With `numerics.clip_after_nms` boxes are cut, and those of no area go,
    after the best `post_nms` are chosen.
    """
    rank = numerics.rpn_rank
    if numerics.rpn_scope == "image":
        logits, deltas, anchors = [torch.cat(list(logits))], [torch.cat(list(deltas))], [torch.cat(list(anchors))]
    boxes, scores, level = [], [], []
    for index, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
        if rank == "probability-first" and pre_nms is None:
            score, best = logit.sigmoid(), torch.arange(len(logit), device=logit.device)
        elif rank == "probability-first":
            score, best = (one[:pre_nms] for one in logit.sigmoid().sort(descending=True, stable=True))
        else:
            score, best = logit.topk(len(logit) if pre_nms is None else min(pre_nms, len(logit)))
        boxes.append(decoded(delta[best], anchor[best], numerics.rpn_delta_weights, numerics)[:, 0])
        scores.append(score)
        level.append(torch.full_like(best, index))
    found = Scored(torch.cat(boxes), torch.cat(scores), torch.cat(level))
    if rank == "probability":
        found = replace(found, scores=found.scores.sigmoid())
    if (least := numerics.rpn_score_threshold) is not None:
        found = found[(found.scores.sigmoid() if rank == "logit" else found.scores) > least]
    if not numerics.clip_after_nms:
        found = replace(found, boxes=box_ops.clip(found.boxes, window))
        found = found if min_size is None else _at_least(found, min_size, numerics.inclusive_areas)
    kept = suppress(
        found,
        numerics.rpn_nms_threshold,
        at_threshold=numerics.nms_at_threshold,
        apart=numerics.nms_apart or numerics.nms_ties == "heap",
        ties=numerics.nms_ties,
        tiled=numerics.rpn_nms_tiled,
        flat_last=numerics.nms_flat_last,
        inclusive=numerics.inclusive_areas,
        most=post_nms,
    )
    found = found[_at_most(kept, found.labels, level_post_nms)[:post_nms]]
    if not numerics.clip_after_nms:
        return found
    found = replace(found, boxes=box_ops.clip(found.boxes, window))
    return found if min_size is None else _at_least(found, min_size, numerics.inclusive_areas)


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
    numerics: Numerics,
    *,
    place: Callable[[Tensor], Tensor],
    agnostic: bool,
) -> Scored:
    """Detections of one image, cut to the `window`; suppression is per class, of boxes moved by `place`.

    `logits` [N, K + 1] with the background last are divided by `numerics.logit_scale`; `numerics.class_scores` is what
    they then become (`scored`). `deltas` [N, R·4] for R rows, `regions` [N, 4]. With `agnostic` deltas the first row is
    that of all classes. `numerics.class_choice`: a region may answer for "every" class above the threshold, or only for
    the "best" of all, and for none where that is the background (Matterport). With `numerics.clip_after_nms`, where
    `place` moves nothing, boxes are cut, and those of no area dropped, after suppression. Where they are dropped when
    they round to nothing (`numerics.box_rounding`), they make room for others; `numerics.max_by` as in `at_most`.
    """
    probabilities = scored(logits / numerics.logit_scale, numerics.class_scores)
    scores = probabilities[:, :-1]
    if numerics.class_choice == "best":
        best = one_hot(probabilities.argmax(1), probabilities.shape[1])[:, :-1].bool()
        which, label = torch.nonzero(best & (scores >= numerics.score_threshold), as_tuple=True)
    else:
        which, label = torch.nonzero(scores > numerics.score_threshold, as_tuple=True)
    row = torch.zeros_like(label) if agnostic else label
    chosen = deltas.reshape(len(regions), deltas.shape[1] // 4, 4)[which, row]
    boxes = decoded(chosen, regions[which], numerics.box_delta_weights, numerics)[:, 0]
    boxes = place(boxes if numerics.clip_after_nms else box_ops.clip(boxes, window))
    found = Scored(boxes, scores[which, label], label)
    if numerics.box_min_size > 0:
        found = _at_least(found, numerics.box_min_size, numerics.inclusive_areas)
    kept = suppress(
        found,
        numerics.nms_threshold,
        at_threshold=numerics.nms_at_threshold,
        apart=numerics.nms_apart,
        ties=numerics.nms_ties,
        tiled=numerics.nms_tiled,
        flat_last=numerics.nms_flat_last,
        inclusive=numerics.inclusive_areas,
        most=numerics.max_detections if numerics.nms_flat_last else len(which),
    )
    if numerics.class_choice == "best":  # of equal scores that of the first region comes first, whatever its class
        kept = torch.unique(kept)
        kept = kept[found.scores[kept].sort(descending=True, stable=True).indices]
    found = found[_at_most(kept, found.labels, numerics.max_per_class)]
    if numerics.clip_after_nms:
        found = _at_least(replace(found, boxes=box_ops.clip(found.boxes, window)), 0, numerics.inclusive_areas)
    if numerics.box_rounding == "drop":
        found = found[(found.boxes[:, 2:].round() > found.boxes[:, :2].round()).all(1)]
    return found[at_most(found, numerics.max_detections, by=numerics.max_by)]


def decoded(deltas: Tensor, boxes: Tensor, weights: Weights, numerics: Numerics) -> Tensor:
    """`boxes.decode` as the conventions have it: deltas [N, R·4] of boxes [N, 4], xyxy [N, R, 4]."""
    return box_ops.decode(
        deltas,
        boxes,
        weights,
        numerics.delta_clip,
        both_ways=numerics.delta_clip_both,
        inclusive=numerics.inclusive_boxes,
        wider=numerics.decoded_wider,
    )


def at_most(found: Scored, most: int, *, by: Literal["score", "argsort"]) -> Tensor:
    """Indices of the `most` that stay of what is found, best first: by "score" the best.

    By "argsort", those that chainer-mask-rcnn keeps (`models/mask_rcnn.py`, `_to_bboxes`): it lists them class by
    class, and takes `argsort` of the scores for their ranks, which is the inverse. What stays of more than `most` hangs
    on where in the list it stands.
    """
    count = len(found.scores)
    if by == "score" or count <= most:
        return torch.arange(min(most, count), device=found.scores.device)
    listed = found.labels.sort(stable=True).indices
    late = found.scores[listed].sort(stable=True).indices >= count - most
    return listed[late].sort().values


def scored(logits: Tensor, kind: ScoreKind) -> Tensor:
    """What detections are ranked and cut by: softmax over the classes, each one's sigmoid, or logits as they are."""
    if kind == "logit":
        return logits
    return logits.softmax(1) if kind == "softmax" else logits.sigmoid()


def suppress(
    found: Scored,
    threshold: float,
    *,
    at_threshold: bool,
    apart: bool,
    ties: Literal["first", "heap"],
    tiled: bool,
    flat_last: bool,
    inclusive: bool,
    most: int,
) -> Tensor:
    """Greedy non-maximum suppression within each label: indices of what stays, int64, best first.

    A box goes when a better one of its label overlaps it by more than `threshold`, or, with `at_threshold`, by as much.
    `apart`: the labels are suppressed one after the other, and of equal scores those of lower labels come first.
    Otherwise all go together, shifted so far apart that labels do not meet, which rounds boxes of high labels to 1/100
    of a pixel (torchvision, Detectron2, mmcv). Of equal scores of a label the first comes first, or what a heap gives
    (`ops.ties.suppressed_from_heap`).

    `tiled`, which labels that are suppressed `apart` may be: not greedy, but as `ops.tiles.stays_in_tiles` has it.

    `flat_last`: once a box of no area is kept, it is kept again and again until there are `most`, of its label or,
    where all go together, of all labels: so a label keeps nothing more, but for boxes of the same score.
    """
    boxes, given = found.boxes, threshold
    if inclusive:  # moved by one, the far sides give the same areas and intersections
        boxes = boxes + boxes.new_tensor((0, 0, 1, 1))
    if at_threshold:
        threshold = float(np.nextafter(np.float32(threshold), np.float32(-1)))
    if not apart:
        if _as_a_heap(boxes, found.scores, ties, flat_last):
            return suppressed_from_heap(boxes, found.scores, found.labels, threshold, most=most, flat_again=flat_last)
        chosen: Tensor = batched_nms(boxes, found.scores, found.labels, threshold).sort().values
        return chosen[found.scores[chosen].sort(descending=True, stable=True).indices]
    kept = [found.labels[:0]]
    for label in torch.unique(found.labels):
        of_label = torch.nonzero(found.labels == label).squeeze(1)
        these = boxes[of_label], found.scores[of_label]
        if tiled:
            order = these[1].sort(descending=True, stable=True).indices
            stay = order[stays_in_tiles(boxes[of_label[order]], given)]
        elif _as_a_heap(*these, ties, flat_last):
            stay = suppressed_from_heap(*these, torch.zeros_like(of_label), threshold, most=most, flat_again=flat_last)
        else:
            stay = _first_of_nms(*these, threshold, most)
        kept.append(of_label[stay])
    chosen = torch.cat(kept)
    return chosen[found.scores[chosen].sort(descending=True, stable=True).indices]


def _first_of_nms(boxes: Tensor, scores: Tensor, threshold: float, most: int) -> Tensor:
    """What stays of one label, as far as the first `most`, for which often the best candidates will do."""
    order = scores.sort(descending=True, stable=True).indices
    first = 8 * most
    while True:
        ahead = order[:first]
        stay = ahead[nms(boxes[ahead], scores[ahead], threshold)]
        if len(stay) >= most or first >= len(order):
            return stay
        first *= 4


def _as_a_heap(boxes: Tensor, scores: Tensor, ties: Literal["first", "heap"], flat_last: bool) -> bool:
    """Whether a heap may keep other boxes than those that come first."""
    if flat_last and bool((boxes[:, 2:] <= boxes[:, :2]).any()):
        return True
    ordered = scores.sort(descending=True).values
    return ties == "heap" and bool((ordered[1:] == ordered[:-1]).any())


def _at_most(kept: Tensor, labels: Tensor, most: int | None) -> Tensor:
    """Of the indices `kept`, best first, the first `most` of each label."""
    if most is None or not len(kept):
        return kept
    of_label = one_hot(labels[kept])
    return kept[(of_label.cumsum(0) * of_label).amax(1) <= most]


def _at_least(found: Scored, min_size: float, inclusive: bool) -> Scored:
    sides = found.boxes[:, 2:] - found.boxes[:, :2] + inclusive
    return found[((sides >= min_size) & (sides > 0)).all(1)]
