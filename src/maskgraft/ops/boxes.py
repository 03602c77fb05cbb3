"""Boxes [N, 4] xyxy: areas, overlaps, and the deltas that move them.

`inclusive` boxes are those of Detectron: x2 and y2 are the last pixels inside, so that the width is x2 - x1 + 1.
"""

import torch
from torch import Tensor

Weights = tuple[float, float, float, float]
Window = tuple[float, float, float, float]


def area(boxes: Tensor, *, inclusive: bool) -> Tensor:
    """Width × height, [N]."""
    return (boxes[:, 2] - boxes[:, 0] + inclusive) * (boxes[:, 3] - boxes[:, 1] + inclusive)


def iou(one: Tensor, other: Tensor, *, inclusive: bool = False) -> Tensor:
    """Intersection over union of every pair: [N, 4] and [M, 4] to [N, M]; 0 where both are empty."""
    lower = torch.maximum(one[:, None, :2], other[None, :, :2])
    upper = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    intersection = (upper - lower + inclusive).clamp_(min=0).prod(2)
    union = area(one, inclusive=inclusive)[:, None] + area(other, inclusive=inclusive)[None] - intersection
    return torch.where(intersection > 0, intersection / union, torch.zeros_like(intersection))


def clip(boxes: Tensor, window: Window) -> Tensor:
    """Boxes [..., 4] cut to a `window` of lowest y, lowest x, highest y and highest x."""
    top, left, bottom, right = map(float, window)
    x1, y1, x2, y2 = boxes.unbind(-1)
    x1, x2 = x1.clamp(left, right), x2.clamp(left, right)
    y1, y2 = y1.clamp(top, bottom), y2.clamp(top, bottom)
    return torch.stack((x1, y1, x2, y2), -1)


def encode(truth: Tensor, boxes: Tensor, weights: Weights, *, inclusive: bool) -> Tensor:
    """Deltas (dx, dy, dw, dh) that take `boxes` to `truth`, both [N, 4] (Girshick et al. 2014, appendix C)."""
    width, height = boxes[:, 2] - boxes[:, 0] + inclusive, boxes[:, 3] - boxes[:, 1] + inclusive
    true_width, true_height = truth[:, 2] - truth[:, 0] + inclusive, truth[:, 3] - truth[:, 1] + inclusive
    dx = (truth[:, 0] + 0.5 * true_width - boxes[:, 0] - 0.5 * width) / width
    dy = (truth[:, 1] + 0.5 * true_height - boxes[:, 1] - 0.5 * height) / height
    dw, dh = (true_width / width).log(), (true_height / height).log()
    return torch.stack((weights[0] * dx, weights[1] * dy, weights[2] * dw, weights[3] * dh), 1)


def decode(
    deltas: Tensor,
    boxes: Tensor,
    weights: Weights,
    limit: float | None,
    *,
    both_ways: bool,
    inclusive: bool,
    wider: bool,
) -> Tensor:
    """The inverse of `encode` for one or more deltas a box: [N, R·4] and [N, 4] to [N, R, 4].

    dw and dh are clamped to at most `limit`, so that an early network cannot make infinite boxes; MMDetection clamps
    `both_ways`. `wider` boxes are half a pixel wider on all sides, as MMDetection 2 decodes those of 1.x.
    """
    deltas = deltas.reshape(len(boxes), deltas.shape[1] // 4, 4).float()  # -1 would be undecided for no boxes
    width = (boxes[:, 2] - boxes[:, 0] + inclusive)[:, None]
    height = (boxes[:, 3] - boxes[:, 1] + inclusive)[:, None]
    limit = torch.inf if limit is None else limit
    least = -limit if both_ways else None
    centre_x, centre_y = boxes[:, 0, None] + 0.5 * width, boxes[:, 1, None] + 0.5 * height
    centre_x = deltas[..., 0] / weights[0] * width + centre_x
    centre_y = deltas[..., 1] / weights[1] * height + centre_y
    half_width = 0.5 * (deltas[..., 2] / weights[2]).clamp(least, limit).exp() * width
    half_height = 0.5 * (deltas[..., 3] / weights[3]).clamp(least, limit).exp() * height
    before, after = 0.5 * wider, inclusive - 0.5 * wider
    x1, y1 = centre_x - half_width - before, centre_y - half_height - before
    return torch.stack((x1, y1, centre_x + half_width - after, centre_y + half_height - after), -1)
