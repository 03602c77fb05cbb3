"""Instance masks as COCO writes them: polygons, run lengths as numbers, and run lengths packed into a string.

The packing is that of COCO's own tools (`rleToString` in cocoapi's maskApi.c): runs down the columns, nought first,
each as the difference to the run two before, in groups of five bits and a continuation bit, offset by 48.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskgraft.errors import Severity

Polygon = tuple[npt.NDArray[np.float64], ...]
Rle = Mapping[str, Any]
Segmentation = Polygon | Rle
Mask = npt.NDArray[np.bool_]
Window = tuple[int, int, int, int]  # top, left, bottom, right in whole pixels

# Beyond this many picture sizes a coordinate is a mistake, and drawing it would take memory by its distance.
_FAR = 10


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one mask. A warning leaves out the mask or the part, an error stops the reading."""

    code: str
    severity: Severity
    text: str
    detail: str = ""


_EMPTY = Fault("data.mask-empty", "warning", "annotations without a mask are left out")


def parse(value: Any, *, height: int, width: int) -> tuple[Segmentation | None, tuple[Fault, ...]]:
    """The `segmentation` of an annotation, checked against the size of its image; None when it cannot be used.

    A polygon becomes a tuple of parts, float64 [2P] as x, y, x, y … in pixels; an RLE keeps COCO's form. A mask that is
    given back has at least one pixel.
    """
    if isinstance(value, Mapping):
        return _parse_rle(value, height, width)
    if isinstance(value, list) and value:
        return _parse_polygon(value, height, width)
    return None, (_EMPTY,)


def _parse_rle(value: Mapping[str, Any], height: int, width: int) -> tuple[Rle | None, tuple[Fault, ...]]:
    size, counts = numbers(value.get("size"), 2), value.get("counts")
    if size is None or not isinstance(counts, str | bytes | list):
        return None, (Fault("data.mask", "error", "RLE masks lack counts or size"),)
    if size != [height, width]:
        shown = f"{[int(one) for one in size]} for {[height, width]}"
        return None, (Fault("data.mask-size", "error", "RLE masks have another size than their image", shown),)
    runs = whole_runs(counts) if isinstance(counts, list) else unpacked_runs(counts)
    if runs is None or (runs < 0).any() or runs.sum() != height * width:
        detail = "damaged" if runs is None else f"{runs.sum()} pixels for {height * width}"
        return None, (Fault("data.mask", "error", "RLE counts do not add up to their image", detail),)
    if not runs[1::2].any():
        return None, (_EMPTY,)
    return {"size": [height, width], "counts": runs.tolist() if isinstance(counts, list) else counts}, ()


def whole_runs(counts: list[Any]) -> npt.NDArray[np.int64] | None:
    """Run lengths given as numbers, or None when they are not whole numbers."""
    values = numbers(counts, len(counts))
    if values is None or any(one != int(one) for one in values):
        return None
    return np.array(values, np.int64)


