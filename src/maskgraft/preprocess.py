"""From a photograph to the network's input and back, as the home framework does it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor, prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from maskgraft import resize
from maskgraft.errors import Finding, UsageError
from maskgraft.images import load_image, rgb_from_pil
from maskgraft.spec import Numerics

Size = tuple[int, int]
Window = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image as the network takes it, before padding to a batch.

    `pixels` float32 [3, h, w], normalised, in the model's channel order. `original` is the photograph's
    (height, width), and `window` where it lies in the pixels: top, left, bottom, right. `scale` (y, x) takes lengths of
    the photograph to lengths of the pixels. `corners`: coordinates run from pixel to pixel (`Numerics.corner_boxes`).
    `fractions`: boxes come back as fractions of the pixels (`Numerics.box_scale`).
    """

    pixels: Tensor
    original: Size
    window: Window
    scale: tuple[float, float]
    corners: bool = False
    fractions: bool = False

    @property
    def size(self) -> Size:
        """Height and width of the pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    @property
    def unrounded(self) -> tuple[float, float]:
        """Height and width of the photograph, scaled, before they are whole pixels."""
        return self.original[0] * self.scale[0], self.original[1] * self.scale[1]

    def to_network(self, boxes: Tensor) -> Tensor:
        """Boxes [N, 4] in pixels of the photograph, in pixels of the network's input."""
        y, x = self.scale
        return (boxes - _quad(boxes, 0, 0, self.corners, self.corners)) * _quad(boxes, x, y, x, y) + self._origin(boxes)

    def to_original(self, boxes: Tensor) -> Tensor:
        """Boxes [N, 4] in pixels of the network's input, in pixels of the photograph."""
        if self.fractions:
            top, left, bottom, right = self.window
            y, x = 1 / (bottom - top), 1 / (right - left)
            rows, columns = self.original
            return (boxes - self._origin(boxes)) * _quad(boxes, x, y, x, y) * _quad(boxes, columns, rows, columns, rows)
        y, x = self.scale
        moved = (boxes - self._origin(boxes)) * _quad(boxes, 1 / x, 1 / y, 1 / x, 1 / y)
        return moved + _quad(boxes, 0, 0, self.corners, self.corners)

    def stretched(self, boxes: Tensor) -> Tensor:
        """Boxes [N, 4] in pixels of the network's input, where fractions of the photograph are taken for fractions of
        the page that pads it, as `FasterRCNNMetaArch._predict_third_stage` does."""
        (height, width), (_, _, bottom, right) = self.size, self.window
        return boxes * _quad(boxes, width / right, height / bottom, width / right, height / bottom)

    def _origin(self, like: Tensor) -> Tensor:
        top, left = self.window[:2]
        return _quad(like, left, top, left, top)


def _quad(like: Tensor, *values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)


def network_scale(original: Size, numerics: Numerics) -> float:
    """By how much a photograph is to grow, before its sides are whole pixels."""
    if numerics.min_size == 0 and not numerics.enlarge_only:
        return 1.0
    scale = numerics.min_size / min(original)
    if numerics.enlarge_only:
        scale = max(1.0, scale)
    scale = max(scale, numerics.least_scale)
    return numerics.max_size / max(original) if scale * max(original) > numerics.max_size else scale


def network_size(original: Size, numerics: Numerics) -> Size:
    """Height and width after resizing: the short side becomes `min_size`, unless the long one would pass `max_size`.

    A side of less than a pixel, at which the home frameworks stop, is one.
    """
    height, width = _rounded_size(original, numerics)
    return max(height, 1), max(width, 1)


