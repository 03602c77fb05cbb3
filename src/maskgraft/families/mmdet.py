"""MMDetection: Mask R-CNN of 3.x and 2.x, and of 1.x with its inclusive boxes; FPN, C4, DC5; pytorch and caffe style.

The settings of the training stand in the file itself (`meta`), as Python text. Conventions: mmdet 3.3.0 `models/`,
mmcv 2.1.0 `ops/`, mmengine 0.10.7; for 1.x mmdet 1.2.0 `core/`, `models/`, `ops/roi_align`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.families import mmdet_config, mmdet_places, mmdet_refused
from maskgraft.families.class_names import COCO_80, numbered
from maskgraft.families.class_shift import class_shift, version
from maskgraft.families.configs import base_fault, setting
from maskgraft.families.family import (
    Config,
    Family,
    Reading,
    class_count_fault,
    conv_links,
    count,
    learned,
    limited,
    norm_kind,
    norm_links,
    shape,
    unsupported,
)
from maskgraft.families.python_configs import parse_python
from maskgraft.files import Tensors
from maskgraft.links import Link, background_last
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics, Spec

ERAS = ("2", "1")  # since 2.0 the heads stand under "roi_head.", and no box or mask row is the background's

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
LEGACY: dict[str, Any] = {
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
_ONE_MAP: dict[str, Any] = {
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
    config = mmdet_places.plain(config or {})
    legacy = (era == "1" or version(meta) < (2,)) and "roi_head" not in mmdet_places.model_of(config)
    how = {
        **learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__]),
        **learned(
            "MMDetection 1's maths" if legacy else "MMDetection's maths",
            "implied",
            [f"numerics.{name}" for name in NUMERICS_FIELDS],
        ),
        **learned(
            "the settings of MMDetection's configs; the file's own config would say",
            "assumed",
            [f"numerics.{name}" for name in _ASSUMED],
        ),
    }
    changes = (LEGACY if legacy else {}) | ({} if arch.neck == "fpn" else _ONE_MAP)
    changes |= {"box_pool_size": 14 if arch.neck == "c4" else 7, "stride_pooled": _pools(tensors.arrays)}
    findings = list(class_shift(tensors, meta)) if era == "2" else []
    if config:
        what = mmdet_refused.refusal(config, arch.neck)
        if what:
            raise unsupported(tensors, FAMILY.title, what)
        said = mmdet_config.read(config)
        changes |= said
        how |= learned(source, "read", [f"numerics.{name}" for name in said])
        fix = "give the config that MMDetection wrote into the work_dir"
        findings += [*base_fault(config, fix), *mmdet_config.told(config)]
        rows = setting(mmdet_places.head_of(config), "bbox_head.num_classes")
        rows = rows - 1 if era == "1" and isinstance(rows, int) else rows  # one was the background's
        findings += class_count_fault(tensors, arch.classes, rows, "bbox_head.num_classes")
    classes, how["classes"] = _classes(meta, arch)
    numerics = limited(replace(NUMERICS, **changes), arch, least=1)
    spec = Spec(family=FAMILY.name, arch=arch, numerics=numerics, classes=classes, learned=how)
    return Reading(spec, era, tuple(findings))


_ASSUMED = (
    "channel_order pixel_mean pixel_std min_size max_size pad_multiple stride_in anchor_sizes anchor_ratios "
    "rpn_pre_nms rpn_post_nms rpn_nms_threshold score_threshold nms_threshold max_detections roi_sampling "
    "box_pool_size mask_pool_size rpn_beta box_beta rpn_straddle roi_rescue_iou"
).split()


def own_config(meta: Mapping[str, Any]) -> Config | None:
    """The config that MMDetection saved with the weights: text since 3.0 under "cfg", before under "config"."""
    for key in ("cfg", "config"):
        said = meta.get(key)
        if isinstance(said, str):
            return parse_python(said) or None
        if isinstance(said, Mapping):
            return said
    return None


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
    if "backbone.layer1.0.conv2.weight" not in names or not any(stem in names for stem in stems):
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


def _pools(names: Mapping[str, Any]) -> bool:
    """Whether a shortcut that strides averages before its convolution, whose place in it is the second then."""
    return "backbone.layer2.0.downsample.1.weight" in names and "backbone.layer2.0.downsample.2.weight" in names


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
