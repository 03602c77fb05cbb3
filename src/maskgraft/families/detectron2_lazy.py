"""Detectron2's LazyConfigs, Python or written as YAML: what they call, its arguments, and the defaults of these.

Sources: detectron2 0.6 `configs/common/models/`, `modeling/proposal_generator/rpn.py`,
`modeling/roi_heads/fast_rcnn.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maskgraft.families.configs import NOT_READ, setting
from maskgraft.families.detectron2_language import Language, Required, box_loss, levels
from maskgraft.families.detectron_maths import quad, straddle
from maskgraft.families.family import Config
from maskgraft.spec import Arch


def _resizing(steps: Any) -> Mapping[str, Any]:
    """The step among the augmentations of a LazyConfig that sets the short edge."""
    found: Mapping[str, Any] = next(step for step in steps if "short_edge_length" in step)
    return found


# Field of Numerics ← (key, how its value reads), pyramids first.
_FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("channel_order", "model.input_format", str.lower),
    ("min_size", "dataloader.test.mapper.augmentations", lambda steps: int(_resizing(steps)["short_edge_length"])),
    ("max_size", "dataloader.test.mapper.augmentations", lambda steps: int(_resizing(steps)["max_size"])),
    ("pixel_mean", "model.pixel_mean", quad),
    ("pixel_std", "model.pixel_std", quad),
    ("stride_in", "model.backbone.bottom_up.stages.stride_in_1x1", lambda yes: "1x1" if yes else "3x3"),
    ("stride_in", "model.backbone.stages.stride_in_1x1", lambda yes: "1x1" if yes else "3x3"),
    ("anchor_ratios", "model.proposal_generator.anchor_generator.aspect_ratios", lambda ratios: levels(ratios)[0]),
    ("anchor_offset", "model.proposal_generator.anchor_generator.offset", float),
    ("rpn_pre_nms_train", "model.proposal_generator.pre_nms_topk", lambda pair: int(pair[0])),
    ("rpn_pre_nms", "model.proposal_generator.pre_nms_topk", lambda pair: int(pair[1])),
    ("rpn_post_nms_train", "model.proposal_generator.post_nms_topk", lambda pair: int(pair[0])),
    ("rpn_post_nms", "model.proposal_generator.post_nms_topk", lambda pair: int(pair[1])),
    ("rpn_nms_threshold", "model.proposal_generator.nms_thresh", float),
    ("rpn_min_size", "model.proposal_generator.min_box_size", float),
    ("rpn_straddle", "model.proposal_generator.anchor_boundary_thresh", straddle),
    ("rpn_beta", "model.proposal_generator.smooth_l1_beta", float),
    ("rpn_box_loss", "model.proposal_generator.box_reg_loss_type", box_loss),
    ("box_beta", "model.roi_heads.box_predictor.smooth_l1_beta", float),
    ("box_loss", "model.roi_heads.box_predictor.box_reg_loss_type", box_loss),
    ("rpn_delta_weights", "model.proposal_generator.box2box_transform.weights", quad),
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
    ("box_delta_weights", "model.roi_heads.box_predictor.box2box_transform.weights", quad),
    ("score_threshold", "model.roi_heads.box_predictor.test_score_thresh", float),
    ("nms_threshold", "model.roi_heads.box_predictor.test_nms_thresh", float),
    ("max_detections", "model.roi_heads.box_predictor.test_topk_per_image", int),
    ("roi_positive_iou", "model.roi_heads.proposal_matcher.thresholds", lambda thresholds: float(thresholds[0])),
    ("roi_samples", "model.roi_heads.batch_size_per_image", int),
    ("roi_positive_fraction", "model.roi_heads.positive_fraction", float),
    ("roi_truth", "model.roi_heads.proposal_append_gt", bool),
)

# Settings whose other values change what is computed in ways that the model does not have …
_REQUIRED: Required = (
    ("model.roi_heads.box_predictor.use_sigmoid_ce", (False,)),
    ("model.roi_heads.box_pooler.pooler_type", ("ROIAlignV2", "ROIAlign")),
    ("model.roi_heads.mask_pooler.pooler_type", ("ROIAlignV2", "ROIAlign")),
    ("model.roi_heads.pooler.pooler_type", ("ROIAlignV2", "ROIAlign")),
    ("model.backbone.fuse_type", ("sum",)),
    ("model.backbone.square_pad", (0,)),
)
# … those of a pyramid …
_OF_PYRAMIDS: Required = (
    ("model.proposal_generator.in_features", (("p2", "p3", "p4", "p5", "p6"),)),
    ("model.roi_heads.box_in_features", (("p2", "p3", "p4", "p5"),)),
    ("model.roi_heads.mask_in_features", (("p2", "p3", "p4", "p5"),)),
)
# … and what is called, whose modules may stand in front.
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


def _defaults(config: Config, arch: Arch) -> Mapping[str, Any]:
    """Those of the constructors that are called, where the whole model is, by a config all of which was read."""
    if setting(config, "model._target_") is None or NOT_READ in config:
        return {}
    body = {"stages": {"stride_in_1x1": False}}
    backbone = {"bottom_up": body} if arch.neck == "fpn" else body
    return {"model": {"backbone": backbone, "roi_heads": {"box_predictor": {"test_score_thresh": 0.0}}}}


def _loss_weights(values: Sequence[Any]) -> tuple[float, ...]:
    """Of the proposal network and of the box head: a number, or one for each loss by its name."""
    rpn, heads = values
    named = (rpn, "loss_rpn_cls"), (rpn, "loss_rpn_loc"), (heads, "loss_cls"), (heads, "loss_box_reg")
    return (*(float(one.get(name, 1) if isinstance(one, Mapping) else one) for one, name in named), 1.0)


LAZY = Language(
    settings=_FROM_CONFIG,
    defaults=_defaults,
    anchor_sizes="model.proposal_generator.anchor_generator.sizes",
    anchor_ratios="model.proposal_generator.anchor_generator.aspect_ratios",
    classes="model.roi_heads.num_classes",
    required=_REQUIRED,
    required_of={"fpn": _OF_PYRAMIDS},
    called=_CALLED,
    pooling=(
        ("model.roi_heads.mask_pooler.pooler_type", "model.roi_heads.box_pooler.pooler_type"),
        ("model.roi_heads.mask_pooler.sampling_ratio", "model.roi_heads.box_pooler.sampling_ratio"),
    ),
    of_training=(
        ("model.roi_heads.train_on_pred_boxes", False),
        ("model.roi_heads.box_predictor.use_fed_loss", False),
    ),
    box_losses=(
        ("rpn_box_loss", "model.proposal_generator.box_reg_loss_type"),
        ("box_loss", "model.roi_heads.box_predictor.box_reg_loss_type"),
    ),
    weighing=("model.proposal_generator.loss_weight", "model.roi_heads.box_predictor.loss_weight"),
    loss_weights=_loss_weights,
)
