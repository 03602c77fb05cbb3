"""Resizing, one function a library: they differ in grey levels, and a network notices.

Every function takes a photograph, uint8 [H, W, C], and samples at pixel centres: pixel i of the result lies at
(i + ½) · step - ½ of the source, where the step is before / after. Only TensorFlow 1 does not.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskgraft import skimage_grid

Size = tuple[int, int]
Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Real = TypeVar("Real", np.float32, np.float64)


def pil(image: Grey, size: Size) -> Grey:
    """Pillow's `BILINEAR` at `size` (height, width), which averages over all covered pixels when it shrinks."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def skimage(image: Grey, size: Size) -> Grey:
    """scikit-image's `resize(order=1, mode="constant", anti_aliasing=False)` up to 0.18, cut to whole grey levels.

    Beyond the image all is black, so that its rim darkens when it grows; no value leaves the range of the image
    (`clip`). The last bits of the positions (`skimage_grid`) decide whether a whole grey level is cut to itself or to
    the level below: scikit-image's versions differ from each other by one level at up to 1 % of the pixels. An image
    that has the size already is not sampled again.
    """
    if image.shape[:2] == size:
        return image
    return _skimage_values(image, size).clip(image.min(), image.max()).astype(np.uint8)


def skimage_mask(mask: npt.NDArray[np.bool_], size: Size) -> npt.NDArray[np.bool_]:
    """A mask [h, w] as scikit-image resizes it (`skimage`), cut at 0.5, which is no part of it itself."""
    return _skimage_values(mask[:, :, None], size)[:, :, 0] > 0.5


def _skimage_values(image: Grey | npt.NDArray[np.bool_], size: Size) -> npt.NDArray[np.float64]:
    rows, columns = skimage_grid.grid((image.shape[0], image.shape[1]), size)
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    (top, y), (left, x) = ((np.floor(at).astype(np.int64) + 1, at - np.floor(at)) for at in (rows, columns))
    across, down = x[:, None], y[:, None, None]
    wide = (1 - across) * padded[:, left] + across * padded[:, left + 1]
    values: npt.NDArray[np.float64] = (1 - down) * wide[top] + down * wide[top + 1]
    return values


def opencv(image: Grey, size: Size, *, factor: float | None = None) -> Grey:
    """OpenCV's `INTER_LINEAR` on uint8 at `size` (height, width): weights of 11 bits, sums of 22 (`resize.cpp`).

    With a `factor`, its `fx = fy = factor`: the step is 1 / `factor`, whatever was rounded of the size. An image that
    has the size already is not sampled again, here and below, whatever the factor.
    """
    if image.shape[:2] == size:
        return image
    (top, bottom, y), (left, right, x) = (
        _inside(before, after, 1 / (factor or after / before), np.float32)
        for before, after in zip(image.shape[:2], size, strict=True)
    )
    x[left == right] = 0
    before, after = (np.rint(part * 2048).astype(np.int32)[:, None] for part in (1 - x, x))
    wide = (image[:, left] * before + image[:, right] * after) >> 4
    upper, lower = (np.rint(part * 2048).astype(np.int32)[:, None, None] for part in (1 - y, y))
    values = ((wide[top] * upper) >> 16) + ((wide[bottom] * lower) >> 16)  # each half is cut by itself, equal or not
    return ((values + 2) >> 2).astype(np.uint8)


def opencv_cubic(image: Grey, factor: float) -> Grey:
    """OpenCV's `INTER_CUBIC` on uint8 with `fx = fy = factor`, as its wheels compute it on Intel's processors (IPP).

    The size is each side times `factor`, rounded (half to even) and at least 1; the step is 1 / `factor`, whatever was
    rounded. Sums are float32 with fused products, and their order is that of IPP 2021 with AVX-512; with AVX2 or SSE it
    is another, by which 1 pixel of 100 000 is one level off. Builds without IPP have weights of 11 bits, and are one
    level off at 4 % of the pixels.
    """
    size = _times(image, factor)
    if image.shape[:2] == size:
        return image
    sides = list(zip(image.shape[:2], size, strict=True))
    warped = any(abs(after / before - factor) > 1e-10 * factor for before, after in sides)  # else IPP resizes
    at_once = warped and factor < 2 / 3  # 4 × 4 pixels are gathered for each of the result
    down, across = (_cubic(*side, 1 / factor, at_once=at_once) for side in sides)
    values = (_columns_first if at_once else _rows_first)(image, down, across)
    return np.rint(values).clip(0, 255).astype(np.uint8)


