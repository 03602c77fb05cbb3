"""What lies around a map before a strided convolution or pool reads it."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Padding = Literal["symmetric", "same", "same-before", "same-after", "cover", "valid"]


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Rows before and after an axis of `size`, as TensorFlow's "SAME" lays them: the odd one goes after.

    same_padding(224, 3, 2)  # (0, 1)
    same_padding(224, 5, 1)  # (2, 2)
    """
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def surround(x: Tensor, kernel: int, stride: int, *, padding: Padding, dilation: int = 1, value: float = 0.0) -> Tensor:
    """`x` [B, C, H, W] with the rows and columns of `value` that a filter of `kernel` × `kernel` needs around it.

    "symmetric": as many on all sides (PyTorch). "same": as TensorFlow's SAME, with the odd one at bottom and right.
    "same-before": on even sizes the same, with the odd one at top and left; on odd ones no more than that, and a map of
    ⌊size / stride⌋ remains; "same-after" with the odd one at bottom and right (Tensorpack). "valid": none.
    """
    if padding == "valid":
        return x
    if padding in ("symmetric", "cover"):
        each = dilation * (kernel - 1) // 2
        rows = columns = (each, each)
    elif padding == "same":
        rows, columns = (same_padding(x.shape[axis], kernel, stride, dilation) for axis in (-2, -1))
    else:
        total = dilation * (kernel - 1) + 1 - stride  # of a 1 × 1 filter -1: the last row and column are not read
        less, more = sorted((total // 2, total - total // 2)) if total > 0 else (total, 0)
        rows = columns = (more, less) if padding == "same-before" or total < 0 else (less, more)
    return F.pad(x, (*columns, *rows), value=value) if any((*rows, *columns)) else x


def max_pool(x: Tensor, kernel: int, stride: int, *, padding: Padding) -> Tensor:
    """The highest value under each `kernel` × `kernel` window; what lies around the map is never it.

    "cover": as "symmetric", and where the strides leave rows at the end, one more window reads them (Chainer).
    """
    if padding in ("symmetric", "cover"):
        return F.max_pool2d(x, kernel, stride, kernel // 2, ceil_mode=padding == "cover")
    return F.max_pool2d(surround(x, kernel, stride, padding=padding, value=float("-inf")), kernel, stride)
