"""Suppression in tiles, as TF Model Garden does it: of low thresholds, what is suppressed may suppress others."""

import numpy as np
import torch
from torch import Tensor

from maskgraft.torchvision_ops import nms

_TILE = 512
_HALF = 0.5  # the home framework's, whatever the threshold is


def stays_in_tiles(boxes: Tensor, threshold: float) -> Tensor:
    """Which of `boxes` [N, 4], best first, stay: bool [N].

        stays_in_tiles(torch.tensor([[0.0, 0, 8, 9], [3, 0, 11, 9], [6, 0, 14, 9]]), 0.3)    # True, False, False

    A box goes when one of an earlier tile that stayed overlaps it by `threshold` or more. Within a tile, all that no
    box overlaps by more than a half suppress at once, again and again, until what they change is no more than a half.
    From a threshold of a half on that is greedy suppression; below, a box that is suppressed by less than a half
    suppresses too, as above: the second one the third. Boxes that end in the upper left corner go.

    TF Model Garden, `official/vision/ops/nms.py`, `sorted_non_max_suppression_padded`, of one image: of a batch, it
    goes on in all images until nothing changes in any.
    """
    if threshold > _HALF:
        return _stays_greedily(boxes, threshold)
    boxes = boxes.clone()
    for start in range(0, len(boxes), _TILE):
        tile = boxes[start : start + _TILE]
        tile *= (_overlaps(boxes[:start], tile) < threshold).all(0)[:, None]
        overlaps = _overlaps(tile, tile).triu(1)
        overlaps *= overlaps >= threshold
        left, fewer = overlaps.sum(dtype=torch.float64), True
        while fewer:
            free = overlaps.amax(0) <= _HALF
            overlaps *= ((overlaps * free[:, None]).amax(0) <= _HALF)[:, None]
            before, left = left, overlaps.sum(dtype=torch.float64)
            fewer = bool(before - left > _HALF)
        tile *= ~overlaps.any(0)[:, None]
    return (boxes > 0).any(1)


def _stays_greedily(boxes: Tensor, threshold: float) -> Tensor:
    """The same above a half, where nothing that is suppressed suppresses, in a fraction of the time."""
    falling = torch.arange(len(boxes), 0, -1, dtype=torch.float32, device=boxes.device)
    stays = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    stays[nms(boxes, falling, float(np.nextafter(np.float32(threshold), np.float32(-1))))] = True
    return stays & (boxes > 0).any(1)


def _overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes [N, 4] and others [M, 4]: [N, M]; the 1e-8 is the home framework's."""
    one = boxes[:, None]
    wide, high = (
        (torch.minimum(one[..., far], others[:, far]) - torch.maximum(one[..., near], others[:, near])).clamp(min=0)
        for near, far in ((0, 2), (1, 3))
    )
    areas, of_others = ((these[:, 2:] - these[:, :2]).prod(1) for these in (boxes, others))
    common = wide * high
    return common / (areas[:, None] + of_others - common + 1e-8)
