"""Boxes whose last pixel counts, anchors of Detectron, overlaps at the threshold: worked by hand or by a plain loop."""

import math

import numpy as np
import pytest
import torch

from maskgraft.ops import anchors, boxes
from maskgraft.ops.boxes import iou
from maskgraft.ops.pooling import levels, pool
from maskgraft.ops.selection import Scored, at_most, suppress

# The nine anchors of a 16-pixel cell as Faster R-CNN's Matlab code made them (Ren et al. 2015): sizes 128, 256, 512.
FASTER_RCNN = [
    [-84, -40, 99, 55],
    [-176, -88, 191, 103],
    [-360, -184, 375, 199],
    [-56, -56, 71, 71],
    [-120, -120, 135, 135],
    [-248, -248, 263, 263],
    [-36, -80, 51, 95],
    [-80, -168, 95, 183],
    [-168, -344, 183, 359],
]


def test_anchors_of_detectron() -> None:
    made = anchors.cell(
        (128, 256, 512),
        (0.5, 1, 2),
        order="ratio",
        rounding=False,
        stride=16,
        offset=0.5,
        whole_sides=True,
        inclusive=True,
        corners=False,
    )
    assert made.tolist() == FASTER_RCNN


def test_anchors_of_mmdetection_1_have_whole_corners() -> None:
    made = anchors.cell(
        (9,),
        (1,),
        order="ratio",
        rounding=True,
        stride=16,
        offset=0.5,
        whole_sides=False,
        inclusive=True,
        corners=False,
    )
    assert made.tolist() == [[4.0, 4.0, 12.0, 12.0]]  # 7.5 ± 4, of which halves go to the even neighbour


def test_an_inclusive_pixel_has_an_area() -> None:
    pixel = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert boxes.area(pixel, inclusive=True).item() == 1
    assert boxes.area(pixel, inclusive=False).item() == 0
    assert iou(pixel, torch.tensor([[3.0, 3.0, 4.0, 3.0]]), inclusive=True).item() == 0.5


@pytest.mark.parametrize("inclusive", [False, True])
def test_decoding_undoes_encoding(inclusive: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 2, 2, generator=generator) * 50
    truth = torch.cat((corners[:, 0], corners[:, 0] + 1 + corners[:, 1]), 1)
    start = truth[torch.randperm(20, generator=generator)]
    weights = (10.0, 10.0, 5.0, 5.0)
    deltas = boxes.encode(truth, start, weights, inclusive=inclusive)
    back = boxes.decode(deltas, start, weights, 9.0, both_ways=False, inclusive=inclusive, wider=False)[:, 0]
    assert torch.allclose(back, truth, atol=1e-4)
    wide = boxes.decode(deltas, start, weights, 9.0, both_ways=False, inclusive=inclusive, wider=True)[:, 0]
    assert torch.allclose(wide - back, torch.tensor((-0.5, -0.5, 0.5, 0.5)), atol=1e-5)


def test_zero_deltas_keep_an_inclusive_box() -> None:
    box = torch.tensor([[2.0, 4.0, 9.0, 5.0]])
    kept = boxes.decode(
        torch.zeros(1, 4), box, (1, 1, 1, 1), math.log(62.5), both_ways=False, inclusive=True, wider=False
    )
    assert torch.equal(kept[:, 0], box)


def test_sizes_are_clamped_above_and_where_asked_below() -> None:
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    deltas = torch.tensor([[0.0, 0.0, 100.0, -100.0]])
    free = boxes.decode(deltas, box, (1, 1, 1, 1), 1.0, both_ways=False, inclusive=False, wider=False)[0, 0]
    both = boxes.decode(deltas, box, (1, 1, 1, 1), 1.0, both_ways=True, inclusive=False, wider=False)[0, 0]
    assert (free[2] - free[0]).item() == pytest.approx(8 * math.e)
    assert (free[3] - free[1]).item() == pytest.approx(0)
    assert (both[3] - both[1]).item() == pytest.approx(8 / math.e)


