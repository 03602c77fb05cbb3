"""PaddleDetection 2: `.pdparams` of Mask R-CNN with ResNet, ResNet-vd and ResNeXt-vd, with pyramid and C4.

Names: PaddleDetection release/2.6 `ppdet/modeling/`. Its numbers and configs are in `paddle_config`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.families.class_names import COCO_80, numbered
from maskgraft.families.family import (
    Config,
    Family,
    Reading,
    conv_links,
    count,
    learned,
    norm_links,
    shape,
    unsupported,
)
from maskgraft.families.paddle_config import FROM_CONFIG, TITLE, numerics_of
from maskgraft.families.paddle_config import NUMERICS as NUMERICS
from maskgraft.files import Tensors
from maskgraft.links import Link, Transpose
from maskgraft.spec import Arch, Learned, NormKind, Spec

_VECTORS = {"weight": "weight", "bias": "bias", "running_mean": "_mean", "running_var": "_variance"}
_DENSE = (Transpose((1, 0)),)


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a PaddleDetection file, and of its config where one is given."""
    names = tensors.arrays
    if reasons := list(_not_supported(names)):
        raise unsupported(tensors, TITLE, ", ".join(reasons))
    arch = _arch(tensors)
    numerics, how, findings = numerics_of(tensors, arch, config)
    averaged = "backbone.res3.res3a.short.conv.conv.weight" in names  # ResNet-D, and not ResNet-C
    how |= learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__])
    how["classes"] = Learned("assumed", "80 classes: COCO's" if arch.classes == 80 else "no file says their names")
    spec = Spec(
        family="paddledetection",
        arch=arch,
        numerics=replace(numerics, stride_pooled=averaged),
        classes=COCO_80 if arch.classes == 80 else numbered(arch.classes),
        learned=how,
    )
    return Reading(spec, "", tuple(findings))


def _not_supported(names: Mapping[str, Any]) -> Iterator[str]:
    """Everything for which a model of the home framework is not one of maskgraft."""
    if not any(name.startswith("mask_head.") for name in names):
        yield "no mask head (Faster R-CNN)"
    if "bbox_head.bbox_score_stage0.weight" in names:
        yield "cascade heads"
    if "backbone.res2.res2a.branch2c.conv.weight" not in names:
        yield "a backbone that is not a ResNet of bottlenecks"
    for part, what in ((".conv_offset.", "deformable convolutions"), (".se.", "squeeze and excitation")):
        if any(part in name for name in names):
            yield what


def _body(neck: str, stage: int) -> str:
    return "bbox_head.head" if stage == 5 and neck == "c4" else "backbone"


def _block(stage: int, block: int, blocks: int) -> str:
    """res2a, res2b …; in a fourth stage of more than ten blocks res4a, res4b1, res4b2 …"""
    numbered_ones = blocks > 10 and stage == 4 and block > 0
    return f"res{stage}b{block}" if numbered_ones else f"res{stage}{chr(ord('a') + block)}"


def _blocks(names: Mapping[str, Any], body: str, stage: int) -> int:
    template = f"{body}.res{stage}.res{stage}{{}}.branch2a.conv.weight"
    letters = 0
    while template.format(chr(ord("a") + letters)) in names:
        letters += 1
    return max(letters, 1 + count(names, template.replace("{}", "b{}"), start=1))


def _norm_of(names: Mapping[str, Any], layer: str) -> NormKind:
    if f"{layer}.norm.weight" not in names:
        return "none"
    return "frozen" if f"{layer}.norm._mean" in names else "group"


