"""maskrcnn-benchmark: FPN and C4 Mask R-CNN, with the box arithmetic of Detectron.

Conventions: maskrcnn-benchmark 57eec25 `config/defaults.py`, `modeling/`, `structures/`, `data/transforms/`. Boxes are
inclusive, anchors whole, norms have no eps, and the box head of a C4 model is stored a second time for the mask head.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from maskgraft.families.detectron_maths import class_names
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
from maskgraft.families.maskrcnn_benchmark_config import FROM_CONFIG, numerics_of
from maskgraft.families.maskrcnn_benchmark_config import NUMERICS as NUMERICS
from maskgraft.files import Tensors
from maskgraft.links import Link, background_last
from maskgraft.spec import Arch, Spec


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a maskrcnn-benchmark file, and of its config where there is one."""
    names = tensors.arrays
    if "backbone.body.stem.conv1.weight" not in names:
        raise unsupported(tensors, FAMILY.title, "a backbone that is not a ResNet (FBNet)")
    keypoints = any(name.startswith("roi_heads.keypoint.") for name in names)
    if "roi_heads.mask.predictor.mask_fcn_logits.weight" not in names:
        other = "Keypoint R-CNN" if keypoints else "Faster R-CNN"
        raise unsupported(tensors, FAMILY.title, f"no mask head ({other})")
    if keypoints:
        raise unsupported(tensors, FAMILY.title, "keypoints beside masks")
    if "roi_heads.mask.predictor.conv5_mask.weight" not in names:
        raise unsupported(tensors, FAMILY.title, "masks of the size that is pooled (MaskRCNNConv1x1Predictor)")
    if any(".offset." in name or ".conv2.conv." in name for name in names):
        raise unsupported(tensors, FAMILY.title, "deformable convolutions")
    arch = _arch(tensors)
    if arch.neck == "c4" and _heads_differ(tensors):
        raise unsupported(tensors, FAMILY.title, "a C5 stage of the mask head's own (SHARE_BOX_FEATURE_EXTRACTOR)")
    how = learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__])
    numerics, more, findings = numerics_of(tensors, arch, config, FAMILY.title)
    classes, how["classes"] = class_names(arch)
    spec = Spec(family=FAMILY.name, arch=arch, numerics=numerics, classes=classes, learned=how | more)
    return Reading(spec, "", tuple(findings))


def _heads_differ(tensors: Tensors) -> bool:
    """Whether box and mask head of a C4 model, which share a stage, have been trained apart: told by one tensor."""
    boxes, masks = (f"roi_heads.{head}.feature_extractor.head.layer4.0.conv1.weight" for head in ("box", "mask"))
    return masks in tensors and not np.array_equal(tensors[boxes].read(), tensors[masks].read())


