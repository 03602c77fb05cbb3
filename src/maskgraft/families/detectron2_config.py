"""With which numbers Detectron2 runs a model: its defaults, `config.yaml`, and the YAML of its LazyConfigs.

Conventions: detectron2 0.6 `config/defaults.py`, `configs/common/models/mask_rcnn_fpn.py`, `modeling/`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import base_fault, changes_from, setting
from maskgraft.families.detectron_maths import straddle
from maskgraft.families.family import (
    Config,
    class_count_fault,
    learned,
    not_taken_up,
    refuse_other_pooling,
    refuse_what_cannot_be_obeyed,
    unsupported,
)
from maskgraft.files import Tensors
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics

NUMERICS = Numerics(
    channel_order="bgr",
    pixel_scale=1.0,
    pixel_mean=(103.53, 116.28, 123.675),
    pixel_std=(1.0, 1.0, 1.0),
    resize="pil",
    normalise_first=False,
    size_rounding="round",
    norm_eps=1e-5,
    stride_in="1x1",
    anchor_order="size",
    anchor_rounding=False,
    anchor_stride="nominal",
    rpn_rank="logit",
    rpn_min_size=0.0,
    level_epsilon="inside",
    level_epsilon_value=1e-8,
    roi_aligned=True,
    roi_sampling=0,
    box_min_size=0.0,
    mask_paste="grid-sample",
    rpn_post_nms_train=1000,
    rpn_normaliser="samples",
    rpn_beta=0.0,
    box_beta=0.0,
    mask_targets="polygon",
)

# Backbones whose 3×3 convolutions are grouped were trained on scaled pixels (mask_rcnn_X_101_32x8d_FPN_3x.yaml).
_STD_OF_RESNEXT = (57.375, 57.12, 58.395)

_ONE_LEVEL: dict[str, Any] = {
    "anchor_sizes": ((32.0, 64.0, 128.0, 256.0, 512.0),),
    "rpn_pre_nms": 6000,
    "rpn_pre_nms_train": 12000,
    "rpn_post_nms_train": 2000,
    "pad_multiple": 1,
}


def _quad(value: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in value)


# Field of Numerics ← (key of the config, how its value reads)
FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("channel_order", "INPUT.FORMAT", str.lower),
    ("min_size", "INPUT.MIN_SIZE_TEST", int),
    ("max_size", "INPUT.MAX_SIZE_TEST", int),
    ("pixel_mean", "MODEL.PIXEL_MEAN", _quad),
    ("pixel_std", "MODEL.PIXEL_STD", _quad),
    ("stride_in", "MODEL.RESNETS.STRIDE_IN_1X1", lambda yes: "1x1" if yes else "3x3"),
    ("anchor_ratios", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", lambda levels: _quad(levels[0])),
    ("anchor_offset", "MODEL.ANCHOR_GENERATOR.OFFSET", float),
    ("rpn_pre_nms", "MODEL.RPN.PRE_NMS_TOPK_TEST", int),
    ("rpn_post_nms", "MODEL.RPN.POST_NMS_TOPK_TEST", int),
    ("rpn_pre_nms_train", "MODEL.RPN.PRE_NMS_TOPK_TRAIN", int),
    ("rpn_post_nms_train", "MODEL.RPN.POST_NMS_TOPK_TRAIN", int),
    ("rpn_nms_threshold", "MODEL.RPN.NMS_THRESH", float),
    ("rpn_min_size", "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", float),
    ("rpn_delta_weights", "MODEL.RPN.BBOX_REG_WEIGHTS", _quad),
    ("rpn_negative_iou", "MODEL.RPN.IOU_THRESHOLDS", lambda pair: float(pair[0])),
    ("rpn_positive_iou", "MODEL.RPN.IOU_THRESHOLDS", lambda pair: float(pair[1])),
    ("rpn_straddle", "MODEL.RPN.BOUNDARY_THRESH", straddle),
    ("rpn_samples", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", int),
    ("rpn_positive_fraction", "MODEL.RPN.POSITIVE_FRACTION", float),
    ("rpn_beta", "MODEL.RPN.SMOOTH_L1_BETA", float),
    ("roi_aligned", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", lambda kind: kind == "ROIAlignV2"),
    ("roi_sampling", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", int),
    ("box_pool_size", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", int),
    ("mask_pool_size", "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", int),
    ("box_delta_weights", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", _quad),
    ("box_beta", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", float),
    ("score_threshold", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", float),
    ("nms_threshold", "MODEL.ROI_HEADS.NMS_THRESH_TEST", float),
    ("roi_positive_iou", "MODEL.ROI_HEADS.IOU_THRESHOLDS", lambda thresholds: float(thresholds[0])),
    ("roi_samples", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", int),
    ("roi_positive_fraction", "MODEL.ROI_HEADS.POSITIVE_FRACTION", float),
    ("max_detections", "TEST.DETECTIONS_PER_IMAGE", int),
    ("mask_targets", "INPUT.MASK_FORMAT", lambda kind: "polygon" if kind == "polygon" else "bitmap"),
)


def _resizing(steps: Any) -> Mapping[str, Any]:
    """The step among the augmentations of a LazyConfig that sets the short edge."""
    found: Mapping[str, Any] = next(step for step in steps if "short_edge_length" in step)
    return found


# The same of the configs that are Python and that Detectron2 writes as YAML (LazyConfig).
_FROM_LAZY: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("channel_order", "model.input_format", str.lower),
    ("min_size", "dataloader.test.mapper.augmentations", lambda steps: int(_resizing(steps)["short_edge_length"])),
    ("max_size", "dataloader.test.mapper.augmentations", lambda steps: int(_resizing(steps)["max_size"])),
    ("pixel_mean", "model.pixel_mean", _quad),
    ("pixel_std", "model.pixel_std", _quad),
    ("stride_in", "model.backbone.bottom_up.stages.stride_in_1x1", lambda yes: "1x1" if yes else "3x3"),
    ("anchor_ratios", "model.proposal_generator.anchor_generator.aspect_ratios", _quad),
    ("anchor_offset", "model.proposal_generator.anchor_generator.offset", float),
    ("rpn_pre_nms_train", "model.proposal_generator.pre_nms_topk", lambda pair: int(pair[0])),
    ("rpn_pre_nms", "model.proposal_generator.pre_nms_topk", lambda pair: int(pair[1])),
    ("rpn_post_nms_train", "model.proposal_generator.post_nms_topk", lambda pair: int(pair[0])),
    ("rpn_post_nms", "model.proposal_generator.post_nms_topk", lambda pair: int(pair[1])),
    ("rpn_nms_threshold", "model.proposal_generator.nms_thresh", float),
    ("rpn_min_size", "model.proposal_generator.min_box_size", float),
    ("rpn_straddle", "model.proposal_generator.anchor_boundary_thresh", straddle),
    ("rpn_beta", "model.proposal_generator.smooth_l1_beta", float),
    ("box_beta", "model.roi_heads.box_predictor.smooth_l1_beta", float),
    ("rpn_delta_weights", "model.proposal_generator.box2box_transform.weights", _quad),
    ("rpn_negative_iou", "model.proposal_generator.anchor_matcher.thresholds", lambda pair: float(pair[0])),
    ("rpn_positive_iou", "model.proposal_generator.anchor_matcher.thresholds", lambda pair: float(pair[1])),
    ("rpn_samples", "model.proposal_generator.batch_size_per_image", int),
    ("rpn_positive_fraction", "model.proposal_generator.positive_fraction", float),
    ("roi_aligned", "model.roi_heads.box_pooler.pooler_type", lambda kind: kind == "ROIAlignV2"),
    ("roi_sampling", "model.roi_heads.box_pooler.sampling_ratio", int),
    ("box_pool_size", "model.roi_heads.box_pooler.output_size", int),
    ("mask_pool_size", "model.roi_heads.mask_pooler.output_size", int),
    ("box_delta_weights", "model.roi_heads.box_predictor.box2box_transform.weights", _quad),
    ("score_threshold", "model.roi_heads.box_predictor.test_score_thresh", float),
    ("nms_threshold", "model.roi_heads.box_predictor.test_nms_thresh", float),
    ("max_detections", "model.roi_heads.box_predictor.test_topk_per_image", int),
    ("roi_positive_iou", "model.roi_heads.proposal_matcher.thresholds", lambda thresholds: float(thresholds[0])),
    ("roi_samples", "model.roi_heads.batch_size_per_image", int),
    ("roi_positive_fraction", "model.roi_heads.positive_fraction", float),
)

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("MODEL.META_ARCHITECTURE", ("GeneralizedRCNN",)),
    ("MODEL.LOAD_PROPOSALS", (False,)),
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
    ("model.roi_heads.box_predictor.use_sigmoid_ce", (False,)),
    ("model.roi_heads.box_pooler.pooler_type", ("ROIAlignV2", "ROIAlign")),
    ("model.backbone.fuse_type", ("sum",)),
)
# … and those of a pyramid, of a single map, and of one that is dilated
_REQUIRED_OF: Mapping[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    "fpn": (
        ("MODEL.FPN.IN_FEATURES", (("res2", "res3", "res4", "res5"),)),
        ("MODEL.RPN.IN_FEATURES", (("p2", "p3", "p4", "p5", "p6"),)),
        ("MODEL.ROI_HEADS.IN_FEATURES", (("p2", "p3", "p4", "p5"),)),
        ("model.proposal_generator.in_features", (("p2", "p3", "p4", "p5", "p6"),)),
        ("model.roi_heads.box_in_features", (("p2", "p3", "p4", "p5"),)),
        ("model.roi_heads.mask_in_features", (("p2", "p3", "p4", "p5"),)),
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
# Settings of the pooling for masks, which is that for boxes.
_ALIKE = (
    ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "MODEL.ROI_BOX_HEAD.POOLER_TYPE"),
    ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"),
    ("model.roi_heads.mask_pooler.pooler_type", "model.roi_heads.box_pooler.pooler_type"),
    ("model.roi_heads.mask_pooler.sampling_ratio", "model.roi_heads.box_pooler.sampling_ratio"),
)


# Settings of trainings alone, which one here does not take up.
_OF_TRAINING: tuple[tuple[str, Any], ...] = (
    ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "smooth_l1"),
    ("MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 1),
    ("MODEL.RPN.LOSS_WEIGHT", 1),
    ("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", True),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 1),
    ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", False),
    ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", False),
)


def numerics_of(
    tensors: Tensors, arch: Arch, config: Config | None, title: str
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """The numbers with which Detectron2 runs an architecture under a config, and how each was learned.

    Raises `CheckpointError` for settings that maskgraft does not have; `title` says of which framework the file is.
    """
    numerics, how = _numerics(tensors, arch)
    if config is None:
        return numerics, how, []
    refuse_what_cannot_be_obeyed(tensors, config, (*_REQUIRED, *_REQUIRED_OF[arch.neck]), title)
    for keys in _ALIKE if arch.neck != "c4" else ():
        refuse_other_pooling(tensors, config, keys, title)
    lazy = "MODEL" not in config and "model" in config
    changes = changes_from(config, _FROM_LAZY if lazy else FROM_CONFIG, how)
    changes |= _anchors(tensors, arch, config, how, title, lazy=lazy)
    return replace(numerics, **changes), how, list(_disagreements(tensors, arch, config))


def _anchors(
    tensors: Tensors, arch: Arch, config: Config, how: dict[str, Learned], title: str, *, lazy: bool
) -> dict[str, Any]:
    """Sizes of anchors: one list for each level, or one for all of them."""
    ratios = setting(config, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    if ratios is not None and any(level != ratios[0] for level in ratios):
        raise unsupported(tensors, title, "anchors whose ratios differ from level to level")
    key = "model.proposal_generator.anchor_generator.sizes" if lazy else "MODEL.ANCHOR_GENERATOR.SIZES"
    sizes = setting(config, key)
    if sizes is None:
        return {}
    how["numerics.anchor_sizes"] = Learned("read", f"config: {key}")
    levels = [_quad(level) for level in sizes]
    return {"anchor_sizes": tuple(levels * 5 if arch.neck == "fpn" and len(levels) == 1 else levels)}


def _numerics(tensors: Tensors, arch: Arch) -> tuple[Numerics, dict[str, Learned]]:
    how = {
        **learned("Detectron2's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned(
            "Detectron2's defaults; config.yaml would say",
            "assumed",
            [f"numerics.{name}" for name, _, _ in FROM_CONFIG] + ["numerics.anchor_sizes"],
        ),
    }
    changes: dict[str, Any] = {}
    if arch.neck != "fpn":
        changes |= _ONE_LEVEL
    if arch.neck == "c4":
        changes["box_pool_size"] = 14
    if arch.groups > 1:
        changes |= {"stride_in": "3x3", "pixel_std": _STD_OF_RESNEXT}
        how |= learned("as in the model zoo's ResNeXt configs", "assumed", ["numerics.stride_in", "numerics.pixel_std"])
    elif arch.norm == "group":
        changes["stride_in"] = "3x3"
        how |= learned("as in the model zoo's GN configs", "assumed", ["numerics.stride_in"])
    for name in ("pixel_mean", "pixel_std"):  # model zoo files of 2019 carry both
        if name in tensors and math.prod(tensors[name].shape) == 3:
            changes[name] = tuple(round(float(x), 6) for x in tensors[name].read().ravel())
            how[f"numerics.{name}"] = Learned("read", f"{tensors.path.name}: {name}")
    return replace(NUMERICS, **changes), how


def _disagreements(tensors: Tensors, arch: Arch, config: Config) -> Iterator[Finding]:
    for key in ("MODEL.ROI_HEADS.NUM_CLASSES", "model.roi_heads.num_classes"):
        yield from class_count_fault(tensors, arch.classes, setting(config, key), key)
    yield from not_taken_up(config, _OF_TRAINING)
    yield from base_fault(config, "give the config.yaml that Detectron2 wrote into the output folder of the training")
