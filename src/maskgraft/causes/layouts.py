"""Arrays in another framework's order of axes."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from maskgraft.files import LazyArray, Tensors
from maskgraft.links import Shape

# What a kernel of four axes may have to go through: HWIO, OHWI and IOHW to OIHW, and OIHW to HWIO.
_TURNS: tuple[tuple[int, int, int, int], ...] = ((3, 2, 0, 1), (0, 3, 1, 2), (1, 0, 2, 3), (2, 3, 1, 0))


def relaid(tensors: Tensors) -> Iterator[Tensors]:
    """The file with all kernels turned in each of the usual ways, and its matrices transposed or not."""
    for axes in _TURNS:
        for matrices in (True, False):
            arrays = {name: _turned(array, axes, matrices=matrices) for name, array in tensors.items()}
            yield replace(tensors, arrays=arrays)


def _turned(array: LazyArray, axes: tuple[int, ...], *, matrices: bool) -> LazyArray:
    if len(array.shape) == 4:
        shape = tuple(array.shape[axis] for axis in axes)
        return LazyArray(shape, array.dtype, lambda: array.read().transpose(axes))
    if len(array.shape) == 2 and matrices:
        return LazyArray(array.shape[::-1], array.dtype, lambda: array.read().transpose())
    return array


def back(array: LazyArray) -> LazyArray:
    """One matrix transposed, or one kernel from HWIO to OIHW; others as they are."""
    return _turned(array, _TURNS[0], matrices=True)


def same_but_for_layout(have: Shape, moved: Shape | None, want: Shape) -> bool:
    """Whether the same numbers under another order or grouping of axes would fit."""
    return (moved or have) != want and prod(have) == prod(want) and len(want) > 1
