"""With which numbers Detectron2 runs a model: its defaults, `config.yaml`, and its LazyConfigs as Python and as YAML.

Conventions: detectron2 0.6 `config/defaults.py`, `configs/common/models/mask_rcnn_fpn.py`, `modeling/`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import NOT_READ, base_fault, changes_from, setting
from maskgraft.families.detectron_maths import straddle
from maskgraft.families.family import (
    Config,
    class_count_fault,
    learned,
    limited,
    not_taken_up,
    refuse_other_pooling,
    refuse_what_cannot_be_obeyed,
    unsupported,
)
from maskgraft.families.python_configs import merged
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


def _levels(value: Any) -> list[tuple[float, ...]]:
    """Sizes or ratios of anchors, a list for each level; one for all of them may stand alone, and without its list."""
    return [_quad(level) for level in value] if isinstance(value[0], list | tuple) else [_quad(value)]


def _box_loss(kind: str) -> str:
    """Distance and complete IoU are told (`_disagreements`)."""
    return "giou" if kind == "giou" else "smooth-l1"


# Field of Numerics ← (key of the config, how its value reads)
FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("channel_order", "INPUT.FORMAT", str.lower),
    ("min_size", "INPUT.MIN_SIZE_TEST", int),
    ("max_size", "INPUT.MAX_SIZE_TEST", int),
    ("pixel_mean", "MODEL.PIXEL_MEAN", _quad),
    ("pixel_std", "MODEL.PIXEL_STD", _quad),
    ("stride_in", "MODEL.RESNETS.STRIDE_IN_1X1", lambda yes: "1x1" if yes else "3x3"),
    ("anchor_ratios", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", lambda ratios: _levels(ratios)[0]),
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
    ("rpn_box_loss", "MODEL.RPN.BBOX_REG_LOSS_TYPE", _box_loss),
    ("roi_aligned", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", lambda kind: kind == "ROIAlignV2"),
    ("roi_sampling", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", int),
    ("box_pool_size", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", int),
    ("mask_pool_size", "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", int),
    ("box_delta_weights", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", _quad),
    ("box_beta", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", float),
    ("box_loss", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", _box_loss),
    ("score_threshold", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", float),
    ("nms_threshold", "MODEL.ROI_HEADS.NMS_THRESH_TEST", float),
    ("roi_positive_iou", "MODEL.ROI_HEADS.IOU_THRESHOLDS", lambda thresholds: float(thresholds[0])),
    ("roi_samples", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", int),
    ("roi_positive_fraction", "MODEL.ROI_HEADS.POSITIVE_FRACTION", float),
    ("roi_truth", "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", bool),
    ("max_detections", "TEST.DETECTIONS_PER_IMAGE", int),
    ("mask_targets", "INPUT.MASK_FORMAT", lambda kind: "polygon" if kind == "polygon" else "bitmap"),
)


def _resizing(steps: Any) -> Mapping[str, Any]:
    """The step among the augmentations of a LazyConfig that sets the short edge."""
    found: Mapping[str, Any] = next(step for step in steps if "short_edge_length" in step)
    return found


# The same of the configs that are Python and that Detectron2 writes as YAML (LazyConfig), pyramids first.
_FROM_LAZY: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("channel_order", "model.input_format", str.lower),
    ("min_size", "dataloader.test.mapper.augmentations", lambda steps: int(_resizing(steps)["short_edge_length"])),
    ("max_size", "dataloader.test.mapper.augmentations", lambda steps: int(_resizing(steps)["max_size"])),
    ("pixel_mean", "model.pixel_mean", _quad),
    ("pixel_std", "model.pixel_std", _quad),
    ("stride_in", "model.backbone.bottom_up.stages.stride_in_1x1", lambda yes: "1x1" if yes else "3x3"),
    ("stride_in", "model.backbone.stages.stride_in_1x1", lambda yes: "1x1" if yes else "3x3"),
    ("anchor_ratios", "model.proposal_generator.anchor_generator.aspect_ratios", lambda ratios: _levels(ratios)[0]),
    ("anchor_offset", "model.proposal_generator.anchor_generator.offset", float),
    ("rpn_pre_nms_train", "model.proposal_generator.pre_nms_topk", lambda pair: int(pair[0])),
    ("rpn_pre_nms", "model.proposal_generator.pre_nms_topk", lambda pair: int(pair[1])),
    ("rpn_post_nms_train", "model.proposal_generator.post_nms_topk", lambda pair: int(pair[0])),
    ("rpn_post_nms", "model.proposal_generator.post_nms_topk", lambda pair: int(pair[1])),
    ("rpn_nms_threshold", "model.proposal_generator.nms_thresh", float),
    ("rpn_min_size", "model.proposal_generator.min_box_size", float),
    ("rpn_straddle", "model.proposal_generator.anchor_boundary_thresh", straddle),
    ("rpn_beta", "model.proposal_generator.smooth_l1_beta", float),
    ("rpn_box_loss", "model.proposal_generator.box_reg_loss_type", _box_loss),
    ("box_beta", "model.roi_heads.box_predictor.smooth_l1_beta", float),
    ("box_loss", "model.roi_heads.box_predictor.box_reg_loss_type", _box_loss),
    ("rpn_delta_weights", "model.proposal_generator.box2box_transform.weights", _quad),
    ("rpn_negative_iou", "model.proposal_generator.anchor_matcher.thresholds", lambda pair: float(pair[0])),
    ("rpn_positive_iou", "model.proposal_generator.anchor_matcher.thresholds", lambda pair: float(pair[1])),
    ("rpn_samples", "model.proposal_generator.batch_size_per_image", int),
    ("rpn_positive_fraction", "model.proposal_generator.positive_fraction", float),
    ("roi_aligned", "model.roi_heads.box_pooler.pooler_type", lambda kind: kind == "ROIAlignV2"),
    ("roi_sampling", "model.roi_heads.box_pooler.sampling_ratio", int),
    ("box_pool_size", "model.roi_heads.box_pooler.output_size", int),
    ("mask_pool_size", "model.roi_heads.mask_pooler.output_size", int),
    ("roi_aligned", "model.roi_heads.pooler.pooler_type", lambda kind: kind == "ROIAlignV2"),
    ("roi_sampling", "model.roi_heads.pooler.sampling_ratio", int),
    ("box_pool_size", "model.roi_heads.pooler.output_size", int),
    ("box_delta_weights", "model.roi_heads.box_predictor.box2box_transform.weights", _quad),
    ("score_threshold", "model.roi_heads.box_predictor.test_score_thresh", float),
    ("nms_threshold", "model.roi_heads.box_predictor.test_nms_thresh", float),
    ("max_detections", "model.roi_heads.box_predictor.test_topk_per_image", int),
    ("roi_positive_iou", "model.roi_heads.proposal_matcher.thresholds", lambda thresholds: float(thresholds[0])),
    ("roi_samples", "model.roi_heads.batch_size_per_image", int),
    ("roi_positive_fraction", "model.roi_heads.positive_fraction", float),
    ("roi_truth", "model.roi_heads.proposal_append_gt", bool),
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

_READ = [f"numerics.{name}" for name in ("anchor_sizes", "loss_weights", *(name for name, _, _ in FROM_CONFIG))]


def _lazy_defaults(arch: Arch) -> Mapping[str, Any]:
    """The same of LazyConfigs, which call constructors with defaults of their own."""
    body = {"stages": {"stride_in_1x1": False}}
    backbone = {"bottom_up": body} if arch.neck == "fpn" else body
    return {"model": {"backbone": backbone, "roi_heads": {"box_predictor": {"test_score_thresh": 0.0}}}}


# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
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
    ("model.roi_heads.box_predictor.use_sigmoid_ce", (False,)),
    ("model.roi_heads.box_pooler.pooler_type", ("ROIAlignV2", "ROIAlign")),
    ("model.roi_heads.mask_pooler.pooler_type", ("ROIAlignV2", "ROIAlign")),
    ("model.roi_heads.pooler.pooler_type", ("ROIAlignV2", "ROIAlign")),
    ("model.backbone.fuse_type", ("sum",)),
    ("model.backbone.square_pad", (0,)),
)
# The same of what a LazyConfig calls, whose modules may stand in front.
_CALLED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("model", ("GeneralizedRCNN",)),
    ("model.backbone", ("FPN", "ResNet")),
    ("model.backbone.bottom_up", ("ResNet",)),
    ("model.backbone.top_block", ("LastLevelMaxPool",)),
    ("model.proposal_generator", ("RPN",)),
    ("model.proposal_generator.head", ("StandardRPNHead",)),
    ("model.proposal_generator.anchor_generator", ("DefaultAnchorGenerator",)),
    ("model.roi_heads", ("StandardROIHeads", "Res5ROIHeads")),
    ("model.roi_heads.box_head", ("FastRCNNConvFCHead",)),
    ("model.roi_heads.box_predictor", ("FastRCNNOutputLayers",)),
    ("model.roi_heads.mask_head", ("MaskRCNNConvUpsampleHead",)),
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
# Settings of the pooling for masks, which is that for boxes.
_ALIKE = (
    ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "MODEL.ROI_BOX_HEAD.POOLER_TYPE"),
    ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"),
    ("model.roi_heads.mask_pooler.pooler_type", "model.roi_heads.box_pooler.pooler_type"),
    ("model.roi_heads.mask_pooler.sampling_ratio", "model.roi_heads.box_pooler.sampling_ratio"),
)


# Settings of trainings alone, which one here does not take up.
_OF_TRAINING: tuple[tuple[str, Any], ...] = (
    ("MODEL.RPN.IOU_LABELS", [0, -1, 1]),
    ("MODEL.ROI_HEADS.IOU_LABELS", [0, 1]),
    ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", False),
    ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", False),
    ("model.roi_heads.train_on_pred_boxes", False),
    ("model.roi_heads.box_predictor.use_fed_loss", False),
)
# Which box losses it does take up, by the field that holds them.
_BOX_LOSSES = (
    ("rpn_box_loss", "MODEL.RPN.BBOX_REG_LOSS_TYPE"),
    ("rpn_box_loss", "model.proposal_generator.box_reg_loss_type"),
    ("box_loss", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"),
    ("box_loss", "model.roi_heads.box_predictor.box_reg_loss_type"),
)


def numerics_of(
    tensors: Tensors, arch: Arch, config: Config | None, title: str
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """The numbers with which Detectron2 runs an architecture under a config, and how each was learned.

    Where a config builds this very model, what it leaves open is Detectron2's default; of a fragment of one, it is the
    setting of the model zoo. Raises `CheckpointError` for settings that maskgraft does not have; `title` says of which
    framework the file is.
    """
    numerics, how = _numerics(tensors, arch)
    if config is None:
        return numerics, how, []
    lazy = "MODEL" not in config and "model" in config
    defaults: Mapping[str, Any] = {}
    if _is_whole(config, arch):
        defaults = _DEFAULTS
    elif setting(config, "model._target_") is not None and NOT_READ not in config:
        defaults = _lazy_defaults(arch)
    if defaults:
        how |= learned("Detectron2's default, which the config leaves", "implied", _READ)
    whole = merged(defaults, config)
    refuse_what_cannot_be_obeyed(tensors, whole, (*_REQUIRED, *_REQUIRED_OF[arch.neck]), title)
    for key, allowed in _CALLED:
        called = setting(config, f"{key}._target_")
        if called is not None and str(called).rpartition(".")[2] not in allowed:
            raise unsupported(tensors, title, f"{key} is {called}, not {' or '.join(allowed)}")
    for keys in _ALIKE if arch.neck != "c4" else ():
        refuse_other_pooling(tensors, whole, keys, title)
    changes = changes_from(config, _FROM_LAZY if lazy else FROM_CONFIG, how, defaults)
    changes |= _anchors(tensors, arch, config, defaults, how, title, lazy=lazy)
    changes |= _loss_weights(config, how, lazy=lazy)
    numerics = limited(replace(numerics, **changes), arch, least=0)
    return numerics, how, list(_disagreements(tensors, arch, config, numerics))


def _is_whole(config: Config, arch: Arch) -> bool:
    """Whether Detectron2 builds a Mask R-CNN with the neck of `arch` from a config, all of which was read."""
    pyramid = setting(config, "MODEL.BACKBONE.NAME") == "build_resnet_fpn_backbone"
    return bool(setting(config, "MODEL.MASK_ON")) and pyramid == (arch.neck == "fpn") and NOT_READ not in config


def _loss_weights(config: Config, how: dict[str, Learned], *, lazy: bool) -> dict[str, Any]:
    """`modeling/proposal_generator/rpn.py`, `modeling/roi_heads/fast_rcnn.py`: a number, or one for each loss."""
    keys = (
        ("model.proposal_generator.loss_weight", "model.roi_heads.box_predictor.loss_weight")
        if lazy
        else ("MODEL.RPN.LOSS_WEIGHT", "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT")
    )

    def weights(_: Any) -> tuple[float, ...]:
        said = [1.0 if (one := setting(config, key)) is None else one for key in keys]
        if lazy:
            rpn, heads = said
        else:
            rpn, heads = {"loss_rpn_cls": said[0], "loss_rpn_loc": said[0] * said[1]}, {"loss_box_reg": said[2]}
        named = (rpn, "loss_rpn_cls"), (rpn, "loss_rpn_loc"), (heads, "loss_cls"), (heads, "loss_box_reg")
        return (*(float(one.get(name, 1) if isinstance(one, Mapping) else one) for one, name in named), 1.0)

    return changes_from(config, [("loss_weights", key, weights) for key in keys], how)


def _anchors(
    tensors: Tensors,
    arch: Arch,
    config: Config,
    defaults: Config,
    how: dict[str, Learned],
    title: str,
    *,
    lazy: bool,
) -> dict[str, Any]:
    """Sizes of anchors; ratios are those of all levels."""
    start = "model.proposal_generator.anchor_generator." if lazy else "MODEL.ANCHOR_GENERATOR."
    ratios = setting(config, start + ("aspect_ratios" if lazy else "ASPECT_RATIOS"))
    if ratios is not None and len(set(_levels(ratios))) > 1:
        raise unsupported(tensors, title, "anchors whose ratios differ from level to level")

    def of_levels(sizes: Any) -> tuple[tuple[float, ...], ...]:
        levels = _levels(sizes)
        return tuple(levels * 5 if arch.neck == "fpn" and len(levels) == 1 else levels)

    return changes_from(config, (("anchor_sizes", start + ("sizes" if lazy else "SIZES"), of_levels),), how, defaults)


def _numerics(tensors: Tensors, arch: Arch) -> tuple[Numerics, dict[str, Learned]]:
    how = {
        **learned("Detectron2's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned(
            "Detectron2's defaults; config.yaml would say",
            "assumed",
            _READ,
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


def _disagreements(tensors: Tensors, arch: Arch, config: Config, numerics: Numerics) -> Iterator[Finding]:
    for key in ("MODEL.ROI_HEADS.NUM_CLASSES", "model.roi_heads.num_classes"):
        yield from class_count_fault(tensors, arch.classes, setting(config, key), key)
    taken_up = ((key, getattr(numerics, name).replace("-", "_")) for name, key in _BOX_LOSSES)
    yield from not_taken_up(config, (*_OF_TRAINING, *taken_up))
    if "MODEL" not in config and "model" in config and setting(config, "model._target_") is None:
        told = "the config changes a model that it does not build itself: what it does not say is assumed"
        yield Finding("numerics.assumed", "warning", told, fix="give the config.yaml that Detectron2 wrote")
    yield from base_fault(config, "give the config.yaml that Detectron2 wrote into the output folder of the training")
