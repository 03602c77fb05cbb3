"""Configs of Detectron2, maskrcnn-benchmark and Detectron: obeyed, or refused where the model cannot follow."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from maskgraft.errors import CheckpointError
from maskgraft.families import detectron2, detectron_caffe2, identify, maskrcnn_benchmark
from maskgraft.families.class_names import numbered
from maskgraft.files import Tensors
from maskgraft.spec import Arch, Numerics, Spec
from tests.families.drawn import drawn

WITH_BACKGROUND = {"box_rows": "with-background", "mask_rows": "with-background"}


def file(name: str, numerics: Numerics, **changes: Any) -> Tensors:
    arch = Arch(**{"classes": 2, **changes})
    return drawn(Spec(family=name, arch=arch, numerics=numerics, classes=numbered(2)))


def caffe2() -> Tensors:
    return file("detectron-caffe2", detectron_caffe2.NUMERICS, norm="affine", **WITH_BACKGROUND)


def read(tensors: Tensors, tmp_path: Path, text: str) -> Numerics:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return identify(tensors, config=path).spec.numerics


DETECTRON2 = """
INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 640, MAX_SIZE_TEST: 960, MASK_FORMAT: bitmask}
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  RESNETS: {STRIDE_IN_1X1: false}
  ANCHOR_GENERATOR: {SIZES: [[32, 64, 128]], ASPECT_RATIOS: [[0.5, 2.0]], OFFSET: 0.5}
  RPN: {POST_NMS_TOPK_TEST: 300, BOUNDARY_THRESH: 0, IOU_THRESHOLDS: [0.2, 0.6]}
  ROI_BOX_HEAD: {POOLER_TYPE: ROIAlign, POOLER_SAMPLING_RATIO: 2, BBOX_REG_WEIGHTS: !!python/tuple [5.0, 5.0, 2.0, 2.0]}
  ROI_HEADS: {NUM_CLASSES: 2, SCORE_THRESH_TEST: 0.5}
TEST: {DETECTIONS_PER_IMAGE: 7}
"""


def test_detectron2(tmp_path: Path) -> None:
    tensors = file("detectron2", detectron2.NUMERICS, anchors_per_cell=6)
    told = read(tensors, tmp_path, DETECTRON2)
    assert (told.channel_order, told.pixel_std, told.stride_in) == ("rgb", (58.395, 57.12, 57.375), "3x3")
    assert told.anchor_sizes == ((32.0, 64.0, 128.0),) * 5  # one list for all levels
    assert (told.anchor_offset, told.anchor_ratios) == (0.5, (0.5, 2.0))
    assert (told.rpn_post_nms, told.rpn_straddle, told.rpn_negative_iou, told.rpn_positive_iou) == (300, 0, 0.2, 0.6)
    assert (told.roi_aligned, told.roi_sampling, told.box_delta_weights) == (False, 2, (5, 5, 2, 2))
    assert (told.score_threshold, told.max_detections, told.mask_targets) == (0.5, 7, "bitmap")
    assert (told.min_size, told.max_size) == (640, 960)


def test_detectron2_lazy_config(tmp_path: Path) -> None:
    text = """
dataloader:
  test:
    mapper:
      augmentations:
      - {_target_: detectron2.data.transforms.ResizeShortestEdge, short_edge_length: 500, max_size: 700}
model:
  _target_: detectron2.modeling.meta_arch.rcnn.GeneralizedRCNN
  input_format: RGB
  pixel_mean: [123.675, 116.28, 103.53]
  backbone: {bottom_up: {stages: {depth: 50, stride_in_1x1: false}}}
  proposal_generator:
    anchor_generator: {sizes: [[16], [32], [64], [128], [256]], aspect_ratios: [1.0, 2.0], offset: 0.0}
    pre_nms_topk: [2000, 900]
    post_nms_topk: [1000, 400]
    nms_thresh: 0.65
  roi_heads:
    num_classes: 3
    box_pooler: {output_size: 7, sampling_ratio: 0, pooler_type: ROIAlignV2}
    box_predictor: {test_score_thresh: 0.25, num_classes: '${..num_classes}'}
