"""MMDetection: Mask R-CNN of 3.x and 2.x, and of 1.x with its inclusive boxes; FPN, C4, DC5; pytorch and caffe style.

The settings of the training stand in the file itself (`meta`), as Python text.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from maskgraft.families.class_names import COCO_80, numbered
from maskgraft.families.class_shift import class_shift, version
from maskgraft.families.configs import setting
from maskgraft.families.family import (
    Config,
    Family,
    Reading,
    class_count_fault,
    conv_links,
    count,
    learned,
    norm_kind,
    norm_links,
    shape,
    unsupported,
)
from maskgraft.families.mmdet_config import numerics_of
from maskgraft.families.mmdet_maths import LEGACY as LEGACY
from maskgraft.families.mmdet_maths import NUMERICS as NUMERICS
from maskgraft.families.mmdet_places import head_of, model_of, own_config, plain
from maskgraft.files import Tensors
from maskgraft.links import Link, background_last
from maskgraft.spec import Arch, Learned, Spec

ERAS = ("2", "1")  # since 2.0 the heads stand under "roi_head.", and no box or mask row is the background's

# Names by which a detector that is not a plain Mask R-CNN gives itself away, under "roi_head." or not.
_REFUSED = (
    ("bbox_head.0.fc_cls.weight", "cascade heads"),
    ("mask_head.0.conv_logits.weight", "cascade heads"),
    ("mask_iou_head.fc_mask_iou.weight", "mask scoring"),
    ("point_head.fc_logits.weight", "PointRend"),
    ("semantic_head.conv_logits.weight", "a semantic branch (HTC)"),
    ("bbox_head.cls_fcs.0.weight", "separate branches for classes and boxes"),
    ("bbox_head.reg_fcs.0.weight", "separate branches for classes and boxes"),
    ("bbox_head.fc_branch.0.weight", "a double head"),
)


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of an MMDetection file, with the config in its `meta` unless another is given."""
    era = "2" if "roi_head.bbox_head.fc_cls.weight" in tensors else "1"
    _refuse(tensors, _head(era))
    arch = _arch(tensors, era)
    meta = tensors.about.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    source = "config"
    if config is None:
        config, source = own_config(meta), f"{tensors.path.name}: its config"
    config = plain(config or {})
    legacy = (era == "1" or version(meta) < (2,)) and "roi_head" not in model_of(config)
    numerics, how, findings = numerics_of(tensors, arch, config, legacy=legacy, source=source)
    how |= learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__])
    classes, how["classes"] = _classes(meta, arch)
    if era == "2":
        findings += class_shift(tensors, meta)
    rows = setting(head_of(config), "bbox_head.num_classes")
    rows = rows - 1 if era == "1" and isinstance(rows, int) else rows  # one was the background's
    findings += class_count_fault(tensors, arch.classes, rows, "bbox_head.num_classes")
    spec = Spec(family=FAMILY.name, arch=arch, numerics=numerics, classes=classes, learned=how)
    return Reading(spec, era, tuple(findings))


def _classes(meta: Mapping[str, Any], arch: Arch) -> tuple[tuple[str, ...], Learned]:
    about = meta.get("dataset_meta")
    about = about if isinstance(about, Mapping) else {}
    for said in (about.get("classes"), about.get("CLASSES"), meta.get("CLASSES")):
        if isinstance(said, list | tuple) and len(said) == arch.classes:
            return tuple(str(name) for name in said), Learned("read", "meta of the file")
    if arch.classes == 80:
        return COCO_80, Learned("assumed", "80 classes: COCO's")
    return numbered(arch.classes), Learned("assumed", "the file has no class names")


def _head(era: str) -> str:
    return "roi_head." if era == "2" else ""


def _refuse(tensors: Tensors, head: str) -> None:
    names = tensors.arrays
    faults = [what for name, what in _REFUSED if head + name in names or "roi_head." + name in names]
    stems = "backbone.conv1.weight", "backbone.stem.6.weight"
    stem = next((tensors[name].shape for name in stems if name in names), ())
    regnet = stem[2:] == (3, 3) and "backbone.conv1.weight" in names  # which has the names of a ResNeXt
    if "backbone.layer1.0.conv2.weight" not in names or not stem or regnet:
        faults.append("a backbone that is not a plain ResNet or ResNeXt")
    if any(".conv2.conv_offset." in name or ".conv2_offset." in name for name in names):
        faults.append("deformable convolutions")
    if any(
        name.startswith(("neck.downsample_convs.", "neck.pafpn_convs.", "neck.0.", "neck.fpn_convs.4."))
        for name in names
    ):
        faults.append("a neck that is not a plain FPN")
    if f"{head}mask_head.conv_logits.weight" not in names and not faults:
        faults.append("no mask head")
    elif f"{head}mask_head.upsample.weight" not in names and not faults:
        faults.append("masks that are not enlarged by a transposed convolution")
    if faults:
        raise unsupported(tensors, FAMILY.title, ", ".join(faults))