def _arch(tensors: Tensors) -> Arch:
    names = tensors.arrays
    neck = "c4" if "bbox_head.head.res5.res5a.branch2a.conv.weight" in names else "fpn"
    deep = "backbone.conv1.conv1_1.conv.weight" in names
    stem = "conv1_3" if deep else "conv1" if "backbone.conv1.conv1.conv.weight" in names else "res_conv1"
    inner, per_group = shape(tensors, "backbone.res2.res2a.branch2b.conv.weight")[:2]
    lateral = "neck.fpn_inner_res5_sum"
    neck_norm = _norm_of(names, lateral)
    box_convs = count(names, "bbox_head.head.bbox_head_conv{}.conv.weight")
    mask = "mask_head.head.upsample.mask_inter_feat_{}"
    mask_norm = _norm_of(names, mask.format(1))
    width, rows = shape(tensors, "bbox_head.bbox_score.weight")
    return Arch(
        classes=rows - 1,
        blocks=tuple(_blocks(names, _body(neck, stage), stage) for stage in (2, 3, 4, 5)),
        stem="3x3" if deep else "7x7",
        stem_width=shape(tensors, f"backbone.conv1.{stem}.conv.weight")[0],
        groups=inner // per_group,
        width_per_group=per_group,
        norm="frozen",
        neck=neck,  # type: ignore[arg-type]
        neck_channels=shape(tensors, f"{lateral}{'.conv' if neck_norm != 'none' else ''}.weight")[0]
        if neck == "fpn"
        else 256,
        neck_norm=neck_norm,
        rpn_channels=shape(tensors, "rpn_head.rpn_feat.rpn_conv.weight")[0],
        anchors_per_cell=shape(tensors, "rpn_head.rpn_rois_score.weight")[0],
        box_head="res5" if neck == "c4" else "fc",
        box_convs=box_convs,
        box_conv_channels=shape(tensors, "bbox_head.head.bbox_head_conv0.conv.weight")[0] if box_convs else 256,
        box_fcs=1 if box_convs else 2,
        box_fc_width=width if neck == "fpn" else 1024,
        box_norm=_norm_of(names, "bbox_head.head.bbox_head_conv0"),
        mask_convs=count(names, mask + (".conv.weight" if mask_norm != "none" else ".weight"), start=1),
        mask_channels=shape(tensors, "mask_head.mask_fcn_logits.weight")[1],
        mask_norm=mask_norm,
    )


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor."""
    arch = spec.arch
    if arch.stem == "3x3":
        for index in range(3):
            yield from _conv_norm(f"backbone.stem.{index}", f"backbone.conv1.conv1_{index + 1}", arch.norm)
    else:
        stem = "res_conv1" if arch.groups > 1 else "conv1"
        yield from _conv_norm("backbone.stem", f"backbone.conv1.{stem}", arch.norm)
    for stage, blocks in enumerate(arch.blocks, 2):
        place = "box_head" if stage == 5 and arch.neck == "c4" else "backbone"
        for index in range(blocks):
            ours = f"{place}.res{stage}.{index}"
            theirs = f"{_body(arch.neck, stage)}.res{stage}.{_block(stage, index, blocks)}"
            for number, branch in enumerate("abc", 1):
                yield from _conv_norm(f"{ours}.conv{number}", f"{theirs}.branch2{branch}", arch.norm)
            if index == 0:
                behind_pool = spec.numerics.stride_pooled and stage > 2
                yield from _conv_norm(f"{ours}.shortcut", f"{theirs}.short{'.conv' if behind_pool else ''}", arch.norm)
    if arch.neck == "fpn":
        for level in (2, 3, 4, 5):
            lateral = "neck.fpn_inner_res5_sum" if level == 5 else f"neck.fpn_inner_res{level}_sum_lateral"
            yield from _conv_norm(f"fpn.lateral{level}", lateral, arch.neck_norm)
            yield from _conv_norm(f"fpn.output{level}", f"neck.fpn_res{level}_sum", arch.neck_norm)
    yield from conv_links("rpn.convs.0", "rpn_head.rpn_feat.rpn_conv", bias=True)
    yield from conv_links("rpn.objectness", "rpn_head.rpn_rois_score", bias=True)
    yield from conv_links("rpn.deltas", "rpn_head.rpn_rois_delta", bias=True)
    for index in range(arch.box_convs):
        theirs = f"bbox_head.head.bbox_head_conv{index}"
        yield from _conv_norm(f"box_head.convs.{index}", theirs, arch.box_norm)
    if arch.box_head == "fc":
        for index in range(arch.box_fcs):
            yield from conv_links(f"box_head.fcs.{index}", f"bbox_head.head.fc{6 + index}", bias=True, steps=_DENSE)
    yield from conv_links("box_predictor.cls", "bbox_head.bbox_score", bias=True, steps=_DENSE)
    yield from conv_links("box_predictor.deltas", "bbox_head.bbox_delta", bias=True, steps=_DENSE)
    for index in range(arch.mask_convs):
        theirs = f"mask_head.head.upsample.mask_inter_feat_{index + 1}"
        yield from _conv_norm(f"mask_head.convs.{index}", theirs, arch.mask_norm)
    yield from conv_links("mask_head.upsample", "mask_head.head.upsample.conv5_mask", bias=True)
    yield from conv_links("mask_predictor.logits", "mask_head.mask_fcn_logits", bias=True)


def _conv_norm(ours: str, theirs: str, kind: NormKind) -> Iterator[Link]:
    """A convolution with its norm under its own name, or alone and with a bias."""
    if kind == "none":
        yield from conv_links(f"{ours}.conv", theirs, bias=True)
    else:
        yield from conv_links(f"{ours}.conv", f"{theirs}.conv", bias=False)
        yield from norm_links(f"{ours}.norm", f"{theirs}.norm", kind, _VECTORS)


def ignored(name: str) -> str:
    """Nothing in such a file is superfluous."""
    return ""


FAMILY = Family(
    name="paddledetection",
    title=TITLE,
    landmarks=(
        "rpn_head.rpn_feat.rpn_conv.weight",
        "rpn_head.rpn_rois_delta.weight",
        "bbox_head.bbox_delta.weight",
        "mask_head.head.upsample.conv5_mask.weight",
        "mask_head.mask_fcn_logits.weight",
    ),
    read=read,
    links=links,
    ignored=ignored,
    configs=("config.yml", "config.yaml"),
    settings=FROM_CONFIG,
)
