"""The settings with which Detectron2, maskrcnn-benchmark and Detectron build a model: what no table of numbers says.

Keys: detectron2 `config/defaults.py`; maskrcnn-benchmark `maskrcnn_benchmark/config/defaults.py`; Detectron
`detectron/core/config.py`.
"""

from collections.abc import Mapping
from typing import Any

from maskgraft.spec import Arch, Spec

Settings = Mapping[str, Any]


def _named_norm(kind: str) -> str:
    return {"frozen": "FrozenBN", "batch": "BN", "group": "GN"}.get(kind, "")


def depth(arch: Arch) -> int:
    """The number by which a ResNet goes: its layers with weights.

    depth(Arch(classes=80))     # 50
    """
    return sum(arch.blocks) * (3 if arch.block == "bottleneck" else 2) + 2


def detectron2(spec: Spec) -> Settings:
    """What builds the architecture, and the sizes of its anchors."""
    arch, numerics, pyramid = spec.arch, spec.numerics, spec.arch.neck == "fpn"
    levels = ["p2", "p3", "p4", "p5"] if pyramid else ["res4" if arch.neck == "c4" else "res5"]
    pooler = "ROIAlignV2" if numerics.roi_aligned else "ROIAlign"
    model: dict[str, Any] = {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True,
        "BACKBONE.NAME": "build_resnet_fpn_backbone" if pyramid else "build_resnet_backbone",
        "RESNETS.DEPTH": depth(arch),
        "RESNETS.STRIDE_IN_1X1": numerics.stride_in == "1x1",
        "RESNETS.NUM_GROUPS": arch.groups,
        "RESNETS.WIDTH_PER_GROUP": arch.width_per_group,
        "RESNETS.STEM_OUT_CHANNELS": arch.stem_width,
        "RESNETS.RES2_OUT_CHANNELS": 256 if arch.block == "bottleneck" else 64,
        "RESNETS.RES5_DILATION": 2 if arch.neck == "dc5" else 1,
        "RESNETS.NORM": _named_norm(arch.norm),
        "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"] if pyramid else levels,
        "ANCHOR_GENERATOR.SIZES": [list(sizes) for sizes in numerics.anchor_sizes],
        "RPN.IN_FEATURES": [*levels, "p6"] if pyramid else levels,
        "RPN.CONV_DIMS": [arch.rpn_channels] * arch.rpn_convs,
        "ROI_HEADS.NAME": "Res5ROIHeads" if arch.neck == "c4" else "StandardROIHeads",
        "ROI_HEADS.IN_FEATURES": levels,
        "ROI_HEADS.NUM_CLASSES": arch.classes,
        "ROI_BOX_HEAD.NAME": "" if arch.neck == "c4" else "FastRCNNConvFCHead",
        "ROI_BOX_HEAD.POOLER_TYPE": pooler,
        "ROI_BOX_HEAD.NUM_CONV": arch.box_convs,
        "ROI_BOX_HEAD.CONV_DIM": arch.box_conv_channels,
        "ROI_BOX_HEAD.NUM_FC": arch.box_fcs,
        "ROI_BOX_HEAD.FC_DIM": arch.box_fc_width,
        "ROI_BOX_HEAD.NORM": _named_norm(arch.box_norm),
        "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": arch.box_rows == "agnostic",
        "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "ROI_MASK_HEAD.POOLER_TYPE": pooler,
        "ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": numerics.roi_sampling,
        "ROI_MASK_HEAD.NUM_CONV": arch.mask_convs,
        "ROI_MASK_HEAD.CONV_DIM": arch.mask_channels,
        "ROI_MASK_HEAD.NORM": _named_norm(arch.mask_norm),
        "ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": arch.mask_rows == "agnostic",
    }
    if pyramid:
        model |= {
            "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
            "FPN.OUT_CHANNELS": arch.neck_channels,
            "FPN.NORM": _named_norm(arch.neck_norm),
        }
    masks = "polygon" if numerics.mask_targets.startswith("polygon") else "bitmask"
    said = {"VERSION": 2, "INPUT.FORMAT": numerics.channel_order.upper(), "INPUT.MASK_FORMAT": masks}
    return {**said, **{f"MODEL.{key}": value for key, value in model.items()}}


