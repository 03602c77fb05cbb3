"""Detectron2: FPN, C4 and DC5 Mask R-CNN from its checkpointer (`.pth`) and its model zoo (`.pkl`).

Conventions: detectron2 0.6 `config/defaults.py`, `data/transforms`, `modeling/`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from maskgraft.families.class_names import COCO_80, numbered
from maskgraft.families.detectron2_config import NUMERICS as NUMERICS
from maskgraft.families.detectron2_config import numerics_of
from maskgraft.families.detectron2_yacs import FROM_CONFIG
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
from maskgraft.spec import Arch, Learned, Spec

# What the name of a tensor tells of an architecture that cannot be built.
_BEYOND = (
    ("roi_heads.box_predictor.0.", "cascade heads"),
    ("roi_heads.box_head.0.", "cascade heads"),
    ("roi_heads.keypoint_head.", "a keypoint head"),
    ("roi_heads.mask_head.point_head.", "PointRend"),
    ("roi_heads.mask_head.coarse_head.", "PointRend"),
    ("roi_heads.maskiou_head.", "mask scoring"),
    ("sem_seg_head.", "a semantic head (Panoptic FPN)"),
    ("backbone.top_block.", "a pyramid whose coarsest levels are convolutions"),
)


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a Detectron2 file, and of its config where there is one."""
    names = tensors.arrays
    for start, what in _BEYOND:
        if any(name.startswith(start) for name in names):
            raise unsupported(tensors, "Detectron2", what)
    if "roi_heads.mask_head.predictor.weight" not in names:
        raise unsupported(tensors, "Detectron2", "no mask head (Faster R-CNN, Keypoint R-CNN or RetinaNet)")
    if any(".conv2_offset." in name for name in names):
        raise unsupported(tensors, "Detectron2", "deformable convolutions")
    if _body(names) == "":
        raise unsupported(tensors, "Detectron2", "a backbone that is not a ResNet")
    arch = _arch(tensors)
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


def _arch(tensors: Tensors) -> Arch:
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
    outer, usual = shape(tensors, f"{body}.res2.0.conv{3 if bottleneck else 2}.weight")[0], 256 if bottleneck else 64
    if outer != usual:
        raise unsupported(tensors, "Detectron2", f"RES2_OUT_CHANNELS {outer}, not {usual}")
    classes = shape(tensors, "roi_heads.box_predictor.cls_score.weight")[0] - 1
    box_rows = shape(tensors, "roi_heads.box_predictor.bbox_pred.weight")[0] // 4
    mask_rows, mask_channels = shape(tensors, "roi_heads.mask_head.predictor.weight")[:2]
    box_convs = count(names, "roi_heads.box_head.conv{}.weight", start=1)
    rpn_channels = shape(tensors, "proposal_generator.rpn_head.objectness_logits.weight")[1]
    rpn_convs = count(names, "proposal_generator.rpn_head.conv.conv{}.weight")
    if rpn_convs and shape(tensors, "proposal_generator.rpn_head.conv.conv0.weight")[0] != rpn_channels:
        raise unsupported(tensors, "Detectron2", "CONV_DIMS of the proposal head that differ")
    fpn_width = shape(tensors, "backbone.fpn_lateral5.weight")[0] if neck == "fpn" else 256
    return Arch(
        classes=classes,
        block="bottleneck" if bottleneck else "basic",
        blocks=tuple(count(names, f"{stages[i]}.res{i}.{{}}.conv1.weight") for i in (2, 3, 4, 5)),
        stem_width=shape(tensors, f"{body}.stem.conv1.weight")[0],
        groups=inner // per_group if bottleneck else 1,
        width_per_group=per_group,
        # what FREEZE_AT freezes has lost its count of batches until 2023; it freezes the last stage with all others
        norm=norm_kind(names, f"{stages[5]}.res5.0.conv1.norm"),
        neck=neck,  # type: ignore[arg-type]
        neck_channels=fpn_width,
        neck_norm=norm_kind(names, "backbone.fpn_lateral5.norm"),
        rpn_convs=max(1, rpn_convs),
        rpn_channels=rpn_channels,
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
        "proposal_generator.rpn_head.objectness_logits.weight",
        "proposal_generator.rpn_head.anchor_deltas.weight",
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.mask_head.deconv.weight",
        "roi_heads.mask_head.predictor.weight",
    ),
    read=read,
    links=links,
    ignored=ignored,
    configs=("config.yaml", "config.yml"),
    settings=FROM_CONFIG,
)