def unpacked_runs(counts: str | bytes) -> npt.NDArray[np.int64] | None:
    """Run lengths of a packed string, or None when it is damaged."""
    try:
        codes = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, np.uint8)
    except UnicodeEncodeError:
        return None
    values = codes.astype(np.int64) - 48
    if not values.size or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        return None
    last = np.flatnonzero((values & 32) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    place = np.arange(values.size) - np.repeat(first, last - first + 1)
    if place.max() > 6:  # 35 bits: more than any picture has pixels
        return None
    runs = np.add.reduceat((values & 31) << (5 * place), first)
    runs -= np.where(values[last] & 16, np.int64(1) << (5 * (place[last] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _parse_polygon(value: list[Any], height: int, width: int) -> tuple[Polygon | None, tuple[Fault, ...]]:
    if isinstance(value[0], int | float):
        value = [value]  # one polygon without its outer list, as some tools write it
    faults: list[Fault] = []
    parts: list[npt.NDArray[np.float64]] = []
    for index, part in enumerate(value):
        points = array(part)
        if points is None or points.size % 2:
            what = "no list of numbers" if points is None else f"{points.size} coordinates"
            text = "polygons are no even list of numbers"
            return None, (*faults, Fault("data.mask", "error", text, f"part {index}: {what}"))
        if points.size < 6:
            text = "polygon parts of fewer than 3 points are left out"
            faults.append(Fault("data.mask-points", "warning", text, f"part {index}: {points.size // 2}"))
            continue
        parts.append(points)
    if not parts:
        return None, (*faults, _EMPTY)
    polygon = tuple(parts)
    left, top, right, bottom = _hull(polygon)
    far = max(-left, -top, right - width, bottom - height)
    if far > 1:
        shown = f"{left:.6g} {top:.6g} {right:.6g} {bottom:.6g} on {width} × {height}"
        if far > _FAR * max(width, height) or left >= width or top >= height or right <= 0 or bottom <= 0:
            text = "polygons lie outside their picture (x1 y1 x2 y2)"
            return None, (*faults, Fault("data.mask-outside", "error", text, shown))
        text = "polygons pass the edge of their picture and are cut (x1 y1 x2 y2)"
        faults.append(Fault("data.mask-outside", "warning", text, shown))
    if sum(map(_area, parts)) < 1 and not decoded([polygon], height, width).any():
        return None, (*faults, _EMPTY)
    return polygon, tuple(faults)


def _hull(polygon: Polygon) -> tuple[float, float, float, float]:
    points = polygon[0] if len(polygon) == 1 else np.concatenate(polygon)
    x, y = points[::2], points[1::2]
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _area(part: npt.NDArray[np.float64]) -> float:
    x, y = part[::2], part[1::2]
    around = np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:]) + x[-1] * y[0] - y[-1] * x[0]
    return abs(float(around)) / 2


def array(value: Any) -> npt.NDArray[np.float64] | None:
    """A list of finite numbers as float64, or None for anything else."""
    if not isinstance(value, list):
        return None
    try:
        values = np.array(value)
    except (ValueError, OverflowError):
        return None
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        return None
    return values.astype(np.float64)


def numbers(value: Any, length: int) -> list[float] | None:
    """A list of `length` finite numbers, or None for anything else."""
    if not isinstance(value, list) or len(value) != length:
        return None
    try:  # without numpy, which takes longer for a few
        found = [float(one) for one in value if type(one) in (int, float)]
    except OverflowError:
        return None
    return found if len(found) == length and all(map(math.isfinite, found)) else None


def extent(segmentation: Segmentation, height: int, width: int) -> tuple[float, float, float, float]:
    """The smallest box around a mask, xyxy in pixels, cut at the picture's edge."""
    if isinstance(segmentation, tuple):
        left, top, right, bottom = _hull(segmentation)
        return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    from faster_coco_eval import mask as coco_mask  # slow to import, and polygons do not need it

    x, y, wide, high = np.asarray(coco_mask.toBbox([encoded(segmentation, height, width)]), np.float64)[0].tolist()
    return x, y, x + wide, y + high


def encoded(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """A mask as COCO's packed RLE: {"size": [height, width], "counts": bytes}."""
    from faster_coco_eval import mask as coco_mask

    if isinstance(segmentation, tuple):
        merged: dict[str, Any] = coco_mask.merge(
            coco_mask.frPyObjects([part.tolist() for part in segmentation], height, width)
        )
        return merged
    counts = segmentation["counts"]
    if isinstance(counts, list):
        packed: dict[str, Any] = coco_mask.frPyObjects(dict(segmentation), height, width)
        return packed
    return {"size": list(segmentation["size"]), "counts": counts.encode() if isinstance(counts, str) else counts}


def packed(masks: Mask) -> list[dict[str, Any]]:
    """Masks [N, height, width] as COCO's packed RLE, as JSON takes it: {"size": [height, width], "counts": text}."""
    if not len(masks):
        return []
    from faster_coco_eval import mask as coco_mask

    columns = np.asfortranarray(masks.view(np.uint8).transpose(1, 2, 0))  # as runs are counted
    return [{"size": list(one["size"]), "counts": one["counts"].decode()} for one in coco_mask.encode(columns)]


def as_json(segmentation: Segmentation) -> Any:
    """A mask as plain JSON types, as COCO writes it."""
    if isinstance(segmentation, tuple):
        return [part.tolist() for part in segmentation]
    counts = segmentation["counts"]
    return {**segmentation, "counts": counts.decode() if isinstance(counts, bytes) else counts}


def decoded(masks: Sequence[Segmentation], height: int, width: int) -> Mask:
    """Masks as bool [N, height, width], drawn as COCO's own tools draw them; column by column in memory, as theirs."""
    if not masks:
        return np.zeros((0, height, width), np.bool_)
    from faster_coco_eval import mask as coco_mask

    drawn: Mask = coco_mask.decode([encoded(one, height, width) for one in masks]).view(np.bool_).transpose(2, 0, 1)
    return drawn


def window_of(mask: Mask) -> Window:
    """The smallest window that holds all of a mask, bool [height, width]; (0, 0, 0, 0) where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def cut(mask: Segmentation, height: int, width: int) -> tuple[Window, Mask]:
    """The smallest window that holds all of a mask, and what lies in it: pixel for pixel as `decoded` draws it.

    A mask without a pixel has the window (0, 0, 0, 0).
    """
    runs = unpacked_runs(encoded(mask, height, width)["counts"])
    if runs is None or not runs[1::2].any():
        return (0, 0, 0, 0), np.zeros((0, 0), np.bool_)
    ends = np.cumsum(runs)
    begins, ends = ends[: len(runs) // 2 * 2 : 2], ends[1::2]
    begins, lasts = (one[ends > begins] for one in (begins, ends - 1))
    (first_column, first_row), (last_column, last_row) = divmod(begins, height), divmod(lasts, height)
    left, right = int(first_column[0]), int(last_column[-1]) + 1
    # a run that goes on in the next column has the lowest row of its own and the highest of that one
    whole = bool((first_column != last_column).any())
    top, bottom = (0, height) if whole else (int(first_row.min()), int(last_row.max()) + 1)
    edges = np.zeros(2 * len(begins) + 2, np.int64)
    edges[1:-1:2] = (first_column - left) * (bottom - top) + first_row - top
    edges[2:-1:2] = (last_column - left) * (bottom - top) + last_row - top + 1
    edges[-1] = (right - left) * (bottom - top)
    inside = np.arange(len(edges) - 1) % 2 == 1
    return (top, left, bottom, right), np.repeat(inside, np.diff(edges)).reshape(right - left, bottom - top).T