def _arch(tensors: Tensors, era: str) -> Arch:
    names, head = tensors.arrays, _head(era)
    deep = "backbone.stem.6.weight" in names
    norm = "gn" if "backbone.layer1.0.gn1.weight" in names else "bn"
    bottleneck = "backbone.layer1.0.conv3.weight" in names
    inner, per_group = shape(tensors, "backbone.layer1.0.conv2.weight")[:2]
    single = "c4" if f"{head}shared_head.layer4.0.conv1.weight" in names else "dc5"
    neck = "fpn" if "neck.lateral_convs.0.conv.weight" in names else single
    stages = {1: "backbone", 2: "backbone", 3: "backbone", 4: f"{head}shared_head" if neck == "c4" else "backbone"}
    some = _conv_norm_kind(names, "neck.lateral_convs.0") != _conv_norm_kind(names, "neck.fpn_convs.0")
    rows = shape(tensors, f"{head}bbox_head.fc_cls.weight")[0]
    box_rows = shape(tensors, f"{head}bbox_head.fc_reg.weight")[0] // 4
    mask_rows, mask_channels = shape(tensors, f"{head}mask_head.conv_logits.weight")[:2]
    box_convs = count(names, f"{head}bbox_head.shared_convs.{{}}.conv.weight")
    box_fcs = count(names, f"{head}bbox_head.shared_fcs.{{}}.weight")
    per_class = "with-background" if era == "1" else "foreground"
    return Arch(
        classes=rows - 1,
        block="bottleneck" if bottleneck else "basic",
        blocks=tuple(count(names, f"{stages[layer]}.layer{layer}.{{}}.conv1.weight") for layer in (1, 2, 3, 4)),
        stem="3x3" if deep else "7x7",
        stem_width=shape(tensors, "backbone.stem.6.weight" if deep else "backbone.conv1.weight")[0],
        groups=inner // per_group if bottleneck else 1,
        width_per_group=per_group,
        norm=norm_kind(names, f"backbone.layer1.0.{norm}1"),
        neck=neck,  # type: ignore[arg-type]
        neck_channels=shape(tensors, "neck.lateral_convs.0.conv.weight")[0] if neck == "fpn" else 256,
        neck_norm=_conv_norm_kind(names, "neck.fpn_convs.0"),
        neck_norm_after="outputs" if some else "all",
        rpn_convs=max(1, count(names, "rpn_head.rpn_conv.{}.conv.weight")),
        rpn_channels=shape(tensors, "rpn_head.rpn_cls.weight")[1],
        anchors_per_cell=shape(tensors, "rpn_head.rpn_reg.weight")[0] // 4,
        box_head="res5" if neck == "c4" else "fc",
        box_convs=box_convs,
        box_conv_channels=shape(tensors, f"{head}bbox_head.shared_convs.0.conv.weight")[0] if box_convs else 256,
        box_fcs=box_fcs,
        box_fc_width=shape(tensors, f"{head}bbox_head.shared_fcs.0.weight")[0] if box_fcs else 1024,
        box_norm=_conv_norm_kind(names, f"{head}bbox_head.shared_convs.0"),
        box_rows="agnostic" if box_rows == 1 and rows > 2 else per_class,  # type: ignore[arg-type]
        mask_convs=count(names, f"{head}mask_head.convs.{{}}.conv.weight"),
        mask_channels=mask_channels,
        mask_norm=_conv_norm_kind(names, f"{head}mask_head.convs.0"),
        mask_rows="agnostic" if mask_rows == 1 and rows > 2 else per_class,  # type: ignore[arg-type]
    )


