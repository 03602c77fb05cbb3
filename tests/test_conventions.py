"""What the model does under conventions that few families have, with boxes and scores made by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from maskgraft.backbones.norms import ConvNorm
from maskgraft.backbones.padding import max_pool
from maskgraft.model import MaskRCNN
from maskgraft.ops.paste import paste
from maskgraft.ops.selection import Scored
from maskgraft.preprocess import Prepared
from tests.tiny import tiny_spec


class Said(torch.nn.Module):
    """What a network says, whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, given: torch.Tensor) -> Any:
        return self.answer(given)


SQUARES = torch.tensor([[0.0, 0, 32, 32], [1, 0, 33, 32], [40, 40, 72, 72]])


def model(**numerics: Any) -> MaskRCNN:
    spec = tiny_spec()
    with torch.device("meta"):
        return MaskRCNN(replace(spec, numerics=replace(spec.numerics, **numerics))).eval()


def propose(scores: list[list[float]], anchors: list[torch.Tensor], **numerics: Any) -> Scored:
    deltas = [torch.zeros(len(one), 4) for one in anchors]
    return model(**numerics).propose([torch.tensor(one) for one in scores], deltas, anchors, (96, 96))


def test_levels_suppress_each_other_or_not() -> None:
    anchors = [SQUARES[:1], SQUARES[1:]]
    assert len(propose([[3.0], [2.0, 1.0]], anchors, rpn_scope="level").boxes) == 3
    kept = propose([[3.0], [2.0, 1.0]], anchors, rpn_scope="image")
    assert kept.boxes.tolist() == [SQUARES[0].tolist(), SQUARES[2].tolist()]


def test_candidates_of_a_level_or_of_the_image() -> None:
    anchors = [SQUARES[[0]], SQUARES[[2]]]
    assert len(propose([[3.0], [2.0]], anchors, rpn_scope="level", rpn_pre_nms=1).boxes) == 2
    assert len(propose([[3.0], [2.0]], anchors, rpn_scope="image", rpn_pre_nms=1).boxes) == 1


def test_as_many_candidates_as_proposals() -> None:
    scores, anchors = [[3.0, 2.0, 1.0]], [SQUARES]
    assert len(propose(scores, anchors, rpn_pre_nms=3, rpn_post_nms=2).boxes) == 2
    assert len(propose(scores, anchors, rpn_pre_nms=0, rpn_post_nms=2).boxes) == 1  # the second is suppressed


def test_saturated_probabilities_keep_the_order_of_anchors() -> None:
    scores = [[30.0, 40.0, 50.0]]  # all are 1 as float32 probabilities
    first = propose(scores, [SQUARES], rpn_rank="probability-first")
    assert first.boxes.tolist() == [SQUARES[0].tolist(), SQUARES[2].tolist()]
    assert propose(scores, [SQUARES], rpn_rank="logit").boxes[0].tolist() == SQUARES[2].tolist()


# the second and the third overlap; a heap of four gives the third one first
FOUR = torch.tensor([[60.0, 60, 92, 92], [0, 0, 32, 32], [1, 0, 33, 32], [60, 0, 92, 32]])
TAKEN = {"first": [0, 1, 3], "heap": [0, 2, 3]}


@pytest.mark.parametrize("ties", TAKEN)
def test_of_equal_scores_the_first_is_kept_or_what_a_heap_gives_first(ties: str) -> None:
    found = propose([[50.0] * 4], [FOUR], nms_ties=ties, rpn_rank="probability-first")
    assert found.boxes.tolist() == FOUR[TAKEN[ties]].tolist()


def test_boxes_of_no_area_stay_where_nothing_is_filtered() -> None:
    outside = torch.tensor([[-40.0, 10, -8, 42]])
    assert len(propose([[1.0]], [outside], rpn_min_size=0.0).boxes) == 0
    assert propose([[1.0]], [outside], rpn_min_size=None).boxes.tolist() == [[0, 10, 0, 42]]


