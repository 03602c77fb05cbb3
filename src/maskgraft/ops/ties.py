"""In which order equal scores are looked at, where it is not the first that comes first."""

from collections.abc import Sequence

import torch
from torch import Tensor


def popped(scores: Tensor, most: int | None = None) -> Tensor:
    """Indices of scores [N], best first, as a binary heap gives them back that they were put into one after the other.

        popped(torch.tensor([0.5, 0.5, 0.5, 0.9]))      # 3, 2, 0, 1

    Unequal scores come in order. Equal ones come as the heap's shape has it, neither first nor last: so suppression of
    TensorFlow 1.15 to 2.1 takes them, which keeps its candidates in a `std::priority_queue` that compares nothing but
    scores (`non_max_suppression_op.cc`). The heap here is that of the GNU C++ library, as their Linux builds have it:
    what is taken from the top leaves a hole, which goes down to a leaf along the greater children, of equal ones along
    the right; the last entry takes its place and goes up from there. `most`: no more are wanted.
    """
    ordered, order = scores.sort(descending=True, stable=True)
    wanted = len(scores) if most is None else min(most, len(scores))
    if not (ordered[1 : wanted + 1] == ordered[:wanted][: len(scores) - 1]).any():
        return order[:wanted]
    values = scores.tolist()
    heap = _filled(values)
    return torch.tensor([_top(heap, values) for _ in range(wanted)], dtype=torch.int64, device=scores.device)


def _filled(values: Sequence[float]) -> list[int]:
    heap: list[int] = []
    for index in range(len(values)):
        heap.append(index)
        _rise(heap, len(heap) - 1, index, values)
    return heap


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
