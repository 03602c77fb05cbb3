"""Equal scores, overlaps at the threshold and boxes of no area, against what TensorFlow 1.15.5 kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maskgraft.ops.selection import Scored, suppress
from maskgraft.ops.ties import suppressed_from_heap

GOLDEN = Path(__file__).parents[1] / "golden" / "suppression.npz"
CASES = range(24)


def golden(case: int) -> tuple[torch.Tensor, torch.Tensor, int, list[int]]:
    with np.load(GOLDEN) as file:
        boxes, scores, most, kept = (file[f"{case}.{name}"] for name in ("boxes", "scores", "most", "kept"))
    return torch.from_numpy(boxes), torch.from_numpy(scores), int(most), kept.tolist()


@pytest.mark.parametrize("case", CASES)
def test_the_same_stays_in_the_same_order(case: int) -> None:
    boxes, scores, most, kept = golden(case)
    found = Scored(boxes, scores, torch.zeros(len(scores), dtype=torch.int64))
    for apart in (True, False):
        stays = suppress(
            found,
            0.5,
            at_threshold=True,
            apart=apart,
            ties="heap",
            tiled=False,
            flat_last=True,
            inclusive=False,
            most=most,
        )
        assert stays[:most].tolist() == kept


def test_the_cases_tell() -> None:
    """Of the conventions each is told by some case."""

    def others(**changes: object) -> int:
        unlike = 0
        for case in CASES:
            boxes, scores, most, kept = golden(case)
            found = Scored(boxes, scores, torch.zeros(len(scores), dtype=torch.int64))
            given = {"at_threshold": True, "ties": "heap", "flat_last": True} | changes
            unlike += (
                suppress(found, 0.5, apart=True, tiled=False, inclusive=False, most=most, **given)[:most].tolist()
                != kept
            )  # type: ignore[arg-type]
        return unlike

    assert others() == 0
    assert others(at_threshold=False) > 4
    assert others(ties="first", flat_last=False) > 4
    assert others(flat_last=False) > 4


def test_labels_in_one_heap_leave_each_other_be_but_for_a_box_of_no_area() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 8, 9], [5, 5, 5, 5], [20, 20, 30, 30]])
    labels, scores = torch.tensor([0, 1, 0, 1, 0]), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    for again, stays in ((False, [0, 1, 3, 4]), (True, [0, 1, 3, 3, 3, 3])):
        assert suppressed_from_heap(boxes, scores, labels, 0.5, most=6, flat_again=again).tolist() == stays
    assert suppressed_from_heap(boxes[:0], scores[:0], labels[:0], 0.5, most=6, flat_again=True).tolist() == []