def greedy(xyxy: np.ndarray, scores: np.ndarray, threshold: float, *, offset: int, equal: bool) -> list[int]:
    """Suppression as Detectron's loop does it, in float32."""
    order, kept, gone = np.argsort(-scores, kind="stable"), [], set()
    areas = (xyxy[:, 2] - xyxy[:, 0] + offset) * (xyxy[:, 3] - xyxy[:, 1] + offset)
    for place, i in enumerate(order):
        if i in gone:
            continue
        kept.append(int(i))
        for j in order[place + 1 :]:
            wide = max(min(xyxy[i, 2], xyxy[j, 2]) - max(xyxy[i, 0], xyxy[j, 0]) + offset, np.float32(0))
            high = max(min(xyxy[i, 3], xyxy[j, 3]) - max(xyxy[i, 1], xyxy[j, 1]) + offset, np.float32(0))
            overlap = wide * high / (areas[i] + areas[j] - wide * high)
            if overlap > np.float32(threshold) or (equal and overlap == np.float32(threshold)):
                gone.add(j)
    return kept


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("inclusive", [False, True])
def test_suppression_is_the_plain_loop(inclusive: bool, equal: bool, threshold: float) -> None:
    generator = np.random.default_rng(1)
    corners = generator.integers(0, 12, (70, 2, 2)).astype(np.float32)  # whole numbers: many overlaps are exactly 1/2
    xyxy = np.concatenate((corners[:, 0], corners[:, 0] + 1 + corners[:, 1]), 1)
    scores = generator.permutation(70).astype(np.float32)
    found = Scored(torch.from_numpy(xyxy), torch.from_numpy(scores), torch.zeros(70, dtype=torch.int64))
    kept = suppress(
        found,
        threshold,
        at_threshold=equal,
        apart=True,
        ties="first",
        tiled=False,
        flat_last=False,
        inclusive=inclusive,
        most=9,
    )
    assert kept.tolist() == greedy(xyxy, scores, threshold, offset=int(inclusive), equal=equal)


def test_an_overlap_at_the_threshold_decides() -> None:
    pair = Scored(
        torch.tensor([[0.0, 0, 2, 1], [0.0, 0, 1, 1]]), torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    )
    assert (
        len(
            suppress(
                pair,
                0.5,
                at_threshold=False,
                apart=True,
                ties="first",
                tiled=False,
                flat_last=False,
                inclusive=False,
                most=9,
            )
        )
        == 2
    )
    assert (
        len(
            suppress(
                pair,
                0.5,
                at_threshold=True,
                apart=True,
                ties="first",
                tiled=False,
                flat_last=False,
                inclusive=False,
                most=9,
            )
        )
        == 1
    )


def test_classes_do_not_suppress_each_other_however_they_are_kept_apart() -> None:
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(80, 2, 2, generator=generator) * 30
    found = Scored(
        torch.cat((corners[:, 0], corners[:, 0] + 4 + corners[:, 1]), 1),
        torch.rand(80, generator=generator),
        torch.randint(0, 4, (80,), generator=generator),
    )
    apart, shifted = (
        suppress(
            found,
            0.4,
            at_threshold=False,
            apart=choice,
            ties="first",
            tiled=False,
            flat_last=False,
            inclusive=False,
            most=9,
        ).tolist()
        for choice in (True, False)
    )
    assert apart == shifted
    assert len(apart) < 80


def test_levels_at_exact_powers_of_two() -> None:
    sides = torch.tensor([56.0, 112.0, 224.0, 448.0])
    squares = torch.stack((torch.zeros(4), torch.zeros(4), sides, sides), 1)
    for epsilon, value in (("outside", 1e-6), ("inside", 1e-6), ("inside", 1e-8), ("inside", 2.5e-7)):
        level = levels(
            squares,
            finest=2,
            coarsest=5,
            epsilon=epsilon,  # type: ignore[arg-type]
            epsilon_value=value,
            rounding="floor",
            inclusive=False,
        )
        assert level.tolist() == [2, 3, 4, 5]
    short = levels(
        squares - torch.tensor((0, 0, 1, 1)),
        finest=2,
        coarsest=5,
        epsilon="inside",
        epsilon_value=1e-6,
        rounding="floor",
        inclusive=True,
    )
    assert short.tolist() == [2, 3, 4, 5]


