"""One slim model a family, and some of its variants: few channels, the depth and conventions of home."""

from dataclasses import replace
from typing import Any

from maskgraft.families import (
    chainer,
    detectron2,
    detectron_caffe2,
    maskrcnn_benchmark,
    matterport,
    mmdet,
    model_garden,
    paddle,
    tensorpack,
    torchvision,
)
from maskgraft.families.class_names import numbered
from maskgraft.spec import Arch, Numerics, Spec
from tests.families.test_shapes import CHAINER, MATTERPORT, PADDLE, TENSORPACK
from tests.families.test_tensorflow import GARDEN, IN_DICT, OD, TF1, TF1_RESNET, TF2, TF2_RESNET

FEW: dict[str, Any] = {
    "stem_width": 8,
    "width_per_group": 4,
    "neck_channels": 16,
    "rpn_channels": 16,
    "box_fc_width": 24,
    "mask_channels": 16,
}
FEW_C4: dict[str, Any] = {
    name: FEW[name] for name in ("stem_width", "width_per_group", "rpn_channels", "mask_channels")
}
BACKGROUND: dict[str, Any] = {"box_rows": "with-background", "mask_rows": "with-background"}


def slim(family: str, arch: Arch, numerics: Numerics, era: str = "") -> tuple[Spec, str]:
    return Spec(family=family, arch=arch, numerics=numerics, classes=numbered(arch.classes)), era


SLIM: dict[str, tuple[Spec, str]] = {
    "torchvision": slim("torchvision", Arch(classes=3, **FEW, **BACKGROUND), torchvision.NUMERICS, "2019"),
    "detectron2": slim("detectron2", Arch(classes=3, **FEW), detectron2.NUMERICS),
    "detectron2 one class": slim("detectron2", Arch(classes=1, **FEW), detectron2.NUMERICS),
    "maskrcnn-benchmark": slim("maskrcnn-benchmark", Arch(classes=3, **FEW, **BACKGROUND), maskrcnn_benchmark.NUMERICS),
    "detectron": slim(
        "detectron-caffe2", Arch(classes=3, norm="affine", **FEW, **BACKGROUND), detectron_caffe2.NUMERICS
    ),
    "mmdet": slim("mmdet", Arch(classes=3, norm="batch", **FEW), mmdet.NUMERICS, "2"),
    "mmdet 1": slim("mmdet", Arch(classes=3, norm="batch", **FEW, **BACKGROUND), mmdet.NUMERICS, "1"),
    "matterport": slim("matterport", replace(MATTERPORT, classes=3, **FEW), matterport.NUMERICS),
    "matterport one class": slim("matterport", replace(MATTERPORT, classes=1, **FEW), matterport.NUMERICS),
    "tensorpack": slim("tensorpack", replace(TENSORPACK, classes=3, **FEW), tensorpack.NUMERICS, ":0"),
    "chainer": slim("chainer-mask-rcnn", replace(CHAINER, classes=3, **FEW_C4), chainer.NUMERICS),
    "paddle": slim("paddledetection", replace(PADDLE, classes=3, **FEW), paddle.NUMERICS),
    "tf1": slim(TF1, replace(OD, classes=3, **FEW_C4), TF1_RESNET, "resnet_v1_50"),
    "tf2": slim(TF2, replace(OD, classes=3, **FEW_C4), TF2_RESNET),
    "model garden": slim(
        "tf_model_garden", replace(GARDEN, classes=3, box_conv_channels=16, **FEW), model_garden.NUMERICS, IN_DICT
    ),
}