"""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    known = identify(file("detectron2", detectron2.NUMERICS, anchors_per_cell=2), config=path)
    told = known.spec.numerics
    assert (told.channel_order, told.min_size, told.max_size, told.stride_in) == ("rgb", 500, 700, "3x3")
    assert (told.anchor_sizes[0], told.anchor_ratios) == ((16.0,), (1.0, 2.0))
    assert (told.rpn_pre_nms, told.rpn_post_nms, told.rpn_pre_nms_train, told.rpn_nms_threshold) == (
        900,
        400,
        2000,
        0.65,
    )
    assert told.score_threshold == 0.25
    assert [finding.code for finding in known.findings] == ["shape.classes"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FORMAT: RGB", "FORMAT: YUV-BT.601"),
        ("META_ARCHITECTURE: GeneralizedRCNN", "META_ARCHITECTURE: PanopticFPN"),
        ("ASPECT_RATIOS: [[0.5, 2.0]]", "ASPECT_RATIOS: [[0.5, 2.0], [1.0, 2.0]]"),
        ("NUM_CLASSES: 2,", "NUM_CLASSES: 2, NAME: CascadeROIHeads,"),
    ],
)
def test_detectron2_settings_that_the_model_lacks(old: str, new: str, tmp_path: Path) -> None:
    assert old in DETECTRON2
    tensors = file("detectron2", detectron2.NUMERICS, anchors_per_cell=6)
    with pytest.raises(CheckpointError, match="architecture not supported"):
        read(tensors, tmp_path, DETECTRON2.replace(old, new))


def test_values_of_the_wrong_kind_are_named_all_at_once(tmp_path: Path) -> None:
    text = DETECTRON2.replace("MIN_SIZE_TEST: 640", "MIN_SIZE_TEST: big").replace("[0.2, 0.6]", "[0.2]")
    with pytest.raises(CheckpointError) as error:
        read(file("detectron2", detectron2.NUMERICS, anchors_per_cell=6), tmp_path, text)
    keys = {name for finding in error.value.findings for name in finding.names}
    assert keys == {"INPUT.MIN_SIZE_TEST", "MODEL.RPN.IOU_THRESHOLDS"}


def test_maskrcnn_benchmark_writes_tuples_as_text(tmp_path: Path) -> None:
    text = """
DATALOADER: {SIZE_DIVISIBILITY: 0}
INPUT: {MIN_SIZE_TEST: 600, TO_BGR255: true, PIXEL_MEAN: [1.0, 2.0, 3.0]}
MODEL:
  RPN:
    ANCHOR_SIZES: (16, 32, 64, 128, 256)
    ASPECT_RATIOS: (0.5, 1.0, 2.0)
    STRADDLE_THRESH: -1
    POST_NMS_TOP_N_TEST: 1000
    FPN_POST_NMS_TOP_N_TEST: 250
  ROI_HEADS: {BBOX_REG_WEIGHTS: '(5.0, 5.0, 2.5, 2.5)', NMS: 0.4}
