"""Masks cut to their objects: a tenth of the memory of whole planes, and of the time to mirror, resize and send them.

cutouts = Cutouts.of(planes)
cutouts.mirrored().resized((800, 1066)).planes()     # bool [N, 800, 1066]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from maskgraft import segmentation
from maskgraft.segmentation import Mask, Segmentation, Window

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Cutouts:
    """Masks of one picture of `size` (height, width): of each its window (top, left, bottom, right), in whole pixels
    inside the picture, and what lies in it, bool [bottom - top, right - left]. Elsewhere a mask has no pixel."""

    size: Size
    windows: tuple[Window, ...]
    parts: tuple[Mask, ...]

    @staticmethod
    def of(planes: Mask) -> "Cutouts":
        """Masks bool [N, height, width], cut out."""
        windows = tuple(map(segmentation.window_of, planes))
        parts = [
            plane[top:bottom, left:right] for plane, (top, left, bottom, right) in zip(planes, windows, strict=True)
        ]
        return Cutouts((planes.shape[1], planes.shape[2]), windows, tuple(parts))

    @staticmethod
    def drawn(masks: Sequence[Segmentation], size: Size) -> "Cutouts":
        """Masks of a dataset, as COCO's own tools draw them."""
        cut = [segmentation.cut(one, *size) for one in masks]
        return Cutouts(size, tuple(window for window, _ in cut), tuple(part for _, part in cut))

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, chosen: Sequence[int]) -> "Cutouts":
        """The masks at some indices."""
        return Cutouts(self.size, tuple(self.windows[one] for one in chosen), tuple(self.parts[one] for one in chosen))

    def __reduce__(self) -> tuple[Any, ...]:
        # what a worker process sends: as bits they are an eighth
        return _unpacked, (self.size, self.windows, np.packbits(self.pixels()))

    def pixels(self) -> npt.NDArray[np.bool_]:
        """What lies in the windows, row by row and one after the other."""
        return np.concatenate([np.zeros(0, np.bool_), *(part.ravel() for part in self.parts)])

    def planes(self) -> Mask:
        """The masks on the whole picture, bool [N, height, width]."""
        planes = np.zeros((len(self), *self.size), np.bool_)
        for plane, (top, left, bottom, right), part in zip(planes, self.windows, self.parts, strict=True):
            plane[top:bottom, left:right] = part
        return planes

    def areas(self) -> list[int]:
        """How many pixels each mask has."""
        return [int(np.count_nonzero(part)) for part in self.parts]

    def extents(self) -> list[Window]:
        """The smallest window of each mask; (0, 0, 0, 0) where it is empty."""
        return [
            (top + window[0], left + window[1], bottom + window[0], right + window[1]) if bottom > top else (0, 0, 0, 0)
            for (top, left, bottom, right), window in zip(
                map(segmentation.window_of, self.parts), self.windows, strict=True
            )
        ]

    def mirrored(self) -> "Cutouts":
        """Left and right exchanged."""
        width = self.size[1]
        windows = [(top, width - right, bottom, width - left) for top, left, bottom, right in self.windows]
        return Cutouts(self.size, tuple(windows), tuple(part[:, ::-1] for part in self.parts))

    def flipped(self) -> "Cutouts":
        """Top and bottom exchanged."""
        height = self.size[0]
        windows = [(height - bottom, left, height - top, right) for top, left, bottom, right in self.windows]
        return Cutouts(self.size, tuple(windows), tuple(part[::-1] for part in self.parts))

    def seen_through(self, window: Window) -> "Cutouts":
        """What of the masks lies in a window, which is then the picture; it may reach beyond the old one."""
        top, left, bottom, right = window
        height, width = bottom - top, right - left
        windows, parts = [], []
        for (own_top, own_left, _, _), part in zip(self.windows, self.parts, strict=True):
            above, rows = _common(own_top - top, part.shape[0], height)
            before, columns = _common(own_left - left, part.shape[1], width)
            seen = part[rows, columns]
            windows.append((above, before, above + seen.shape[0], before + seen.shape[1]))
            parts.append(seen)
        return Cutouts((height, width), tuple(windows), tuple(parts))

    def resized(self, size: Size) -> "Cutouts":
        """The picture at another size, by the nearest pixel as `torch.nn.functional.interpolate` chooses it."""
        rows, columns = (_nearest(before, after) for before, after in zip(self.size, size, strict=True))
        windows, parts = [], []
        for (top, left, bottom, right), part in zip(self.windows, self.parts, strict=True):
            above, below = np.searchsorted(rows, (top, bottom)).tolist()
            before, after = np.searchsorted(columns, (left, right)).tolist()
            windows.append((above, before, below, after))
            parts.append(part.take(rows[above:below] - top, 0).take(columns[before:after] - left, 1))
        return Cutouts(size, tuple(windows), tuple(parts))


def _unpacked(size: Size, windows: tuple[Window, ...], bits: npt.NDArray[np.uint8]) -> Cutouts:
    shapes = [(bottom - top, right - left) for top, left, bottom, right in windows]
    ends = np.cumsum([0, *map(prod, shapes)]).tolist()
    pixels = np.unpackbits(bits, count=ends[-1]).view(np.bool_)
    parts = [pixels[start:end].reshape(shape) for start, end, shape in zip(ends[:-1], ends[1:], shapes, strict=True)]
    return Cutouts(size, windows, tuple(parts))


def _common(start: int, length: int, limit: int) -> tuple[int, slice]:
    """Where what lies from `start` on begins within 0..limit, and which part of it that is."""
    first, last = max(0, -start), max(0, min(length, limit - start))
    return (start + first, slice(first, last)) if last > first else (0, slice(0, 0))


def _nearest(before: int, after: int) -> npt.NDArray[np.int64]:
    """For each of `after` places the one of `before` that torch takes: rounded down, in float32."""
    places = np.arange(after, dtype=np.float32) * np.float32(before / after)
    return np.minimum(places.astype(np.int64), before - 1)
