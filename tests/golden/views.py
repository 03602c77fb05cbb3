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


def yx(array: Array) -> Array:
    """Boxes or deltas [..., 4], x before y → y before x."""
    return array[..., [1, 0, 3, 2]]


def quads_yx(array: Array) -> Array:
    """Box deltas [N, R · 4] → [N, R, 4], y before x."""
    return yx(array.reshape(len(array), -1, 4))


def quads_yx_background_first(array: Array) -> Array:
    return quads_yx(quads_background_first(array)).reshape(len(array), -1)


def cells_yx(array: Array) -> Array:
    """Deltas of all anchors of a map [1, 4A, H, W] → [H · W · A, 4], y before x."""
    return yx(nhwc(array).reshape(-1, 4))


def nhwc_yx(array: Array) -> Array:
    """Deltas of all anchors of a map [1, 4A, H, W] → [1, H, W, 4A], y before x."""
    return cells_yx(array).reshape(nhwc(array).shape)


def nhwc_background_first(array: Array) -> Array:
    return nhwc(background_first(array))


def rows_background_first(array: Array) -> Array:
    """Box deltas [N, R · 4], background last → [N, R, 4], background first."""
    return quads_background_first(array).reshape(len(array), -1, 4)


def rows_yx_background_first(array: Array) -> Array:
    return yx(rows_background_first(array))


def planes_yx(array: Array) -> Array:
    """Deltas of all anchors of a map [1, 4A, H, W], x before y → y before x."""
    images, planes, height, width = array.shape
    return array.reshape(images, -1, 2, height, width)[:, :, ::-1].reshape(images, planes, height, width)


def cells(array: Array) -> Array:
    """A map of one image [1, C, H, W] → [H, W, C]."""
    return nhwc(array)[0]


def cells_of_quads(array: Array) -> Array:
    """Deltas of all anchors of a map [1, 4A, H, W] → [H, W, A, 4]."""
    height, width, planes = cells(array).shape
    return cells(array).reshape(height, width, planes // 4, 4)


VIEWS: dict[str, Callable[[Array], Array]] = {
    "same": same,
    "nhwc": nhwc,
    "background-first": background_first,
    "quads-background-first": quads_background_first,
    "foreground-quads": foreground_quads,
    "yx": yx,
    "quads-yx": quads_yx,
    "quads-yx-background-first": quads_yx_background_first,
    "cells-yx": cells_yx,
    "nhwc-yx": nhwc_yx,
    "nhwc-background-first": nhwc_background_first,
    "rows-background-first": rows_background_first,
    "rows-yx-background-first": rows_yx_background_first,
    "planes-yx": planes_yx,
    "cells": cells,
    "cells-of-quads": cells_of_quads,
}