def test_corner_boxes_end_on_the_last_pixel() -> None:
    wide = torch.tensor([[-10.0, -10, 200, 200]])
    assert propose([[1.0]], [wide], corner_boxes=True).boxes.tolist() == [[0, 0, 95, 95]]
    assert propose([[1.0]], [wide], corner_boxes=False).boxes.tolist() == [[0, 0, 96, 96]]


def test_corner_anchors_are_one_pixel_smaller() -> None:
    maps = {f"p{level}": torch.zeros(1, 1, 1, 1) for level in range(2, 7)}
    plain, corners = (
        model(corner_boxes=yes, anchor_rounding=False).anchors(maps, (64, 64))[0] for yes in (False, True)
    )
    assert (plain - corners).tolist() == [[0, 0, 1, 1]] * 3


def test_candidates_of_no_chance_are_left_out_where_a_threshold_says_so() -> None:
    """A probability below float32's smallest number is 0, and 0 does not pass a threshold of 0."""
    scores, anchors = [[2.0, -3.0, -200.0]], [SQUARES[[0, 2, 2]] + torch.tensor([[0.0], [0.0], [200.0]])]
    for threshold, kept in ((None, 3), (0.0, 2), (0.5, 1)):
        made = model(rpn_score_threshold=threshold)
        found = made.propose([torch.tensor(one) for one in scores], [torch.zeros(3, 4)], anchors, (400, 400))
        assert len(found.boxes) == kept


def test_unclamped_deltas_make_boxes_as_large_as_they_say() -> None:
    anchor, deltas = torch.tensor([[40.0, 40, 41, 41]]), torch.tensor([[0.0, 0, 6, 6]])
    for clip, side in ((4.135166556742356, 62.5), (None, 403.43)):
        boxes = model(delta_clip=clip).propose([torch.ones(1)], [deltas], [anchor], (1000, 1000)).boxes
        assert (boxes[0, 2] - boxes[0, 0]).item() == pytest.approx(min(side, 40.5 + side / 2), rel=1e-3)


def detect(logits: list[list[float]], regions: torch.Tensor, **numerics: Any) -> Scored:
    """Detections from given class logits, with deltas of zero and masks of no matter."""
    made = model(**numerics)
    rows = made.spec.arch.classes + 1
    prepared = Prepared(torch.zeros(3, 96, 96), (96, 96), (0, 0, 96, 96), (1.0, 1.0))
    made.pool = lambda *_, **__: torch.zeros(len(regions), 1)  # type: ignore[method-assign, assignment]
    made.box_head, made.box_predictor = torch.nn.Identity(), Given(torch.tensor(logits), rows)  # type: ignore[assignment]
    made.mask_logits = lambda maps, boxes, *_, **__: torch.zeros(len(boxes[0]), rows, 2, 2)  # type: ignore[method-assign]
    return made.detect({}, regions, prepared, (96, 96))[0]


class Given(torch.nn.Module):
    def __init__(self, logits: torch.Tensor, rows: int) -> None:
        super().__init__()
        self.logits, self.rows = logits, rows

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.logits, torch.zeros(len(self.logits), 4 * self.rows)


def test_a_region_answers_for_every_class_or_for_the_best() -> None:
    logits = [[2.0, 1.9, 1.0], [1.0, 1.1, 3.0], [-9.0, 5.0, 0.0]]  # the last column is the background
    every = detect(logits, SQUARES, class_choice="every", nms_threshold=1.0)
    assert len(every.labels) == 5
    best = detect(logits, SQUARES, class_choice="best", nms_threshold=1.0)
    assert best.labels.tolist() == [1, 0]
    assert best.boxes.tolist() == [SQUARES[2].tolist(), SQUARES[0].tolist()]


def test_scores_are_of_all_classes_of_each_or_none() -> None:
    logits = [[2.0, -1.0, 1.0]]  # the last column is the background
    scores = {
        kind: detect(logits, SQUARES[:1], class_scores=kind, logit_scale=2.0, score_threshold=-9.0).scores.tolist()
        for kind in ("softmax", "sigmoid", "logit")
    }
    assert scores["logit"] == [1.0, -0.5]
    assert scores["sigmoid"] == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(0.5))])
    total = math.exp(1) + math.exp(-0.5) + math.exp(0.5)
    assert scores["softmax"] == pytest.approx([math.exp(1) / total, math.exp(-0.5) / total])


