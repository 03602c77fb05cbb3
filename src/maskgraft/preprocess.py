"""From a photograph to the network's input and back, as the home framework does it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from maskgraft.errors import Finding, UsageError
from maskgraft.images import load_image, rgb_from_pil
from maskgraft.spec import Numerics

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image as the network takes it, before padding to a batch.

    `pixels` float32 [3, h, w], normalised, in the model's channel order. `original` is the photograph's
    (height, width).
    """

    pixels: Tensor
    original: Size

    @property
    def size(self) -> Size:
        """Height and width of the resized image, without padding."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def to_network(self, boxes: Tensor) -> Tensor:
        """Boxes [N, 4] in pixels of the photograph, in pixels of the network's input."""
        return boxes * _ratios(self.original, self.size, boxes)

    def to_original(self, boxes: Tensor) -> Tensor:
        """Boxes [N, 4] in pixels of the network's input, in pixels of the photograph."""
        return boxes * _ratios(self.size, self.original, boxes)


def _ratios(before: Size, after: Size, like: Tensor) -> Tensor:
    y, x = after[0] / before[0], after[1] / before[1]
    return torch.tensor((x, y, x, y), dtype=torch.float32, device=like.device)


def network_size(original: Size, numerics: Numerics) -> Size:
    """Height and width after resizing: the short side becomes `min_size`, unless the long one would pass `max_size`."""
    short, long = min(original), max(original)
    if numerics.size_rounding == "floor":
        scale = min(numerics.min_size / short, numerics.max_size / long)
        return floor(original[0] * scale), floor(original[1] * scale)
    scale = numerics.min_size / short
    height, width = (
        (numerics.min_size, scale * original[1])
        if original[0] < original[1]
        else (scale * original[0], numerics.min_size)
    )
    if max(height, width) > numerics.max_size:
        scale = numerics.max_size / max(height, width)
        height, width = height * scale, width * scale
    return int(height + 0.5), int(width + 0.5)


def prepare(image: npt.NDArray[np.uint8], numerics: Numerics) -> Prepared:
    """Resize and normalise a photograph, uint8 [H, W, 3] RGB.

    The order of the two, the interpolation and the rounding are the home framework's (`Numerics`).
    """
    original = (image.shape[0], image.shape[1])
    size = network_size(original, numerics)
    if not numerics.normalise_first:
        image = _resize_grey_levels(image, size)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
    if numerics.channel_order == "bgr":
        pixels = pixels.flip(0)
    if numerics.pixel_scale == 1 / 255:
        pixels = pixels / 255  # as the home frameworks do it; a product would round differently
    elif numerics.pixel_scale != 1:
        pixels = pixels * numerics.pixel_scale
    mean, std = torch.tensor(numerics.pixel_mean), torch.tensor(numerics.pixel_std)
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    if numerics.normalise_first:
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
    return Prepared(pixels, original)


def _resize_grey_levels(image: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def stack(prepared: Sequence[Prepared], multiple: int) -> Tensor:
    """A batch [B, 3, H, W]: every image at the top left, zeros to the common size, a multiple of `multiple`."""
    height = ceil(max(one.size[0] for one in prepared) / multiple) * multiple
    width = ceil(max(one.size[1] for one in prepared) / multiple) * multiple
    batch = torch.zeros(len(prepared), 3, height, width)
    for page, one in zip(batch, prepared, strict=True):
        page[:, : one.size[0], : one.size[1]] = one.pixels
    return batch


def resize_masks(masks: Tensor, size: Size) -> Tensor:
    """Bool masks [N, H, W] at another size, by the nearest pixel."""
    if not len(masks):
        return torch.zeros((0, *size), dtype=torch.bool)
    return F.interpolate(masks[:, None].float(), size=size, mode="nearest")[:, 0].bool()


def as_rgb(image: Any) -> npt.NDArray[np.uint8]:
    """A path, a PIL image, or an array as uint8 [H, W, 3] RGB; EXIF orientation is applied to files and PIL images.

    Raises `DataError` for a file that is no image, `UsageError` for an array of another type or shape.
    """
    if isinstance(image, Image.Image):
        return rgb_from_pil(image)
    if isinstance(image, str | Path):
        return load_image(image)
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return array
    given = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(image).__name__
    raise UsageError(
        Finding("data.image", "error", f"an image is a path, a PIL image or uint8 [H, W, 3] RGB, not {given}")
    )