def maskrcnn_benchmark(spec: Spec) -> Settings:
    """What builds the architecture, and the settings that a pyramid has under names of its own."""
    arch, numerics, pyramid = spec.arch, spec.numerics, spec.arch.neck == "fpn"
    sizes = numerics.anchor_sizes
    model: dict[str, Any] = {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True,
        "BACKBONE.CONV_BODY": f"R-{depth(arch)}-{'FPN' if pyramid else 'C4'}",
        "RESNETS.STRIDE_IN_1X1": numerics.stride_in == "1x1",
        "RESNETS.NUM_GROUPS": arch.groups,
        "RESNETS.WIDTH_PER_GROUP": arch.width_per_group,
        "RESNETS.STEM_OUT_CHANNELS": arch.stem_width,
        "RESNETS.BACKBONE_OUT_CHANNELS": arch.neck_channels if pyramid else 1024,
        "CLS_AGNOSTIC_BBOX_REG": arch.box_rows.startswith("agnostic"),
        "RPN.ANCHOR_SIZES": [one for level in sizes for one in level] if pyramid else list(sizes[0]),
        "RPN.POST_NMS_TOP_N_TEST": numerics.rpn_level_post_nms or numerics.rpn_post_nms,
        "RPN.POST_NMS_TOP_N_TRAIN": numerics.rpn_level_post_nms_train or numerics.rpn_post_nms_train,
        "ROI_BOX_HEAD.NUM_CLASSES": arch.classes + 1,
        "RPN.FPN_POST_NMS_PER_BATCH": numerics.rpn_post_nms_shared,
        "GROUP_NORM.EPSILON": numerics.eps_of_heads or 1e-5,
        "ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": numerics.roi_sampling,
        "ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": not pyramid,
    }
    if arch.norm == "group":
        model |= {"RESNETS.STEM_FUNC": "StemWithGN", "RESNETS.TRANS_FUNC": "BottleneckWithGN"}
    if pyramid:
        scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        model |= {
            "RPN.USE_FPN": True,
            "RPN.ANCHOR_STRIDE": [4, 8, 16, 32, 64],
            "RPN.FPN_POST_NMS_TOP_N_TEST": numerics.rpn_post_nms,
            "RPN.FPN_POST_NMS_TOP_N_TRAIN": numerics.rpn_post_nms_train,
            "FPN.USE_GN": arch.neck_norm == "group",
            "ROI_HEADS.USE_FPN": True,
            "ROI_BOX_HEAD.POOLER_SCALES": scales,
            "ROI_BOX_HEAD.FEATURE_EXTRACTOR": f"FPN{'Xconv1fc' if arch.box_convs else '2MLP'}FeatureExtractor",
            "ROI_BOX_HEAD.PREDICTOR": "FPNPredictor",
            "ROI_BOX_HEAD.USE_GN": arch.box_norm == "group" or arch.fc_norm == "group",
            "ROI_BOX_HEAD.NUM_STACKED_CONVS": arch.box_convs or 4,
            "ROI_BOX_HEAD.CONV_HEAD_DIM": arch.box_conv_channels,
            "ROI_BOX_HEAD.MLP_HEAD_DIM": arch.box_fc_width,
            "ROI_MASK_HEAD.POOLER_SCALES": scales,
            "ROI_MASK_HEAD.FEATURE_EXTRACTOR": "MaskRCNNFPNFeatureExtractor",
            "ROI_MASK_HEAD.USE_GN": arch.mask_norm == "group",
            "ROI_MASK_HEAD.CONV_LAYERS": [arch.mask_channels] * arch.mask_convs,
            "ROI_MASK_HEAD.RESOLUTION": 2 * numerics.mask_pool_size,
        }
    return {"INPUT.TO_BGR255": numerics.channel_order == "bgr", **{f"MODEL.{key}": one for key, one in model.items()}}


def detectron(spec: Spec) -> Settings:
    """Classes, the stride of bottlenecks, and the sizes of anchors."""
    sizes = spec.numerics.anchor_sizes
    said = {
        "MODEL.NUM_CLASSES": spec.arch.classes + 1,
        "RESNETS.STRIDE_1X1": spec.numerics.stride_in == "1x1",
        "MRCNN.ROI_XFORM_SAMPLING_RATIO": spec.numerics.roi_sampling,
    }
    if spec.arch.neck == "fpn":
        return {**said, "FPN.RPN_ANCHOR_START_SIZE": int(sizes[0][0])}
    return {**said, "RPN.SIZES": list(sizes[0])}
