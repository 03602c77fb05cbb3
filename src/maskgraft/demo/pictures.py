"""What was found beside what is there: outlines, counts, and pictures to keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskgraft import coco, draw
from maskgraft.coco import ImageRecord
from maskgraft.detections import Detections
from maskgraft.segmentation import window_of

Mask = npt.NDArray[np.bool_]

SHOWN = 0.5  # detections that score less are not shown
_SAME = 0.5  # overlap of two masks from which on they are the same instance


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a picture: `score` is None for the truth."""

    kind: str
    mask: Mask
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """How many instances of the truth were found and missed, and what was found that is not there."""

    found: int
    missed: int
    extra: int


@dataclass(frozen=True, slots=True)
class Compared:
    """One held-out picture with truth and findings."""

    pixels: npt.NDArray[np.uint8]
    truth: tuple[Instance, ...]
    found: tuple[Instance, ...]
    tally: Tally


def compare(record: ImageRecord, detections: Detections, classes: Sequence[str]) -> Compared:
    """Bring truth and findings of a picture together; doubtful instances of the truth are left out of both."""
    height, width = record.height, record.width
    truth = tuple(Instance(classes[one.label], coco.mask(one, height, width)) for one in record.instances)
    doubtful = [coco.mask(one, height, width) for one in record.annotations if one.crowd]
    shown = detections.above(SHOWN)
    found = [
        Instance(classes[label], mask, score)
        for label, mask, score in zip(shown.labels.tolist(), shown.masks.numpy(), shown.scores.tolist(), strict=True)
    ]
    left, kept, hits = list(truth), [], 0
    for one in found:
        best = max(left, key=lambda other: _overlap(one, other), default=None)
        if best is not None and _overlap(one, best) >= _SAME:
            left = [other for other in left if other is not best]
            hits += 1
        elif any((one.mask & mask).sum() > _SAME * one.mask.sum() for mask in doubtful):
            continue
        kept.append(one)
    return Compared(record.load(), truth, tuple(kept), Tally(hits, len(left), len(kept) - hits))


def _overlap(one: Instance, other: Instance) -> float:
    if one.kind != other.kind:
        return 0.0
    return float((one.mask & other.mask).sum() / max(1, (one.mask | other.mask).sum()))


def outline(mask: Mask) -> str:
    """The edges of a mask as the `d` of an SVG path, in pixels of the picture."""
    measure: Any = import_module("skimage.measure")
    parts = []
    for contour in measure.find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        points = measure.approximate_polygon(contour, 0.4)[:, ::-1] - 0.5  # the padding, and the centre of a pixel
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points.tolist()) + "Z")
    return "".join(parts)


def side_by_side(compared: Compared, classes: Sequence[str]) -> Image.Image:
    """Truth and prediction at twice their size, in a row."""
    height, width = compared.pixels.shape[:2]
    photo = Image.fromarray(compared.pixels).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    drawn = []
    for instances in (compared.truth, compared.found):
        shapes = []
        for one in instances:
            mask = one.mask.repeat(2, 0).repeat(2, 1)
            top, left, bottom, right = window_of(mask)
            if bottom == top:
                continue
            box = (float(left), float(top), float(right), float(bottom))
            text = one.kind if one.score is None else f"{one.kind} {one.score:.2f}"
            shapes.append(draw.Shape(box, mask, text, draw.colour(classes.index(one.kind))))
        drawn.append(draw.overlay(np.asarray(photo), shapes))
    return draw.side_by_side(drawn, ["truth", "prediction"])