def _arch(tensors: Tensors) -> Arch:
    names = tensors.arrays
    inner, per_group = shape(tensors, "backbone.body.layer1.0.conv2.weight")[:2]
    outer = shape(tensors, "backbone.body.layer1.0.conv3.weight")[0]
    if outer != 256:
        raise unsupported(tensors, FAMILY.title, f"RES2_OUT_CHANNELS {outer}, not 256")
    neck = "fpn" if any(name.startswith("backbone.fpn.fpn_inner4.") for name in names) else "c4"
    body = {1: "backbone.body", 2: "backbone.body", 3: "backbone.body", 4: "backbone.body"}
    if neck == "c4":
        body[4] = "roi_heads.box.feature_extractor.head"
    classes = shape(tensors, "roi_heads.box.predictor.cls_score.weight")[0] - 1
    box_rows = shape(tensors, "roi_heads.box.predictor.bbox_pred.weight")[0] // 4
    box_convs = _box_convs(names)
    first_conv = f"roi_heads.box.feature_extractor.xconvs.{box_convs[0]}" if box_convs else ""
    normed_fpn = "backbone.fpn.fpn_inner4.1.weight" in names
    fc = "roi_heads.box.feature_extractor.fc{}"
    normed_fc = f"{fc.format(6)}.1.weight" in names  # then the layer itself has no bias
    normed_mask = "roi_heads.mask.feature_extractor.mask_fcn1.1.weight" in names
    mask_conv = "roi_heads.mask.feature_extractor.mask_fcn{}" + (".0.weight" if normed_mask else ".weight")
    mask_convs = count(names, mask_conv, start=1)
    mask_widths = {shape(tensors, mask_conv.format(number + 1))[0] for number in range(mask_convs)}
    if len(mask_widths) > 1:
        raise unsupported(tensors, FAMILY.title, f"CONV_LAYERS of the mask head that differ: {sorted(mask_widths)}")
    return Arch(
        classes=classes,
        blocks=tuple(count(names, f"{body[layer]}.layer{layer}.{{}}.conv1.weight") for layer in (1, 2, 3, 4)),
        stem_width=shape(tensors, "backbone.body.stem.conv1.weight")[0],
        groups=inner // per_group,
        width_per_group=per_group,
        norm=norm_kind(names, "backbone.body.stem.bn1"),
        neck=neck,  # type: ignore[arg-type]
        neck_channels=shape(tensors, f"backbone.fpn.fpn_inner4{'.0' if normed_fpn else ''}.weight")[0]
        if neck == "fpn"
        else 256,
        neck_norm="group" if normed_fpn else "none",
        rpn_channels=shape(tensors, "rpn.head.conv.weight")[0],
        anchors_per_cell=shape(tensors, "rpn.head.cls_logits.weight")[0],
        box_head="fc" if neck == "fpn" else "res5",
        box_convs=len(box_convs),
        box_conv_channels=shape(tensors, f"{first_conv}.weight")[0] if box_convs else 256,
        box_fcs=count(names, fc + (".0.weight" if normed_fc else ".weight"), start=6),
        box_fc_width=shape(tensors, fc.format(6) + (".0" if normed_fc else "") + ".weight")[0]
        if neck == "fpn"
        else 1024,
        fc_norm="group" if normed_fc else "none",
        fc_bias=not normed_fc,
        box_norm="group" if len(box_convs) > 1 and box_convs[1] == 3 else "none",
        box_rows="agnostic-with-background" if box_rows == 2 and classes > 1 else "with-background",
        mask_convs=mask_convs,
        mask_channels=shape(tensors, "roi_heads.mask.predictor.mask_fcn_logits.weight")[1],
        mask_norm="group" if normed_mask else "none",
        mask_rows="with-background",
    )


