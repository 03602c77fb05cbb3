"""Tensorpack's numbers, and its `config.py`, which no checkpoint holds: Python text, or YAML of the same nesting.

Conventions: tensorpack `examples/FasterRCNN/` (config.py, common.py, eval.py, modeling/).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.class_names import COCO_80, numbered
from maskgraft.families.configs import changes_from, setting
from maskgraft.families.family import (
    Config,
    class_count_fault,
    learned,
    not_taken_up,
    refuse_what_cannot_be_obeyed,
)
from maskgraft.files import Tensors
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics

NUMERICS = Numerics(
    channel_order="bgr",
    pixel_scale=1.0,
    pixel_mean=(103.53, 116.28, 123.675),
    pixel_std=(57.375, 57.12, 58.395),
    resize="opencv",
    normalise_first=False,
    size_rounding="round",
    max_size=1344,  # 1333, made a multiple of 32 where there is a pyramid
    box_scale="mean",
    norm_eps=1e-5,
    stride_in="3x3",
    conv_padding="same-before",
    pool_padding="same-before",
    anchor_order="size",
    anchor_rounding=False,
    anchor_stride="nominal",
    rpn_rank="logit",
    rpn_pre_nms=0,  # PER_LEVEL_NMS_TOPK is both
    rpn_min_size=None,
    delta_clip=math.log(1344 / 16),
    level_epsilon="inside",
    roi_aligned=True,  # crop_and_resize of twice the size, moved by half a pixel, then averaged: the same samples
    roi_sampling=2,
    norm_behind_relu=True,
    nms_at_threshold=True,
    nms_ties="heap",
    nms_flat_last=True,
    box_min_size=0.0,
    mask_paste="grid-sample",
    rpn_pre_nms_train=0,
    rpn_straddle=0.0,
    rpn_straddle_closed=True,
    rpn_outside="unmatched",
    rpn_rescue="undecided",
    rpn_normaliser="samples",
    rpn_beta=1 / 9,
    box_beta=0.0,
    mask_targets="soft-sample",
)

# Candidates, where all levels are one: with C4, and as `FPN.PROPOSAL_MODE` may say.
_TOGETHER: dict[str, Any] = {"rpn_pre_nms": 6000, "rpn_pre_nms_train": 12000}

C4: dict[str, Any] = {
    **_TOGETHER,
    "max_size": 1333,
    "pad_multiple": 1,
    "anchor_sizes": ((32.0, 64.0, 128.0, 256.0, 512.0),),
    "delta_clip": math.log(1333 / 16),
    "box_pool_size": 14,
}


def _rgb(value: Any) -> tuple[float, ...]:
    """Channels, which the config has in the order RGB, in the order BGR."""
    return tuple(float(one) for one in value)[::-1]


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(one) for one in value)


def _padding(tensorflows: Any) -> str:
    return "same-after" if tensorflows else "same-before"


# Field of Numerics ← (key of the config, how its value reads)
FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("min_size", "PREPROC.TEST_SHORT_EDGE_SIZE", int),
    ("pixel_mean", "PREPROC.PIXEL_MEAN", _rgb),
    ("pixel_std", "PREPROC.PIXEL_STD", _rgb),
    ("stride_in", "BACKBONE.STRIDE_1X1", lambda yes: "1x1" if yes else "3x3"),
    ("conv_padding", "BACKBONE.TF_PAD_MODE", _padding),
    ("pool_padding", "BACKBONE.TF_PAD_MODE", _padding),
    ("anchor_ratios", "RPN.ANCHOR_RATIOS", _numbers),
    ("rpn_nms_threshold", "RPN.PROPOSAL_NMS_THRESH", float),
    ("rpn_min_size", "RPN.MIN_SIZE", lambda side: float(side) or None),
    ("mask_paste", "MRCNN.ACCURATE_PASTE", lambda yes: "grid-sample" if yes else "centre-box"),
    ("rpn_positive_iou", "RPN.POSITIVE_ANCHOR_THRESH", float),
    ("rpn_negative_iou", "RPN.NEGATIVE_ANCHOR_THRESH", float),
    ("rpn_samples", "RPN.BATCH_PER_IM", int),
    ("rpn_positive_fraction", "RPN.FG_RATIO", float),
    ("box_delta_weights", "FRCNN.BBOX_REG_WEIGHTS", _numbers),
    ("roi_samples", "FRCNN.BATCH_PER_IM", int),
    ("roi_positive_iou", "FRCNN.FG_THRESH", float),
    ("roi_positive_fraction", "FRCNN.FG_RATIO", float),
    ("score_threshold", "TEST.RESULT_SCORE_THRESH", float),
    ("nms_threshold", "TEST.FRCNN_NMS_THRESH", float),
    ("max_detections", "TEST.RESULTS_PER_IM", int),
)
_OF_PYRAMID: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("max_size", "PREPROC.MAX_SIZE", lambda side: 32 * math.ceil(side / 32)),
    ("anchor_sizes", "RPN.ANCHOR_SIZES", lambda sizes: tuple((size,) for size in _numbers(sizes))),
)
_BY_LEVEL: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("rpn_post_nms", "RPN.TEST_PER_LEVEL_NMS_TOPK", int),
    ("rpn_post_nms_train", "RPN.TRAIN_PER_LEVEL_NMS_TOPK", int),
)
_JOINT: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("rpn_pre_nms", "RPN.TEST_PRE_NMS_TOPK", int),
    ("rpn_post_nms", "RPN.TEST_POST_NMS_TOPK", int),
    ("rpn_pre_nms_train", "RPN.TRAIN_PRE_NMS_TOPK", int),
    ("rpn_post_nms_train", "RPN.TRAIN_POST_NMS_TOPK", int),
)
_OF_C4: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("max_size", "PREPROC.MAX_SIZE", int),
    ("anchor_sizes", "RPN.ANCHOR_SIZES", lambda sizes: (_numbers(sizes),)),
)
# Settings that no file says.
_CONFIGURED = (
    *(name for name, _, _ in (*FROM_CONFIG, *_OF_PYRAMID, *_BY_LEVEL)),
    "rpn_pre_nms",
    "delta_clip",
    "mask_paste",
)

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("RPN.ANCHOR_STRIDE", (16,)),
    ("FPN.ANCHOR_STRIDES", ((4, 8, 16, 32, 64),)),
    ("FPN.PROPOSAL_MODE", ("Level", "Joint")),
    ("FPN.CASCADE", (False,)),
)


def numerics_of(
    tensors: Tensors, arch: Arch, config: Config | None, title: str
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """The numbers with which Tensorpack runs an architecture under a config, and how each was learned.

    Raises `CheckpointError` for settings that maskgraft does not have.
    """
    how = {
        **learned("Tensorpack's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned("Tensorpack's config.py; yours may differ", "assumed", [f"numerics.{n}" for n in _CONFIGURED]),
    }
    numerics = replace(NUMERICS, **C4) if arch.neck == "c4" else NUMERICS
    if config is None:
        return numerics, how, []
    config = _settings(config)
    refuse_what_cannot_be_obeyed(tensors, config, _REQUIRED, title)
    joint = arch.neck == "c4" or setting(config, "FPN.PROPOSAL_MODE") == "Joint"
    if joint and arch.neck == "fpn":
        numerics = replace(numerics, rpn_scope="image", **_TOGETHER)
        how["numerics.rpn_scope"] = Learned("read", "config: FPN.PROPOSAL_MODE")
    of_neck = _OF_PYRAMID if arch.neck == "fpn" else _OF_C4
    table = (*FROM_CONFIG, *of_neck, *(_JOINT if joint else _BY_LEVEL))
    numerics = replace(numerics, **changes_from(config, table, how))
    numerics = replace(numerics, delta_clip=math.log(numerics.max_size / 16))
    how["numerics.delta_clip"] = how["numerics.max_size"]
    said = setting(config, "DATA.NUM_CATEGORY")
    findings = list(class_count_fault(tensors, arch.classes, None if said == -1 else said, "DATA.NUM_CATEGORY"))
    return numerics, how, [*findings, *not_taken_up(config, (("RPN.CROWD_OVERLAP_THRESH", 9.99),))]


def classes_of(arch: Arch, config: Config | None) -> tuple[tuple[str, ...], Learned]:
    """The names of the classes, in the order of their rows, and how they were learned."""
    named = setting(_settings(config), "DATA.CLASS_NAMES") if config is not None else None
    if isinstance(named, list | tuple) and len(named) == arch.classes + 1:
        return tuple(map(str, named[1:])), Learned("read", "config: DATA.CLASS_NAMES")
    if arch.classes == len(COCO_80):
        return COCO_80, Learned("assumed", "80 classes: COCO's")
    return numbered(arch.classes), Learned("assumed", "no file says their names")


def _settings(config: Config) -> Config:
    """The settings of a `config.py`, which stand under the name that it gives them."""
    return next((config[root] for root in ("_C", "config", "cfg") if isinstance(config.get(root), Mapping)), config)
