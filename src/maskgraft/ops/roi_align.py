"""RoIAlign (He et al. 2017 §3) as weighted sums: each bin is one row of a sparse matrix over the cells of the map."""

import torch
from torch import Tensor
from torch.nn import functional as F

from maskgraft import torchvision_ops

_AT_ONCE = 1 << 22  # weights in memory at a time


def roi_align(map_: Tensor, regions: Tensor, *, size: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """Mean of bilinear samples in each of size × size bins: [N, C, size, size].

    `map_` is [B, C, H, W]; `regions` [N, 5] are the image's index and xyxy in pixels, `scale` cells per pixel.
    `sampling` × `sampling` samples a bin; 0: as many as it has cells, rounded up. `aligned` moves regions by half a
    cell, without it they are at least one cell wide. Samples more than a cell outside of the map are 0.

    The numbers are those of torchvision's operation but for the order of the sums. On a CPU that one runs on a single
    thread, channel by channel; here the channels of a cell lie side by side and are added together
    (`benchmarks/NOTES.md`). On a GPU torchvision's own kernel runs.
    """
    if map_.is_cuda:
        # both in float32: corners in half precision would lie up to two pixels off
        on_gpu: Tensor = torchvision_ops.roi_align(map_.float(), regions.float(), size, scale, sampling, aligned)
        return on_gpu.to(map_.dtype)
    images, channels, height, width = map_.shape
    if not len(regions):
        # channels side by side as in the other levels' features, else all of them would be laid anew beside it
        return map_.new_zeros(0, size, size, channels).permute(0, 3, 1, 2)
    x1, y1, x2, y2 = (regions[:, 1:].float() * scale - (0.5 if aligned else 0.0)).unbind(1)
    rows, row_weights = _axis(y1, y2, height, size=size, sampling=sampling, aligned=aligned)
    columns, column_weights = _axis(x1, x2, width, size=size, sampling=sampling, aligned=aligned)
    rows = rows + (regions[:, 0].long() * height)[:, None, None]
    cells = map_.permute(0, 2, 3, 1).reshape(images * height * width, channels).float()
    share = max(1, _AT_ONCE // (size * size * rows.shape[2] * columns.shape[2]))
    sums = [
        _sums(cells, *part, width=width)
        for part in zip(*(torch.split(one, share) for one in (rows, row_weights, columns, column_weights)), strict=True)
    ]
    every = torch.cat(sums) if len(sums) > 1 else sums[0]
    return every.view(-1, size, size, channels).permute(0, 3, 1, 2).to(map_.dtype)


def _sums(
    cells: Tensor, rows: Tensor, row_weights: Tensor, columns: Tensor, column_weights: Tensor, *, width: int
) -> Tensor:
    """[N·bins², C]: the weighted sum of `cells` [B·H·W, C] in each bin; all else is [N, bins, taps]."""
    taps = rows.shape[2] * columns.shape[2]
    which = (rows[:, :, None, :, None] * width + columns[:, None, :, None, :]).reshape(-1, taps)
    weights = (row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]).reshape(-1, taps)
    counts = weights != 0
    begins = counts.sum(1).cumsum(0) - counts.sum(1)
    return F.embedding_bag(which[counts], cells, begins, mode="sum", per_sample_weights=weights[counts])


def _axis(low: Tensor, high: Tensor, cells: int, *, size: int, sampling: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Which cells of an axis each bin of each region [N] reads, and their weights: both [N, size, taps]."""
    span = high - low if aligned else (high - low).clamp(min=1)
    wide = span / size
    count = torch.full_like(wide, sampling) if sampling else wide.ceil().clamp(min=1)
    samples = torch.arange(int(count.max()), dtype=low.dtype, device=low.device)
    begins = low[:, None] + torch.arange(size, dtype=low.dtype, device=low.device) * wide[:, None]
    at = begins[:, :, None] + ((samples + 0.5) * (wide / count)[:, None])[:, None, :]
    counted = (samples < count[:, None])[:, None, :] & (at >= -1) & (at <= cells)
    share = counted / count[:, None, None]
    at = at.clamp(0, cells - 1)
    before = at.floor()
    part = at - before
    first, second = before.long(), (before.long() + 1).clamp(max=cells - 1)
    weights = torch.cat((share * (1 - part), share * part), 2)
    if sampling:
        return torch.cat((first, second), 2), weights
    # samples are at most a cell apart, so that their cells are all those of a window, each read once
    start = first[:, :, :1]
    window = torch.arange(int((second - start).max()) + 1, device=low.device)
    merged = torch.zeros((*at.shape[:2], len(window)), dtype=low.dtype, device=low.device)
    merged.scatter_add_(2, torch.cat((first, second), 2) - start, weights)
    return (start + window).clamp(max=cells - 1), merged
