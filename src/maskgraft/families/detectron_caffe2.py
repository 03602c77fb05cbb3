"""Detectron: the Caffe2 blobs of its `.pkl` files, FPN and C4.

Three frameworks read these files. Beside a config of Detectron2 or maskrcnn-benchmark the numbers are theirs; otherwise
they are Detectron's own, whose settings stand in the file itself ("cfg"). Conventions of the latter: Detectron
`core/config.py`, `core/test.py`, `ops/generate_proposals.py`, `utils/blob.py`, `utils/boxes.py`,
`modeling/generate_anchors.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import yaml

from maskgraft.errors import Finding
from maskgraft.families import maskrcnn_benchmark_config
from maskgraft.families.configs import changes_from, parse_yaml, setting
from maskgraft.families.detectron2_config import numerics_of
from maskgraft.families.detectron_maths import (
    SHARED,
    class_names,
    of_arch,
    quad,
    straddle,
)
from maskgraft.families.family import (
    Config,
    Family,
    Reading,
    count,
    learned,
    not_taken_up,
    refuse_other_pooling,
    refuse_what_cannot_be_obeyed,
    shape,
    unsupported,
)
from maskgraft.families.python_configs import merged
from maskgraft.files import Tensors
from maskgraft.links import Link, background_last
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, NormKind, Numerics, Spec

# Detectron's own numbers.
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
    return float(threshold) if threshold > 0 else 2.0


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
_SAID = tuple(row for row in _FROM_CONFIG if row[1] not in ("TEST.SCALES", "BBOX_XFORM_CLIP"))

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


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a Detectron file: Detectron2's numbers where `config` is Detectron2's, else Detectron's."""
    names = tensors.arrays
    if "mask_fcn_logits_w" not in names:
        raise unsupported(tensors, FAMILY.title, "no mask head, or one of fully connected layers")
    if "_[mask]_res5_0_branch2a_w" in names:
        raise unsupported(tensors, FAMILY.title, "a second C5 stage for the mask head")
    if "kps_score_w" in names:
        raise unsupported(tensors, FAMILY.title, "keypoints")
    arch = _arch(tensors)
    how = learned("blob names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__])
    classes, how["classes"] = class_names(arch)
    if config is not None and maskrcnn_benchmark_config.is_own(config):
        numerics, more, findings = maskrcnn_benchmark_config.numerics_of(tensors, arch, config, FAMILY.title)
    elif config is not None and setting(config, "MODEL.META_ARCHITECTURE") is not None:
        numerics, more, findings = numerics_of(tensors, arch, config, FAMILY.title)
    else:
        numerics, more, findings = _numerics(tensors, arch, config)
    spec = Spec(family=FAMILY.name, arch=arch, numerics=numerics, classes=classes, learned=how | more)
    return Reading(spec, "", tuple(findings))


def _numerics(
    tensors: Tensors, arch: Arch, config: Config | None
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """Detectron's own numbers, with the settings of its config: a file of its own, or the text in the checkpoint."""
    how = {
        **learned("Detectron's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned(
            "the settings of Detectron's baselines; its config would say",
            "assumed",
            _READ,
        ),
    }
    if config is None:
        config = _own_config(tensors)
    defaults = _DEFAULTS if setting(config, "MODEL.CONV_BODY") else {}
    if defaults:
        how |= learned("Detectron's default, which the config leaves", "implied", _READ)
    whole = merged(defaults, config)
    refuse_what_cannot_be_obeyed(tensors, whole, _REQUIRED, FAMILY.title)
    if arch.neck == "fpn":
        refuse_what_cannot_be_obeyed(tensors, whole, _REQUIRED_OF_PYRAMIDS, FAMILY.title)
        refuse_other_pooling(tensors, whole, _POOLING, FAMILY.title)
    changes = changes_from(config, _FROM_CONFIG, how, defaults)
    anchors = _settings_of(arch, whole)
    how |= learned("Detectron's config", "read", [f"numerics.{name}" for name in anchors])
    numerics = replace(of_arch(NUMERICS, arch), **{**changes, **anchors})
    if numerics.max_detections <= 0:  # as many as there are
        numerics = replace(numerics, max_detections=numerics.rpn_post_nms * arch.classes)
    return numerics, how, list(not_taken_up(config, _OF_TRAINING))


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


def _norm(names: Mapping[str, Any], theirs: str) -> NormKind:
    return "affine" if f"{theirs}_bn_s" in names else "group" if f"{theirs}_gn_s" in names else "none"


def _arch(tensors: Tensors) -> Arch:
    names = tensors.arrays
    inner, per_group = shape(tensors, "res2_0_branch2b_w")[:2]
    blocks = tuple(count(names, f"res{stage}_{{}}_branch2a_w") for stage in (2, 3, 4, 5))
    top = f"fpn_inner_res5_{blocks[3] - 1}_sum"
    neck = "fpn" if f"{top}_w" in names else "c4"
    rpn = "_fpn2" if neck == "fpn" else ""
    classes = shape(tensors, "cls_score_w")[0] - 1
    box_rows, mask_rows = shape(tensors, "bbox_pred_w")[0] // 4, shape(tensors, "mask_fcn_logits_w")[0]
    box_convs = count(names, "head_conv{}_w", start=1)
    return Arch(
        classes=classes,
        blocks=blocks,
        stem_width=shape(tensors, "conv1_w")[0],
        groups=inner // per_group,
        width_per_group=per_group,
        norm="group" if "conv1_gn_s" in names else "affine",
        neck=neck,  # type: ignore[arg-type]
        neck_channels=shape(tensors, f"{top}_w")[0] if neck == "fpn" else 256,
        neck_norm=_norm(names, top),
        rpn_channels=shape(tensors, f"conv_rpn{rpn}_w")[0],
        anchors_per_cell=shape(tensors, f"rpn_cls_logits{rpn}_w")[0],
        box_head="fc" if neck == "fpn" else "res5",
        box_convs=box_convs,
        box_conv_channels=shape(tensors, "head_conv1_w")[0] if box_convs else 256,
        box_fcs=count(names, "fc{}_w", start=6),
        box_fc_width=shape(tensors, "cls_score_w")[1] if neck == "fpn" else 1024,
        box_norm=_norm(names, "head_conv1"),
        box_rows="agnostic-with-background" if box_rows == 2 and classes > 1 else "with-background",
        mask_convs=count(names, "_[mask]_fcn{}_w", start=1),
        mask_channels=shape(tensors, "mask_fcn_logits_w")[1],
        mask_norm=_norm(names, "_[mask]_fcn1"),
        mask_rows="agnostic" if mask_rows == 1 and classes > 0 else "with-background",
    )


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a blob."""
    arch = spec.arch
    yield Link("backbone.stem.conv.weight", "conv1_w")
    yield from _norm_links("backbone.stem.norm", "conv1" if arch.norm == "group" else "res_conv1", arch.norm)
    for number, blocks in enumerate(arch.blocks, 2):
        stage = "box_head.res5" if number == 5 and arch.neck == "c4" else f"backbone.res{number}"
        for index in range(blocks):
            branches = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
            if index == 0:
                branches["shortcut"] = "branch1"
            for mine, theirs in branches.items():
                yield from _conv(f"{stage}.{index}.{mine}", f"res{number}_{index}_{theirs}", arch.norm)
    if arch.neck == "fpn":
        for number, blocks in enumerate(arch.blocks, 2):
            block = f"res{number}_{blocks - 1}_sum"
            lateral = f"fpn_inner_{block}" + ("_lateral" if number < 5 else "")
            yield from _conv(f"fpn.lateral{number}", lateral, arch.neck_norm)
            yield from _conv(f"fpn.output{number}", f"fpn_{block}", arch.neck_norm)
    rpn = "_fpn2" if arch.neck == "fpn" else ""
    yield from _layer("rpn.convs.0", f"conv_rpn{rpn}")
    yield from _layer("rpn.objectness", f"rpn_cls_logits{rpn}")
    yield from _layer("rpn.deltas", f"rpn_bbox_pred{rpn}")
    if arch.box_head == "fc":
        for index in range(arch.box_convs):
            yield from _conv(f"box_head.convs.{index}", f"head_conv{index + 1}", arch.box_norm)
        for index in range(arch.box_fcs):
            yield from _layer(f"box_head.fcs.{index}", f"fc{index + 6}")
    rows = arch.classes + 1
    quads = 2 if arch.box_rows == "agnostic-with-background" else rows
    yield from _layer("box_predictor.cls", "cls_score", background_last(rows))
    yield from _layer("box_predictor.deltas", "bbox_pred", background_last(4 * quads, 4))
    for index in range(arch.mask_convs):
        yield from _conv(f"mask_head.convs.{index}", f"_[mask]_fcn{index + 1}", arch.mask_norm)
    yield from _layer("mask_head.upsample", "conv5_mask")
    moves = () if arch.mask_rows == "agnostic" else (background_last(rows),)
    yield from _layer("mask_predictor.logits", "mask_fcn_logits", *moves)


def _layer(ours: str, theirs: str, *steps: Any) -> Iterator[Link]:
    yield Link(f"{ours}.weight", f"{theirs}_w", steps)
    yield Link(f"{ours}.bias", f"{theirs}_b", steps)


def _conv(ours: str, theirs: str, norm: NormKind) -> Iterator[Link]:
    yield Link(f"{ours}.conv.weight", f"{theirs}_w")
    if norm == "none":
        yield Link(f"{ours}.conv.bias", f"{theirs}_b")
    yield from _norm_links(f"{ours}.norm", theirs, norm)


def _norm_links(ours: str, theirs: str, norm: NormKind) -> Iterator[Link]:
    if norm != "none":
        suffix = "gn" if norm == "group" else "bn"
        yield Link(f"{ours}.weight", f"{theirs}_{suffix}_s")
        yield Link(f"{ours}.bias", f"{theirs}_{suffix}_b")


def ignored(name: str) -> str:
    """Why a blob is no part of the model, or ""."""
    if name.endswith("_momentum"):
        return "momentum of the training"
    if name == "conv1_b":
        return "bias of the stem, which no layer reads"
    if name.startswith(("fc1000_", "pred_")):
        return "ImageNet classifier"
    return ""


FAMILY = Family(
    name="detectron-caffe2",
    title="Detectron (Caffe2)",
    landmarks=("conv1_w", "res2_0_branch2b_w", "cls_score_w", "bbox_pred_w", "conv5_mask_w", "mask_fcn_logits_w"),
    read=read,
    links=links,
    ignored=ignored,
    configs=("config.yaml", "config.yml"),
    settings=_SAID,
)