Taps = tuple[Indices, Floats]  # the four neighbours of each sample and their weights, [4, after] both


def _rows_first(image: Grey, down: Taps, across: Taps) -> Floats:
    """Along each row one neighbour after another, then two pairs of rows."""
    one, two, three, four = ((image.take(taken, 1), weight[:, None]) for taken, weight in zip(*across, strict=True))
    wide = _fused(four, _fused(three, _fused(two, _product(one))))
    one, two, three, four = ((wide.take(taken, 0), weight[:, None, None]) for taken, weight in zip(*down, strict=True))
    return _fused(one, _product(two)) + _fused(three, _product(four))


def _columns_first(image: Grey, down: Taps, across: Taps) -> Floats:
    """Down each column one neighbour after another, then two pairs of columns."""
    one, two, three, four = ((image.take(taken, 0), weight[:, None, None]) for taken, weight in zip(*down, strict=True))
    high = _fused(four, _fused(three, _fused(two, _product(one))))
    one, two, three, four = ((high.take(taken, 1), weight[:, None]) for taken, weight in zip(*across, strict=True))
    return _fused(one, _product(two)) + _fused(four, _product(three))


def _product(part: tuple[npt.NDArray[Any], Floats]) -> Floats:
    pixels, weight = part
    return pixels * weight


def _fused(part: tuple[npt.NDArray[Any], Floats], added: Floats) -> Floats:
    """pixels · weight + added, rounded to float32 once."""
    pixels, weight = part
    result: Floats = (pixels * weight.astype(np.float64) + added).astype(np.float32)
    return result


def _cubic(before: int, after: int, step: float, *, at_once: bool) -> Taps:
    """Keys' kernel with a = -¾ at each sample; beyond the image its last pixel goes on.

    The place between two pixels is float32. With `at_once` weights are float32 after each operation; else the place is
    rounded once more after 1 is added to it, and the weights at the end.
    """
    at = (np.arange(after) + 0.5) * step - 0.5
    first = np.floor(at).astype(np.int64)
    place = (at - first).astype(np.float32)
    taken = (first + np.arange(-1, 3)[:, None]).clip(0, before - 1)
    if not at_once:
        place = place + np.float32(1) - np.float32(1)
        return taken, np.stack(_keys(place.astype(np.float64))).astype(np.float32)
    weights = np.zeros((4, after), np.float32)
    for power in _POWERS:
        weights = (weights.astype(np.float64) * place + np.array(power)[:, None]).astype(np.float32)
    return taken, weights


# Keys' kernel with a = -¾ as polynomials of the place between the second and the third pixel: from its cube down.
_POWERS = ((-0.75, 1.25, -1.25, 0.75), (1.5, -2.25, 1.5, -0.75), (-0.75, 0, 0.75, 0), (0, 1, 0, 0))


def _times(image: Grey, factor: float) -> Size:
    """Height and width times `factor`, rounded half to even and at least 1."""
    return max(round(image.shape[0] * factor), 1), max(round(image.shape[1] * factor), 1)


def opencv_float(image: Grey, factor: float) -> Floats:
    """OpenCV's `INTER_LINEAR` on float32 with `fx = fy = factor`.

    The size is each side times `factor`, rounded (half to even) and at least 1; the step is 1 / `factor`, whatever was
    rounded.
    """
    size = _times(image, factor)
    if image.shape[:2] == size:
        return image.astype(np.float32)
    (top, bottom, y), (left, right, x) = (
        _inside(before, after, 1 / factor, np.float64) for before, after in zip(image.shape[:2], size, strict=True)
    )
    across, down = x[:, None], y[:, None, None]
    wide = image[:, left].astype(np.float32) * (1 - across) + image[:, right].astype(np.float32) * across
    values = wide[top] * (1 - down) + wide[bottom] * down
    return values.astype(np.float32, copy=False)


def tensorflow(image: Grey | Floats, size: Size, *, centred: bool) -> Floats:
    """TensorFlow's `resize_bilinear` at `size` (height, width), without antialiasing, in its order of operations.

    `centred` is `half_pixel_centers`, as in `tf.image.resize` of TensorFlow 2. Without it, as in TensorFlow 1, pixel i
    of the result lies at i · step: the first pixels of both images coincide and the picture shifts.
    """
    values = image.astype(np.float32)
    (top, bottom, y), (left, right, x) = (
        _as_tensorflow(before, after, centred=centred) for before, after in zip(image.shape[:2], size, strict=True)
    )
    across, down = x[:, None], y[:, None, None]
    wide = values[:, left] + (values[:, right] - values[:, left]) * across
    result: Floats = wide[top] + (wide[bottom] - wide[top]) * down
    return result


