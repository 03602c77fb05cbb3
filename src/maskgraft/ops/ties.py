"""Suppression as TensorFlow 1.15 to 2.1 does it, where scores are equal or boxes have no area."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def suppressed_from_heap(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, *, most: int, flat_again: bool
) -> Tensor:
    """Greedy suppression within each label, all of them in one heap: indices of what stays, int64, in that order.

        one = torch.tensor([[0.0, 0, 4, 4]])
        suppressed_from_heap(one, torch.ones(1), torch.zeros(1), 0.5, most=9, flat_again=True)      # 0

    Unequal scores come in order. Equal ones come as the heap's shape has it, neither first nor last: so the kernel of
    TensorFlow 1.15 to 2.1 takes them, which keeps its candidates in a `std::priority_queue` that compares nothing but
    scores, and puts one that it has taken back into it, to be suppressed by itself (`non_max_suppression_op.cc`). The
    heap here is that of the GNU C++ library, as their Linux builds have it: what is taken from the top leaves a hole,
    which goes down to a leaf along the greater children, of equal ones along the right; the last entry takes its place
    and goes up from there.

    `flat_again`: a box of no area overlaps nothing, not even itself. It is taken each time that it comes back, until
    `most` are taken (tensorflow/tensorflow#35482); of unequal scores nothing comes after it.
    """
    values, edges, kind = scores.tolist(), boxes.float().cpu().numpy(), labels.cpu().numpy()
    areas = (edges[:, 2:] - edges[:, :2]).prod(1)
    gone = np.zeros(len(values), bool)
    heap: list[int] = []
    for index in range(len(values)):
        _put(heap, index, values)
    taken: list[int] = []
    while heap and len(taken) < most:
        best = _top(heap, values)
        if gone[best]:
            continue
        taken.append(best)
        _put(heap, best, values)
        if areas[best] > 0:
            gone |= (_overlaps(edges[best], edges, areas[best], areas) > threshold) & (kind == kind[best])
        gone[best] |= areas[best] > 0 or not flat_again
    return torch.tensor(taken, dtype=torch.int64, device=scores.device)


def _overlaps(
    box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32], area: np.float32, areas: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common: npt.NDArray[np.float32] = sides.clip(0).prod(1)
    return common / (area + areas - common)


def _put(heap: list[int], index: int, values: Sequence[float]) -> None:
    """Add an entry at the end of a heap, and bring it up from there."""
    heap.append(index)
    _rise(heap, len(heap) - 1, index, values)


def _rise(heap: list[int], place: int, index: int, values: Sequence[float]) -> None:
    """Bring an entry up from a place as far as it is greater than what stands above it."""
    value = values[index]
    while place and values[heap[above := (place - 1) // 2]] < value:
        heap[place] = heap[above]
        place = above
    heap[place] = index


def _top(heap: list[int], values: Sequence[float]) -> int:
    """Take the entry at the top from a heap."""
    best, last, count = heap[0], heap.pop(), len(heap)
    if not count:
        return best
    hole, right = 0, 2
    while right <= count:
        # at the end of the heap there may be a left child alone
        greater = right - 1 if right == count or values[heap[right]] < values[heap[right - 1]] else right
        heap[hole] = heap[greater]
        hole, right = greater, 2 * greater + 2
    _rise(heap, hole, last, values)
    return best
