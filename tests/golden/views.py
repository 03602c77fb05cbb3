"""From maskgraft's canonical form to the layout in which a home framework computed the same stage."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def same(array: Array) -> Array:
    return array


def nhwc(array: Array) -> Array:
    return np.moveaxis(array, 1, -1)


def background_first(array: Array) -> Array:
    """Class axis 1, one row a class, background last → first."""
    return np.roll(array, 1, axis=1)


def quads_background_first(array: Array) -> Array:
    """Box deltas, four columns a class, background last → first."""
    return np.roll(array, 4, axis=1)


def foreground_quads(array: Array) -> Array:
    """Box deltas, four columns a class, without those of the background."""
    return array[:, :-4]


VIEWS: dict[str, Callable[[Array], Array]] = {
    "same": same,
    "nhwc": nhwc,
    "background-first": background_first,
    "quads-background-first": quads_background_first,
    "foreground-quads": foreground_quads,
}
