"""Detectron's own numbers, and its configs: YAML of its own, or the text that it saved with the weights.

Conventions: Detectron `core/config.py`, `core/test.py`, `ops/generate_proposals.py`, `utils/blob.py`, `utils/boxes.py`,
`modeling/generate_anchors.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import yaml

from maskgraft.errors import Finding
from maskgraft.families.configs import changes_from, parse_yaml, setting
from maskgraft.families.detectron_maths import SHARED, of_arch, quad, straddle
from maskgraft.families.family import (
    NO_SUPPRESSION,
    Config,
    learned,
    limited,
    not_taken_up,
    refuse_other_pooling,
    refuse_what_cannot_be_obeyed,
)
from maskgraft.families.python_configs import merged
from maskgraft.files import Tensors
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics

NUMERICS = Numerics(
    **SHARED,
    resize="opencv-float",
    size_rounding="even",
    box_scale="factor",
    rpn_clip_padded=True,
    detect_in="photograph",
    rpn_min_size_in="photograph",
    rpn_normaliser="samples-sampled",
)


def _most(count: Any) -> int | None:
    """A number of candidates; all of them at 0 or below (`ops/generate_proposals.py`)."""
    return int(count) if count > 0 else None


def _overlap(threshold: Any) -> float:
    """A threshold for proposals, which are not suppressed at 0 or below."""
    return float(threshold) if threshold > 0 else NO_SUPPRESSION


_MANY = 1 << 20  # more proposals than a map has


# Field of Numerics ← (key of Detectron's config, how its value reads)
_FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("min_size", "TEST.SCALE", int),
    ("min_size", "TEST.SCALES", lambda scales: int(scales[0])),  # until 2017
    ("max_size", "TEST.MAX_SIZE", int),
    ("pixel_mean", "PIXEL_MEANS", lambda means: quad(means[0][0])),
    ("stride_in", "RESNETS.STRIDE_1X1", lambda yes: "1x1" if yes else "3x3"),
    ("delta_clip", "BBOX_XFORM_CLIP", float),
    ("rpn_pre_nms", "TEST.RPN_PRE_NMS_TOP_N", _most),
    ("rpn_post_nms", "TEST.RPN_POST_NMS_TOP_N", int),
    ("rpn_nms_threshold", "TEST.RPN_NMS_THRESH", _overlap),
    ("rpn_min_size", "TEST.RPN_MIN_SIZE", float),
    ("rpn_pre_nms_train", "TRAIN.RPN_PRE_NMS_TOP_N", _most),
    ("rpn_post_nms_train", "TRAIN.RPN_POST_NMS_TOP_N", int),
    ("rpn_min_size_train", "TRAIN.RPN_MIN_SIZE", float),
    ("rpn_positive_iou", "TRAIN.RPN_POSITIVE_OVERLAP", float),
    ("rpn_negative_iou", "TRAIN.RPN_NEGATIVE_OVERLAP", float),
    ("rpn_straddle", "TRAIN.RPN_STRADDLE_THRESH", straddle),
    ("rpn_samples", "TRAIN.RPN_BATCH_SIZE_PER_IM", int),
    ("rpn_positive_fraction", "TRAIN.RPN_FG_FRACTION", float),
    ("box_delta_weights", "MODEL.BBOX_REG_WEIGHTS", quad),
    ("roi_sampling", "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO", int),
    ("box_pool_size", "FAST_RCNN.ROI_XFORM_RESOLUTION", int),
    ("mask_pool_size", "MRCNN.ROI_XFORM_RESOLUTION", int),
    ("mask_threshold", "MRCNN.THRESH_BINARIZE", float),
    ("score_threshold", "TEST.SCORE_THRESH", float),
    ("nms_threshold", "TEST.NMS", float),
    ("max_detections", "TEST.DETECTIONS_PER_IM", int),
    ("roi_positive_iou", "TRAIN.FG_THRESH", float),
    ("roi_samples", "TRAIN.BATCH_SIZE_PER_IM", int),
    ("roi_positive_fraction", "TRAIN.FG_FRACTION", float),
    ("loss_weights", "MRCNN.WEIGHT_LOSS_MASK", lambda weight: (1.0, 1.0, 1.0, 1.0, float(weight))),
)
# Those that its `merge_cfg_from_file` takes: one of the others is of 2017, and one has to be NumPy's kind of float.
SETTINGS = tuple(row for row in _FROM_CONFIG if row[1] not in ("TEST.SCALES", "BBOX_XFORM_CLIP"))

# What Detectron takes where a config that builds a model says nothing, as far as its baselines say otherwise.
_DEFAULTS: Mapping[str, Any] = {
    "RPN": {"SIZES": (64, 128, 256, 512)},
    "FAST_RCNN": {"ROI_XFORM_METHOD": "RoIPoolF", "ROI_XFORM_RESOLUTION": 14, "ROI_XFORM_SAMPLING_RATIO": 0},
    "MRCNN": {"DILATION": 2, "ROI_XFORM_RESOLUTION": 7, "ROI_XFORM_SAMPLING_RATIO": 0},
    "RESNETS": {"STRIDE_1X1": True},
    "TRAIN": {"RPN_PRE_NMS_TOP_N": 12000, "RPN_POST_NMS_TOP_N": 2000, "BATCH_SIZE_PER_IM": 64},
    "TEST": {
        **{"SCALE": 600, "MAX_SIZE": 1000, "NMS": 0.3},
        **{"RPN_PRE_NMS_TOP_N": 12000, "RPN_POST_NMS_TOP_N": 2000},
    },
}

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("MODEL.TYPE", ("generalized_rcnn", "mask_rcnn")),
    ("MODEL.MASK_ON", (True,)),
    ("MODEL.KEYPOINTS_ON", (False,)),
    ("MODEL.FASTER_RCNN", (True,)),
    ("MODEL.RPN_ONLY", (False,)),
    ("RETINANET.RETINANET_ON", (False,)),
    ("TEST.BBOX_REG", (True,)),
    ("FAST_RCNN.ROI_XFORM_METHOD", ("RoIAlign",)),
    ("MRCNN.ROI_XFORM_METHOD", ("RoIAlign",)),
    ("MRCNN.UPSAMPLE_RATIO", (1,)),
    ("TEST.SOFT_NMS.ENABLED", (False,)),
    ("TEST.BBOX_VOTE.ENABLED", (False,)),
    ("TEST.BBOX_AUG.ENABLED", (False,)),
    ("TEST.MASK_AUG.ENABLED", (False,)),
    ("RPN.STRIDE", (16,)),
    ("RESNETS.RES5_DILATION", (1,)),
    ("GROUP_NORM.DIM_PER_GP", (-1,)),
    ("GROUP_NORM.NUM_GROUPS", (32,)),
)
# … and those of a pyramid.
_REQUIRED_OF_PYRAMIDS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("FPN.ROI_CANONICAL_SCALE", (224,)),
    ("FPN.ROI_CANONICAL_LEVEL", (4,)),
    ("FPN.ROI_MIN_LEVEL", (2,)),
    ("FPN.ROI_MAX_LEVEL", (5,)),
    ("FPN.RPN_MIN_LEVEL", (2,)),
    ("FPN.RPN_MAX_LEVEL", (6,)),
    ("FPN.EXTRA_CONV_LEVELS", (False,)),
    ("MRCNN.DILATION", (1,)),
)
# Settings of trainings alone, which one here does not take up.
_OF_TRAINING: tuple[tuple[str, Any], ...] = (
    ("TRAIN.BG_THRESH_HI", 0.5),
    ("TRAIN.BG_THRESH_LO", 0.0),
    ("TRAIN.BBOX_THRESH", 0.5),
    ("TRAIN.GT_MIN_AREA", -1),
    ("TRAIN.RPN_NMS_THRESH", 0.7),
)
_READ = [f"numerics.{name}" for name in ("anchor_sizes", "anchor_ratios", *(name for name, _, _ in _FROM_CONFIG))]
_POOLING = ("MRCNN.ROI_XFORM_SAMPLING_RATIO", "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO")


def numerics_of(
    tensors: Tensors, arch: Arch, config: Config | None, title: str
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """Detectron's own numbers for an architecture, and how each was learned; without a config, by the text in the file.

    Where a config names its backbone, what it leaves open is Detectron's default; of a fragment of one, it is the
    setting of the baselines. Raises `CheckpointError` for settings that maskgraft does not have.
    """
    how = {
        **learned("Detectron's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned("the settings of Detectron's baselines; its config would say", "assumed", _READ),
    }
    if config is None:
        config = _own_config(tensors)
    defaults = _DEFAULTS if setting(config, "MODEL.CONV_BODY") else {}
    if defaults:
        how |= learned("Detectron's default, which the config leaves", "implied", _READ)
    whole = merged(defaults, config)
    refuse_what_cannot_be_obeyed(tensors, whole, _REQUIRED, title)
    if arch.neck == "fpn":
        refuse_what_cannot_be_obeyed(tensors, whole, _REQUIRED_OF_PYRAMIDS, title)
        refuse_other_pooling(tensors, whole, _POOLING, title)
    changes = changes_from(config, _FROM_CONFIG, how, defaults)
    anchors = _settings_of(arch, whole)
    how |= learned("Detectron's config", "read", [f"numerics.{name}" for name in anchors])
    numerics = replace(of_arch(NUMERICS, arch), **{**changes, **anchors})
    if arch.neck == "c4":
        numerics = _uncounted(numerics)
    numerics = limited(numerics, arch, least=1)
    return numerics, how, list(not_taken_up(config, _OF_TRAINING))


def _uncounted(numerics: Numerics) -> Numerics:
    """Proposals of one map are not counted where they are not suppressed, or the count is 0 or less
    (`ops/generate_proposals.py`)."""
    counts = {
        "rpn_post_nms": (numerics.rpn_post_nms, numerics.rpn_pre_nms),
        "rpn_post_nms_train": (numerics.rpn_post_nms_train, numerics.rpn_pre_nms_train),
    }
    every = numerics.rpn_nms_threshold == NO_SUPPRESSION
    changes: dict[str, Any] = {
        name: candidates or _MANY for name, (most, candidates) in counts.items() if every or most <= 0
    }
    return replace(numerics, **changes)


def _own_config(tensors: Tensors) -> Config:
    """The settings that Detectron saved with the weights; none where the text is no YAML."""
    try:
        data = parse_yaml(str(tensors.about.get("cfg", "")))
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return data if isinstance(data, Mapping) else {}


def _settings_of(arch: Arch, config: Config) -> dict[str, Any]:
    """What pyramids, single maps and group norms take from settings of their own: sizes and ratios of anchors …"""
    changes: dict[str, Any] = {}
    pyramid = arch.neck == "fpn"
    multiple, eps = setting(config, "FPN.COARSEST_STRIDE"), setting(config, "GROUP_NORM.EPSILON")
    if pyramid and multiple is not None:
        changes["pad_multiple"] = max(1, int(multiple))
    if eps is not None:
        changes["norm_eps" if arch.norm == "group" else "head_norm_eps"] = float(eps)
    sizes = setting(config, "FPN.RPN_ANCHOR_START_SIZE" if pyramid else "RPN.SIZES")
    ratios = setting(config, "FPN.RPN_ASPECT_RATIOS" if pyramid else "RPN.ASPECT_RATIOS")
    if sizes is not None:
        changes["anchor_sizes"] = tuple((sizes * 2.0**level,) for level in range(5)) if pyramid else (quad(sizes),)
    if ratios is not None:
        changes["anchor_ratios"] = quad(ratios)
    return changes
