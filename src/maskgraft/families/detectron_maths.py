"""What Detectron and maskrcnn-benchmark share: the maths of the one, which the other took over for PyTorch.

Conventions: Detectron `core/config.py`, `ops/generate_proposals.py`, `utils/boxes.py`, `modeling/generate_anchors.py`;
maskrcnn-benchmark 57eec25 `config/defaults.py`, `modeling/`, `structures/`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from maskgraft.families.class_names import COCO_80, numbered
from maskgraft.spec import Arch, Learned, Numerics

# Boxes are inclusive, anchors have whole sides and stand in the middle of their cells, frozen norms have no eps.
SHARED: Mapping[str, Any] = {
    "channel_order": "bgr",
    "pixel_scale": 1.0,
    "pixel_mean": (102.9801, 115.9465, 122.7717),
    "pixel_std": (1.0, 1.0, 1.0),
    "normalise_first": False,
    "norm_eps": 0.0,
    "stride_in": "1x1",
    "anchor_order": "ratio",
    "anchor_rounding": False,
    "anchor_stride": "nominal",
    "anchor_offset": 0.5,
    "anchor_whole_sides": True,
    "inclusive_boxes": True,
    "inclusive_areas": True,
    "rpn_rank": "probability-first",
    "rpn_min_size": 0.0,
    "nms_at_threshold": True,
    "nms_apart": True,
    "level_epsilon": "inside",
    "roi_aligned": False,
    "roi_sampling": 2,
    "box_min_size": 0.0,
    "mask_paste": "integer-box",
    "rpn_straddle": 0.0,
    "rpn_beta": 1 / 9,
    "box_beta": 1.0,
    "mask_targets": "polygon-or-cut",
    "rpn_post_nms_shared": True,
}

# The settings of their C4 baselines.
_C4: Mapping[str, Any] = {
    "anchor_sizes": ((32.0, 64.0, 128.0, 256.0, 512.0),),
    "rpn_pre_nms": 6000,
    "rpn_pre_nms_train": 12000,
    "pad_multiple": 1,
    "roi_sampling": 0,
    "box_pool_size": 14,
    "rpn_post_nms_shared": False,
    "rpn_normaliser": "sampled",
}
_GROUP_EPS = 1e-5


def of_arch(numerics: Numerics, arch: Arch) -> Numerics:
    """The conventions of the baseline of an architecture: C4, ResNeXt, group norm."""
    changes: dict[str, Any] = {} if arch.neck == "fpn" else dict(_C4)
    if arch.groups > 1 or arch.norm == "group":
        changes["stride_in"] = "3x3"
    if arch.norm == "group":
        changes["norm_eps"] = _GROUP_EPS
    elif "group" in (arch.neck_norm, arch.box_norm, arch.fc_norm, arch.mask_norm):
        changes["head_norm_eps"] = _GROUP_EPS
    return replace(numerics, **changes)


def quad(value: Any) -> tuple[float, ...]:
    """A list of numbers of a config."""
    return tuple(float(number) for number in value)


def straddle(pixels: Any) -> float | None:
    """RPN_STRADDLE_THRESH: pixels beyond the image, or below zero for any number."""
    return float(pixels) if pixels >= 0 else None


def class_names(arch: Arch) -> tuple[tuple[str, ...], Learned]:
    """The names of the classes, which no file of theirs holds."""
    if arch.classes == len(COCO_80):
        return COCO_80, Learned("assumed", "81 rows: COCO's classes")
    return numbered(arch.classes), Learned("assumed", "the files have no class names")
