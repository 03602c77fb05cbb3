"""Variants of PyTorch's and Caffe2's families: what a file's names and shapes tell, and what is refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskgraft.errors import CheckpointError
from maskgraft.families import detectron2, detectron_caffe2, identify, maskrcnn_benchmark, mmdet, recognise
from maskgraft.families.class_names import numbered
from maskgraft.files import LazyArray, Tensors
from maskgraft.links import check
from maskgraft.spec import Arch, Numerics, Spec
from tests.families.drawn import canonical_shapes, drawn
from tests.families.slim import SLIM

R101, BASIC = (3, 4, 23, 3), {"block": "basic", "blocks": (2, 2, 2, 2)}
C4 = {"neck": "c4", "rpn_channels": 1024, "anchors_per_cell": 15, "box_head": "res5", "box_fcs": 0, "mask_convs": 0}
GROUP = {"norm": "group", "neck_norm": "group", "mask_norm": "group"}
CONV_HEAD = {"box_convs": 4, "box_fcs": 1}
WITH_BACKGROUND = {"box_rows": "with-background", "mask_rows": "with-background"}

CASES: dict[str, tuple[str, Numerics, str, dict[str, object], tuple[str, ...]]] = {
    "detectron2 r101": ("detectron2", detectron2.NUMERICS, "", {"blocks": R101}, ()),
    "detectron2 c4": (
        "detectron2",
        replace(detectron2.NUMERICS, box_pool_size=14),
        "",
        C4,
        ("roi_heads.res5.0.shortcut.norm.running_var", "backbone.res4.5.conv3.weight"),
    ),
    "detectron2 dc5": (
        "detectron2",
        detectron2.NUMERICS,
        "",
        {"neck": "dc5", "rpn_channels": 2048, "anchors_per_cell": 15},
        ("backbone.res5.2.conv3.weight", "roi_heads.box_head.fc2.bias"),
    ),
    "detectron2 agnostic": (
        "detectron2",
        detectron2.NUMERICS,
        "",
        {"classes": 3, "box_rows": "agnostic", "mask_rows": "agnostic"},
        ("roi_heads.mask_head.predictor.bias",),
    ),
    "detectron2 syncbn": (
        "detectron2",
        detectron2.NUMERICS,
        "",
        {"norm": "batch", "neck_norm": "batch", "box_norm": "batch", "mask_norm": "batch", **CONV_HEAD},
        ("backbone.fpn_output3.norm.num_batches_tracked", "roi_heads.box_head.conv4.norm.running_mean"),
    ),
    "detectron2 r18": ("detectron2", detectron2.NUMERICS, "", {**BASIC, "classes": 1}, ()),
    "detectron2 two rpn convolutions": (
        "detectron2",
        detectron2.NUMERICS,
        "",
        {"rpn_convs": 2, "anchors_per_cell": 9},
        ("proposal_generator.rpn_head.conv.conv1.weight",),
    ),
    "maskrcnn-benchmark c4": (
        "maskrcnn-benchmark",
        replace(maskrcnn_benchmark.NUMERICS, box_pool_size=14),
        "",
        {**C4, **WITH_BACKGROUND, "classes": 20},
        (
            "roi_heads.box.feature_extractor.head.layer4.0.downsample.0.weight",
            "roi_heads.mask.feature_extractor.head.layer4.0.downsample.0.weight",
        ),
    ),
    "maskrcnn-benchmark gn": (
        "maskrcnn-benchmark",
        maskrcnn_benchmark.NUMERICS,
        "",
        {**GROUP, **WITH_BACKGROUND, **CONV_HEAD, "box_norm": "group"},
        (
            "backbone.fpn.fpn_inner1.1.bias",
            "roi_heads.box.feature_extractor.xconvs.9.weight",
            "roi_heads.mask.feature_extractor.mask_fcn4.0.weight",
        ),
    ),
    "maskrcnn-benchmark convolutions without norm": (
        "maskrcnn-benchmark",
        maskrcnn_benchmark.NUMERICS,
        "",
        {**WITH_BACKGROUND, **CONV_HEAD},
        ("roi_heads.box.feature_extractor.xconvs.6.bias",),
    ),
    "maskrcnn-benchmark gn after fc": (
        "maskrcnn-benchmark",
        maskrcnn_benchmark.NUMERICS,
        "",
        {**GROUP, **WITH_BACKGROUND, "fc_norm": "group", "fc_bias": False},
        ("roi_heads.box.feature_extractor.fc7.0.weight", "roi_heads.box.feature_extractor.fc7.1.weight"),
    ),
    "maskrcnn-benchmark agnostic": (
        "maskrcnn-benchmark",
        maskrcnn_benchmark.NUMERICS,
        "",
        {"classes": 2, "box_rows": "agnostic-with-background", "mask_rows": "with-background"},
        (),
    ),
    "maskrcnn-benchmark x101": (
        "maskrcnn-benchmark",
        maskrcnn_benchmark.NUMERICS,
        "",
        {**WITH_BACKGROUND, "blocks": R101, "groups": 32, "width_per_group": 8},
        (),
    ),
    "detectron c4": (
        "detectron-caffe2",
        replace(detectron_caffe2.NUMERICS, box_pool_size=14),
        "",
        {**C4, **WITH_BACKGROUND, "norm": "affine"},
        ("conv_rpn_w", "res5_2_branch2c_bn_s", "rpn_bbox_pred_b"),
    ),
    "detectron gn": (
        "detectron-caffe2",
        detectron_caffe2.NUMERICS,
        "",
        {**GROUP, **WITH_BACKGROUND, **CONV_HEAD, "box_norm": "group"},
        ("conv1_gn_s", "fpn_inner_res5_2_sum_gn_b", "head_conv4_gn_s", "_[mask]_fcn1_gn_s"),
    ),
    "detectron x101 64x4d": (
        "detectron-caffe2",
        detectron_caffe2.NUMERICS,
        "",
        {**WITH_BACKGROUND, "norm": "affine", "blocks": R101, "groups": 64, "width_per_group": 4},
        ("fpn_inner_res4_22_sum_lateral_w", "fpn_res4_22_sum_b"),
    ),
    "mmdet c4": (
        "mmdet",
        replace(mmdet.NUMERICS, box_pool_size=14),
        "2",
        {**C4, "classes": 4, "norm": "batch"},
        ("roi_head.shared_head.layer4.0.downsample.1.num_batches_tracked",),
    ),
    "mmdet gn": (
        "mmdet",
        mmdet.NUMERICS,
        "2",
        {**GROUP, **CONV_HEAD, "box_norm": "group"},
        ("backbone.layer1.0.gn3.weight", "neck.fpn_convs.3.gn.bias", "roi_head.bbox_head.shared_convs.3.conv.weight"),
    ),
    "mmdet r18 agnostic": (
        "mmdet",
        mmdet.NUMERICS,
        "2",
        {**BASIC, "norm": "batch", "classes": 2, "box_rows": "agnostic", "mask_rows": "agnostic"},
        (),
    ),
    "mmdet x101 32x4d": (
        "mmdet",
        mmdet.NUMERICS,
        "2",
        {"norm": "batch", "blocks": R101, "groups": 32, "width_per_group": 4},
        (),
    ),
    "mmdet 1": (
        "mmdet",
        mmdet.NUMERICS,
        "1",
        {**WITH_BACKGROUND, "norm": "batch"},
        ("bbox_head.fc_cls.weight", "mask_head.conv_logits.bias", "rpn_head.rpn_conv.weight"),
    ),
    "mmdet 1 agnostic": (
        "mmdet",
        mmdet.NUMERICS,
        "1",
        {"norm": "batch", "classes": 5, "box_rows": "agnostic", "mask_rows": "with-background"},
        (),
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_file_tells_its_model(case: str) -> None:
    name, numerics, era, changes, present = CASES[case]
    arch = Arch(**{"classes": 80, **changes})  # type: ignore[arg-type]
    tensors = drawn(Spec(family=name, arch=arch, numerics=numerics, classes=numbered(arch.classes)), era)
    assert [one for one in present if one not in tensors] == []
    ranking = recognise(tensors)
    assert (ranking[0][0], ranking[0][1].name) == (1.0, name)
    assert max(likeness for likeness, family, _, _ in ranking if family.name != name) < 1
    known = identify(tensors)
    assert known.era == era
    assert known.spec.arch == arch
    theirs = {key: array.shape for key, array in known.tensors.items()}
    assert check(known.links, canonical_shapes(known.spec), theirs) == []


def test_one_map_has_its_own_anchors_and_candidates() -> None:
    for name, module, era, changes in (
        ("detectron2", detectron2, "", C4),
        ("maskrcnn-benchmark", maskrcnn_benchmark, "", {**C4, **WITH_BACKGROUND}),
        ("detectron-caffe2", detectron_caffe2, "", {**C4, **WITH_BACKGROUND, "norm": "affine"}),
        ("mmdet", mmdet, "2", {**C4, "norm": "batch"}),
    ):
        arch = Arch(classes=80, **changes)  # type: ignore[arg-type]
        numerics = replace(module.NUMERICS, box_pool_size=14)
        spec = Spec(family=name, arch=arch, numerics=numerics, classes=numbered(80))
        read = identify(drawn(spec, era)).spec.numerics
        assert read.anchor_sizes == ((32, 64, 128, 256, 512),)
        assert (read.rpn_pre_nms, read.box_pool_size, read.stride_in) == (6000, 14, "1x1")


REFUSED = (
    ("detectron2", "", "roi_heads.box_predictor.0.cls_score.weight", "cascade"),
    ("detectron2", "", "roi_heads.keypoint_head.score_lowres.weight", "keypoint head"),
    ("detectron2", "", "roi_heads.mask_head.point_head.fc1.weight", "PointRend"),
    ("detectron2", "", "sem_seg_head.predictor.weight", "Panoptic FPN"),
    ("detectron2", "", "backbone.top_block.p6.weight", "coarsest levels"),
    ("detectron2", "", "backbone.bottom_up.res3.0.conv2_offset.weight", "deformable"),
    ("maskrcnn-benchmark", "", "backbone.body.layer2.0.conv2.offset.weight", "deformable"),
    ("maskrcnn-benchmark", "", "roi_heads.keypoint.predictor.kps_score_lowres.weight", "keypoints"),
    ("detectron-caffe2", "", "_[mask]_res5_0_branch2a_w", "second C5"),
    ("detectron-caffe2", "", "kps_score_w", "keypoints"),
    ("mmdet", "2", "roi_head.bbox_head.0.fc_cls.weight", "cascade"),
    ("mmdet", "2", "roi_head.mask_iou_head.fc_mask_iou.weight", "mask scoring"),
    ("mmdet", "2", "neck.downsample_convs.0.conv.weight", "plain FPN"),
    ("mmdet", "2", "backbone.layer2.0.conv2.conv_offset.weight", "deformable"),
)


@pytest.mark.parametrize(("name", "era", "extra", "word"), REFUSED)
def test_what_cannot_be_built_is_refused_by_name(name: str, era: str, extra: str, word: str) -> None:
    numerics = {"detectron2": detectron2, "maskrcnn-benchmark": maskrcnn_benchmark, "mmdet": mmdet}.get(
        name, detectron_caffe2
    ).NUMERICS
    rows = {} if name in ("detectron2", "mmdet") else WITH_BACKGROUND
    norm = {"detectron-caffe2": "affine", "mmdet": "batch"}.get(name, "frozen")
    arch = Arch(classes=3, norm=norm, **rows)  # type: ignore[arg-type]
    tensors = drawn(Spec(family=name, arch=arch, numerics=numerics, classes=numbered(3)), era, extra={extra: (1, 1)})
    with pytest.raises(CheckpointError) as refusal:
        identify(tensors)
    assert [finding.code for finding in refusal.value.findings] == ["family.unknown"]
    assert word in str(refusal.value)
    assert "architecture not supported" in str(refusal.value)


def test_frozen_stages_of_detectron2_may_have_no_count_of_batches() -> None:
    """Those that FREEZE_AT made of batch norms had none until 2023; the others have it."""
    spec, era = SLIM["detectron2"]
    spec = replace(spec, arch=replace(spec.arch, norm="batch"))
    whole = drawn(spec, era)
    frozen = tuple(f"backbone.bottom_up.{part}." for part in ("stem", "res2"))
    arrays = {name: one for name, one in whole.arrays.items() if not (name.startswith(frozen) and "batches" in name)}
    assert len(arrays) < len(whole.arrays)
    known = identify(replace(whole, arrays=arrays))
    assert known.spec.arch.norm == "batch"
    shapes = {name: one.shape for name, one in arrays.items()}
    assert check(known.links, canonical_shapes(known.spec), shapes) == []


@pytest.mark.parametrize(
    ("family", "name", "shape", "says"),
    [
        ("detectron2", "backbone.bottom_up.res2.0.conv3.weight", (128, 64, 1, 1), "RES2_OUT_CHANNELS 128, not 256"),
        ("detectron2", "proposal_generator.rpn_head.conv.conv0.weight", (96, 256, 3, 3), "CONV_DIMS"),
        ("maskrcnn-benchmark", "backbone.body.layer1.0.conv3.weight", (128, 64, 1, 1), "RES2_OUT_CHANNELS 128"),
        (
            "maskrcnn-benchmark",
            "roi_heads.mask.feature_extractor.mask_fcn2.weight",
            (77, 64, 3, 3),
            "CONV_LAYERS of the mask head",
        ),
    ],
)
def test_widths_that_cannot_be_built_are_named(family: str, name: str, shape: tuple[int, ...], says: str) -> None:
    tensors = drawn(*SLIM[family])
    arrays = {**tensors.arrays, name: LazyArray.of(np.ones(shape, np.float32))}
    with pytest.raises(CheckpointError, match=f"not supported: {says}"):
        identify(replace(tensors, arrays=arrays))


def test_a_mask_head_with_a_stage_of_its_own_is_refused() -> None:
    arch = Arch(classes=3, **C4, **WITH_BACKGROUND)  # type: ignore[arg-type]
    numerics = replace(maskrcnn_benchmark.NUMERICS, box_pool_size=14)
    tensors = drawn(Spec(family="maskrcnn-benchmark", arch=arch, numerics=numerics, classes=numbered(3)))
    identify(tensors)
    name = "roi_heads.mask.feature_extractor.head.layer4.0.conv1.weight"
    apart = {**tensors.arrays, name: LazyArray.of(np.ones(tensors[name].shape, np.float32))}
    with pytest.raises(CheckpointError, match="SHARE_BOX_FEATURE_EXTRACTOR"):
        identify(replace(tensors, arrays=apart))


@pytest.mark.parametrize(
    ("prefix", "beside"), [("module.", ("n_averaged",)), ("model.", ("criterion.weight", "metric.total"))]
)
def test_what_a_wrapper_keeps_beside_the_model_is_left_out(prefix: str, beside: tuple[str, ...]) -> None:
    plain = drawn(*SLIM["torchvision"])
    arrays = {f"{prefix}{name}": array for name, array in plain.arrays.items()}
    arrays |= {name: LazyArray.of(np.ones(1, np.float32)) for name in beside}
    known = identify(replace(plain, arrays=arrays))
    assert (known.prefix, set(known.tensors)) == (prefix, set(plain))
    (finding,) = (one for one in known.findings if one.code == "names.unexpected")
    assert finding.names == beside


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("head.regression_head.bbox_ctrness.weight", "FCOS of torchvision"),
        ("head.classification_head.cls_logits.weight", "RetinaNet of torchvision"),
        ("head.classification_head.module_list.0.weight", "SSD of torchvision"),
        ("rpn.head.cls_tower.0.weight", "RetinaNet of maskrcnn-benchmark"),
        ("head.cls_subnet.0.weight", "RetinaNet or FCOS of Detectron2"),
    ],
)
def test_other_detectors_are_named(name: str, says: str) -> None:
    arrays = {one: LazyArray.of(np.ones(1, np.float32)) for one in ("backbone.body.layer1.0.conv1.weight", name)}
    with pytest.raises(CheckpointError, match=f"recognised as {says}, no Mask R-CNN"):
        identify(Tensors(Path("drawn"), "drawn", arrays))


def test_torchvisions_keypoints_are_named() -> None:
    keypoints = {"roi_heads.keypoint_predictor.kps_score_lowres.weight": (1,)}
    both = drawn(*SLIM["torchvision"], extra=keypoints)
    alone = {name: array for name, array in both.arrays.items() if not name.startswith("roi_heads.mask_")}
    for tensors, says in ((both, "keypoints beside masks"), (replace(both, arrays=alone), "Keypoint R-CNN")):
        with pytest.raises(CheckpointError, match=says):
            identify(tensors)


def test_what_is_no_part_of_the_model_has_a_reason() -> None:
    assert detectron_caffe2.ignored("fc6_w_momentum")
    assert detectron_caffe2.ignored("fc1000_b")
    assert detectron_caffe2.ignored("conv1_b")
    assert not detectron_caffe2.ignored("conv1_w")
    assert maskrcnn_benchmark.ignored("rpn.anchor_generator.cell_anchors.0")
    assert mmdet.ignored("ema_backbone_conv1_weight")
    assert not mmdet.ignored("backbone.conv1.weight")
