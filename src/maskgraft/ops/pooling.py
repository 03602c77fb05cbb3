"""Features of regions: which pyramid level a region reads, and how it reads it."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from maskgraft.ops.boxes import area
from maskgraft.torchvision_ops import roi_align


def levels(boxes: Tensor, *, finest: int, coarsest: int, epsilon: Literal["outside", "inside"]) -> Tensor:
    """The pyramid level (2 for P2 …) of each box [N, 4], int64 [N] (Lin et al. 2017, equation 1).

    A box of 224 × 224 pixels reads P4. `epsilon` keeps exact powers of two on the upper level: torchvision and
    maskrcnn-benchmark add 1e-6 to the logarithm, Detectron2 1e-8 inside it.
    """
    size = area(boxes).sqrt()
    exponent = torch.log2(size / 224) + 1e-6 if epsilon == "outside" else torch.log2(size / 224 + 1e-8)
    return (4 + exponent).floor().clamp(finest, coarsest).long()


def pool(
    maps: Sequence[Tensor],
    boxes: Sequence[Tensor],
    *,
    strides: Sequence[int],
    size: int,
    sampling: int,
    aligned: bool,
    epsilon: Literal["outside", "inside"],
) -> Tensor:
    """RoIAlign over one map or a pyramid: `boxes` per image [N_i, 4] to [ΣN_i, C, size, size], images in order.

    `maps` are [B, C, H, W], finest first, with the given `strides` (4 for P2 …). `sampling` 0 takes as many samples a
    bin as it has pixels; `aligned` shifts by half a pixel (Detectron2's ROIAlignV2).
    """
    regions = torch.cat(
        [torch.cat((torch.full_like(one[:, :1], index), one), 1) for index, one in enumerate(boxes)]
    ).to(maps[0].dtype)
    if len(maps) == 1:
        return roi_align(maps[0], regions, size, 1 / strides[0], sampling, aligned)
    finest = strides[0].bit_length() - 1
    level = levels(torch.cat(list(boxes)), finest=finest, coarsest=finest + len(maps) - 1, epsilon=epsilon)
    pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], size, size)
    for index, (map_, stride) in enumerate(zip(maps, strides, strict=True)):
        chosen = torch.nonzero(level == finest + index).squeeze(1)
        pooled = pooled.index_put((chosen,), roi_align(map_, regions[chosen], size, 1 / stride, sampling, aligned))
    return pooled
