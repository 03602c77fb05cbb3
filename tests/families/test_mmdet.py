"""MMDetection's meta: three ways to write the same settings, class names, versions, and biases of the wrong class."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskgraft.causes.tables import table_faults
from maskgraft.errors import CheckpointError
from maskgraft.families import identify, mmdet
from maskgraft.files import LazyArray, Tensors
from maskgraft.spec import Arch, Numerics, Spec
from tests.families.drawn import drawn

NAMES = ("hat", "boot", "glove")

# mask-rcnn_r50-caffe of 3.x, and what 2.x and 1.x wrote for it; 1.x had the other arithmetic as well.
NOW = """
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=50, style='caffe', norm_cfg=dict(type='BN', requires_grad=False)),
    neck=dict(type='FPN'),
    rpn_head=dict(
        type='RPNHead',
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_bbox=dict(type='SmoothL1Loss', beta=0.25)),
    roi_head=dict(
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2, aligned=False)),
        bbox_head=dict(bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.05, 0.05, 0.1, 0.1])),
        mask_head=dict(type='FCNMaskHead')),
    test_cfg=dict(
        rpn=dict(nms_pre=700, max_per_img=300, nms=dict(type='nms', iou_threshold=0.6), min_bbox_size=8),
        rcnn=dict(score_thr=0.3, nms=dict(type='nms', iou_threshold=0.4), max_per_img=20, mask_thr_binary=0.6)),
    train_cfg=dict(rpn=dict(allowed_border=0, sampler=dict(num=64))))
test_pipeline = [dict(type='Resize', scale=(1000, 600), keep_ratio=True)]
test_cfg = dict(type='TestLoop')
"""
BEFORE = """configs/mine.py
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(
    type='MaskRCNN',
    backbone=dict(type='ResNet', style='caffe'),
    neck=dict(type='FPN'),
    rpn_head=dict(
        type='RPNHead', anchor_scales=[4], anchor_ratios=[0.5, 1.0], anchor_strides=[4, 8, 16, 32, 64],
        target_stds=[1.0, 1.0, 1.0, 1.0], loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 4)),
    bbox_roi_extractor=dict(
        type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', out_size=7, sample_num=2)),
    bbox_head=dict(type='SharedFCBBoxHead', target_stds=[0.05, 0.05, 0.1, 0.1]),
    mask_head=dict(type='FCNMaskHead'))
test_cfg = dict(
    rpn=dict(nms_across_levels=False, nms_pre=700, nms_post=700, max_num=300, nms_thr=0.6, min_bbox_size=8),
    rcnn=dict(score_thr=0.3, nms=dict(type='nms', iou_thr=0.4), max_per_img=20, mask_thr_binary=0.6))
