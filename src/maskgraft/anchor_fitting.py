"""Anchors against the boxes of a dataset: how well they meet them, and sizes and ratios that meet them better.

fit = mg.fit_anchors(data, spec)
fit.before.recall(0.5), fit.after.recall(0.5)      # 0.71, 0.98
mg.load("model.pth", numerics=fit.numerics)        # {"anchor_sizes": …, "anchor_ratios": …}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskgraft.coco import Dataset
from maskgraft.errors import DataError, Finding
from maskgraft.preprocess import network_size
from maskgraft.spec import Arch, Numerics, Spec

Floats = npt.NDArray[np.float64]

_MOST_BOXES = 20_000  # what is drawn from larger datasets; their shares are known to a third of a per cent
_STEPS = (1.6, 1.3, 1.15, 1.07, 1.03)  # factors by which sides and ratios are tried, coarse to fine
_WORTH = 0.01  # what a change of ratios or sizes must bring


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """How well anchors meet boxes: `best` float64 [N], for each box the overlap (IoU) with its best anchor.

    `sizes` and `ratios` are the anchors, as `Numerics.anchor_sizes` and `anchor_ratios`; `sides` float64 [N, 2] the
    width and height of the boxes, all in pixels of the network's input.
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    sides: Floats
    best: Floats

    def recall(self, overlap: float) -> float:
        """The share of boxes that some anchor meets with at least this IoU; 0 without boxes."""
        return float((self.best >= overlap).mean()) if self.best.size else 0.0

    @property
    def mean(self) -> float:
        """The mean best overlap; 0 without boxes."""
        return float(self.best.mean()) if self.best.size else 0.0

    def histogram(self) -> tuple[int, ...]:
        """How many boxes have a best overlap of 0 to 0.1, 0.1 to 0.2 … 0.9 to 1."""
        return tuple(np.bincount(np.minimum((self.best * 10).astype(np.int64), 9), minlength=10).tolist())

    def as_json(self) -> dict[str, Any]:
        """The figures as plain JSON types."""
        return {
            "anchor_sizes": [list(level) for level in self.sizes],
            "anchor_ratios": list(self.ratios),
            "recall_0.5": self.recall(0.5),
            "recall_0.7": self.recall(0.7),
            "mean_best_iou": self.mean,
            "histogram": list(self.histogram()),
        }


@dataclass(frozen=True, slots=True, eq=False)
class AnchorFit:
    """Anchors before and after they were fitted to the same boxes, as many of each per cell.

    `numerics` is what changes: for `mg.load(…, numerics=…)`, `--set`, or a recipe's `numerics`. It is empty when
    nothing better was found.
    """

    before: Coverage
    after: Coverage

    @property
    def numerics(self) -> dict[str, Any]:
        """The fitted fields of `Numerics`, or nothing when the anchors were good already."""
        if (self.before.sizes, self.before.ratios) == (self.after.sizes, self.after.ratios):
            return {}
        return {"anchor_sizes": self.after.sizes, "anchor_ratios": self.after.ratios}

    def as_json(self) -> dict[str, Any]:
        """Both coverages as plain JSON types."""
        return {"boxes": len(self.before.best), "before": self.before.as_json(), "after": self.after.as_json()}


def strides(arch: Arch, numerics: Numerics) -> tuple[int, ...]:
    """Pixels of the input per cell, for each level that has anchors."""
    if arch.neck == "fpn":
        return tuple(4 << level for level in range(len(numerics.anchor_sizes)))
    return (numerics.c4_stride if arch.neck == "c4" else 16,)


def anchor_coverage(data: Dataset, spec: Spec) -> Coverage:
    """How well the anchors of a model meet the boxes of a dataset, at the size at which the model sees them."""
    boxes, inputs = _boxes(data, spec.numerics)
    grid = _Grid(boxes, inputs, strides(spec.arch, spec.numerics), spec.numerics)
    return grid.coverage(spec.numerics.anchor_sizes, spec.numerics.anchor_ratios)


def fit_anchors(data: Dataset, spec: Spec, *, min_size: int | None = None, max_size: int | None = None) -> AnchorFit:
    """Anchors fitted to the boxes of a dataset, without changing a model's shape: as many sizes and ratios as it has.

        fit = fit_anchors(data, mg.diagnose("model.pth").spec, min_size=512)

    Sizes and ratios are moved one by one, by ever smaller factors, while the mean of recall at 0.5 (twice), recall at
    0.7 and best overlap grows. Anchors lie on their grid, so a small object between two cells counts as it will in
    training. `min_size` and `max_size` stand for those of `spec`. The outcome depends on the data alone; of more than
    20,000 boxes so many are drawn. Raises `DataError` (`data.no-instances`) without a box, and `UsageError` for sides
    below 1.
    """
    sides = {"min_size": min_size, "max_size": max_size}
    numerics = spec.with_numerics({name: side for name, side in sides.items() if side is not None}).numerics
    boxes, inputs = _boxes(data, numerics)
    if not len(boxes):
        raise DataError(
            Finding("data.no-instances", "error", f"{data.path} has no box that anchors could be fitted to")
        )
    grid = _Grid(boxes, inputs, strides(spec.arch, numerics), numerics)
    sizes, ratios = numerics.anchor_sizes, numerics.anchor_ratios
    before = grid.coverage(sizes, ratios)
    starts = [(sizes, ratios), grid.quantiles(sizes, len(ratios))]
    found = max((grid.climb(*start) for start in starts), key=_merit)
    rounded = grid.coverage(
        tuple(tuple(float(round(one, 1)) for one in level) for level in found.sizes),
        tuple(float(round(one, 3)) for one in found.ratios),
    )
    return AnchorFit(before, rounded if _merit(rounded) > _merit(before) + _WORTH else before)