def _conv_norm_kind(names: Mapping[str, Any], theirs: str) -> Any:
    return "group" if f"{theirs}.gn.weight" in names else norm_kind(names, f"{theirs}.bn")


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor, in the names of `era`."""
    arch, head = spec.arch, _head(era)
    norm = "gn" if arch.norm == "group" else "bn"
    if arch.stem == "3x3":
        for index in range(3):  # each followed by its norm and a ReLU
            yield from conv_links(f"backbone.stem.{index}.conv", f"backbone.stem.{3 * index}", bias=False)
            yield from norm_links(f"backbone.stem.{index}.norm", f"backbone.stem.{3 * index + 1}", arch.norm)
    else:
        yield from conv_links("backbone.stem.conv", "backbone.conv1", bias=False)
        yield from norm_links("backbone.stem.norm", f"backbone.{norm}1", arch.norm)
    around = 1 if spec.numerics.stride_pooled else 0  # what averages stands first
    for layer, blocks in enumerate(arch.blocks, 1):
        shared = layer == 4 and arch.neck == "c4"
        stage = "box_head.res5" if shared else f"backbone.res{layer + 1}"
        for index in range(blocks):
            ours, theirs = f"{stage}.{index}", f"{head + 'shared_head' if shared else 'backbone'}.layer{layer}.{index}"
            for number in (1, 2, 3) if arch.block == "bottleneck" else (1, 2):
                yield from conv_links(f"{ours}.conv{number}.conv", f"{theirs}.conv{number}", bias=False)
                yield from norm_links(f"{ours}.conv{number}.norm", f"{theirs}.{norm}{number}", arch.norm)
            if index == 0 and (layer > 1 or arch.block == "bottleneck"):
                yield from conv_links(f"{ours}.shortcut.conv", f"{theirs}.downsample.{around}", bias=False)
                yield from norm_links(f"{ours}.shortcut.norm", f"{theirs}.downsample.{around + 1}", arch.norm)
    if arch.neck == "fpn":
        lateral = arch.neck_norm if arch.neck_norm_after == "all" else "none"
        for index, level in enumerate((2, 3, 4, 5)):
            yield from _conv_module(f"fpn.lateral{level}", f"neck.lateral_convs.{index}", lateral)
            yield from _conv_module(f"fpn.output{level}", f"neck.fpn_convs.{index}", arch.neck_norm)
    for index in range(arch.rpn_convs):
        theirs = f"rpn_head.rpn_conv.{index}.conv" if arch.rpn_convs > 1 else "rpn_head.rpn_conv"
        yield from conv_links(f"rpn.convs.{index}", theirs, bias=True)
    yield from conv_links("rpn.objectness", "rpn_head.rpn_cls", bias=True)
    yield from conv_links("rpn.deltas", "rpn_head.rpn_reg", bias=True)
    if arch.box_head == "fc":
        for index in range(arch.box_convs):
            yield from _conv_module(f"box_head.convs.{index}", f"{head}bbox_head.shared_convs.{index}", arch.box_norm)
        for index in range(arch.box_fcs):
            yield from conv_links(f"box_head.fcs.{index}", f"{head}bbox_head.shared_fcs.{index}", bias=True)
    rows = arch.classes + 1
    old = era == "1"
    for ours, theirs, moved, per_class in (
        ("box_predictor.cls", "bbox_head.fc_cls", old, 1),
        ("box_predictor.deltas", "bbox_head.fc_reg", old and arch.box_rows != "agnostic", 4),
        ("mask_predictor.logits", "mask_head.conv_logits", old and arch.mask_rows != "agnostic", 1),
    ):
        steps = (background_last(rows * per_class, per_class),) if moved else ()
        for vector in ("weight", "bias"):
            yield Link(f"{ours}.{vector}", f"{head}{theirs}.{vector}", steps)
    for index in range(arch.mask_convs):
        yield from _conv_module(f"mask_head.convs.{index}", f"{head}mask_head.convs.{index}", arch.mask_norm)
    yield from conv_links("mask_head.upsample", f"{head}mask_head.upsample", bias=True)


def _conv_module(ours: str, theirs: str, norm: Any) -> Iterator[Link]:
    """mmcv's `ConvModule`: a convolution without bias where a norm follows."""
    yield from conv_links(f"{ours}.conv", f"{theirs}.conv", bias=norm == "none")
    yield from norm_links(f"{ours}.norm", f"{theirs}.{'gn' if norm == 'group' else 'bn'}", norm)


def ignored(name: str) -> str:
    """Why a tensor is no part of the model, or ""."""
    if name.startswith("ema_"):
        return "second copy, kept by the moving average of the training"
    if name.startswith("data_preprocessor."):
        return "pixel mean and deviation, read from the config"
    return ""


FAMILY = Family(
    name="mmdet",
    title="MMDetection",
    landmarks=("rpn_head.rpn_cls.weight", "rpn_head.rpn_cls.bias", "rpn_head.rpn_reg.weight", "rpn_head.rpn_reg.bias"),
    read=read,
    links=links,
    ignored=ignored,
    eras=ERAS,
    configs=("config.py",),
)