train_cfg = dict(rpn=dict(allowed_border=0, sampler=dict(type='RandomSampler', num=64)))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1000, 600), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='Normalize', **img_norm_cfg),
        dict(type='Pad', size_divisor=32)]),
]
"""


def file(meta: dict[str, Any] | None, era: str = "2", **changes: Any) -> Tensors:
    rows = {"box_rows": "with-background", "mask_rows": "with-background"} if era == "1" else {}
    arch = Arch(**{"classes": 3, "norm": "batch", "anchors_per_cell": 2, **rows, **changes})
    tensors = drawn(Spec(family="mmdet", arch=arch, numerics=mmdet.NUMERICS, classes=NAMES), era)
    return replace(tensors, about={} if meta is None else {"meta": meta})


def numerics(tensors: Tensors, config: Path | None = None) -> Numerics:
    return identify(tensors, config=config).spec.numerics


def test_the_config_in_the_file_is_read() -> None:
    spec = identify(file({"cfg": NOW, "dataset_meta": {"CLASSES": NAMES}})).spec
    read = spec.numerics
    assert (read.channel_order, read.pixel_mean, read.pixel_std) == ("bgr", (103.53, 116.28, 123.675), (1, 1, 1))
    assert (read.min_size, read.max_size, read.stride_in, read.pad_multiple) == (600, 1000, "1x1", 32)
    assert (read.anchor_sizes[0], read.anchor_sizes[4], read.anchor_ratios) == ((16.0,), (256.0,), (0.5, 1.0))
    assert (read.rpn_pre_nms, read.rpn_post_nms, read.rpn_nms_threshold, read.rpn_min_size) == (700, 300, 0.6, 8)
    assert (read.score_threshold, read.nms_threshold, read.max_detections, read.mask_threshold) == (0.3, 0.4, 20, 0.6)
    assert (read.roi_aligned, read.roi_sampling, read.box_delta_weights) == (False, 2, (20, 20, 10, 10))
    assert (read.rpn_beta, read.rpn_straddle, read.rpn_samples) == (0.25, 0, 64)
    assert not read.inclusive_boxes
    assert spec.classes == NAMES
    assert spec.learned["numerics.stride_in"].how == "read"
    assert spec.learned["classes"].how == "read"


def test_three_generations_write_the_same_settings() -> None:
    now, before = numerics(file({"cfg": NOW})), numerics(file({"config": BEFORE, "mmdet_version": "2.1.0"}))
    assert replace(before, roi_aligned=False) == now  # 2.x had no word for it: aligned unless it says otherwise
    old = numerics(file({"config": BEFORE, "mmdet_version": "1.2.0+6ac8e0b"}, era="1"))
    assert old.inclusive_boxes
    assert old.inclusive_areas
    assert (old.anchor_offset, old.anchor_rounding, old.roi_aligned, old.roi_inclusive) == (0.5, True, False, True)
    shared = (
        "min_size",
        "anchor_sizes",
        "rpn_pre_nms",
        "rpn_post_nms",
        "rpn_nms_threshold",
        "nms_threshold",
        "rpn_beta",
    )
    assert [getattr(old, name) for name in shared] == [getattr(now, name) for name in shared]


def test_weights_of_version_1_keep_its_arithmetic_under_new_names() -> None:
    assert numerics(file({"mmdet_version": "1.1.0"})).inclusive_boxes
    assert not numerics(file({"mmdet_version": "2.0.0"})).inclusive_boxes
    assert not numerics(file(None)).inclusive_boxes


def test_the_legacy_coder_of_later_versions() -> None:
    text = NOW.replace("'DeltaXYWHBBoxCoder'", "'LegacyDeltaXYWHBBoxCoder'").replace(
        "type='AnchorGenerator'", "type='LegacyAnchorGenerator', center_offset=0.5"
    )
    read = numerics(file({"cfg": text}))
    assert (read.inclusive_boxes, read.decoded_wider, read.inclusive_areas) == (True, True, False)
    assert (read.anchor_offset, read.anchor_rounding) == (0.5, True)


def test_a_config_given_wins_over_the_one_inside(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(NOW.replace("(1000, 600)", "(500, 300)"))
    assert numerics(file({"cfg": NOW}), path).min_size == 300
    path.write_text("this is no config")
    with pytest.raises(CheckpointError, match="no Python text"):
        numerics(file({"cfg": NOW}), path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("type='FPN'", "type='PAFPN'"),
        ("type='FCNMaskHead'", "type='CoarseMaskHead'"),
        ("type='nms', iou_threshold=0.4", "type='soft_nms', iou_threshold=0.4"),
        ("keep_ratio=True", "keep_ratio=False"),
        ("style='caffe'", "style='caffe', conv_cfg=dict(type='ConvWS')"),
    ],
)
def test_settings_that_change_the_computation_are_refused(old: str, new: str) -> None:
    assert old in NOW
    with pytest.raises(CheckpointError, match="architecture not supported"):
        identify(file({"cfg": NOW.replace(old, new)}))


def test_a_regnet_which_has_the_names_of_a_resnext_is_refused() -> None:
    tensors = file(None)
    stem = {"backbone.conv1.weight": LazyArray.of(np.zeros((32, 3, 3, 3), np.float32))}
    with pytest.raises(CheckpointError, match="not a plain ResNet"):
        identify(replace(tensors, arrays={**tensors.arrays, **stem}))


def test_a_resnext_of_odd_shapes_is_diagnosed() -> None:
    tensors = file(None, groups=2, width_per_group=16)
    odd = {
        name: LazyArray.of(np.zeros((array.shape[0] + 1, *array.shape[1:]), np.float32))
        for name, array in tensors.arrays.items()
        if name.startswith("backbone.layer4.") and array.shape
    }
    (finding,) = table_faults(identify(replace(tensors, arrays={**tensors.arrays, **odd})))
    assert finding.code == "shape.width"


def test_odd_settings_are_told() -> None:
    with pytest.raises(CheckpointError) as error:
        identify(file({"cfg": NOW.replace("scales=[4]", "scales=['four']").replace("nms_pre=700", "nms_pre='all'")}))
    assert [finding.code for finding in error.value.findings] == ["config.mismatch"] * 3


def test_meta_of_any_kind_does_no_harm() -> None:
    for meta in (
        None,
        {},
        {"cfg": 3},
        {"cfg": "\0"},
        {"config": {"model": None}},
        {"CLASSES": 5, "mmdet_version": None},
    ):
        spec = identify(file(meta)).spec  # type: ignore[arg-type]
        assert spec.numerics.min_size == 800
        assert len(spec.classes) == 3


def with_biases(tensors: Tensors, first: float) -> Tensors:
    arrays = dict(tensors.arrays)
    for name in ("roi_head.bbox_head.fc_reg.bias", "roi_head.mask_head.conv_logits.bias"):
        values = np.linspace(0.1, 0.2, arrays[name].size, dtype=np.float32)
        values[: len(values) // 3] = first
        arrays[name] = LazyArray.of(values)
    return replace(tensors, arrays=arrays)


def shifted(tensors: Tensors) -> list[str]:
    return [name for one in identify(tensors).findings if one.code == "values.class-shift" for name in one.names]


def test_biases_of_the_neighbouring_class_are_found() -> None:
    names = ["roi_head.bbox_head.fc_reg.bias", "roi_head.mask_head.conv_logits.bias"]
    assert shifted(with_biases(file(None), first=0.0)) == names  # the background's zeros stand first
    assert shifted(with_biases(file({"mmdet_version": "1.0.0"}), first=0.3)) == names  # upgraded, as meta tells
    assert shifted(with_biases(file({"mmdet_version": "2.25.0"}), first=0.3)) == []
    assert shifted(with_biases(file({"mmdet_version": "1.0.0"}, box_rows="agnostic"), first=0.3)) == names[1:]


def test_the_upgrade_script_is_what_shifts() -> None:
    """The two rules of `truncate_reg_channel`, on a file of 1.x."""
    old = np.arange(4 * 4, dtype=np.float32) + 1  # background and three classes
    old[:4] = 0
    weights = np.arange(4 * 4 * 2, dtype=np.float32).reshape(16, 2)
    upgraded_weights, upgraded_bias = weights.reshape(4, 4, 2)[1:].reshape(12, 2), old.reshape(4, 4)[:3].reshape(-1)
    tensors = file(None)
    arrays = dict(tensors.arrays)
    arrays["roi_head.bbox_head.fc_reg.bias"] = LazyArray.of(upgraded_bias)
    assert upgraded_weights[0].tolist() == weights[4].tolist()
    assert shifted(replace(tensors, arrays=arrays)) == ["roi_head.bbox_head.fc_reg.bias"]
