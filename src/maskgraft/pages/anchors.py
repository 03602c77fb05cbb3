"""Anchors against the boxes of the training data, as a section of a page."""

import math
from html import escape

import numpy as np

from maskgraft.anchor_fitting import Coverage
from maskgraft.pages import charts

_MOST = 1200  # boxes in the picture
_BINS = [f"{index / 10:.1f}" for index in range(10)]


def section(coverage: Coverage) -> str:
    """How well anchors meet the boxes, and where both lie."""
    if not len(coverage.best):
        return ""
    note = (
        f"{100 * coverage.recall(0.5):.1f} % of {len(coverage.best):,} boxes are met by half, "
        f"{100 * coverage.recall(0.7):.1f} % by 0.7; below: where each bin begins"
    )
    bars = charts.columns("Boxes by their best anchor", coverage.histogram(), _BINS, note=note)
    fix = ""
    if coverage.recall(0.5) < 0.9:
        fix = "<p class='fix'>maskgraft data anchors fits anchors to the boxes without changing the network</p>"
    return f"<h2>Anchors against boxes</h2>\n{bars}\n{_plane(coverage)}\n{fix}"


def _plane(coverage: Coverage) -> str:
    """Width over height of boxes (dots) and anchors (squares), both on logarithmic scales."""
    sides = coverage.sides
    if len(sides) > _MOST:
        sides = sides[np.sort(np.random.default_rng(0).choice(len(sides), _MOST, replace=False))]
    sides = np.maximum(sides, 1.0)
    anchors = np.array(
        [
            (size / ratio**0.5, size * ratio**0.5)
            for level in coverage.sizes
            for size in level
            for ratio in coverage.ratios
        ]
    )
    every = np.log2(np.concatenate((sides, anchors)))
    low, high = math.floor(every.min()), math.ceil(every.max())

    def place(points: "np.typing.NDArray[np.float64]") -> str:
        scaled = (np.log2(points) - low) / max(high - low, 1) * 1000
        return "".join(f"M{x:.0f} {1000 - y:.0f}h0" for x, y in scaled)

    paths = f'<path class="boxes" d="{place(sides)}"/><path class="anchors" d="{place(anchors)}"/>'
    ticks = [((power - low) / max(high - low, 1), f"{2**power:g}") for power in range(low, high + 1)]
    told = "width to the right, height upward, pixels of the network's input"
    return (
        f'<figure class="chart square"><figcaption><b>Where they lie</b> <small>{escape(told)}</small></figcaption>\n'
        f"{charts.frame(paths, '', ticks, ticks)}"
        '<ul class="legend"><li><svg class="swatch" viewBox="0 0 30 8" aria-hidden="true"><path class="boxes" '
        'd="M15 4h0"/></svg><span>boxes</span></li><li><svg class="swatch" viewBox="0 0 30 8" aria-hidden="true">'
        '<path class="anchors" d="M15 4h0"/></svg><span>anchors</span></li></ul></figure>'
    )