"""
    told = read(file("maskrcnn-benchmark", maskrcnn_benchmark.NUMERICS, **WITH_BACKGROUND), tmp_path, text)
    assert told.anchor_sizes == ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
    assert (told.box_delta_weights, told.nms_threshold, told.rpn_post_nms) == ((5, 5, 2.5, 2.5), 0.4, 250)
    assert (told.pad_multiple, told.rpn_straddle, told.pixel_mean) == (1, None, (1, 2, 3))
    assert (told.norm_eps, told.inclusive_boxes) == (0, True)


def test_caffe2_files_run_as_detectron_unless_the_config_is_detectron2s(tmp_path: Path) -> None:
    alone = identify(caffe2()).spec
    assert alone.numerics == detectron_caffe2.NUMERICS
    assert alone.learned["numerics.min_size"].how == "assumed"
    other = read(caffe2(), tmp_path, DETECTRON2.replace("[[32, 64, 128]]", "[[32], [64], [128], [256], [512]]"))
    assert (other.inclusive_boxes, other.norm_eps, other.detect_in, other.resize) == (False, 1e-5, "input", "pil")


def test_caffe2_files_run_as_maskrcnn_benchmark_beside_its_config(tmp_path: Path) -> None:
    """As its `configs/caffe2` do."""
    text = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  WEIGHT: "catalog://Caffe2Detectron/COCO/35858933/e2e_mask_rcnn_R-50-FPN_1x"
  BACKBONE: {CONV_BODY: "R-50-FPN"}
  RPN: {PRE_NMS_TOP_N_TEST: 1000, FPN_POST_NMS_TOP_N_TEST: 1000}
  ROI_BOX_HEAD: {POOLER_RESOLUTION: 7, POOLER_SAMPLING_RATIO: 2}
  ROI_MASK_HEAD: {POOLER_SAMPLING_RATIO: 2}
  MASK_ON: True
DATALOADER: {SIZE_DIVISIBILITY: 32}
"""
    known = read(caffe2(), tmp_path, text)
    assert known == replace(maskrcnn_benchmark.NUMERICS, rpn_pre_nms_train=12000)


def test_detectron_keeps_its_settings_in_the_file() -> None:
    text = """
!!python/object/new:detectron.utils.collections.AttrDict
dictitems:
  MODEL: {TYPE: generalized_rcnn, BBOX_REG_WEIGHTS: !!python/tuple [10.0, 10.0, 5.0, 5.0]}
  FPN: {FPN_ON: true, RPN_ANCHOR_START_SIZE: 16, RPN_ASPECT_RATIOS: !!python/tuple [0.5, 1]}
  TEST: {SCALE: 700, MAX_SIZE: 1200, NMS: 0.45, SCORE_THRESH: 0.1, RPN_PRE_NMS_TOP_N: 500, RPN_POST_NMS_TOP_N: 400}
  RESNETS: {STRIDE_1X1: false}
"""
    known = identify(replace(caffe2(), about={"cfg": text}))
    told = known.spec.numerics
    assert (told.min_size, told.max_size, told.stride_in) == (700, 1200, "3x3")
    assert (told.anchor_sizes[0], told.anchor_sizes[4], told.anchor_ratios) == ((16.0,), (256.0,), (0.5, 1.0))
    assert (told.nms_threshold, told.score_threshold, told.rpn_pre_nms, told.rpn_post_nms) == (0.45, 0.1, 500, 400)
    assert known.spec.learned["numerics.min_size"].how == "read"


def test_detectron_keeps_arrays_in_its_settings_as_numpy_pickles_them() -> None:
    settings = {"PIXEL_MEANS": np.array([[[1.5, 2.5, 3.25]]]), "BBOX_XFORM_CLIP": np.log(500 / 16)}
    text = yaml.dump(settings)
    assert "!!binary" in text
    for written in (text, text.replace("numpy._core", "numpy.core")):  # by NumPy 2, and by 1
        told = identify(replace(caffe2(), about={"cfg": written})).spec.numerics
        assert (told.pixel_mean, told.delta_clip) == ((1.5, 2.5, 3.25), np.log(500 / 16))


BROKEN = """
a: !!python/object/apply:numpy.core.multiarray.scalar [f8, !!binary 'AAAA']
"""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "a: [",
        BROKEN,
        BROKEN.replace("f8", "O"),
        BROKEN.replace("f8, ", ""),
        "- 1",
        "!!python/object/apply:os.system ['true']",
    ],
)
def test_settings_that_are_no_yaml_are_passed_over(text: str) -> None:
    assert identify(replace(caffe2(), about={"cfg": text})).spec.numerics == detectron_caffe2.NUMERICS