def _box_convs(names: Mapping[str, Any]) -> list[int]:
    """Positions of the convolutions in the box head: each is followed by a ReLU, or by a norm and a ReLU."""
    for step in (2, 3):
        found = count(names, "roi_heads.box.feature_extractor.xconvs.{}.weight")  # 1 without norm, 2 with one
        if found == step - 1:
            last = 0
            while f"roi_heads.box.feature_extractor.xconvs.{last + step}.weight" in names:
                last += step
            return list(range(0, last + 1, step))
    return []


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor."""
    arch = spec.arch
    yield from conv_links("backbone.stem.conv", "backbone.body.stem.conv1", bias=False)
    yield from norm_links("backbone.stem.norm", "backbone.body.stem.bn1", arch.norm)
    for layer, blocks in enumerate(arch.blocks, 1):
        if layer == 4 and arch.neck == "c4":
            yield from _res5(arch)
            continue
        for index in range(blocks):
            yield from _block(f"backbone.res{layer + 1}.{index}", f"backbone.body.layer{layer}.{index}", index, arch)
    if arch.neck == "fpn":
        for index, level in enumerate((2, 3, 4, 5), 1):
            for ours, theirs in ((f"fpn.lateral{level}", "fpn_inner"), (f"fpn.output{level}", "fpn_layer")):
                yield from _conv_norm(ours, f"backbone.fpn.{theirs}{index}", normed=arch.neck_norm != "none")
    yield from conv_links("rpn.convs.0", "rpn.head.conv", bias=True)
    yield from conv_links("rpn.objectness", "rpn.head.cls_logits", bias=True)
    yield from conv_links("rpn.deltas", "rpn.head.bbox_pred", bias=True)
    box = "roi_heads.box.feature_extractor"
    if arch.box_head == "fc":
        normed = arch.box_norm != "none"
        for index in range(arch.box_convs):
            at = index * (3 if normed else 2)
            yield from conv_links(f"box_head.convs.{index}.conv", f"{box}.xconvs.{at}", bias=not normed)
            yield from norm_links(f"box_head.convs.{index}.norm", f"{box}.xconvs.{at + 1}", arch.box_norm)
        for index in range(arch.box_fcs):
            theirs = f"{box}.fc{index + 6}"
            yield from conv_links(f"box_head.fcs.{index}", theirs if arch.fc_bias else f"{theirs}.0", bias=arch.fc_bias)
            yield from norm_links(f"box_head.fc_norms.{index}", f"{theirs}.1", arch.fc_norm)
    rows = arch.classes + 1
    quads = 2 if arch.box_rows == "agnostic-with-background" else rows
    moves = (
        ("box_predictor.cls", "roi_heads.box.predictor.cls_score", background_last(rows)),
        ("box_predictor.deltas", "roi_heads.box.predictor.bbox_pred", background_last(4 * quads, 4)),
        ("mask_predictor.logits", "roi_heads.mask.predictor.mask_fcn_logits", background_last(rows)),
    )
    for ours, theirs, move in moves:
        for vector in ("weight", "bias"):
            yield Link(f"{ours}.{vector}", f"{theirs}.{vector}", (move,))
    for index in range(arch.mask_convs):
        theirs = f"roi_heads.mask.feature_extractor.mask_fcn{index + 1}"
        yield from _conv_norm(f"mask_head.convs.{index}", theirs, normed=arch.mask_norm != "none")
    yield from conv_links("mask_head.upsample", "roi_heads.mask.predictor.conv5_mask", bias=True)


def _res5(arch: Arch) -> Iterator[Link]:
    """The box head of a C4 model, which the state dict holds again under the mask head that shares it."""
    for index in range(arch.blocks[3]):
        ours, theirs = f"box_head.res5.{index}", f"roi_heads.box.feature_extractor.head.layer4.{index}"
        for link in _block(ours, theirs, index, arch):
            copy = link.theirs.replace("roi_heads.box.", "roi_heads.mask.", 1)
            yield replace(link, copies=(copy,))


def _block(ours: str, theirs: str, index: int, arch: Arch) -> Iterator[Link]:
    for conv in (1, 2, 3):
        yield from conv_links(f"{ours}.conv{conv}.conv", f"{theirs}.conv{conv}", bias=False)
        yield from norm_links(f"{ours}.conv{conv}.norm", f"{theirs}.bn{conv}", arch.norm)
    if index == 0:
        yield from conv_links(f"{ours}.shortcut.conv", f"{theirs}.downsample.0", bias=False)
        yield from norm_links(f"{ours}.shortcut.norm", f"{theirs}.downsample.1", arch.norm)


def _conv_norm(ours: str, theirs: str, *, normed: bool) -> Iterator[Link]:
    """A convolution that is a module of its own, or the first of two where a group norm follows."""
    yield from conv_links(f"{ours}.conv", f"{theirs}.0" if normed else theirs, bias=not normed)
    yield from norm_links(f"{ours}.norm", f"{theirs}.1", "group" if normed else "none")


def ignored(name: str) -> str:
    """Why a tensor is no part of the model, or ""."""
    return "anchors are computed" if name.startswith("rpn.anchor_generator.") else ""


FAMILY = Family(
    name="maskrcnn-benchmark",
    title="maskrcnn-benchmark",
    landmarks=(
        "backbone.body.stem.conv1.weight",
        "rpn.head.cls_logits.weight",
        "roi_heads.box.predictor.cls_score.weight",
        "roi_heads.mask.predictor.conv5_mask.weight",
        "roi_heads.mask.predictor.mask_fcn_logits.weight",
    ),
    read=read,
    links=links,
    ignored=ignored,
    configs=("config.yaml", "config.yml"),
    settings=FROM_CONFIG,
)
