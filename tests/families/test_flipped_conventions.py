"""Every convention that a family sets is told by a golden case that fails when it is turned into another.

The tables say which conventions a case cannot tell, and why; `test_every_convention_is_told` holds them, case by case.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskgraft.families import (
    chainer,
    detectron2,
    detectron_caffe2,
    maskrcnn_benchmark,
    matterport,
    mmdet,
    model_garden,
    tensorpack,
    tf_object_detection,
    torchvision,
)
from maskgraft.spec import Numerics
from tests.golden.cases import FOLDER, opened
from tests.golden.flips import TRAINING, Base, conventions, others

TESTS = Path(__file__).parents[1]

# What no other value of a convention would change in some cases.
WHY = {
    "anchor_order": "one size a level: both orders are one",
    "anchor_rounding": "Detectron's anchors are whole numbers already",
    "anchor_stride": "the padded sides are multiples of every stride, so the grid's strides are the nominal ones",
    "box_min_size": "no detection is that small",
    "box_scale": "the photograph's sides grow by the same factor",
    "delta_clip_both": "no box is to shrink to a 62nd of its size",
    "detect_in": "the photograph's sides grow by the same factor, so overlaps are the same",
    "enlarge_only": "the photograph is smaller than min_size",
    "level_epsilon": "no region stands within ε of a power of two, or there is one level",
    "level_epsilon_value": "no region stands within ε of a power of two, or there is one level",
    "max_by": "there are fewer than max_detections",
    "min_size": "the long side would pass max_size, which decides",
    "nms_apart": "no overlap stands so near the threshold that 1/100 of a pixel decides",
    "nms_at_threshold": "no overlap equals the threshold",
    "nms_flat_last": "no detection is cut to a line",
    "nms_tiled": "the threshold is a half, from which on tiles keep what is kept box by box",
    "nms_ties": "no two candidates have the same score",
    "norm_behind_relu": "the heads have no norms",
    "normalise_first": "resizing in floats is linear, and so is normalising: they may change places",
    "pad_multiple": "the page has a size of its own",
    "roi_aligned": "crops do not look at it",
    "roi_any_size": "no region is smaller than a cell",
    "roi_rescue_iou": "every object has a proposal that overlaps it enough",
    "roi_sampling": "crops do not look at it",
    "rpn_activation": "no activation passes 6",
    "detect_filled": "there are enough proposals",
    "rpn_both": "anchors of both kinds are sampled",
    "rpn_nms_tiled": "the threshold is above a half, from which on tiles keep what is kept box by box",
    "rpn_min_size": "no candidate among the best is that small",
    "rpn_outside": "no anchor is left out for standing beyond the image",
    "rpn_own_cells": "the image is alone in its batch",
    "rpn_post_nms_shared": "a step of one image",
    "rpn_pre_nms": "those that are kept are among the best 200",
    "rpn_rank": "no logit is so large that its float32 probability is 1",
    "rpn_scope": "there is one map",
    "rpn_score_threshold": "there are enough candidates above it",
    "size_rounding": "the sides are the same by every rule",
    "stride_in": "an Inception has no bottlenecks",
}

# What a case cannot tell of the conventions that it sets.
_PLAIN = ("anchor_order", "level_epsilon", "rpn_rank", "size_rounding")
_CROPS = (
    *("box_min_size", "level_epsilon", "nms_apart", "normalise_first", "roi_aligned", "roi_sampling", "rpn_min_size"),
    *("rpn_pre_nms", "rpn_rank", "rpn_scope", "rpn_score_threshold"),
)
_STEP_OF_MMDET = ("roi_rescue_iou", "rpn_both", "rpn_outside", "rpn_own_cells")
UNDECIDED: dict[str, tuple[str, ...]] = {
    "chainer-r50c4": (
        *("detect_in", "level_epsilon", "max_by", "nms_apart", "nms_at_threshold", "rpn_rank", "size_rounding"),
    ),
    "detectron-caffe2-r50fpn": (*_PLAIN, "level_epsilon_value"),
    "detectron2-r50c4": (
        *("anchor_stride", "level_epsilon", "level_epsilon_value", "rpn_min_size", "rpn_pre_nms", "rpn_rank"),
        "size_rounding",
    ),
    "detectron2-r50fpn": (*_PLAIN, "level_epsilon_value"),
    "detectron2-r50fpn-gn": (*_PLAIN, "level_epsilon_value"),
    "detectron2-x101fpn": ("anchor_order", "level_epsilon", "level_epsilon_value", "rpn_rank"),
    "maskrcnn-benchmark-r50fpn": (
        *(*_PLAIN, "anchor_rounding", "box_min_size", "nms_apart", "nms_at_threshold", "rpn_post_nms_shared"),
    ),
    "matterport-r50-c81": (
        *(*_PLAIN, "anchor_stride", "enlarge_only", "level_epsilon_value", "nms_apart", "nms_at_threshold"),
        *("nms_flat_last", "nms_ties", "pad_multiple", "roi_aligned", "roi_sampling", "detect_filled", "rpn_min_size"),
        "rpn_pre_nms",
    ),
    "mmdet-r50caffe-fpn": (*_PLAIN, "box_min_size", "delta_clip_both", "level_epsilon_value", *_STEP_OF_MMDET),
    "mmdet-r50fpn": (*_PLAIN, "delta_clip_both", "level_epsilon_value", *_STEP_OF_MMDET),
    "modelgarden-maskrcnn_resnet50fpn": (
        *(*_PLAIN, "anchor_stride", "level_epsilon_value", "nms_apart", "nms_at_threshold", "nms_tiled"),
        *("normalise_first", "pad_multiple", "roi_any_size", "rpn_nms_tiled"),
    ),
    "tensorpack-COCO-MaskRCNN-R50FPN1x": (
        *(*_PLAIN, "anchor_stride", "box_scale", "nms_at_threshold", "nms_flat_last", "nms_ties", "norm_behind_relu"),
    ),
    "tf1od-mask_rcnn_inception_v2_coco": (*_CROPS, "nms_ties", "rpn_activation", "stride_in"),
    "tf2od-mask_rcnn_resnet50_keras": (*_CROPS, "min_size"),
    "torchvision-r50fpn": _PLAIN,
    "torchvision-r50fpn-v2": _PLAIN,
}

# Cases that are slow, asked only for what the others of their families cannot tell.
TELLS: dict[str, tuple[str, ...]] = {
    "tf1od-mask_rcnn_resnet50_atrous_coco": ("stride_in", "stride_at", "c4_stride", "rpn_dilation", "rpn_activation"),
    "tf2od-mask_rcnn_inception_resnet_v2": ("pixel_scale", "fixed_size", "conv_padding", "roi_max_pool"),
}

# Tests that tell what no case of a family does; None: nothing can.
ELSEWHERE: dict[str, str | None] = {
    "anchor_order": None,
    "anchor_rounding": "ops/test_boxes.py::test_anchors_of_detectron",
    "anchor_stride": None,
    "box_min_size": "test_conventions.py::test_thin_detections_are_dropped_or_not",
    "box_scale": "test_preprocess.py::test_boxes_scale_by_sides_by_the_factor_or_by_their_mean",
    "delta_clip_both": "ops/test_boxes.py::test_sizes_are_clamped_above_and_where_asked_below",
    "detect_in": None,
    "enlarge_only": "test_preprocess.py::test_a_photograph_that_may_only_grow",
    "level_epsilon": "ops/test_boxes.py::test_levels_at_exact_powers_of_two",
    "level_epsilon_value": "ops/test_boxes.py::test_levels_at_exact_powers_of_two",
    "max_by": "ops/test_boxes.py::test_what_stays_of_too_many_in_chainer_hangs_on_its_place",
    "nms_apart": "ops/test_boxes.py::test_classes_do_not_suppress_each_other_however_they_are_kept_apart",
    "nms_at_threshold": "ops/test_boxes.py::test_an_overlap_at_the_threshold_decides",
    "nms_flat_last": "ops/test_matterport_detections.py::test_one_of_them_has_no_area_and_hides_three_others",
    "nms_tiled": "ops/test_tiles.py::test_the_cases_tell",
    "nms_ties": "test_conventions.py::test_of_equal_scores_the_first_is_kept_or_what_a_heap_gives_first",
    "norm_behind_relu": "test_conventions.py::test_a_norm_may_stand_behind_the_relu",
    "normalise_first": None,
    "pad_multiple": "test_preprocess.py::test_padding_to_a_multiple_around_each_image",
    "roi_aligned": None,
    "roi_any_size": "test_tensorflow_conventions.py::test_small_regions_are_widened_to_a_cell_or_not",
    "roi_sampling": None,
    "detect_filled": "test_conventions.py::test_missing_proposals_are_boxes_of_no_area_or_are_not",
    "rpn_nms_tiled": "ops/test_tiles.py::test_the_cases_tell",
    "rpn_min_size": "test_conventions.py::test_boxes_of_no_area_stay_where_nothing_is_filtered",
    "rpn_pre_nms": "test_conventions.py::test_candidates_of_a_level_or_of_the_image",
    "rpn_rank": "test_conventions.py::test_saturated_probabilities_keep_the_order_of_anchors",
    "rpn_scope": "test_conventions.py::test_levels_suppress_each_other_or_not",
    "rpn_score_threshold": ("test_conventions.py::test_candidates_of_no_chance_are_left_out_where_a_threshold_says_so"),
    "size_rounding": "test_preprocess.py::test_sizes",
}

FAMILIES: dict[str, Numerics] = {
    "torchvision": torchvision.NUMERICS,
    "detectron2": detectron2.NUMERICS,
    "maskrcnn-benchmark": maskrcnn_benchmark.NUMERICS,
    "detectron-caffe2": detectron_caffe2.NUMERICS,
    "mmdet": mmdet.NUMERICS,
    "matterport": matterport.NUMERICS,
    "tensorpack": tensorpack.NUMERICS,
    "chainer": chainer.NUMERICS,
    "tf1od": tf_object_detection.NUMERICS,
    "tf2od": tf_object_detection.NUMERICS,
    "modelgarden": model_garden.NUMERICS,
}

# Told in every run of the tests; the whole tables by the long ones.
FIRST = (
    "channel_order",
    "pixel_mean",
    "resize",
    "norm_eps",
    "stride_in",
    "anchor_rounding",
    "anchor_stride",
    "roi_aligned",
)


def golden_step(name: str) -> bool:
    return bool(json.loads((FOLDER / name / "case.json").read_text())["losses"])


def cases_of(family: str) -> list[str]:
    return [name for name in UNDECIDED if name.startswith(f"{family}-")]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_no_case_of_a_family_tells_is_told_elsewhere(family: str) -> None:
    """Those of training are told by the golden steps, `test_golden_steps.py`."""
    cases = cases_of(family)
    assert cases
    beside = {convention for name, tells in TELLS.items() if name.startswith(f"{family}-") for convention in tells}
    for convention in conventions(FAMILIES[family]):
        if convention in TRAINING or convention in beside:
            continue
        if all(convention in UNDECIDED[name] for name in cases):
            test = ELSEWHERE[convention]
            if test is not None:
                path, function = test.split("::")
                assert re.search(rf"^def {function}\(", (TESTS / path).read_text(), re.MULTILINE), test


def test_every_gap_has_a_reason() -> None:
    assert {convention for gaps in UNDECIDED.values() for convention in gaps} == set(WHY)
    assert all((FOLDER / name / "case.json").exists() for name in UNDECIDED)


@pytest.fixture(scope="module", params=list(UNDECIDED))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    with opened(request.param, tmp_path_factory.mktemp(request.param)) as case:
        yield Base.of(case)


def told(base: Base, convention: str) -> bool:
    value = getattr(base.model.spec.numerics, convention)
    return any(base.first_fault(convention, other) for other in others(convention, value))


def test_the_first_conventions_are_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    with opened("torchvision-r50fpn", tmp_path_factory.mktemp("case")) as case:
        base = Base.of(case)
        assert [convention for convention in FIRST if not told(base, convention)] == []


@pytest.mark.long
def test_every_convention_is_told(base: Base) -> None:
    sought = conventions(base.model.spec.numerics)
    if not golden_step(base.case.name):
        sought = [convention for convention in sought if convention not in TRAINING]
    assert {convention for convention in sought if not told(base, convention)} == set(UNDECIDED[base.case.name])


@pytest.mark.long
@pytest.mark.parametrize("name", list(TELLS))
def test_what_slow_cases_tell(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with opened(name, tmp_path_factory.mktemp("case")) as case:
        base = Base.of(case)
        assert [convention for convention in TELLS[name] if not told(base, convention)] == []