def test_thin_detections_are_dropped_or_not() -> None:
    thin = torch.tensor([[10.0, 10, 10.005, 42], [40, 40, 72, 72]])
    logits = [[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]]
    assert len(detect(logits, thin, box_min_size=0.0, score_threshold=0.5).labels) == 2
    assert len(detect(logits, thin, box_min_size=0.01, score_threshold=0.5).labels) == 1


def test_the_best_class_counts_from_the_threshold_on() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0]])
    score = logits.softmax(1)[0, 0].item()
    assert len(detect(logits.tolist(), SQUARES[:1], class_choice="best", score_threshold=score).labels) == 1
    assert len(detect(logits.tolist(), SQUARES[:1], class_choice="every", score_threshold=score).labels) == 0


def test_a_mask_is_resized_as_scikit_image_does() -> None:
    probability = torch.tensor([[[0.8, 0.8], [0.8, 0.1]]])
    mask = paste(probability, torch.tensor([[2.0, 1, 11, 6]]), (8, 12), method="skimage-box", threshold=0.5)[0]
    assert mask.int().tolist() == [  # scikit-image 0.24
        [0] * 12,
        [0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        [0] * 12,
        [0] * 12,
    ]


def test_a_mask_does_not_fade_below_its_least() -> None:
    mask = paste(
        torch.full((1, 4, 4), 0.6), torch.tensor([[0.0, 0, 8, 8]]), (8, 8), method="skimage-box", threshold=0.5
    )
    assert mask.all()


@pytest.mark.parametrize(("size", "symmetric", "cover"), [(100, 50, 51), (101, 51, 51), (7, 4, 4), (8, 4, 5)])
def test_a_pool_that_covers_reads_what_strides_leave(size: int, symmetric: int, cover: int) -> None:
    x = torch.arange(float(size)).expand(1, 1, 3, size)
    assert max_pool(x, 3, 2, padding="symmetric").shape[-1] == symmetric
    covered = max_pool(x, 3, 2, padding="cover")
    assert covered.shape[-1] == cover
    assert covered[0, 0, 0, -1] == size - 1


@pytest.mark.parametrize("padding", ["same-before", "same-after"])
@pytest.mark.parametrize("size", [32, 33])
def test_as_many_zeros_at_every_size_leave_half_of_an_odd_map(size: int, padding: Any) -> None:
    x = torch.zeros(1, 1, size, size)
    for kernel in (7, 3, 1):
        conv = ConvNorm(1, 1, kernel, norm_kind="none", eps=0.0, bias=False, stride=2, padding=padding)
        assert conv(x).shape[-1] == 16


@pytest.mark.parametrize("filled", [False, True])
def test_missing_proposals_are_boxes_of_no_area_or_are_not(filled: bool) -> None:
    """Under TensorFlow 1.15, the first of them that is no background ends its class."""
    made = model(detect_filled=filled, rpn_post_nms=6, nms_flat_last=True, box_min_size=0.0, max_detections=9)
    regions = torch.tensor([[2.0, 2, 30, 30], [34, 34, 60, 60]])
    seen: list[int] = []
    made.pool = lambda maps, boxes, size, padded: boxes[0]  # type: ignore[method-assign]
    made.box_head = Said(lambda boxes: boxes)  # type: ignore[assignment]

    def answer(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(boxes))
        confidence = torch.tensor([5.0, 3.0, 4.0, 4.0, 4.0, 4.0])[: len(boxes)]
        return torch.stack((confidence, 0 * confidence), 1), torch.zeros(len(boxes), 4)

    made.box_predictor = Said(answer)  # type: ignore[assignment]
    made.mask_logits = lambda maps, boxes, padded, labels: torch.zeros(len(labels), 1, 4, 4)  # type: ignore[method-assign]
    prepared = Prepared(torch.zeros(3, 64, 64), (64, 64), (0, 0, 64, 64), (1.0, 1.0))
    with torch.inference_mode():
        found, _ = made.detect({}, regions, prepared, (64, 64))
    whole = (found.boxes[:, 2:] > found.boxes[:, :2]).all(1)
    assert seen == [6 if filled else 2]
    assert found.boxes[whole].tolist() == regions[: 2 - filled].tolist()


def test_a_norm_may_stand_behind_the_relu() -> None:
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    one, last = (
        ConvNorm(3, 32, 3, norm_kind="group", eps=1e-5, bias=True, relu=True, norm_last=last) for last in (False, True)
    )
    last.load_state_dict(one.state_dict())
    assert one(x).min() == 0
    assert torch.allclose(last(x), one.norm(torch.relu(one.conv(x))), atol=1e-6)
    assert last(x).min() < 0


def test_boxes_end_where_the_photograph_did_before_its_sides_were_rounded() -> None:
    """PaddleDetection's `Resize` keeps 91 × 121 · 128/91 as it is for cutting, and its pixels are 128 × 170."""
    prepared = Prepared(torch.zeros(3, 128, 170), (91, 121), (0, 0, 128, 170), (128 / 91, 128 / 91))
    wide = torch.tensor([[-10.0, -10, 200, 200]])
    for unrounded, right in ((True, 121 * 128 / 91), (False, 170.0)):
        made = model(clip_unrounded=unrounded)
        boxes = made.propose([torch.ones(1)], [torch.zeros(1, 4)], [wide], made.clip_size(prepared, (128, 192))).boxes
        assert boxes[0].tolist() == pytest.approx([0, 0, right, 128])
        assert made.detection_window(prepared) == pytest.approx((0, 0, 128, right))


@pytest.mark.parametrize("ties", TAKEN)
def test_of_detections_of_equal_score_the_first_is_kept_or_what_a_heap_gives_first(ties: str) -> None:
    found = detect([[5.0, 0.0, 0.0]] * 4, FOUR, nms_ties=ties, nms_apart=True)
    assert found.boxes.tolist() == FOUR[TAKEN[ties]].tolist()


# eight regions of equal score, of two classes in turns: class by class, each by its heap, or as Matterport by region
ORDERS = {"every": [1, 5, 7, 3, 0, 4, 6, 2], "best": list(range(8))}


@pytest.mark.parametrize("choice", ORDERS)
def test_detections_of_equal_score_come_class_by_class_or_region_by_region(choice: str) -> None:
    apart = torch.arange(8.0)[:, None] * 11 + torch.tensor([0.0, 0, 8, 8])
    logits = [[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]] * 4
    found = detect(logits, apart, nms_ties="heap", nms_apart=True, class_choice=choice, score_threshold=0.5)
    assert found.boxes.tolist() == apart[ORDERS[choice]].tolist()


@pytest.mark.parametrize(("candidates", "kept"), [(None, [1, 2, 0]), (4, [1, 3, 0])])
def test_a_heap_takes_the_candidates_as_they_come(candidates: int | None, kept: list[int]) -> None:
    """All of them in the order of anchors, of which the first is the worst; the best ones in the order of scores."""
    anchors = torch.cat((torch.tensor([[0.0, 60, 32, 92]]), FOUR[:3]))
    found = propose(
        [[-2.0, 50.0, 50.0, 50.0]],
        [anchors],
        nms_ties="heap",
        nms_apart=True,
        rpn_scope="image",
        rpn_rank="probability-first",
        rpn_pre_nms=candidates,
    )
    assert found.boxes.tolist() == anchors[kept].tolist()


def test_a_mask_in_the_pixels_whose_centres_its_box_holds() -> None:
    box = torch.tensor([[2.6, 1.4, 6.4, 5.5]])
    mask = paste(torch.ones(1, 4, 4), box, (8, 8), method="centre-box", threshold=0.5)[0]
    rows, columns = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
    assert (rows, columns, int(mask.sum())) == ([1, 2, 3, 4, 5], [3, 4, 5], 15)
