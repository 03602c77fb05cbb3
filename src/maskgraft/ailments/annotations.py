"""Whether annotations lie on what they mean, judged by the pictures alone: outlines follow edges, boxes hold masks.

A mask that is mirrored, exchanged or on another picture crosses edges only by chance, so the mean gradient under its
outline tells, over some dozens of instances, without any model.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskgraft import coco
from maskgraft.coco import ImageRecord
from maskgraft.errors import DataError, Finding
from maskgraft.segmentation import Mask, window_of

Floats = npt.NDArray[np.float64]

_SIDE = 256  # longest side at which pictures are looked at
_PER_IMAGE = 8
_PATIENCE = 8.0  # seconds, after which some dozens of instances are enough
_FEW = 16  # instances below which nothing is said
_SURE = 4.0  # standard errors
_STRONGER = 1.08  # how much more edge another reading must have under its outlines
# at most so much more, and by so many errors, than elsewhere in the picture has a mask of another
_FOREIGN, _DOUBTFUL = 1.1, 2.5

_AS_COCO = "write bbox as [x, y, width, height], x and y those of the upper left corner"

_READINGS: tuple[tuple[str, str, Callable[[Mask], Mask]], ...] = (
    ("upside down", "turn y into height - y", lambda mask: mask[::-1]),
    ("mirrored", "turn x into width - x", lambda mask: mask[:, ::-1]),
    ("turned by 180°", "turn x into width - x and y into height - y", lambda mask: mask[::-1, ::-1]),
    ("with x and y exchanged", "exchange x and y, of boxes and of masks", lambda mask: _exchanged(mask)),
    ("upside down within their boxes", "turn the masks over, the boxes are right", lambda mask: _in_box(mask, 0)),
    (
        "half their size too far to the right and down",
        "x and y are those of the middle: take half of width and height from them, polygons as well",
        lambda mask: _from_middle(mask),
    ),
    ("mirrored within their boxes", "mirror the masks, the boxes are right", lambda mask: _in_box(mask, 1)),
)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Mean strength of edges under the outlines of `count` masks, 1 being the mean of their pictures.

    `given` as they are, `read` under each other reading, `elsewhere` somewhere else in the picture; `surer` is by how
    many standard errors a reading beats the given one (below 0: the given one is better).
    """

    count: int
    given: float
    elsewhere: float
    surer_elsewhere: float
    read: dict[str, float]
    surer: dict[str, float]


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shares of masks that are empty, that fill their box, and that have holes for objects; overlaps of boxes with the
    extents of their masks, as given and read otherwise: with width and height taken for corners, corners for width and
    height, the middle for a corner, and x and y of the masks exchanged."""

    count: int
    empty: float
    full: float
    inverted: float
    overlap: float
    as_corners: float
    as_sides: float
    as_middles: float
    turned: float


@dataclass(slots=True)
class Looks:
    """What some annotations look like on their pictures: for each mask the edges under its outline, as given, elsewhere
    and under each other reading; and for each instance what `Shapes` has the means of."""

    edges: list[list[float]] = field(default_factory=list)
    shapes: list[tuple[float, ...]] = field(default_factory=list)
    furthest: float = 0.0  # coordinate of any box
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, pixels: npt.NDArray[np.uint8], boxes: Iterable[Sequence[float]], masks: Iterable[Mask]) -> None:
        """One picture [H, W, 3], with the boxes and masks of its instances, of which the first few are taken."""
        edges, scale = _edges(pixels)
        for box, mask in islice(zip(boxes, masks, strict=True), _PER_IMAGE):
            self.furthest = max(self.furthest, *box)
            self.shapes.append(_shape(box, mask))
            small = _smaller(mask, scale)
            if small is not None and 12 <= small.sum() <= 0.6 * small.size:
                variants = [small, _moved(small, self.random), *(read(small) for _, _, read in _READINGS)]
                self.edges.append([_under(edges, variant) for variant in variants])


def examine(records: Sequence[ImageRecord], *, path: str) -> tuple[list[Finding], Alignment | None, Shapes | None]:
    """Findings about a sample of the images of a dataset, and what they rest on."""
    looks, begin = Looks(), time.monotonic()
    for record in records:
        if time.monotonic() - begin > _PATIENCE and len(looks.edges) >= 2 * _FEW:
            break
        try:
            pixels = record.load()
        except DataError:
            continue  # told by the check of the data
        masks = (coco.mask(one, record.height, record.width) for one in record.instances)
        looks.add(pixels, (one.box for one in record.instances), masks)
    return judge(looks, path=path)


def judge(looks: Looks, *, path: str) -> tuple[list[Finding], Alignment | None, Shapes | None]:
    """Findings from what was looked at, and what they rest on."""
    alignment = _aligned(np.array(looks.edges)) if len(looks.edges) >= _FEW else None
    measured = Shapes(len(looks.shapes), *np.mean(looks.shapes, 0).tolist()) if looks.shapes else None
    found = list(_of_fractions(looks, path) or _of_shapes(measured, path)) if measured else []
    if alignment and not found:
        found += _of_alignment(alignment, path)
    return found, alignment, measured


def _edges(pixels: npt.NDArray[np.uint8]) -> tuple[Floats, float]:
    """How much brightness changes at each pixel, 1 on average, of the picture at `scale`."""
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), dtype=np.float64)
    smooth = np.pad(small, ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:])[:, 1:-1] / 4
    across = np.abs(np.gradient(smooth, axis=1)).max(2) if smooth.shape[1] > 1 else np.zeros(smooth.shape[:2])
    down = np.abs(np.gradient(smooth, axis=0)).max(2) if smooth.shape[0] > 1 else np.zeros(smooth.shape[:2])
    strength = np.sqrt(np.hypot(across, down))  # the root: a few hard edges are not to outweigh all others
    mean = float(strength.mean())
    return (strength / mean if mean else np.ones_like(strength)), scale


def _smaller(mask: Mask, scale: float) -> Mask | None:
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    small: Mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return small if small.any() else None


def _under(edges: Floats, mask: Mask) -> float:
    """Mean strength of edges along an outline, inside and outside of it; the border of the picture does not count."""
    if not mask.any():
        return 1.0
    grown, eroded = mask.copy(), mask.copy()
    for axis in (0, 1):
        for way in (1, -1):
            shifted = np.roll(mask, way, axis)
            grown |= shifted
            eroded &= shifted
    line = grown & ~eroded
    line[[0, 1, -2, -1]] = line[:, [0, 1, -2, -1]] = False
    return float(edges[line].mean()) if line.any() else 1.0


def _moved(mask: Mask, random: np.random.Generator) -> Mask:
    rows, columns = mask.shape
    by = int(random.integers(rows // 4, rows - rows // 4)), int(random.integers(columns // 4, columns - columns // 4))
    return np.roll(mask, by, (0, 1))


def _exchanged(mask: Mask) -> Mask:
    """The mask whose x and y were exchanged, cut at the picture."""
    turned, result = mask.T, np.zeros_like(mask)
    rows, columns = min(turned.shape[0], mask.shape[0]), min(turned.shape[1], mask.shape[1])
    result[:rows, :columns] = turned[:rows, :columns]
    return result


def _from_middle(mask: Mask) -> Mask:
    """The mask moved back by half its size, as it was before its middle was taken for its corner."""
    top, left, bottom, right = window_of(mask)
    height, width = bottom - top, right - left
    above, before = max(0, top - height // 2), max(0, left - width // 2)
    result = np.zeros_like(mask)
    result[above : above + height, before : before + width] = mask[top:bottom, left:right]
    return result


def _in_box(mask: Mask, axis: int) -> Mask:
    top, left, bottom, right = window_of(mask)
    result = mask.copy()
    result[top:bottom, left:right] = np.flip(mask[top:bottom, left:right], axis)
    return result


def _aligned(scores: Floats) -> Alignment:
    apart = scores[:, 1:] - scores[:, :1]
    surer = apart.mean(0) / np.maximum(apart.std(0, ddof=1) / math.sqrt(len(scores)), 1e-9)
    names = [name for name, _, _ in _READINGS]
    means = scores.mean(0).tolist()
    return Alignment(
        len(scores),
        means[0],
        means[1],
        float(-surer[0]),
        dict(zip(names, means[2:], strict=True)),
        dict(zip(names, surer[1:].tolist(), strict=True)),
    )


def _shape(box: Sequence[float], mask: Mask) -> tuple[float, ...]:
    """What `Shapes` has the means of."""
    if not mask.any():
        return (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    top, left, bottom, right = window_of(mask)
    hull = float(left), float(top), float(right), float(bottom)
    x1, y1, x2, y2 = box
    given = _iou(box, hull)
    inside = mask[round(y1) : max(round(y2), round(y1) + 1), round(x1) : max(round(x2), round(x1) + 1)]
    inside = inside if inside.size else mask
    filled = float(inside.mean())
    height, width = inside.shape
    middle = inside[height // 3 : height - height // 3, width // 3 : width - width // 3]
    corner_rows, corner_columns = max(1, height // 6), max(1, width // 6)
    corners = np.concatenate(
        [inside[rows_, columns_].ravel() for rows_ in (slice(corner_rows), slice(-corner_rows, None))
         for columns_ in (slice(corner_columns), slice(-corner_columns, None))]
    )  # fmt: skip
    hollow = middle.size > 0 and float(middle.mean()) < 0.4 and float(corners.mean()) > 0.6
    return (
        float(mask.sum() < 0.01 * max(1.0, (x2 - x1) * (y2 - y1))),
        float(filled > 0.98),
        float(hollow),
        given,
        _iou((x1, y1, x1 + x2, y1 + y2), hull),
        _iou((x1, y1, x2 - x1, y2 - y1), hull),
        _iou((x1 - (x2 - x1) / 2, y1 - (y2 - y1) / 2, (x1 + x2) / 2, (y1 + y2) / 2), hull),
        _iou(box, (hull[1], hull[0], hull[3], hull[2])),
    )


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = [max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (one, other)]
    return both / max(sum(areas) - both, 1e-9)


def _of_fractions(looks: Looks, path: str) -> list[Finding]:
    if looks.furthest > 1 or len(looks.shapes) < 4:
        return []
    return [
        Finding(
            "train.boxes",
            "error",
            f"the boxes of all {len(looks.shapes)} instances of {path} that were looked at lie between 0 and 1: they "
            "are fractions of the picture, where pixels are meant",
            evidence={"furthest": looks.furthest, "instances": len(looks.shapes)},
            effect="every object is less than a pixel: nothing is there to be learnt",
            fix="multiply x and width by the width of the image, y and height by its height, polygons as well",
        )
    ]


def _of_shapes(seen: Shapes, path: str) -> Iterator[Finding]:
    of = f"of {seen.count} instances of {path} that were looked at"
    if seen.empty > 0.2:
        yield Finding(
            "train.masks-empty",
            "error",
            f"{100 * seen.empty:.0f} % {of} have masks that are empty, or less than a hundredth of their box",
            evidence={"empty": round(seen.empty, 3), "instances": seen.count},
            effect="the mask head learns to answer nothing",
            fix="look at their segmentation: `maskgraft data show` draws it",
        )
        return
    if seen.overlap < 0.5 and seen.count >= 4:
        evidence = {"overlap": round(seen.overlap, 3), "instances": seen.count}
        for other, right, fix in (
            (seen.as_corners, "the boxes are [x, y, width, height] that were taken for corners", _AS_COCO),
            (seen.as_sides, "the boxes are [x1, y1, x2, y2] that were taken for x, y, width and height", _AS_COCO),
            (seen.as_middles, "the boxes are given by their middle, as YOLO has them", _AS_COCO),
            (seen.turned, "x and y of the masks are exchanged", "COCO's run lengths go down the columns"),
        ):
            if other > 0.75 and other > 1.5 * seen.overlap:
                yield Finding(
                    "train.boxes",
                    "error",
                    f"boxes and masks do not meet (mean IoU {seen.overlap:.2f} {of}); they meet at {other:.2f} if "
                    f"{right}",
                    evidence={**evidence, "read_otherwise": round(other, 3)},
                    effect="the network learns boxes where nothing is; losses may become infinite",
                    fix=fix,
                )
                return
        message = f"boxes and masks do not meet: mean IoU {seen.overlap:.2f} {of}"
        yield Finding(
            "train.boxes",
            "error",
            message,
            evidence=evidence,
            effect="boxes are learnt where nothing is, and masks of what their boxes do not hold",
            fix="derive the boxes from the masks: `maskgraft data check` names each",
        )
        return
    if seen.inverted > 0.3:
        yield Finding(
            "train.masks-inverted",
            "error",
            f"{100 * seen.inverted:.0f} % {of} have masks that are full in the corners of their box and hollow inside: "
            "they mark what the object is not",
            evidence={"inverted": round(seen.inverted, 3), "instances": seen.count},
            effect="the mask head learns the ground in the place of objects",
            fix="exchange object and ground in the masks",
        )
    elif seen.full > 0.9 and seen.count >= _FEW:
        yield Finding(
            "train.masks-boxes",
            "warning",
            f"{100 * seen.full:.0f} % {of} have masks that fill their box: they are boxes drawn as masks",
            evidence={"full": round(seen.full, 3), "instances": seen.count},
            effect="the mask head learns boxes",
            fix="annotate masks, or train without them: loss_weights mask = 0",
        )


def _of_alignment(seen: Alignment, path: str) -> Iterator[Finding]:
    best = max(seen.read, key=lambda name: seen.read[name])
    evidence = {
        "instances": seen.count,
        "given": round(seen.given, 3),
        "elsewhere": round(seen.elsewhere, 3),
        **{name: round(value, 3) for name, value in seen.read.items()},
    }
    if seen.surer[best] > _SURE and seen.read[best] > _STRONGER * seen.given:
        within = best.endswith("within their boxes")
        yield Finding(
            "train.masks-flipped" if within else "train.boxes",
            "error",
            f"{'masks' if within else 'annotations'} of {path} are {best}: read so, the outlines of "
            f"{seen.count} masks lie on edges ({seen.read[best]:.2f} times the mean of the pictures), and as "
            "given less "
            f"({seen.given:.2f})",
            evidence=evidence,
            effect="the network is shown other places than those of the objects",
            fix=next(fix for name, fix, _ in _READINGS if name == best),
        )
    elif seen.count >= 2 * _FEW and seen.given < _FOREIGN * seen.elsewhere and seen.surer_elsewhere < _DOUBTFUL:
        yield Finding(
            "train.boxes",
            "warning",
            f"annotations of {path} do not lie on their pictures: edges under their outlines are {seen.given:.2f} "
            f"times the mean, and elsewhere {seen.elsewhere:.2f} ({seen.count} masks)",
            evidence=evidence,
            effect="nothing can be learnt from annotations of other pictures",
            fix="look at them: `maskgraft data show`; are file names and image ids those that were annotated?",
        )