def _rounded_size(original: Size, numerics: Numerics) -> Size:
    short, long = min(original), max(original)
    if numerics.fixed_size is not None:
        if numerics.fixed_fit == "stretch":
            return numerics.fixed_size
        sides = zip(numerics.fixed_size, original, strict=True)
        return _rounded_as_floats(original, min(np.float32(wanted) / np.float32(side) for wanted, side in sides))
    if numerics.min_size == 0 and not numerics.enlarge_only:
        return original
    if numerics.size_rounding == "even-float":
        large = _rounded_as_floats(original, np.float32(numerics.min_size) / np.float32(short))
        if max(large) <= numerics.max_size:
            return large
        return _rounded_as_floats(original, np.float32(numerics.max_size) / np.float32(long))
    if numerics.size_rounding == "floor":
        scale = min(numerics.min_size / short, numerics.max_size / long)
        return floor(original[0] * scale), floor(original[1] * scale)
    if numerics.size_rounding == "both-round":
        scale = network_scale(original, numerics)
        return int(original[0] * scale + 0.5), int(original[1] * scale + 0.5)
    if numerics.size_rounding == "even":
        scale = network_scale(original, numerics)
        return round(original[0] * scale), round(original[1] * scale)
    if numerics.size_rounding == "long-floor":
        side = numerics.min_size
        if long / short * side > numerics.max_size:
            side = round(numerics.max_size * short / long)
        return side * original[0] // short, side * original[1] // short
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


def _rounded_as_floats(original: Size, scale: np.float32) -> Size:
    """Both sides times `scale`, rounded half to even, all in float32."""
    height, width = (int(np.rint(np.float32(side) * scale)) for side in original)
    return height, width


def prepare(image: npt.NDArray[np.uint8], numerics: Numerics) -> Prepared:
    """Resize and normalise a photograph, uint8 [H, W, 3] RGB.

    The order of the two, the interpolation and the rounding are the home framework's (`Numerics`).
    """
    original = (image.shape[0], image.shape[1])
    size = network_size(original, numerics)
    resized = image if numerics.normalise_first else _resized(image, size, numerics)
    # The channels stay side by side, as the photograph has them: torch resizes them so in half the time.
    ordered = resized[:, :, ::-1] if numerics.channel_order == "bgr" else resized
    lines = np.array(ordered, np.float32).reshape(ordered.shape[0], -1)
    if numerics.pixel_scale == 1 / 255:
        lines /= np.float32(255)  # as the home frameworks do it; a product would round differently
    elif numerics.pixel_scale != 1:
        lines *= np.float32(numerics.pixel_scale)
    mean, std = np.array(numerics.pixel_mean, np.float32), np.array(numerics.pixel_std, np.float32)
    lines -= np.tile(mean, ordered.shape[1])
    lines /= np.tile(std, ordered.shape[1])
    pixels = torch.from_numpy(lines.reshape(ordered.shape)).permute(2, 0, 1)
    if numerics.normalise_first and numerics.resize == "torch":
        pixels = _bilinear(pixels, size)
    elif numerics.normalise_first:
        floats = resize.tensorflow(pixels.permute(1, 2, 0).numpy(), size, centred=numerics.resize == "tensorflow")
        pixels = torch.from_numpy(np.ascontiguousarray(floats.transpose(2, 0, 1)))
    top, left = 0, 0
    if numerics.pad_square or numerics.pad_centred or numerics.pad_black or numerics.fixed_size is not None:
        outside = torch.from_numpy(-mean / std) if numerics.pad_black else torch.zeros(3)
        pixels, top, left = _padded(pixels, outside, numerics)
    height, width = original
    match numerics.box_scale:
        case "sides" | "fractions":
            less = numerics.corner_boxes
            (rows, height), (columns, width) = (
                (max(after - less, 1), max(before - less, 1)) for after, before in zip(size, original, strict=True)
            )
            scale = rows / height, columns / width
            window = (top, left, top + size[0], left + size[1])
        case "factor":  # the photograph ends where its scaled edge lies, and not with the last whole pixel
            scale = (network_scale(original, numerics),) * 2
            window = (top, left, top + height * scale[0], left + width * scale[1])
        case "mean":
            scale = (sqrt(size[0] / height * size[1] / width),) * 2
            window = (top, left, top + size[0], left + size[1])
    return Prepared(pixels, original, window, scale, numerics.corner_boxes, fractions=numerics.box_scale == "fractions")


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, whatever else there is: torch's resizing rounds otherwise where several meet, by up to 1e-4."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _bilinear(pixels: Tensor, size: Size) -> Tensor:
    """Pixels [3, h, w] at another size as torchvision resizes them, the same bits for any number of threads."""
    # a batch of one by strides that say whether the channels lie side by side, which `pixels[None]` leaves open
    page = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    with one_thread():
        return F.interpolate(page, size=size, mode="bilinear", align_corners=False)[0]


