"""Detectron: the Caffe2 blobs of its `.pkl` files, FPN and C4.

Three frameworks read these files. Beside a config of Detectron2 or maskrcnn-benchmark the numbers are theirs; otherwise
they are Detectron's own, whose settings stand in the file itself ("cfg").
"""

from collections.abc import Iterator, Mapping
from typing import Any

from maskgraft.families import detectron2_config, detectron_caffe2_config, maskrcnn_benchmark_config
from maskgraft.families.configs import setting
from maskgraft.families.detectron_caffe2_config import NUMERICS as NUMERICS
from maskgraft.families.detectron_caffe2_config import SETTINGS
from maskgraft.families.detectron_maths import class_names
from maskgraft.families.family import Config, Family, Reading, count, learned, shape, unsupported
from maskgraft.files import Tensors
from maskgraft.links import Link, background_last
from maskgraft.spec import Arch, NormKind, Spec


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a Detectron file, with the numbers of the framework whose `config` is given, else Detectron's."""
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
        numerics_of = maskrcnn_benchmark_config.numerics_of
    elif config is not None and setting(config, "MODEL.META_ARCHITECTURE") is not None:
        numerics_of = detectron2_config.numerics_of
    else:
        numerics_of = detectron_caffe2_config.numerics_of
    numerics, more, findings = numerics_of(tensors, arch, config, FAMILY.title)
    spec = Spec(family=FAMILY.name, arch=arch, numerics=numerics, classes=classes, learned=how | more)
    return Reading(spec, "", tuple(findings))


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
    settings=SETTINGS,
)
