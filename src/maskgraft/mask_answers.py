"""What the mask head should have answered: the truth inside a region, at the head's own size."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskgraft import resize
from maskgraft.cutouts import Cutouts
from maskgraft.ops.pooling import crop_and_resize
from maskgraft.sending import sent
from maskgraft.torchvision_ops import roi_align

if TYPE_CHECKING:
    from maskgraft.targets import Polygons

_MINI = 56  # side of Matterport's mini-masks (`MINI_MASK_SHAPE`)
_CROP = 112  # and of Model Garden's (`mask_crop_size`)


def pooled(masks: Cutouts, which: Tensor, boxes: Tensor, side: int, *, aligned: bool) -> Tensor:
    """RoIAlign of the bitmaps `which` [N] in `boxes` [N, 4], as many samples as there are pixels: [N, side, side]."""
    regions = torch.cat((which[:, None].to(boxes.dtype), boxes), 1)
    result: Tensor = roi_align(_planes(masks, boxes.device), regions, side, 1.0, -1, aligned=aligned)
    return result[:, 0]


def cropped(
    masks: Cutouts,
    which: Tensor,
    boxes: Tensor,
    side: int,
    *,
    page: tuple[int, int],
    ends: tuple[int, int] | None = None,
) -> Tensor:
    """`crop_and_resize` of the bitmaps on their padded `page` (height, width), without rounding.

    `ends` are the coordinates at which the page ends, where they are not its height and width.
    """
    planes = _planes(masks, boxes.device)
    below, beside = page[0] - planes.shape[2], page[1] - planes.shape[3]
    bottom, right = ends or page
    fractions = boxes / boxes.new_tensor((right, bottom) * 2)
    return crop_and_resize(F.pad(planes, (0, beside, 0, below)), fractions, which, side)[:, 0]


def cropped_small(masks: Cutouts, which: Tensor, boxes: Tensor, side: int) -> Tensor:
    """`crop_and_resize` of bitmaps that were brought to 56 × 56 each, cut at 0.5 (Matterport's `minimize_mask`).

    Coordinates run from the first pixel of a mask to the last, as those of `boxes`.
    """
    small = np.zeros((len(masks), 1, _MINI, _MINI), np.float32)
    lower = np.zeros((len(masks), 2), np.float32)
    upper = np.ones((len(masks), 2), np.float32)
    for index, ((top, left, _, _), extent, part) in enumerate(
        zip(masks.windows, masks.extents(), masks.parts, strict=True)
    ):
        first_row, first_column, last_row, last_column = extent
        if last_row > first_row:
            seen = part[first_row - top : last_row - top, first_column - left : last_column - left]
            small[index, 0] = resize.skimage_mask(seen, (_MINI, _MINI))
            lower[index], upper[index] = (first_column, first_row), (last_column - 1, last_row - 1)
    low, length = (torch.from_numpy(one).to(boxes.device) for one in (lower, np.maximum(upper - lower, 1e-6)))
    fractions = (boxes - low[which].repeat(1, 2)) / length[which].repeat(1, 2)
    found = crop_and_resize(torch.from_numpy(small).to(boxes.device), fractions, which, side)[:, 0]
    return (found > 0.5).float()


def sampled(masks: Cutouts, which: Tensor, boxes: Tensor, side: int) -> Tensor:
    """One bilinear sample of the bitmap in the middle of each of the `side` × `side` pixels, without rounding."""
    height, width = masks.size
    low, high = boxes[:, :2], boxes[:, 2:]
    half = (high - low) / (2 * side)
    last = boxes.new_tensor((max(width - 1, 1), max(height - 1, 1)))
    fractions = torch.cat(((low + half - 0.5) / last, (high - half - 0.5) / last), 1)
    return crop_and_resize(_planes(masks, boxes.device), fractions, which, side)[:, 0]


def sampled_small(masks: Cutouts, truth: Tensor, which: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The middles of `side` × `side` pixels in bitmaps whose `truth` boxes [M, 4] were brought to 112 × 112 each.

    Model Garden's `crop_mask_in_target_box`: the first of the 112 lies at 0, and not at 0.5, and there are two zeros
    beyond either end.
    """
    height, width = masks.size
    fractions, every = truth / truth.new_tensor((width, height) * 2), torch.arange(len(truth), device=boxes.device)
    small = crop_and_resize(_planes(masks, boxes.device), fractions, every, _CROP)
    begin, end = truth[which].chunk(2, 1)
    scale = _CROP / (end - begin + 1e-8)
    low, high = (boxes[:, :2] - begin) * scale + 2, (boxes[:, 2:] - begin) * scale + 2
    half = (high - low) / (2 * side)
    middles = torch.cat((low + half, high - half), 1) / (_CROP + 3)
    return crop_and_resize(F.pad(small, (2,) * 4), middles, which, side)[:, 0]


def cut(masks: Cutouts, which: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The bitmap from whole pixel to whole pixel, resized to `side` × `side`: 1 where it is nothing but object.

    maskrcnn-benchmark's `BinaryMaskList` (`structures/segmentation_mask.py`) resizes bilinearly, and what is below 1
    falls to 0 as it becomes bytes again.
    """
    planes, (height, width) = _planes(masks, boxes.device), masks.size
    result = boxes.new_zeros(len(boxes), side, side)
    for answer, instance, box in zip(result, which.tolist(), boxes.tolist(), strict=True):
        x1, y1, x2, y2 = map(round, box)
        left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        right, bottom = max(min(x2, width), left + 1), max(min(y2, height), top + 1)
        part = planes[instance, None, :, top:bottom, left:right]
        resized = F.interpolate(part, (side, side), mode="bilinear", align_corners=False)[0, 0]
        answer.copy_(resized > 1 - 1e-6)  # weights of neighbours add up to 1 but for rounding
    return result


def resized(masks: Cutouts, which: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The bitmap between the corners of a box, rounded to whole pixels, as OpenCV resizes it, above 0.5.

    A box that rounds to nothing, at which chainer-mask-rcnn stops, has an empty mask.
    """
    planes, (height, width) = _planes(masks, boxes.device)[:, 0], masks.size
    corners = boxes.round().long().minimum(which.new_tensor((width, height) * 2)).clamp(min=0)
    lengths = (corners[:, 2:] - corners[:, :2])[:, :, None]
    low = corners[:, :2].minimum(which.new_tensor((width - 1, height - 1)))[:, :, None]
    centres = torch.arange(side, dtype=torch.float64, device=boxes.device) + 0.5
    # OpenCV's places are rounded to float32, which makes halves of what is nearly half
    place = (centres * (lengths.double() / side) - 0.5).float().clamp(min=0).minimum(lengths - 1).clamp(min=0)
    first = place.long()
    right, below = (place - first).unbind(1)
    x1, y1 = (low + first).unbind(1)
    x2, y2 = (low + (first + 1).minimum(lengths - 1).clamp(min=0)).unbind(1)

    def row(y: Tensor) -> Tensor:
        before, after = (planes[which[:, None, None], y[:, :, None], x[:, None]] for x in (x1, x2))
        return before * (1 - right[:, None]) + after * right[:, None]

    found = row(y1) * (1 - below[:, :, None]) + row(y2) * below[:, :, None]
    return ((found > 0.5) & (lengths > 0).all(1)[:, None]).float()


def cut_out(masks: Cutouts, which: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The bitmap in the pixels from the first corner of a box to the last one, both cut to whole numbers and part of
    it, resized as OpenCV resizes grey levels, 0 or 1 (`mask_target.py` of mmdet 1.2.0)."""
    height, width = masks.size
    result = np.zeros((len(boxes), side, side, 1), np.float32)
    last = np.array((width, height, width, height)) - 1
    corners = boxes.cpu().numpy().clip(0, last).astype(np.int64).tolist()
    for index, (instance, (left, top, right, bottom)) in enumerate(zip(which.tolist(), corners, strict=True)):
        first_row, first_column, last_row, last_column = masks.windows[instance]
        plane = np.zeros((height, width, 1), np.uint8)
        plane[first_row:last_row, first_column:last_column, 0] = masks.parts[instance]
        result[index] = resize.opencv(plane[top : max(bottom, top) + 1, left : max(right, left) + 1], (side, side))
    return torch.from_numpy(result[..., 0]).to(boxes.device)


def drawn(polygons: "Polygons", which: Tensor, boxes: Tensor, side: int, *, least: float) -> Tensor:
    """The polygon drawn at `side` × `side` by COCO's own tools; no side of a box counts less than `least`."""
    from faster_coco_eval import mask as coco_mask  # imported here: only polygon training needs it

    result = np.zeros((len(boxes), side, side), np.float32)
    for index, (instance, (x1, y1, x2, y2)) in enumerate(
        zip(which.tolist(), boxes.double().cpu().tolist(), strict=True)
    ):
        scale = np.array((side / max(x2 - x1, least), side / max(y2 - y1, least)))
        parts = [((part.reshape(-1, 2) - (x1, y1)) * scale).ravel() for part in polygons[instance]]
        encoded = coco_mask.merge(coco_mask.frPyObjects([part.tolist() for part in parts], side, side))
        result[index] = coco_mask.decode(encoded)
    return torch.from_numpy(result).to(boxes.device)


def _planes(masks: Cutouts, device: torch.device) -> Tensor:
    """Masks on their whole picture, float32 [N, 1, height, width], laid together on the device."""
    pixels = sent(torch.from_numpy(masks.pixels()), device)
    ends = np.cumsum([part.size for part in masks.parts]).tolist()
    planes = torch.zeros((len(masks), 1, *masks.size), device=device)
    for plane, (top, left, bottom, right), part, end in zip(planes, masks.windows, masks.parts, ends, strict=True):
        plane[0, top:bottom, left:right] = pixels[end - part.size : end].view(part.shape)
    return planes
