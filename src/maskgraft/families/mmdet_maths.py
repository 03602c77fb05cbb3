"""What MMDetection computes where no config says otherwise: 3 and 2, what 1 did in other ways, and models of one map.

Sources: mmdet 3.3.0 `models/`, mmcv 2.1.0 `ops/`, mmengine 0.10.7; for 1.x mmdet 1.2.0 `core/`, `models/`,
`ops/roi_align`.
"""

from collections.abc import Mapping
from typing import Any

from maskgraft.spec import Numerics

NUMERICS = Numerics(
    channel_order="rgb",
    pixel_scale=1.0,
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
    resize="opencv",
    normalise_first=False,
    size_rounding="both-round",
    norm_eps=1e-5,
    stride_in="3x3",
    anchor_order="ratio",
    anchor_rounding=False,
    anchor_stride="nominal",
    rpn_rank="probability-first",
    rpn_min_size=0.0,
    delta_clip_both=True,
    level_epsilon="inside",
    level_epsilon_value=2.5e-7,  # of a base of 56 pixels 1e-6
    roi_aligned=True,
    roi_sampling=0,
    box_min_size=0.0,
    mask_paste="grid-sample",
    rpn_post_nms_train=1000,
    rpn_outside="unmatched",
    rpn_rescue="taken",
    rpn_rescue_iou=0.3,
    rpn_own_cells=True,
    rpn_normaliser="sampled",
    rpn_both=True,
    roi_rescue_iou=0.5,
    rpn_beta=0.0,
    box_beta=0.0,
    mask_targets="bitmap",
)

# What MMDetection 1 computed in other ways.
LEGACY: Mapping[str, Any] = {
    "box_scale": "factor",
    "anchor_rounding": True,
    "anchor_offset": 0.5,
    "inclusive_boxes": True,
    "inclusive_areas": True,
    "nms_apart": True,
    "roi_aligned": False,
    "roi_sampling": 2,
    "roi_inclusive": True,
    "roi_any_size": True,
    "detect_in": "input-photograph",
    "mask_paste": "whole-box",
    "rpn_post_nms_train": 2000,
    "rpn_straddle": 0.0,
    "rpn_beta": 1 / 9,
    "box_beta": 1.0,
    "mask_targets": "cut",
}

# `configs/_base_/models/faster-rcnn_r50-caffe-{c4,dc5}.py`.
ONE_MAP: Mapping[str, Any] = {
    "anchor_sizes": ((32.0, 64.0, 128.0, 256.0, 512.0),),
    "rpn_pre_nms": 6000,
    "rpn_pre_nms_train": 12000,
    "rpn_post_nms_train": 2000,
    "rpn_straddle": 0.0,
    "roi_rescue_iou": None,
    "stride_in": "1x1",
    "channel_order": "bgr",
    "pixel_mean": (103.53, 116.28, 123.675),
    "pixel_std": (1.0, 1.0, 1.0),
}
