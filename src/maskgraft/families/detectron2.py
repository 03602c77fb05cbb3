"""Detectron2: FPN, C4 and DC5 Mask R-CNN from its checkpointer (`.pth`) and its model zoo (`.pkl`).

Conventions: detectron2 0.6 `config/defaults.py`, `data/transforms`, `modeling/`; field by field in `_FROM_CONFIG`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.class_names import COCO_80, numbered
from maskgraft.families.configs import changes_from, setting
from maskgraft.families.family import (
    Config,
    Family,
    Reading,
    conv_links,
    count,
    learned,
    norm_kind,
    norm_links,
    shape,
    unsupported,
)
from maskgraft.files import Tensors
from maskgraft.links import Link
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics, Spec

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
    "pad_multiple": 1,
}


def _quad(value: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in value)


# Field of Numerics ← (key of the config, how its value reads)
_FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
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
    ("rpn_straddle", "MODEL.RPN.BOUNDARY_THRESH", lambda pixels: float(pixels) if pixels >= 0 else None),
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

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("MODEL.META_ARCHITECTURE", ("GeneralizedRCNN",)),
    ("MODEL.PROPOSAL_GENERATOR.NAME", ("RPN",)),
    ("MODEL.ROI_HEADS.NAME", ("StandardROIHeads", "Res5ROIHeads")),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", ("ROIAlignV2", "ROIAlign")),
    ("MODEL.FPN.FUSE_TYPE", ("sum",)),
    ("MODEL.KEYPOINT_ON", (False,)),
    ("MODEL.ANCHOR_GENERATOR.NAME", ("DefaultAnchorGenerator",)),
    ("INPUT.FORMAT", ("BGR", "RGB")),
)


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a Detectron2 file, and of its config where there is one."""
    names = tensors.arrays
    if "roi_heads.box_predictor.0.cls_score.weight" in names or "roi_heads.box_head.0.fc1.weight" in names:
        raise unsupported(tensors, "Detectron2", "cascade heads")
    if "roi_heads.mask_head.predictor.weight" not in names:
        raise unsupported(tensors, "Detectron2", "no mask head (Faster R-CNN, Keypoint R-CNN or RetinaNet)")
    if any(".conv2_offset." in name for name in names):
        raise unsupported(tensors, "Detectron2", "deformable convolutions")
    if _body(names) == "":
        raise unsupported(tensors, "Detectron2", "a backbone that is not a ResNet")
    arch = _arch(tensors, config)
    numerics, how, findings = numerics_of(tensors, arch, config, "Detectron2")
    how |= learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__])
    classes = COCO_80 if arch.classes == 80 else numbered(arch.classes)
    how["classes"] = Learned(
        "assumed", "80 rows: COCO's classes" if arch.classes == 80 else "Detectron2 files have no class names"
    )
    return Reading(
        Spec(family="detectron2", arch=arch, numerics=numerics, classes=classes, learned=how), "", tuple(findings)
    )


def _body(names: Mapping[str, Any]) -> str:
    for prefix in ("backbone.bottom_up", "backbone"):
        if f"{prefix}.stem.conv1.weight" in names:
            return prefix
    return ""