def resized(image: npt.NDArray[np.uint8], numerics: Numerics) -> npt.NDArray[np.float32]:
    """A photograph, uint8 [H, W, 3] RGB, as the home framework resizes it: float32 [h, w, 3] RGB 0..255.

    What an exported graph takes (`mg.export`).
    """
    size = network_size((image.shape[0], image.shape[1]), numerics)
    if numerics.resize == "torch":
        pixels = _bilinear(torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1), size)
        return np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0))
    return np.ascontiguousarray(_resized(image, size, numerics), dtype=np.float32)


def _resized(image: npt.NDArray[np.uint8], size: Size, numerics: Numerics) -> npt.NDArray[Any]:
    match numerics.resize:
        case "pil":
            return resize.pil(image, size)
        case "opencv":
            return resize.opencv(image, size)
        case "opencv-factor":
            return resize.opencv(image, size, factor=network_scale((image.shape[0], image.shape[1]), numerics))
        case "opencv-cubic":
            return resize.opencv_cubic(image, network_scale((image.shape[0], image.shape[1]), numerics))
        case "opencv-float":
            return resize.opencv_float(image, network_scale((image.shape[0], image.shape[1]), numerics))
        case "skimage":
            return resize.skimage(image, size)
        case "tensorflow" | "tensorflow-1":
            return resize.tensorflow(image, size, centred=numerics.resize == "tensorflow")
        case "tensorflow-1-nearest":
            return resize.tensorflow_nearest(image, size)
        case "tensorflow-1-cubic":
            return resize.tensorflow_cubic(image, size)
        case "tensorflow-1-area":
            return resize.tensorflow_area(image, size)
        case "torch":
            raise UsageError(Finding("spec.field", "error", "numerics: torch resizes after normalising only"))


def _padded(pixels: Tensor, outside: Tensor, numerics: Numerics) -> tuple[Tensor, int, int]:
    """The pixels on a larger page of the colour `outside` [3], and how far from its top and left they lie."""
    height, width = pixels.shape[1:]
    if numerics.fixed_size is not None:
        rows, columns = numerics.fixed_size
    elif numerics.pad_square:
        rows = columns = max(numerics.max_size, height, width)
    else:
        rows, columns = (ceil(side / numerics.pad_multiple) * numerics.pad_multiple for side in (height, width))
    top, left = ((rows - height) // 2, (columns - width) // 2) if numerics.pad_centred else (0, 0)
    page = outside[:, None, None].repeat(1, rows, columns)
    page[:, top : top + height, left : left + width] = pixels
    return page, top, left


def stack(prepared: Sequence[Prepared], multiple: int, *, shared: bool = False) -> Tensor:
    """A batch [B, 3, H, W]: every image at the top left, zeros to the common size, a multiple of `multiple`.

    `shared`: in memory that other processes can be given without a copy.
    """
    height = ceil(max(one.size[0] for one in prepared) / multiple) * multiple
    width = ceil(max(one.size[1] for one in prepared) / multiple) * multiple
    shape = len(prepared), 3, height, width
    if shared:
        memory = torch.UntypedStorage._new_shared(4 * prod(shape))  # type: ignore[no-untyped-call]
        batch = torch.empty(0).set_(memory, 0, shape, (3 * height * width, 1, 3 * width, 3))
    else:
        batch = torch.empty(shape, memory_format=torch.channels_last)
    for page, one in zip(batch, prepared, strict=True):
        rows, columns = one.size
        page[:, :rows, :columns] = one.pixels
        page[:, rows:] = 0
        page[:, :rows, columns:] = 0
    return batch


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
