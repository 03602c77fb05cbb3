"""Features of regions: which pyramid level a region reads, and how it reads it."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from maskgraft.ops.boxes import area
from maskgraft.ops.roi_align import roi_align


def levels(
    boxes: Tensor,
    *,
    finest: int,
    coarsest: int,
    epsilon: Literal["outside", "inside"],
    epsilon_value: float,
    rounding: Literal["floor", "round"],
    inclusive: bool,
) -> Tensor:
    """The pyramid level (2 for P2 …) of each box [N, 4], int64 [N] (Lin et al. 2017, equation 1).

    A box of 224 × 224 pixels reads P4. A small number keeps exact powers of two on the upper level: torchvision adds
    1e-6 to the logarithm ("outside"), Detectron2 1e-8 and Detectron 1e-6 before it is taken ("inside"). Matterport
    takes the nearest level ("round").
    """
    size = area(boxes, inclusive=inclusive).sqrt()
    exponent = (
        torch.log2(size / 224) + epsilon_value if epsilon == "outside" else torch.log2(size / 224 + epsilon_value)
    )
    level = (4 + exponent).floor() if rounding == "floor" else 4 + exponent.round()
    return level.clamp(finest, coarsest).long()


def pool(
    maps: Sequence[Tensor],
    boxes: Sequence[Tensor],
    *,
    strides: Sequence[int],
    size: int,
    sampling: int,
    aligned: bool,
    epsilon: Literal["outside", "inside"],
    epsilon_value: float,
    rounding: Literal["floor", "round"],
    inclusive_areas: bool,
    inclusive: bool,
    any_size: bool,
) -> Tensor:
    """RoIAlign over one map or a pyramid: `boxes` per image [N_i, 4] to [ΣN_i, C, size, size], images in order.

    `maps` are [B, C, H, W], finest first, with the given `strides` (4 for P2 …). `sampling` 0 takes as many samples a
    bin as it has pixels; `aligned` shifts by half a pixel (Detectron2's ROIAlignV2). `inclusive` regions end with their
    last pixel. Those that are neither aligned nor of `any_size` are widened to a cell where they are smaller.
    """
    regions = torch.cat([torch.cat((torch.full_like(one[:, :1], index), one), 1) for index, one in enumerate(boxes)])

    def read(map_: Tensor, chosen: Tensor, stride: int) -> Tensor:
        chosen = placed(chosen, stride, aligned=aligned, inclusive=inclusive, any_size=any_size)
        return roi_align(map_, chosen, size=size, scale=1 / stride, sampling=sampling, aligned=aligned or any_size)

    if len(maps) == 1:
        return read(maps[0], regions, strides[0])
    finest, coarsest = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    level = levels(
        torch.cat(list(boxes)),
        finest=finest,
        coarsest=coarsest,
        epsilon=epsilon,
        epsilon_value=epsilon_value,
        rounding=rounding,
        inclusive=inclusive_areas,
    )
    order = level.argsort(stable=True)
    parts = torch.split(regions[order], torch.bincount(level - finest, minlength=len(maps)).tolist())
    pooled = [read(map_, part, stride) for map_, part, stride in zip(maps, parts, strides, strict=True)]
    return _in_order(pooled, order)


def _in_order(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    """Features [n_l, C, s, s] of the regions of each level, all of them at the places that `order` [Σn_l] tells."""
    # whole rows of memory are moved: indexing features of channels side by side takes twice as long, and its gradient
    # adds up value by value
    rows = [one.permute(0, 2, 3, 1).flatten(1) for one in parts]
    if any(one.requires_grad for one in rows):
        ordered = torch.cat(rows).index_select(0, order.argsort())
    else:
        ordered = rows[0].new_empty(len(order), rows[0].shape[1])
        for places, one in zip(torch.split(order, [len(one) for one in rows]), rows, strict=True):
            ordered[places] = one
    channels, *size = parts[0].shape[1:]
    return ordered.view(-1, *size, channels).permute(0, 3, 1, 2)


def placed(regions: Tensor, stride: int, *, aligned: bool, inclusive: bool, any_size: bool) -> Tensor:
    """Regions [N, 5] as RoIAlign is to be given them; those of `any_size` it is to take for aligned ones."""
    if inclusive:
        regions = regions + regions.new_tensor((0, 0, 0, 1, 1))
    if any_size and not aligned:  # aligned regions may be of any size; the half cell they are moved by is put back
        half = stride / 2
        regions = regions + regions.new_tensor((0, half, half, half, half))
    return regions


def pool_crops(maps: Sequence[Tensor], boxes: Sequence[Tensor], level: Tensor, *, size: int, strict: bool) -> Tensor:
    """`crop_and_resize` over one map or a pyramid: `boxes` per image [N_i, 4] to [ΣN_i, C, size, size], in order.

    The boxes are fractions of the maps; `level` int64 [ΣN_i] is the index of the map that each of them reads.
    """
    image = torch.cat([torch.full((len(one),), i, device=one.device) for i, one in enumerate(boxes)])
    every = torch.cat(list(boxes))
    pooled = maps[0].new_zeros(len(every), maps[0].shape[1], size, size)
    for index, map_ in enumerate(maps):
        chosen = torch.nonzero(level == index).squeeze(1)
        pooled = pooled.index_put((chosen,), crop_and_resize(map_, every[chosen], image[chosen], size, strict=strict))
    return pooled


def crop_and_resize(
    map_: Tensor, boxes: Tensor, image: Tensor, size: int | tuple[int, int], *, strict: bool = True
) -> Tensor:
    """One bilinear sample per bin, the outer samples on the edges of the box: [N, C, size, size].

    `size` may be rows and columns.

    `map_` is [B, C, H, W]; `boxes` [N, 4] xyxy are fractions of the map in which 0 is the centre of its first cell and
    1 the centre of its last; `image` int64 [N] says which of the B each box reads. A sample outside of the cells'
    centres is 0.

    The operations and their order are those of TensorFlow's float32 kernel (`crop_and_resize_op.cc`). There, the last
    sample of a box that ends at 1 falls on the last cell or, for about 3 of 100 boxes, by its last bit outside it, and
    then a whole row is 0. `strict` does the same. A box that a network found has other last bits in each framework;
    without `strict` its last row is what it is for the other 97, and would be without any rounding.
    """
    rows, columns = map_.shape[-2:]
    x1, y1, x2, y2 = boxes.float().unbind(1)
    bins = (size, size) if isinstance(size, int) else size
    y, inside_y = _samples(y1, y2, rows, bins[0], strict=strict)
    x, inside_x = _samples(x1, x2, columns, bins[1], strict=strict)
    top, left = y.floor(), x.floor()
    cells = map_.permute(0, 2, 3, 1)
    page = image[:, None, None]
    upper, lower = top.long()[:, :, None], y.ceil().long()[:, :, None]
    before, after = left.long()[:, None, :], x.ceil().long()[:, None, :]
    right = (x - left).to(map_.dtype)[:, None, :, None]
    upper_values, lower_values = (
        (begin := cells[page, row, before]) + (cells[page, row, after] - begin) * right for row in (upper, lower)
    )
    down = (y - top).to(map_.dtype)[:, :, None, None]
    values = upper_values + (lower_values - upper_values) * down
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[..., None]
    return torch.where(inside, values, torch.zeros_like(values)).permute(0, 3, 1, 2)


def _samples(low: Tensor, high: Tensor, cells: int, count: int, *, strict: bool) -> tuple[Tensor, Tensor]:
    """Where `count` samples from `low` to `high` [N] fall on an axis of `cells`: [N, count], and which are on it."""
    last = cells - 1
    if count > 1:
        step = (high - low) * last / torch.full_like(low, count - 1)  # a quotient: a product would round differently
        at = (low * last)[:, None] + torch.arange(count, dtype=low.dtype, device=low.device) * step[:, None]
        if (
            not strict
        ):  # the last sample lies where the box ends, but for a box of the whole axis, which has no other bits
            at[:, -1] = torch.where((low == 0) & (high == 1), at[:, -1], high * last)
    else:
        at = (0.5 * (low + high).double() * last).to(low.dtype)[:, None]
    inside = (at >= 0) & (at <= last)
    return torch.where(inside, at, torch.zeros_like(at)), inside