def test_regions_of_mmdetection_1_end_with_their_last_pixel() -> None:
    plane = torch.rand(9, 11, generator=torch.Generator().manual_seed(3))
    regions = torch.tensor([[3.0, 5.0, 30.0, 24.0], [8.0, 8.0, 9.0, 9.0]])  # the second is smaller than a cell
    ours = pool(
        [plane[None, None]],
        [regions],
        strides=[4],
        size=3,
        sampling=2,
        aligned=False,
        epsilon="inside",
        epsilon_value=1e-6,
        rounding="floor",
        inclusive_areas=True,
        inclusive=True,
        any_size=True,
    )

    def at(y: float, x: float) -> float:
        y, x = min(max(y, 0), 8), min(max(x, 0), 10)
        top, left = min(int(y), 7), min(int(x), 9)
        corners = plane[top : top + 2, left : left + 2]
        rows, columns = torch.tensor([1 - (y - top), y - top]), torch.tensor([1 - (x - left), x - left])
        return float(rows @ corners @ columns)

    for region, values in zip(regions.tolist(), ours[:, 0], strict=True):
        x1, y1, x2, y2 = region[0] / 4, region[1] / 4, (region[2] + 1) / 4, (region[3] + 1) / 4
        for row in range(3):
            for column in range(3):
                samples = [
                    at(y1 + (row + (i + 0.5) / 2) * (y2 - y1) / 3, x1 + (column + (j + 0.5) / 2) * (x2 - x1) / 3)
                    for i in range(2)
                    for j in range(2)
                ]
                assert values[row, column].item() == pytest.approx(sum(samples) / 4, abs=1e-5)


def test_a_kept_box_of_no_area_is_kept_again_until_there_are_enough() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 5, 20, 9], [0, 0, 8, 9], [30, 30, 40, 40], [30, 30, 41, 40]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    for labels, kept in (([0, 0, 0, 0, 0], [0, 1, 1, 1]), ([0, 0, 0, 0, 1], [0, 1, 1, 1, 4])):
        found = Scored(boxes, scores, torch.tensor(labels))
        stays = suppress(
            found,
            0.5,
            at_threshold=False,
            apart=True,
            ties="first",
            tiled=False,
            flat_last=True,
            inclusive=False,
            most=4,
        )
        assert stays.tolist() == kept
    none = suppress(
        found[[]],
        0.5,
        at_threshold=False,
        apart=True,
        ties="first",
        tiled=False,
        flat_last=True,
        inclusive=False,
        most=4,
    )
    assert none.tolist() == []


def test_what_stays_of_too_many_in_chainer_hangs_on_its_place() -> None:
    """Its own lines, on detections listed class by class; the best ones are not among what they keep."""
    random = np.random.default_rng(0)
    scores, labels = np.sort(random.random(30).astype(np.float32))[::-1].copy(), random.integers(0, 4, 30)
    found = Scored(torch.zeros(30, 4), torch.from_numpy(scores), torch.from_numpy(labels))
    listed = np.argsort(labels, kind="stable")
    indices = np.argsort(scores[listed])
    theirs = sorted(listed[indices >= len(indices) - 12].tolist())
    assert at_most(found, 12, by="argsort").tolist() == theirs != list(range(12))
    assert at_most(found, 12, by="score").tolist() == list(range(12))
    assert at_most(found, 30, by="argsort").tolist() == list(range(30))


def test_of_equal_scores_the_first_comes_first_however_many_there_are() -> None:
    corners = torch.arange(2000.0)[:, None].expand(-1, 4) * 10
    found = Scored(corners + torch.tensor([0.0, 0, 5, 5]), torch.full((2000,), 0.5), torch.arange(2000) % 3)
    kept = suppress(
        found,
        0.5,
        at_threshold=False,
        apart=False,
        ties="first",
        tiled=False,
        flat_last=False,
        inclusive=False,
        most=2000,
    )
    assert kept.tolist() == list(range(2000))
