"""Detectron2's `config.yaml`: its keys in capitals, their values, and its defaults.

Sources: detectron2 0.6 `config/defaults.py`, `modeling/proposal_generator/rpn.py`, `modeling/roi_heads/fast_rcnn.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maskgraft.families.configs import NOT_READ, setting
from maskgraft.families.detectron2_language import Language, Required, box_loss, levels
from maskgraft.families.detectron_maths import quad, straddle
from maskgraft.families.family import Config
from maskgraft.spec import Arch

# Field of Numerics ← (key, how its value reads)
FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("channel_order", "INPUT.FORMAT", str.lower),
    ("min_size", "INPUT.MIN_SIZE_TEST", int),
    ("max_size", "INPUT.MAX_SIZE_TEST", int),
    ("pixel_mean", "MODEL.PIXEL_MEAN", quad),
    ("pixel_std", "MODEL.PIXEL_STD", quad),
    ("stride_in", "MODEL.RESNETS.STRIDE_IN_1X1", lambda yes: "1x1" if yes else "3x3"),
    ("anchor_ratios", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", lambda ratios: levels(ratios)[0]),
    ("anchor_offset", "MODEL.ANCHOR_GENERATOR.OFFSET", float),
    ("rpn_pre_nms", "MODEL.RPN.PRE_NMS_TOPK_TEST", int),
    ("rpn_post_nms", "MODEL.RPN.POST_NMS_TOPK_TEST", int),
    ("rpn_pre_nms_train", "MODEL.RPN.PRE_NMS_TOPK_TRAIN", int),
    ("rpn_post_nms_train", "MODEL.RPN.POST_NMS_TOPK_TRAIN", int),
    ("rpn_nms_threshold", "MODEL.RPN.NMS_THRESH", float),
    ("rpn_min_size", "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", float),
    ("rpn_delta_weights", "MODEL.RPN.BBOX_REG_WEIGHTS", quad),
    ("rpn_negative_iou", "MODEL.RPN.IOU_THRESHOLDS", lambda pair: float(pair[0])),
    ("rpn_positive_iou", "MODEL.RPN.IOU_THRESHOLDS", lambda pair: float(pair[1])),
    ("rpn_straddle", "MODEL.RPN.BOUNDARY_THRESH", straddle),
    ("rpn_samples", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", int),
    ("rpn_positive_fraction", "MODEL.RPN.POSITIVE_FRACTION", float),
    ("rpn_beta", "MODEL.RPN.SMOOTH_L1_BETA", float),
    ("rpn_box_loss", "MODEL.RPN.BBOX_REG_LOSS_TYPE", box_loss),
    ("roi_aligned", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", lambda kind: kind == "ROIAlignV2"),
    ("roi_sampling", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", int),
    ("box_pool_size", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", int),
    ("mask_pool_size", "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", int),
    ("box_delta_weights", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", quad),
    ("box_beta", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", float),
    ("box_loss", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", box_loss),
    ("score_threshold", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", float),
    ("nms_threshold", "MODEL.ROI_HEADS.NMS_THRESH_TEST", float),
    ("roi_positive_iou", "MODEL.ROI_HEADS.IOU_THRESHOLDS", lambda thresholds: float(thresholds[0])),
    ("roi_samples", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", int),
    ("roi_positive_fraction", "MODEL.ROI_HEADS.POSITIVE_FRACTION", float),
    ("roi_truth", "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", bool),
    ("max_detections", "TEST.DETECTIONS_PER_IMAGE", int),
    ("mask_targets", "INPUT.MASK_FORMAT", lambda kind: "polygon" if kind == "polygon" else "bitmap"),
)

# What Detectron2 takes where a config that builds a model says nothing, as far as its model zoo says otherwise.
_DEFAULTS: Mapping[str, Any] = {
    "MODEL": {
        "PIXEL_STD": [1.0, 1.0, 1.0],
        "RESNETS": {"STRIDE_IN_1X1": True, "RES5_DILATION": 1},
        "ANCHOR_GENERATOR": {"SIZES": [[32, 64, 128, 256, 512]]},
        "RPN": {
            **{"PRE_NMS_TOPK_TRAIN": 12000, "PRE_NMS_TOPK_TEST": 6000},
            **{"POST_NMS_TOPK_TRAIN": 2000, "POST_NMS_TOPK_TEST": 1000},
        },
        "ROI_BOX_HEAD": {"POOLER_RESOLUTION": 14},
    },
}

# Settings whose other values change what is computed in ways that the model does not have …
_REQUIRED: Required = (
    ("MODEL.META_ARCHITECTURE", ("GeneralizedRCNN",)),
    ("MODEL.LOAD_PROPOSALS", (False,)),
    ("MODEL.MASK_ON", (True,)),
    ("MODEL.BACKBONE.NAME", ("build_resnet_backbone", "build_resnet_fpn_backbone")),
    ("MODEL.ROI_BOX_HEAD.NAME", ("", "FastRCNNConvFCHead")),
    ("MODEL.ROI_MASK_HEAD.NAME", ("MaskRCNNConvUpsampleHead",)),
    ("MODEL.PROPOSAL_GENERATOR.NAME", ("RPN",)),
    ("MODEL.ROI_HEADS.NAME", ("StandardROIHeads", "Res5ROIHeads")),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", ("ROIAlignV2", "ROIAlign")),
    ("MODEL.FPN.FUSE_TYPE", ("sum",)),
    ("MODEL.KEYPOINT_ON", (False,)),
    ("MODEL.ANCHOR_GENERATOR.NAME", ("DefaultAnchorGenerator",)),
    ("INPUT.FORMAT", ("BGR", "RGB")),
    ("MODEL.RPN.HEAD_NAME", ("StandardRPNHead",)),
    ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", (False,)),
    ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", ("ROIAlignV2", "ROIAlign")),
)
# … and those of a pyramid, of a single map, and of one that is dilated.
_REQUIRED_OF: Mapping[str, Required] = {
    "fpn": (
        ("MODEL.FPN.IN_FEATURES", (("res2", "res3", "res4", "res5"),)),
        ("MODEL.RPN.IN_FEATURES", (("p2", "p3", "p4", "p5", "p6"),)),
        ("MODEL.ROI_HEADS.IN_FEATURES", (("p2", "p3", "p4", "p5"),)),
        ("MODEL.BACKBONE.NAME", ("build_resnet_fpn_backbone",)),
        ("MODEL.RESNETS.RES5_DILATION", (1,)),
    ),
    "c4": (
        ("MODEL.RPN.IN_FEATURES", (("res4",),)),
        ("MODEL.ROI_HEADS.IN_FEATURES", (("res4",),)),
        ("MODEL.RESNETS.RES5_DILATION", (1,)),
    ),
    "dc5": (
        ("MODEL.RPN.IN_FEATURES", (("res5",),)),
        ("MODEL.ROI_HEADS.IN_FEATURES", (("res5",),)),
        ("MODEL.RESNETS.RES5_DILATION", (2,)),
    ),
}


def _defaults(config: Config, arch: Arch) -> Mapping[str, Any]:
    """Those above, where Detectron2 builds a Mask R-CNN with the neck of `arch` from the config, which is all read."""
    pyramid = setting(config, "MODEL.BACKBONE.NAME") == "build_resnet_fpn_backbone"
    whole = setting(config, "MODEL.MASK_ON") and pyramid == (arch.neck == "fpn") and NOT_READ not in config
    return _DEFAULTS if whole else {}


def _loss_weights(values: Sequence[Any]) -> tuple[float, ...]:
    rpn, rpn_boxes, boxes = (float(one) for one in values)
    return (rpn, rpn * rpn_boxes, 1.0, boxes, 1.0)


YACS = Language(
    settings=FROM_CONFIG,
    defaults=_defaults,
    anchor_sizes="MODEL.ANCHOR_GENERATOR.SIZES",
    anchor_ratios="MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    classes="MODEL.ROI_HEADS.NUM_CLASSES",
    required=_REQUIRED,
    required_of=_REQUIRED_OF,
    pooling=(
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "MODEL.ROI_BOX_HEAD.POOLER_TYPE"),
        ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"),
    ),
    of_training=(
        ("MODEL.RPN.IOU_LABELS", [0, -1, 1]),
        ("MODEL.ROI_HEADS.IOU_LABELS", [0, 1]),
        ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", False),
        ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", False),
    ),
    box_losses=(
        ("rpn_box_loss", "MODEL.RPN.BBOX_REG_LOSS_TYPE"),
        ("box_loss", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"),
    ),
    weighing=("MODEL.RPN.LOSS_WEIGHT", "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"),
    loss_weights=_loss_weights,
)