def _merit(coverage: Coverage) -> float:
    # a box that no anchor meets by half is hardly learnt, which is worse than one that many meet by less than 0.7
    return (2 * coverage.recall(0.5) + coverage.recall(0.7) + coverage.mean) / 4


def _boxes(data: Dataset, numerics: Numerics) -> tuple[Floats, Floats]:
    """Finite boxes xyxy [N, 4] in pixels of the network's input, and width and height of the input of each, [N, 2]."""
    boxes, inputs = [], []
    for image in data.images:
        height, width = network_size((image.height, image.width), numerics)
        x, y = width / image.width, height / image.height
        for one in image.instances:
            boxes.append((one.box[0] * x, one.box[1] * y, one.box[2] * x, one.box[3] * y))
            inputs.append((width, height))
    every, sizes = np.array(boxes, np.float64).reshape(-1, 4), np.array(inputs, np.float64).reshape(-1, 2)
    finite = np.isfinite(every).all(1)
    every, sizes = every[finite], sizes[finite]
    if len(every) > _MOST_BOXES:
        chosen = np.sort(np.random.default_rng(0).choice(len(every), _MOST_BOXES, replace=False))
        every, sizes = every[chosen], sizes[chosen]
    return every, sizes


class _Grid:
    """Boxes, and how far each is from the nearest cell of each level."""

    def __init__(self, boxes: Floats, inputs: Floats, strides: Sequence[int], numerics: Numerics) -> None:
        self.sides = boxes[:, 2:] - boxes[:, :2]
        centres = (boxes[:, 2:] + boxes[:, :2]) / 2
        self.away: list[Floats] = []
        padded = np.ceil(inputs / numerics.pad_multiple) * numerics.pad_multiple
        for stride in strides:
            # of anchors of one shape, the one whose centre is nearest in x and in y overlaps most
            cells = np.ceil(padded / stride)
            step = padded // cells if numerics.anchor_stride == "grid" else np.full_like(padded, stride)
            first = numerics.anchor_offset * stride
            cell = np.clip(np.rint((centres - first) / step), 0, cells - 1)
            self.away.append(np.abs(centres - cell * step - first))

    def coverage(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> Coverage:
        best = np.zeros(len(self.sides))
        for away, level in zip(self.away, sizes, strict=True):
            for size in level:
                for ratio in ratios:
                    np.maximum(best, self._overlap(away, size / ratio**0.5, size * ratio**0.5), out=best)
        return Coverage(tuple(tuple(map(float, one)) for one in sizes), tuple(map(float, ratios)), self.sides, best)

    def _overlap(self, away: Floats, width: float, height: float) -> Floats:
        """IoU [N] of each box with the anchor of one shape that lies nearest."""
        anchor = np.array((width, height))
        inside = np.minimum(np.minimum(anchor, self.sides), np.maximum((anchor + self.sides) / 2 - away, 0)).prod(1)
        overlap: Floats = inside / (width * height + self.sides.prod(1) - inside)
        return overlap

    def quantiles(
        self, like: Sequence[Sequence[float]], ratios: int
    ) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
        """Sizes and ratios in the middle of equal shares of the boxes, small ones on fine levels."""
        count = sum(map(len, like))
        size = np.sqrt(self.sides.prod(1))
        shape = self.sides[:, 1] / self.sides[:, 0]
        values = iter(np.quantile(size, (np.arange(count) + 0.5) / count).tolist())
        found = np.quantile(shape, (np.arange(ratios) + 0.5) / ratios).tolist()
        return tuple(tuple(max(next(values), 1.0) for _ in level) for level in like), tuple(max(r, 0.05) for r in found)

    def climb(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> Coverage:
        """Better sizes and ratios, one at a time, until no step of any width helps any more."""
        lengths = [len(level) for level in sizes]
        values = [float(one) for level in sizes for one in level] + [float(one) for one in ratios]
        count = sum(lengths)

        def coverage(numbers: Sequence[float]) -> Coverage:
            parts, start = [], 0
            for length in lengths:
                parts.append(tuple(numbers[start : start + length]))
                start += length
            return self.coverage(parts, numbers[count:])

        best, earlier = coverage(values), -1.0
        while _merit(best) > earlier:
            earlier = _merit(best)
            for index, factor in (
                (index, f) for step in _STEPS for index in range(len(values)) for f in (step, 1 / step)
            ):
                tried = [*values[:index], values[index] * factor, *values[index + 1 :]]
                # sizes stay in order: a level's regions are pooled by their size, whatever anchor found them
                if tried[:count] != sorted(tried[:count]) or not 0.05 <= min(tried[count:]) <= max(tried[count:]) <= 20:
                    continue
                candidate = coverage(tried)
                if _merit(candidate) > _merit(best) + 1e-9:
                    values, best = tried, candidate
        return best
