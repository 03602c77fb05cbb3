"""Anchors: the boxes that the region proposal network starts from."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor


def cell(
    sizes: Sequence[float],
    ratios: Sequence[float],
    *,
    order: Literal["size", "ratio"],
    rounding: bool,
    stride: float,
    offset: float,
    whole_sides: bool,
    inclusive: bool,
    corners: bool,
) -> Tensor:
    """Anchors of the cell at the origin: [A, 4] xyxy, A = sizes × ratios.

    `sizes` are square roots of areas, `ratios` are height / width. `order` says what changes slowest: Detectron2 runs
    through the ratios inside each size, torchvision and Detectron the other way; with one size a level they agree.
    `rounding`: corners are whole numbers (torchvision `AnchorGenerator.generate_anchors`, MMDetection 1).
    `offset`: the centre is at offset × `stride`; in `inclusive` coordinates a cell ends at stride - 1.
    `whole_sides`: the sides of an anchor of one cell are rounded, and multiplied by size / stride (Detectron
    `generate_anchors.py`). `corners`: the far sides are one less, the coordinates of the last pixels.
    """
    pairs = (
        [(size, ratio) for size in sizes for ratio in ratios]
        if order == "size"
        else [(size, ratio) for ratio in ratios for size in sizes]
    )
    size, ratio = np.array(pairs, np.float64).T
    if whole_sides:
        width = np.round(stride / np.sqrt(ratio))
        height = np.round(width * ratio) * (size / stride)
        width = width * (size / stride)
    else:
        width, height = size / np.sqrt(ratio), size * np.sqrt(ratio)
    width, height, centre = width - inclusive, height - inclusive, offset * (stride - inclusive)
    boxes = np.stack((-width, -height, width, height), 1) / 2 + centre - (0, 0, corners, corners)
    result = torch.from_numpy(boxes.astype(np.float32))
    return result.round() if rounding else result


def grid(cell: Tensor, size: tuple[int, int], stride: tuple[float, float]) -> Tensor:
    """The anchors of a map of `size` (rows, columns): [rows · columns · A, 4], row by row, cell by cell.

    The anchors of cell (i, j) are those of `cell`, moved by (i, j) · `stride`.
    """
    rows, columns = size
    y = torch.arange(rows, dtype=torch.float32, device=cell.device) * stride[0]
    x = torch.arange(columns, dtype=torch.float32, device=cell.device) * stride[1]
    y, x = (one.reshape(-1) for one in torch.meshgrid(y, x, indexing="ij"))
    return (torch.stack((x, y, x, y), 1)[:, None] + cell[None]).reshape(-1, 4)


def per_anchor(maps: Tensor, values: int) -> Tensor:
    """What a proposal head gives, [B, A·values, H, W], as [B, H·W·A, values]: in the order of `grid`."""
    images, channels, rows, columns = maps.shape
    maps = maps.view(images, channels // values, values, rows, columns).permute(0, 3, 4, 1, 2)
    return maps.reshape(images, -1, values)
