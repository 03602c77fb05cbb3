"""Suppression in tiles, against what TF Model Garden's own kept (`golden/make_tiled_suppression.py`)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maskgraft.ops.selection import Scored, suppress
from maskgraft.ops.tiles import stays_in_tiles

GOLDEN = Path(__file__).parents[1] / "golden" / "tiled_suppression.npz"
CASES = range(6)
THRESHOLDS = (0.0, 0.1, 0.2, 0.35, 0.45, 0.5, 0.6, 0.7)


def golden(case: int, threshold: float) -> tuple[torch.Tensor, list[bool]]:
    with np.load(GOLDEN) as file:
        boxes = file[f"{case}.boxes"][:, [1, 0, 3, 2]].astype(np.float32)
        stays = np.unpackbits(file[f"{case}.{THRESHOLDS.index(threshold)}"])[: len(boxes)].astype(bool)
        assert tuple(file["thresholds"]) == THRESHOLDS
    return torch.from_numpy(boxes), stays.tolist()


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("case", CASES)
def test_the_same_stays(case: int, threshold: float) -> None:
    boxes, stays = golden(case, threshold)
    assert stays_in_tiles(boxes, threshold).tolist() == stays


def suppressed(boxes: torch.Tensor, threshold: float, *, tiled: bool) -> list[int]:
    scores = torch.linspace(0.9, 0.1, len(boxes))
    found = Scored(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64))
    return suppress(
        found,
        threshold,
        at_threshold=True,
        apart=True,
        ties="first",
        tiled=tiled,
        flat_last=False,
        inclusive=False,
        most=len(boxes),
    ).tolist()


def test_the_cases_tell() -> None:
    """Below a half, greedy suppression keeps more; from there on the same, but for boxes that end in the corner."""
    for case in CASES[2:]:
        for threshold in THRESHOLDS:
            boxes, stays = golden(case, threshold)
            kept, greedy = np.flatnonzero(stays).tolist(), suppressed(boxes, threshold, tiled=False)
            assert suppressed(boxes, threshold, tiled=True) == kept
            if 0 < threshold <= 0.35:
                assert len(greedy) > len(kept)
            elif threshold > 0.5:
                assert [one for one in greedy if boxes[one].any()] == kept


def test_labels_leave_each_other_be_and_the_best_comes_first() -> None:
    boxes = torch.tensor([[0.0, 0, 8, 9], [6, 0, 14, 9], [3, 0, 11, 9], [3, 0, 11, 9]])
    found = Scored(boxes, torch.tensor([0.9, 0.6, 0.8, 0.7]), torch.tensor([0, 0, 0, 1]))
    stays = suppress(
        found,
        0.3,
        at_threshold=False,
        apart=True,
        ties="first",
        tiled=True,
        flat_last=False,
        inclusive=False,
        most=9,
    )
    assert stays.tolist() == [0, 3]