def _arch(tensors: Tensors, config: Config | None) -> Arch:
    names, body = tensors.arrays, _body(tensors.arrays)
    neck = (
        "fpn"
        if "backbone.fpn_lateral5.weight" in names
        else "c4"
        if "roi_heads.res5.0.conv1.weight" in names
        else "dc5"
    )
    bottleneck = f"{body}.res2.0.conv3.weight" in names
    inner, per_group = shape(tensors, f"{body}.res2.0.conv2.weight")[:2]
    stages = {2: body, 3: body, 4: body, 5: "roi_heads" if neck == "c4" else body}
    classes = shape(tensors, "roi_heads.box_predictor.cls_score.weight")[0] - 1
    box_rows = shape(tensors, "roi_heads.box_predictor.bbox_pred.weight")[0] // 4
    mask_rows, mask_channels = shape(tensors, "roi_heads.mask_head.predictor.weight")[:2]
    box_convs = count(names, "roi_heads.box_head.conv{}.weight", start=1)
    fpn_width = shape(tensors, "backbone.fpn_lateral5.weight")[0] if neck == "fpn" else 256
    return Arch(
        classes=classes,
        block="bottleneck" if bottleneck else "basic",
        blocks=tuple(count(names, f"{stages[i]}.res{i}.{{}}.conv1.weight") for i in (2, 3, 4, 5)),
        stem_width=shape(tensors, f"{body}.stem.conv1.weight")[0],
        groups=inner // per_group if bottleneck else 1,
        width_per_group=per_group,
        norm=norm_kind(names, f"{body}.stem.conv1.norm"),
        neck=neck,  # type: ignore[arg-type]
        neck_channels=fpn_width,
        neck_norm=norm_kind(names, "backbone.fpn_lateral5.norm"),
        rpn_convs=max(1, count(names, "proposal_generator.rpn_head.conv.conv{}.weight")),
        rpn_channels=shape(tensors, "proposal_generator.rpn_head.objectness_logits.weight")[1],
        anchors_per_cell=shape(tensors, "proposal_generator.rpn_head.objectness_logits.weight")[0],
        box_head="res5" if neck == "c4" else "fc",
        box_convs=box_convs,
        box_conv_channels=shape(tensors, "roi_heads.box_head.conv1.weight")[0] if box_convs else 256,
        box_fcs=count(names, "roi_heads.box_head.fc{}.weight", start=1),
        box_fc_width=shape(tensors, "roi_heads.box_predictor.cls_score.weight")[1] if neck != "c4" else 1024,
        box_norm=norm_kind(names, "roi_heads.box_head.conv1.norm"),
        box_rows="agnostic" if box_rows == 1 and classes > 1 else "foreground",
        mask_convs=count(names, "roi_heads.mask_head.mask_fcn{}.weight", start=1),
        mask_channels=mask_channels,
        mask_norm=norm_kind(names, "roi_heads.mask_head.mask_fcn1.norm"),
        mask_rows="agnostic" if mask_rows == 1 and classes > 1 else "foreground",
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
    for key, allowed in _REQUIRED:
        value = setting(config, key)
        if value is not None and value not in allowed:
            raise unsupported(tensors, title, f"{key} is {value!r}, not {' or '.join(map(str, allowed))}")
    changes = changes_from(config, _FROM_CONFIG, how) | _anchors(tensors, arch, config, how, title)
    return replace(numerics, **changes), how, list(_disagreements(tensors, arch, config))


def _anchors(tensors: Tensors, arch: Arch, config: Config, how: dict[str, Learned], title: str) -> dict[str, Any]:
    """Sizes of anchors: one list for each level, or one for all of them."""
    ratios = setting(config, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    if ratios is not None and any(level != ratios[0] for level in ratios):
        raise unsupported(tensors, title, "anchors whose ratios differ from level to level")
    sizes = setting(config, "MODEL.ANCHOR_GENERATOR.SIZES")
    if sizes is None:
        return {}
    how["numerics.anchor_sizes"] = Learned("read", "config: MODEL.ANCHOR_GENERATOR.SIZES")
    levels = [_quad(level) for level in sizes]
    return {"anchor_sizes": tuple(levels * 5 if arch.neck == "fpn" and len(levels) == 1 else levels)}


def _numerics(tensors: Tensors, arch: Arch) -> tuple[Numerics, dict[str, Learned]]:
    how = {
        **learned("Detectron2's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned(
            "Detectron2's defaults; config.yaml would say",
            "assumed",
            [f"numerics.{name}" for name, _, _ in _FROM_CONFIG] + ["numerics.anchor_sizes"],
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
    elif arch.norm in ("group", "batch"):
        changes["stride_in"] = "3x3"
        how |= learned("as in the model zoo's GN and SyncBN configs", "assumed", ["numerics.stride_in"])
    for name in ("pixel_mean", "pixel_std"):  # model zoo files of 2019 carry both
        if name in tensors and math.prod(tensors[name].shape) == 3:
            changes[name] = tuple(round(float(x), 6) for x in tensors[name].read().ravel())
            how[f"numerics.{name}"] = Learned("read", f"{tensors.path.name}: {name}")
    return replace(NUMERICS, **changes), how


def _disagreements(tensors: Tensors, arch: Arch, config: Config) -> Iterator[Finding]:
    classes = setting(config, "MODEL.ROI_HEADS.NUM_CLASSES")
    if classes is not None and classes != arch.classes:
        yield Finding(
            "shape.classes",
            "warning",
            f"{tensors.path.name} has {arch.classes} classes, its config says {classes} (MODEL.ROI_HEADS.NUM_CLASSES); "
            "the file is followed",
            evidence={"file": arch.classes, "config": classes},
            effect="Detectron2 itself would leave the class-dependent layers random with this config",
        )
    if "_BASE_" in config:
        yield Finding(
            "numerics.assumed",
            "warning",
            f"the config is written on top of {config['_BASE_']}, which is not read: what it does not say is assumed",
            evidence={"base": config["_BASE_"]},
            fix="give the config.yaml that Detectron2 wrote into the output folder of the training",
        )


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor."""
    arch = spec.arch
    body = "backbone.bottom_up" if arch.neck == "fpn" else "backbone"
    yield from _conv_norm("backbone.stem", f"{body}.stem.conv1", arch)
    for number, blocks in enumerate(arch.blocks, 2):
        in_head = number == 5 and arch.neck == "c4"
        ours, theirs = (
            ("box_head.res5", "roi_heads.res5") if in_head else (f"backbone.res{number}", f"{body}.res{number}")
        )
        for index in range(blocks):
            for conv in (1, 2, 3) if arch.block == "bottleneck" else (1, 2):
                yield from _conv_norm(f"{ours}.{index}.conv{conv}", f"{theirs}.{index}.conv{conv}", arch)
            if index == 0 and (number > 2 or arch.block == "bottleneck"):
                yield from _conv_norm(f"{ours}.{index}.shortcut", f"{theirs}.{index}.shortcut", arch)
    if arch.neck == "fpn":
        for level in (2, 3, 4, 5):
            for part in ("lateral", "output"):
                ours, theirs = f"fpn.{part}{level}", f"backbone.fpn_{part}{level}"
                yield from conv_links(f"{ours}.conv", theirs, bias=arch.neck_norm == "none")
                yield from norm_links(f"{ours}.norm", f"{theirs}.norm", arch.neck_norm)
    head = "proposal_generator.rpn_head"
    for index in range(arch.rpn_convs):
        theirs = f"{head}.conv.conv{index}" if arch.rpn_convs > 1 else f"{head}.conv"
        yield from conv_links(f"rpn.convs.{index}", theirs, bias=True)
    yield from conv_links("rpn.objectness", f"{head}.objectness_logits", bias=True)
    yield from conv_links("rpn.deltas", f"{head}.anchor_deltas", bias=True)
    if arch.box_head == "fc":
        for index in range(arch.box_convs):
            ours, theirs = f"box_head.convs.{index}", f"roi_heads.box_head.conv{index + 1}"
            yield from conv_links(f"{ours}.conv", theirs, bias=arch.box_norm == "none")
            yield from norm_links(f"{ours}.norm", f"{theirs}.norm", arch.box_norm)
        for index in range(arch.box_fcs):
            yield from conv_links(f"box_head.fcs.{index}", f"roi_heads.box_head.fc{index + 1}", bias=True)
    yield from conv_links("box_predictor.cls", "roi_heads.box_predictor.cls_score", bias=True)
    yield from conv_links("box_predictor.deltas", "roi_heads.box_predictor.bbox_pred", bias=True)
    for index in range(arch.mask_convs):
        ours, theirs = f"mask_head.convs.{index}", f"roi_heads.mask_head.mask_fcn{index + 1}"
        yield from conv_links(f"{ours}.conv", theirs, bias=arch.mask_norm == "none")
        yield from norm_links(f"{ours}.norm", f"{theirs}.norm", arch.mask_norm)
    yield from conv_links("mask_head.upsample", "roi_heads.mask_head.deconv", bias=True)
    yield from conv_links("mask_predictor.logits", "roi_heads.mask_head.predictor", bias=True)


def _conv_norm(ours: str, theirs: str, arch: Arch) -> Iterator[Link]:
    yield from conv_links(f"{ours}.conv", theirs, bias=arch.conv_bias)
    yield from norm_links(f"{ours}.norm", f"{theirs}.norm", arch.norm)


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    if name in ("pixel_mean", "pixel_std"):
        return "an input setting, kept in the spec"
    if name.startswith("proposal_generator.anchor_generator.cell_anchors."):
        return "anchors are computed, not learned"
    if name.startswith(("backbone.bottom_up.stem.fc.", "backbone.fc.", "backbone.bottom_up.fc.")):
        return "ImageNet classifier"
    return ""


FAMILY = Family(
    name="detectron2",
    title="Detectron2",
    landmarks=(
        "proposal_generator.rpn_head.conv.weight",
        "proposal_generator.rpn_head.objectness_logits.weight",
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.mask_head.deconv.weight",
        "roi_heads.mask_head.predictor.weight",
    ),
    read=read,
    links=links,
    ignored=ignored,
    configs=("config.yaml", "config.yml"),
)
