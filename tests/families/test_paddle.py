"""PaddleDetection's names, as `ppdet/modeling` forms them, and what its configs change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskgraft.backbones.resnet import ResNet
from maskgraft.errors import CheckpointError
from maskgraft.families import identify, paddle
from maskgraft.families.class_names import numbered
from maskgraft.files import LazyArray, Tensors
from maskgraft.spec import Arch, Spec
from tests.families.drawn import drawn
from tests.families.test_shapes import PADDLE, PADDLE_C4, PADDLE_NUMERICS_VD, PADDLE_VD


def spec_of(arch: Arch) -> Spec:
    numerics = PADDLE_NUMERICS_VD if arch == PADDLE_VD else paddle.NUMERICS
    return Spec(family="paddledetection", arch=arch, numerics=numerics, classes=numbered(arch.classes))


@pytest.mark.parametrize(
    ("arch", "name", "shape"),
    [
        (PADDLE, "backbone.conv1.conv1.conv.weight", (64, 3, 7, 7)),
        (PADDLE, "backbone.conv1.conv1.norm._variance", (64,)),
        (PADDLE, "backbone.res2.res2a.short.conv.weight", (256, 64, 1, 1)),
        (PADDLE, "backbone.res4.res4f.branch2c.norm._mean", (1024,)),
        (PADDLE, "neck.fpn_inner_res5_sum.weight", (256, 2048, 1, 1)),
        (PADDLE, "neck.fpn_inner_res2_sum_lateral.bias", (256,)),
        (PADDLE, "neck.fpn_res3_sum.weight", (256, 256, 3, 3)),
        (PADDLE, "rpn_head.rpn_rois_delta.weight", (12, 256, 1, 1)),
        (PADDLE, "bbox_head.head.fc6.weight", (12544, 1024)),
        (PADDLE, "bbox_head.bbox_score.weight", (1024, 81)),
        (PADDLE, "bbox_head.bbox_delta.bias", (320,)),
        (PADDLE, "mask_head.head.upsample.mask_inter_feat_4.weight", (256, 256, 3, 3)),
        (PADDLE, "mask_head.head.upsample.conv5_mask.weight", (256, 256, 2, 2)),
        (PADDLE, "mask_head.mask_fcn_logits.weight", (80, 256, 1, 1)),
        (PADDLE_VD, "backbone.conv1.conv1_1.conv.weight", (32, 3, 3, 3)),
        (PADDLE_VD, "backbone.conv1.conv1_3.conv.weight", (64, 32, 3, 3)),
        (PADDLE_VD, "backbone.res2.res2a.short.conv.weight", (256, 64, 1, 1)),
        (PADDLE_VD, "backbone.res3.res3a.short.conv.conv.weight", (512, 256, 1, 1)),
        (PADDLE_VD, "backbone.res4.res4a.branch2a.conv.weight", (256, 512, 1, 1)),
        (PADDLE_VD, "backbone.res4.res4b22.branch2a.conv.weight", (256, 1024, 1, 1)),
        (replace(PADDLE, stem="3x3"), "backbone.res3.res3a.short.conv.weight", (512, 256, 1, 1)),
        (PADDLE_C4, "bbox_head.head.res5.res5a.short.conv.weight", (2048, 1024, 1, 1)),
    ],
)
def test_names_and_shapes(arch: Arch, name: str, shape: tuple[int, ...]) -> None:
    assert drawn(spec_of(arch))[name].shape == shape


def test_linear_layers_stand_in_before_out() -> None:
    link = next(link for link in paddle.links(spec_of(PADDLE), "") if link.ours == "box_predictor.cls.weight")
    theirs = np.zeros((1024, 81), np.float32)
    theirs[5, 80] = 1
    assert link.forward(theirs)[80, 5] == 1  # the background stands last, as in the canonical form


def test_the_config_is_followed(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(
        "num_classes: 3\nResNet: {variant: a}\n"
        "BBoxPostProcess: {nms: {name: MultiClassNMS, keep_top_k: 50, score_threshold: 0.3, nms_threshold: 0.6}}\n"
        "RPNHead: {test_proposal: {min_size: 0.0, nms_thresh: 0.8, pre_nms_top_n: 500, post_nms_top_n: 300}}\n"
    )
    known = identify(replace(drawn(spec_of(replace(PADDLE, classes=4))), path=tmp_path / "model_final.pdparams"))
    numerics = known.spec.numerics
    assert (numerics.stride_in, numerics.max_detections, numerics.score_threshold) == ("1x1", 50, 0.3)
    assert (numerics.rpn_min_size, numerics.rpn_pre_nms, numerics.rpn_post_nms) == (1.0, 500, 300)
    assert [finding.code for finding in known.findings] == ["shape.classes"]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("backbone.res3.res3a.branch2b.conv_offset.weight", "deformable convolutions"),
        ("backbone.res3.res3a.se.squeeze.weight", "squeeze and excitation"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(extra: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        identify(drawn(spec_of(PADDLE), extra={extra: (1,)}))


def without(part: str) -> Tensors:
    whole = drawn(spec_of(PADDLE))
    return replace(whole, arrays={name: array for name, array in whole.items() if part not in name})


def test_faster_rcnn_and_what_else_stands_in_the_way_are_named_together() -> None:
    with pytest.raises(CheckpointError, match=r"not supported: no mask head \(Faster R-CNN\)\n"):
        identify(without("mask_head."))
    hrnet = without("mask_head.")
    hrnet = replace(hrnet, arrays={name.replace("backbone.res2", "backbone.tr0"): hrnet[name] for name in hrnet})
    with pytest.raises(CheckpointError, match=r"no mask head \(Faster R-CNN\), a backbone that is not a ResNet"):
        identify(hrnet)


def test_a_cascade_is_refused_with_masks_and_without() -> None:
    plain = without("mask_head.")
    names = {name: name for name in plain} | {
        f"bbox_head.{part}.{kind}": f"bbox_head.{part}_stage0.{kind}"
        for part in ("bbox_score", "bbox_delta")
        for kind in ("weight", "bias")
    }
    with pytest.raises(CheckpointError, match="recognised as Cascade R-CNN of PaddleDetection, no Mask R-CNN"):
        identify(replace(plain, arrays={names[name]: plain[name] for name in plain}))
    masks = drawn(spec_of(PADDLE))
    with pytest.raises(CheckpointError, match="not supported: cascade heads"):
        identify(replace(masks, arrays={names.get(name, name): masks[name] for name in masks}))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("yolo_head.yolo_output.0.weight", "YOLOv3 or PP-YOLO"),
        ("ssd_head.boxes0.dw_conv.weight", "SSDlite"),
        ("head.init_proposal_features.weight", "Sparse R-CNN"),
    ],
)
def test_detectors_beside_it_are_known_by_name(name: str, says: str) -> None:
    arrays = {"backbone.conv1.conv1.conv.weight": (64, 3, 7, 7), name: (4, 4, 1, 1)}
    tensors = Tensors(Path("x"), "paddle", {one: LazyArray.of(np.zeros(s, np.float32)) for one, s in arrays.items()})
    with pytest.raises(CheckpointError, match=f"recognised as {says} of PaddleDetection, no Mask R-CNN"):
        identify(tensors)


def test_a_shortcut_averages_before_it_narrows() -> None:
    arch = replace(PADDLE_VD, blocks=(1, 1, 1, 1))
    torch.manual_seed(0)
    net = ResNet(arch, replace(paddle.NUMERICS, stride_pooled=True)).eval()
    assert [tuple(part.conv.weight.shape[:2]) for part in net.stem] == [(32, 3), (32, 32), (64, 32)]
    block = net.res3[0]
    for part in (block.conv1, block.conv2, block.conv3):
        torch.nn.init.zeros_(part.conv.weight)
    torch.nn.init.ones_(block.shortcut.conv.weight)
    x = torch.rand(1, 256, 6, 7)
    means = (
        torch.nn.functional.pad(x, (0, 1, 0, 0), mode="replicate").unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).sum(1)
    )
    assert block(x).shape == (1, 512, 3, 4)
    assert torch.allclose(block(x)[0, 7], means[0], rtol=1e-4)
