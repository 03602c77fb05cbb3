"""With which numbers maskrcnn-benchmark runs a model: its maths, its defaults, and `config.yaml`.

Conventions: maskrcnn-benchmark 57eec25 `config/defaults.py`, `modeling/`, `structures/`, `data/transforms/`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import changes_from, setting
from maskgraft.families.detectron_maths import SHARED, of_arch, quad, straddle
from maskgraft.families.family import (
    NO_SUPPRESSION,
    Config,
    class_count_fault,
    learned,
    limited,
    not_taken_up,
    refuse_other_pooling,
    refuse_what_cannot_be_obeyed,
)
from maskgraft.families.python_configs import merged
from maskgraft.files import Tensors
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics

NUMERICS = Numerics(**SHARED, resize="pil", size_rounding="long-floor", rpn_normaliser="sampled")


def _overlap(threshold: Any) -> float:
    """A threshold of suppression; there is none at 0 or below (`structures/boxlist_ops.py`)."""
    return float(threshold) if threshold > 0 else NO_SUPPRESSION


# Field of Numerics ← (key of the config, how its value reads)
FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("channel_order", "INPUT.TO_BGR255", lambda yes: "bgr" if yes else "rgb"),
    ("pixel_scale", "INPUT.TO_BGR255", lambda yes: 1.0 if yes else 1 / 255),
    ("pixel_mean", "INPUT.PIXEL_MEAN", quad),
    ("pixel_std", "INPUT.PIXEL_STD", quad),
    ("min_size", "INPUT.MIN_SIZE_TEST", int),
    ("max_size", "INPUT.MAX_SIZE_TEST", int),
    ("pad_multiple", "DATALOADER.SIZE_DIVISIBILITY", lambda multiple: max(1, int(multiple))),
    ("stride_in", "MODEL.RESNETS.STRIDE_IN_1X1", lambda yes: "1x1" if yes else "3x3"),
    ("anchor_ratios", "MODEL.RPN.ASPECT_RATIOS", quad),
    ("rpn_pre_nms", "MODEL.RPN.PRE_NMS_TOP_N_TEST", int),
    ("rpn_pre_nms_train", "MODEL.RPN.PRE_NMS_TOP_N_TRAIN", int),
    ("rpn_nms_threshold", "MODEL.RPN.NMS_THRESH", _overlap),
    ("rpn_min_size", "MODEL.RPN.MIN_SIZE", float),
    ("rpn_straddle", "MODEL.RPN.STRADDLE_THRESH", straddle),
    ("rpn_positive_iou", "MODEL.RPN.FG_IOU_THRESHOLD", float),
    ("rpn_negative_iou", "MODEL.RPN.BG_IOU_THRESHOLD", float),
    ("rpn_samples", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", int),
    ("rpn_positive_fraction", "MODEL.RPN.POSITIVE_FRACTION", float),
    ("roi_sampling", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", int),
    ("box_pool_size", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", int),
    ("mask_pool_size", "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", int),
    ("box_delta_weights", "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS", quad),
    ("score_threshold", "MODEL.ROI_HEADS.SCORE_THRESH", float),
    ("nms_threshold", "MODEL.ROI_HEADS.NMS", _overlap),
    ("max_detections", "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", int),
    ("roi_positive_iou", "MODEL.ROI_HEADS.FG_IOU_THRESHOLD", float),
    ("roi_samples", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", int),
    ("roi_positive_fraction", "MODEL.ROI_HEADS.POSITIVE_FRACTION", float),
)
_BY_NECK = (  # what the config says in one way of a pyramid, and in another of a single map
    *("anchor_sizes", "rpn_post_nms", "rpn_post_nms_train", "rpn_level_post_nms", "rpn_level_post_nms_train"),
    "rpn_post_nms_shared",
)

# What the home framework takes where a config that builds a model says nothing, as far as its baselines say otherwise.
_DEFAULTS: Mapping[str, Any] = {
    "DATALOADER": {"SIZE_DIVISIBILITY": 0},
    "MODEL": {
        "RESNETS": {"STRIDE_IN_1X1": True},
        "RPN": {
            **{"PRE_NMS_TOP_N_TRAIN": 12000, "POST_NMS_TOP_N_TRAIN": 2000, "FPN_POST_NMS_TOP_N_TRAIN": 2000},
            **{"PRE_NMS_TOP_N_TEST": 6000, "POST_NMS_TOP_N_TEST": 1000, "FPN_POST_NMS_TOP_N_TEST": 2000},
        },
        "ROI_BOX_HEAD": {"POOLER_RESOLUTION": 14, "POOLER_SAMPLING_RATIO": 0},
        "ROI_MASK_HEAD": {"POOLER_RESOLUTION": 14, "POOLER_SAMPLING_RATIO": 0},
    },
}

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("MODEL.META_ARCHITECTURE", ("GeneralizedRCNN",)),
    ("MODEL.MASK_ON", (True,)),
    ("MODEL.RPN_ONLY", (False,)),
    ("MODEL.RETINANET_ON", (False,)),
    ("MODEL.KEYPOINT_ON", (False,)),
    ("MODEL.FPN.USE_RELU", (False,)),
    ("MODEL.ROI_BOX_HEAD.DILATION", (1,)),
    ("MODEL.ROI_MASK_HEAD.DILATION", (1,)),
    ("MODEL.RPN.RPN_HEAD", ("SingleConvRPNHead",)),
    ("MODEL.RESNETS.RES5_DILATION", (1,)),
    ("MODEL.RESNETS.STAGE_WITH_DCN", ((False, False, False, False),)),
    ("MODEL.GROUP_NORM.DIM_PER_GP", (-1,)),
    ("MODEL.GROUP_NORM.NUM_GROUPS", (32,)),
    ("TEST.BBOX_AUG.ENABLED", (False,)),
)
# … and those of a pyramid, and of a single map
_REQUIRED_OF: Mapping[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    "fpn": (
        ("MODEL.RPN.ANCHOR_STRIDE", ((4, 8, 16, 32, 64),)),
        ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", ((1 / 4, 1 / 8, 1 / 16, 1 / 32),)),
        ("MODEL.ROI_MASK_HEAD.POOLER_SCALES", ((1 / 4, 1 / 8, 1 / 16, 1 / 32),)),
    ),
    "c4": (
        ("MODEL.RPN.ANCHOR_STRIDE", ((16,),)),
        ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", ((1 / 16,),)),
        ("MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", (True,)),
    ),
}
_POOLING = ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO")

# Keys that a config of maskrcnn-benchmark has, and none of Detectron2, which is laid out alike.
_OWN = (
    *("INPUT.TO_BGR255", "MODEL.WEIGHT", "MODEL.BACKBONE.CONV_BODY", "MODEL.RPN.ANCHOR_STRIDE", "MODEL.RPN.USE_FPN"),
    *("MODEL.ROI_BOX_HEAD.NUM_CLASSES", "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR"),
)


def is_own(config: Config) -> bool:
    """Whether a config is maskrcnn-benchmark's, and not Detectron2's."""
    return any(setting(config, key) is not None for key in _OWN)


def numerics_of(
    tensors: Tensors, arch: Arch, config: Config | None, title: str
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """The numbers with which maskrcnn-benchmark runs an architecture under a config, and how each was learned.

    Where a config names its backbone, what it leaves open is maskrcnn-benchmark's default; of a fragment of one, it is
    the setting of the baselines. Raises `CheckpointError` for settings that maskgraft does not have; `title` says of
    which framework the file is.
    """
    read_by = [f"numerics.{name}" for name, _, _ in FROM_CONFIG] + [f"numerics.{name}" for name in _BY_NECK]
    how = {
        **learned("maskrcnn-benchmark's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned("the settings of maskrcnn-benchmark's configs; config.yaml would say", "assumed", read_by),
    }
    numerics = of_arch(NUMERICS, arch)
    if config is None:
        return numerics, how, []
    if setting(config, "MODEL.BACKBONE.CONV_BODY") is not None:
        config = merged(_DEFAULTS, config)
        how |= learned("what config.yaml leaves open is maskrcnn-benchmark's default", "implied", read_by)
    refuse_what_cannot_be_obeyed(tensors, config, (*_REQUIRED, *_REQUIRED_OF[arch.neck]), title)
    if arch.neck == "fpn":
        refuse_other_pooling(tensors, config, _POOLING, title)
    numerics = replace(numerics, **changes_from(config, FROM_CONFIG, how))
    numerics = limited(replace(numerics, **_by_neck(arch, config, numerics, how)), arch, least=1)
    return numerics, how, list(_disagreements(tensors, arch, config))


def _by_neck(arch: Arch, config: Config, numerics: Numerics, how: dict[str, Learned]) -> dict[str, Any]:
    """What hangs on the architecture, or on another setting."""
    changes: dict[str, Any] = {}

    def say(name: str, value: Any, key: str) -> None:
        changes[name], how[f"numerics.{name}"] = value, Learned("read", f"config: {key}")

    eps = setting(config, "MODEL.GROUP_NORM.EPSILON")
    if eps is not None and (arch.norm == "group" or numerics.head_norm_eps is not None):
        say("norm_eps" if arch.norm == "group" else "head_norm_eps", float(eps), "MODEL.GROUP_NORM.EPSILON")
    if setting(config, "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS"):  # else they are pasted by others, at 0.5
        key = "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD"
        if (threshold := setting(config, key)) is not None:
            say("mask_threshold", float(threshold), key)
    pyramid = arch.neck == "fpn"
    shared = setting(config, "MODEL.RPN.FPN_POST_NMS_PER_BATCH")
    if pyramid and shared is not None:
        say("rpn_post_nms_shared", bool(shared), "MODEL.RPN.FPN_POST_NMS_PER_BATCH")
    sizes = setting(config, "MODEL.RPN.ANCHOR_SIZES")
    if sizes is not None:
        levels = [quad(level if isinstance(level, list | tuple) else (level,)) for level in sizes]
        say("anchor_sizes", tuple(levels) if pyramid else (quad(sizes),), "MODEL.RPN.ANCHOR_SIZES")
    for suffix, when, candidates, most in (
        ("", "TEST", numerics.rpn_pre_nms, numerics.rpn_post_nms),
        ("_train", "TRAIN", numerics.rpn_pre_nms_train, numerics.rpn_post_nms_train),
    ):
        of_level, of_all = f"MODEL.RPN.POST_NMS_TOP_N_{when}", f"MODEL.RPN.FPN_POST_NMS_TOP_N_{when}"
        if pyramid and (said := setting(config, of_all)) is not None:
            most = int(said)
            say(f"rpn_post_nms{suffix}", most, of_all)
        if (said := setting(config, of_level)) is not None:
            # what is not suppressed is not counted either (`boxlist_nms`), and 0 or below is no limit
            limit = int(said) if said > 0 and numerics.rpn_nms_threshold < NO_SUPPRESSION else candidates or most
            if pyramid:
                say(f"rpn_level_post_nms{suffix}", limit if limit < min(most, candidates or most) else None, of_level)
            else:
                say(f"rpn_post_nms{suffix}", limit, of_level)
    return changes


def _disagreements(tensors: Tensors, arch: Arch, config: Config) -> Iterator[Finding]:
    rows = setting(config, "MODEL.ROI_BOX_HEAD.NUM_CLASSES")
    said = None if rows is None else rows - 1
    yield from class_count_fault(tensors, arch.classes, said, "MODEL.ROI_BOX_HEAD.NUM_CLASSES less background")
    positive = setting(config, "MODEL.ROI_HEADS.FG_IOU_THRESHOLD")
    usual = NUMERICS.roi_positive_iou if positive is None else positive
    yield from not_taken_up(config, (("MODEL.ROI_HEADS.BG_IOU_THRESHOLD", usual),))