def tensorflow_nearest(image: Grey, size: Size) -> Floats:
    """TensorFlow 1's `resize_nearest_neighbor`: the pixel at or before i · step (`resize_nearest_neighbor_op.cc`)."""
    rows, columns = (
        np.minimum(np.floor(_steps(before, after)).astype(np.int64), before - 1)
        for before, after in zip(image.shape[:2], size, strict=True)
    )
    result: Floats = image[rows[:, None], columns].astype(np.float32)
    return result


def tensorflow_cubic(image: Grey, size: Size) -> Floats:
    """TensorFlow 1's `resize_bicubic`: Keys' kernel with a = -¾ at i · step, in a table of 1024 places between two
    pixels; beyond the image its last pixel goes on (`resize_bicubic_op.cc`)."""
    values = image.astype(np.float32)
    for axis, (before, after) in enumerate(zip(image.shape[:2], size, strict=True)):
        at = _steps(before, after)
        first = np.floor(at)
        place = np.rint((at - first) * np.float32(1024)) / np.float32(1024)
        taken = [(first.astype(np.int64) + shift - 1).clip(0, before - 1) for shift in range(4)]
        values = _weighted(values, axis, zip(taken, _keys(place), strict=True))
    return values


def tensorflow_area(image: Grey, size: Size) -> Floats:
    """TensorFlow's `resize_area`: the mean of the source that lies under each pixel (`resize_area_op.cc`)."""
    values = image.astype(np.float32)
    for axis, (before, after) in enumerate(zip(image.shape[:2], size, strict=True)):
        step = np.float32(before) / np.float32(after)
        low, high = _steps(before, after), np.arange(1, after + 1, dtype=np.float32) * step
        first = np.floor(low).astype(np.int64)
        parts = []
        for pixel in range(int((np.ceil(high) - first).max())):
            start, end = ((first + pixel + more).astype(np.float32) for more in (0, 1))
            covered = np.where((start < low) & (end > high), step, np.minimum(end, high) - np.maximum(start, low))
            parts.append(((first + pixel).clip(0, before - 1), (covered.clip(0) / step).astype(np.float32)))
        values = _weighted(values, axis, parts)
    return values


def _weighted(values: Floats, axis: int, parts: Iterable[tuple[Indices, Floats]]) -> Floats:
    """The sum of pixels along an axis, 0 or 1, each with its weight."""
    shape = (-1, 1, 1) if axis == 0 else (-1, 1)
    result = np.zeros((1, 1, 1), np.float32)
    for taken, weight in parts:
        result = result + values.take(taken, axis) * weight.reshape(shape)
    return result


def _keys(place: npt.NDArray[Real]) -> tuple[npt.NDArray[Real], ...]:
    """Weights of four pixels, for places 0..1 between the second and the third: Keys' kernel with a = -¾."""
    near = np.stack((place, 1 - place))
    far = near + 1
    inner = (1.25 * near - 2.25) * near**2 + 1
    outer = -0.75 * (((far - 5) * far + 8) * far - 4)
    return outer[0], inner[0], inner[1], outer[1]


def _steps(before: int, after: int) -> Floats:
    """Where the pixels of the result lie in the source as TensorFlow 1 has it: i · before / after, in float32."""
    return np.arange(after, dtype=np.float32) * (np.float32(before) / np.float32(after))


def _as_tensorflow(before: int, after: int, *, centred: bool) -> tuple[Indices, Indices, Floats]:
    """As `_inside`, with positions rounded to float32 after each operation (`resize_bilinear_op.cc`)."""
    step, half = np.float32(before) / np.float32(after), np.float32(0.5)
    at = np.arange(after, dtype=np.float32)
    at = (at + half) * step - half if centred else at * step
    first = np.floor(at)
    lower, upper = first.astype(np.int64).clip(0), np.ceil(at).astype(np.int64).clip(0, before - 1)
    return lower, upper, at - first


def _inside(before: int, after: int, step: float, kind: type[np.floating[Any]]) -> tuple[Indices, Indices, Floats]:
    """The two neighbours of each sample and the weight of the second; beyond the image both are its last pixel."""
    at = ((np.arange(after) + 0.5) * step - 0.5).astype(kind)
    first = np.floor(at).astype(np.int64)
    return first.clip(0, before - 1), (first + 1).clip(0, before - 1), (at - first).astype(np.float32)
