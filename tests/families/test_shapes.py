"""Depths, widths, class counts and eras that no golden case has: a file is recognised, its shapes tell the model."""

from dataclasses import replace

import pytest

from maskgraft.errors import CheckpointError
from maskgraft.families import chainer, identify, matterport, paddle, paddle_config, recognise, tensorpack
from maskgraft.families.class_names import numbered
from maskgraft.links import check
from maskgraft.spec import Arch, Numerics, Spec
from tests.families.drawn import canonical_shapes, drawn

MATTERPORT = Arch(
    classes=80,
    conv_bias=True,
    rpn_channels=512,
    objectness="softmax",
    fc_norm="frozen",
    box_rows="with-background",
    mask_norm="frozen",
    mask_rows="with-background",
)
TENSORPACK = Arch(classes=80, box_rows="with-background", head_bias=True)
TENSORPACK_C4 = replace(
    TENSORPACK, neck="c4", rpn_channels=1024, anchors_per_cell=15, box_head="res5", mask_convs=0, classes=20
)
TENSORPACK_GN = replace(
    TENSORPACK, norm="group", neck_norm="group", box_convs=4, box_fcs=1, box_norm="group", mask_norm="group"
)
CHAINER = Arch(
    classes=20,
    stem_bias=True,
    norm="affine",
    neck="c4",
    rpn_channels=1024,
    anchors_per_cell=12,
    box_head="res5",
    box_rows="with-background",
    mask_convs=0,
)

PADDLE = Arch(classes=80)
PADDLE_VD = replace(PADDLE, blocks=(3, 4, 23, 3), stem="3x3")
PADDLE_C4 = replace(
    PADDLE, neck="c4", rpn_channels=1024, anchors_per_cell=15, box_head="res5", mask_convs=0, classes=20
)
PADDLE_NUMERICS_VD = replace(paddle.NUMERICS, stride_pooled=True)

CASES: dict[str, tuple[str, Arch, Numerics, str]] = {
    "matterport r101": ("matterport", replace(MATTERPORT, blocks=(3, 4, 23, 3)), matterport.NUMERICS, ""),
    "matterport one class": ("matterport", replace(MATTERPORT, classes=1), matterport.NUMERICS, ""),
    "matterport narrow": (
        "matterport",
        replace(MATTERPORT, neck_channels=128, box_fc_width=512, classes=2),
        matterport.NUMERICS,
        "",
    ),
    "matterport pool 9": ("matterport", MATTERPORT, replace(matterport.NUMERICS, box_pool_size=9), ""),
    "tensorpack r101": ("tensorpack", replace(TENSORPACK, blocks=(3, 4, 23, 3)), tensorpack.NUMERICS, ":0"),
    "tensorpack older": ("tensorpack", replace(TENSORPACK, classes=3), tensorpack.NUMERICS, ""),
    "tensorpack 4conv1fc": ("tensorpack", replace(TENSORPACK, box_convs=4, box_fcs=1), tensorpack.NUMERICS, ":0"),
    "tensorpack gn": ("tensorpack", TENSORPACK_GN, tensorpack.NUMERICS, ":0"),
    "tensorpack c4": ("tensorpack", TENSORPACK_C4, replace(tensorpack.NUMERICS, **tensorpack.C4), ":0"),
    "chainer r50": ("chainer-mask-rcnn", CHAINER, chainer.NUMERICS, ""),
    "chainer r101": ("chainer-mask-rcnn", replace(CHAINER, blocks=(3, 4, 23, 3)), chainer.NUMERICS, ""),
    "paddle r50": ("paddledetection", PADDLE, paddle.NUMERICS, ""),
    "paddle r101": ("paddledetection", replace(PADDLE, blocks=(3, 4, 23, 3), classes=7), paddle.NUMERICS, ""),
    "paddle r50-vc": ("paddledetection", replace(PADDLE, stem="3x3"), paddle.NUMERICS, ""),
    "paddle r101-vd": ("paddledetection", PADDLE_VD, PADDLE_NUMERICS_VD, ""),
    "paddle x101-vd": (
        "paddledetection",
        replace(PADDLE_VD, groups=64, width_per_group=4),
        PADDLE_NUMERICS_VD,
        "",
    ),
    "paddle gn heads": (
        "paddledetection",
        replace(PADDLE, neck_norm="group", box_convs=4, box_fcs=1, box_norm="group", mask_norm="group"),
        paddle.NUMERICS,
        "",
    ),
    "paddle c4": ("paddledetection", PADDLE_C4, replace(paddle.NUMERICS, **paddle_config.C4), ""),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_file_tells_its_model(case: str) -> None:
    name, arch, numerics, era = CASES[case]
    tensors = drawn(Spec(family=name, arch=arch, numerics=numerics, classes=numbered(arch.classes)), era)
    ranking = recognise(tensors)
    assert (ranking[0][0], ranking[0][1].name) == (1.0, name)
    detectors = [(likeness, family.name) for likeness, family, _, _ in ranking if family.whole]
    assert max(likeness for likeness, family in detectors if family != name) < 0.5
    known = identify(tensors)
    assert (known.spec.arch, known.spec.numerics, known.era) == (arch, numerics, era)
    theirs = {key: array.shape for key, array in known.tensors.items()}
    assert check(known.links, canonical_shapes(known.spec), theirs) == []
    assert not known.findings


def test_a_detector_without_a_head_is_no_backbone() -> None:
    """Matterport's trunk has the very names of the ResNet-50 that it started from."""
    name, arch, numerics, era = CASES["matterport one class"]
    whole = drawn(Spec(family=name, arch=arch, numerics=numerics, classes=numbered(arch.classes)), era)
    assert recognise(whole)[1][1].name == "keras-applications"
    cut = replace(whole, arrays={key: array for key, array in whole.items() if "mrcnn_mask" not in key})
    assert recognise(cut)[0][1].name == name
    with pytest.raises(CheckpointError, match="has no tensor"):
        identify(cut)
