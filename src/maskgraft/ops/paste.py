"""From mask probabilities in a box to a mask on the image."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from maskgraft.ops.pooling import crop_and_resize


def paste(
    probabilities: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    *,
    method: Literal["grid-sample", "integer-box", "whole-box", "skimage-box", "crop", "centre-box"],
    threshold: float,
) -> Tensor:
    """Masks on the image: probabilities [N, m, m] in `boxes` [N, 4] to bool [N, height, width].

    "grid-sample" (Detectron2, MMDetection) reads the probability at the centre of each pixel and keeps those at or
    above the threshold. "integer-box" (torchvision, Detectron) pads the mask by one, grows the box alike, cuts it to
    whole pixels, resizes the mask to it and keeps those above the threshold; "whole-box" (MMDetection 1) does the same
    without growing. "skimage-box" (Matterport) resizes the mask to a box of whole pixels, where it fades towards its
    rim, and keeps those at or above the threshold. "crop" (TF Object Detection API) takes the image for a region of the
    mask, and reads it as features of regions are read, from edge to edge. "centre-box" (Tensorpack, where it is to be
    fast) resizes the mask to the pixels whose centres lie in the box, and keeps those above the threshold.
    """
    masks = torch.zeros((len(boxes), *size), dtype=torch.bool, device=boxes.device)
    one = {
        "grid-sample": _at_pixel_centres,
        "integer-box": _in_grown_box,
        "whole-box": _in_whole_pixels,
        "skimage-box": _as_skimage,
        "crop": _as_crop,
        "centre-box": _in_pixels_of_centres,
    }[method]
    for mask, probability, box in zip(masks, probabilities.float(), boxes.float(), strict=True):
        one(mask, probability, box, threshold)
    return masks


def _at_pixel_centres(mask: Tensor, probability: Tensor, box: Tensor, threshold: float) -> None:
    height, width = mask.shape
    x1, y1, x2, y2 = box.tolist()
    left, top = max(int(x1) - 1, 0), max(int(y1) - 1, 0)
    right, bottom = min(int(x2) + 2, width), min(int(y2) + 2, height)
    if right <= left or bottom <= top:
        return
    y = (torch.arange(top, bottom, device=box.device) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    x = (torch.arange(left, right, device=box.device) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    values = F.grid_sample(probability[None, None], torch.stack((x, y), 2)[None], align_corners=False)
    mask[top:bottom, left:right] = values[0, 0] >= threshold


def _in_grown_box(mask: Tensor, probability: Tensor, box: Tensor, threshold: float) -> None:
    side = probability.shape[-1]
    scale = (side + 2) / side
    half_width, half_height = (box[2] - box[0]) * 0.5 * scale, (box[3] - box[1]) * 0.5 * scale
    centre_x, centre_y = (box[2] + box[0]) * 0.5, (box[3] + box[1]) * 0.5
    edges = torch.stack((centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height))
    _in_whole_pixels(mask, F.pad(probability, (1, 1, 1, 1)), edges, threshold)


def _in_whole_pixels(mask: Tensor, probability: Tensor, box: Tensor, threshold: float) -> None:
    height, width = mask.shape
    x1, y1, x2, y2 = box.to(torch.int64).tolist()
    wide, high = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, width), min(y2 + 1, height)
    if right <= left or bottom <= top:
        return
    values = F.interpolate(probability[None, None], size=(high, wide), mode="bilinear", align_corners=False)[0, 0]
    mask[top:bottom, left:right] = values[top - y1 : bottom - y1, left - x1 : right - x1] > threshold


def _in_pixels_of_centres(mask: Tensor, probability: Tensor, box: Tensor, threshold: float) -> None:
    _in_whole_pixels(mask, probability, box + box.new_tensor((0.5, 0.5, -0.5, -0.5)), threshold)


def _as_skimage(mask: Tensor, probability: Tensor, box: Tensor, threshold: float) -> None:
    height, width = mask.shape
    x1, y1, x2, y2 = box.round().to(torch.int64).tolist()
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if right <= left or bottom <= top:
        return
    # half a cell beyond the mask lies nothing, and values fade towards it; but none falls below the mask's least
    y = (torch.arange(top - y1, bottom - y1, device=box.device) + 0.5) * (2 / (y2 - y1)) - 1
    x = (torch.arange(left - x1, right - x1, device=box.device) + 0.5) * (2 / (x2 - x1)) - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    values = F.grid_sample(probability[None, None], torch.stack((x, y), 2)[None], align_corners=False)[0, 0]
    mask[top:bottom, left:right] = values.clamp(min=float(probability.min())) >= threshold


def _as_crop(mask: Tensor, probability: Tensor, box: Tensor, threshold: float) -> None:
    height, width = mask.shape
    x1, y1, x2, y2 = (box / box.new_tensor((width, height, width, height))).unbind()
    wide, high = (x2 - x1).clamp(min=1e-4), (y2 - y1).clamp(min=1e-4)
    image = torch.stack((-x1 / wide, -y1 / high, (1 - x1) / wide, (1 - y1) / high))
    only = torch.zeros(1, dtype=torch.int64, device=box.device)
    values = crop_and_resize(probability[None, None], image[None], only, (height, width), strict=False)
    mask[:] = values[0, 0] > threshold
