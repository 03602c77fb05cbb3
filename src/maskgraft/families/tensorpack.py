"""Tensorpack's `examples/FasterRCNN`: `.npz` of its model zoo, and its TensorFlow checkpoints; pyramid and C4.

Conventions: tensorpack `examples/FasterRCNN/` (config.py, common.py, eval.py, modeling/). No checkpoint holds its
config; the defaults of `config.py` are taken unless one is given, as Python text or as YAML of the same nesting.
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
    class_count_fault,
    count,
    learned,
    not_taken_up,
    refuse_what_cannot_be_obeyed,
    shape,
    unsupported,
)
from maskgraft.files import Tensors
from maskgraft.links import Link, Step, Transpose, background_last
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, NormKind, Numerics, Spec

ERAS = (":0", "")  # what follows a name: zoo files since 2020 keep TensorFlow's output number, older ones do not

NUMERICS = Numerics(
    channel_order="bgr",
    pixel_scale=1.0,
    pixel_mean=(103.53, 116.28, 123.675),
    pixel_std=(57.375, 57.12, 58.395),
    resize="opencv",
    normalise_first=False,
    size_rounding="round",
    max_size=1344,  # 1333, made a multiple of 32 where there is a pyramid
    box_scale="mean",
    norm_eps=1e-5,
    stride_in="3x3",
    conv_padding="same-before",
    pool_padding="same-before",
    anchor_order="size",
    anchor_rounding=False,
    anchor_stride="nominal",
    rpn_rank="logit",
    rpn_pre_nms=0,  # PER_LEVEL_NMS_TOPK is both
    rpn_min_size=None,
    delta_clip=math.log(1344 / 16),
    level_epsilon="inside",
    roi_aligned=True,  # crop_and_resize of twice the size, moved by half a pixel, then averaged: the same samples
    roi_sampling=2,
    norm_behind_relu=True,
    nms_at_threshold=True,
    nms_ties="heap",
    nms_flat_last=True,
    box_min_size=0.0,
    mask_paste="grid-sample",
    rpn_pre_nms_train=0,
    rpn_straddle=0.0,
    rpn_straddle_closed=True,
    rpn_outside="unmatched",
    rpn_rescue="undecided",
    rpn_normaliser="samples",
    rpn_beta=1 / 9,
    box_beta=0.0,
    mask_targets="soft-sample",
)

# Candidates, where all levels are one: with C4, and as `FPN.PROPOSAL_MODE` may say.
_TOGETHER: dict[str, Any] = {"rpn_pre_nms": 6000, "rpn_pre_nms_train": 12000}

C4: dict[str, Any] = {
    **_TOGETHER,
    "max_size": 1333,
    "pad_multiple": 1,
    "anchor_sizes": ((32.0, 64.0, 128.0, 256.0, 512.0),),
    "delta_clip": math.log(1333 / 16),
    "box_pool_size": 14,
}


def _rgb(value: Any) -> tuple[float, ...]:
    """Channels, which the config has in the order RGB, in the order BGR."""
    return tuple(float(one) for one in value)[::-1]


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(one) for one in value)


def _padding(tensorflows: Any) -> str:
    return "same-after" if tensorflows else "same-before"


# Field of Numerics ← (key of the config, how its value reads)
_FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("min_size", "PREPROC.TEST_SHORT_EDGE_SIZE", int),
    ("pixel_mean", "PREPROC.PIXEL_MEAN", _rgb),
    ("pixel_std", "PREPROC.PIXEL_STD", _rgb),
    ("stride_in", "BACKBONE.STRIDE_1X1", lambda yes: "1x1" if yes else "3x3"),
    ("conv_padding", "BACKBONE.TF_PAD_MODE", _padding),
    ("pool_padding", "BACKBONE.TF_PAD_MODE", _padding),
    ("anchor_ratios", "RPN.ANCHOR_RATIOS", _numbers),
    ("rpn_nms_threshold", "RPN.PROPOSAL_NMS_THRESH", float),
    ("rpn_min_size", "RPN.MIN_SIZE", lambda side: float(side) or None),
    ("mask_paste", "MRCNN.ACCURATE_PASTE", lambda yes: "grid-sample" if yes else "centre-box"),
    ("rpn_positive_iou", "RPN.POSITIVE_ANCHOR_THRESH", float),
    ("rpn_negative_iou", "RPN.NEGATIVE_ANCHOR_THRESH", float),
    ("rpn_samples", "RPN.BATCH_PER_IM", int),
    ("rpn_positive_fraction", "RPN.FG_RATIO", float),
    ("box_delta_weights", "FRCNN.BBOX_REG_WEIGHTS", _numbers),
    ("roi_samples", "FRCNN.BATCH_PER_IM", int),
    ("roi_positive_iou", "FRCNN.FG_THRESH", float),
    ("roi_positive_fraction", "FRCNN.FG_RATIO", float),
    ("score_threshold", "TEST.RESULT_SCORE_THRESH", float),
    ("nms_threshold", "TEST.FRCNN_NMS_THRESH", float),
    ("max_detections", "TEST.RESULTS_PER_IM", int),
)
_OF_PYRAMID: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("max_size", "PREPROC.MAX_SIZE", lambda side: 32 * math.ceil(side / 32)),
    ("anchor_sizes", "RPN.ANCHOR_SIZES", lambda sizes: tuple((size,) for size in _numbers(sizes))),
)
_BY_LEVEL: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("rpn_post_nms", "RPN.TEST_PER_LEVEL_NMS_TOPK", int),
    ("rpn_post_nms_train", "RPN.TRAIN_PER_LEVEL_NMS_TOPK", int),
)
_JOINT: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("rpn_pre_nms", "RPN.TEST_PRE_NMS_TOPK", int),
    ("rpn_post_nms", "RPN.TEST_POST_NMS_TOPK", int),
    ("rpn_pre_nms_train", "RPN.TRAIN_PRE_NMS_TOPK", int),
    ("rpn_post_nms_train", "RPN.TRAIN_POST_NMS_TOPK", int),
)
_OF_C4: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("max_size", "PREPROC.MAX_SIZE", int),
    ("anchor_sizes", "RPN.ANCHOR_SIZES", lambda sizes: (_numbers(sizes),)),
)
# Settings that no file says.
_CONFIGURED = (
    *(name for name, _, _ in (*_FROM_CONFIG, *_OF_PYRAMID, *_BY_LEVEL)),
    "rpn_pre_nms",
    "delta_clip",
    "mask_paste",
)

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("RPN.ANCHOR_STRIDE", (16,)),
    ("FPN.ANCHOR_STRIDES", ((4, 8, 16, 32, 64),)),
    ("FPN.PROPOSAL_MODE", ("Level", "Joint")),
    ("FPN.CASCADE", (False,)),
)

_KERNEL = Transpose((3, 2, 0, 1))  # height, width, in, out; of a transposed convolution height, width, out, in
_DENSE = Transpose((1, 0))
_OF_TRAINING = ("global_step", "learning_rate", "AccumGrad/counter")
_AFFINE = {"weight": "gamma", "bias": "beta"}
_STATISTICS = {"running_mean": "mean/EMA", "running_var": "variance/EMA"}


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a Tensorpack file, and of the `config.py` that is given with it."""
    names = tensors.arrays
    era = ":0" if "conv0/W:0" in names else ""
    if f"cascade_rcnn_stage1/box/W{era}" in names or f"cascade_rcnn_stage1/outputs/box/W{era}" in names:
        raise unsupported(tensors, "Tensorpack", "cascade heads")
    if f"maskrcnn/conv/W{era}" not in names:
        raise unsupported(tensors, "Tensorpack", "no mask head (Faster R-CNN)")
    arch = _arch(tensors, era)
    how = {
        **learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__]),
        **learned("Tensorpack's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned("Tensorpack's config.py; yours may differ", "assumed", [f"numerics.{n}" for n in _CONFIGURED]),
        "classes": Learned("assumed", "80 classes: COCO's" if arch.classes == 80 else "no file says their names"),
    }
    classes = COCO_80 if arch.classes == 80 else numbered(arch.classes)
    findings: list[Finding] = []
    found = replace(NUMERICS, **C4) if arch.neck == "c4" else NUMERICS
    if config is not None:
        config = next(
            (config[root] for root in ("_C", "config", "cfg") if isinstance(config.get(root), Mapping)), config
        )
        refuse_what_cannot_be_obeyed(tensors, config, _REQUIRED, "Tensorpack")
        joint = arch.neck == "c4" or setting(config, "FPN.PROPOSAL_MODE") == "Joint"
        if joint and arch.neck == "fpn":
            found = replace(found, rpn_scope="image", **_TOGETHER)
            how["numerics.rpn_scope"] = Learned("read", "config: FPN.PROPOSAL_MODE")
        of_neck = _OF_PYRAMID if arch.neck == "fpn" else _OF_C4
        table = (*_FROM_CONFIG, *of_neck, *(_JOINT if joint else _BY_LEVEL))
        found = replace(found, **changes_from(config, table, how))
        found = replace(found, delta_clip=math.log(found.max_size / 16))
        how["numerics.delta_clip"] = how["numerics.max_size"]
        names_of_classes = setting(config, "DATA.CLASS_NAMES")
        if isinstance(names_of_classes, list | tuple) and len(names_of_classes) == arch.classes + 1:
            classes = tuple(map(str, names_of_classes[1:]))
            how["classes"] = Learned("read", "config: DATA.CLASS_NAMES")
        said = setting(config, "DATA.NUM_CATEGORY")
        findings += class_count_fault(tensors, arch.classes, None if said == -1 else said, "DATA.NUM_CATEGORY")
        findings += not_taken_up(config, (("RPN.CROWD_OVERLAP_THRESH", 9.99),))
    spec = Spec(family="tensorpack", arch=arch, numerics=found, classes=classes, learned=how)
    return Reading(spec, era, tuple(findings))


def _arch(tensors: Tensors, era: str) -> Arch:
    names: Mapping[str, Any] = tensors.arrays
    fpn = f"fpn/lateral_1x1_c2/W{era}" in names
    outputs = _outputs(fpn)
    box_convs = count(names, f"fastrcnn/conv{{}}/W{era}")
    classes = shape(tensors, f"{outputs}/class/W{era}")[1] - 1
    width = shape(tensors, f"{outputs}/class/W{era}")[0]
    box_rows = shape(tensors, f"{outputs}/box/W{era}")[1] // 4
    return Arch(
        classes=classes,
        blocks=tuple(count(names, f"group{group}/block{{}}/conv1/W{era}") for group in range(4)),
        stem_width=shape(tensors, f"conv0/W{era}")[3],
        width_per_group=shape(tensors, f"group0/block0/conv1/W{era}")[3],
        norm=_norm(names, f"conv0/gn/gamma{era}", f"conv0/bn/gamma{era}"),
        neck="fpn" if fpn else "c4",
        neck_channels=shape(tensors, f"fpn/lateral_1x1_c2/W{era}")[3] if fpn else 256,
        neck_norm=_norm(names, f"fpn/gn_c2/gamma{era}"),
        head_bias=True,
        rpn_channels=shape(tensors, f"rpn/conv0/W{era}")[3],
        anchors_per_cell=shape(tensors, f"rpn/class/W{era}")[3],
        box_head="fc" if fpn else "res5",
        box_convs=box_convs,
        box_conv_channels=shape(tensors, f"fastrcnn/conv0/W{era}")[3] if box_convs else 256,
        box_norm=_norm(names, f"fastrcnn/gn0/gamma{era}"),
        box_fcs=1 if box_convs else 2,
        box_fc_width=width if fpn else 1024,
        box_rows="agnostic" if box_rows == 1 and classes > 1 else "with-background",
        mask_convs=count(names, f"maskrcnn/fcn{{}}/W{era}"),
        mask_channels=shape(tensors, f"maskrcnn/deconv/W{era}")[2],
        mask_norm=_norm(names, f"maskrcnn/gn0/gamma{era}"),
    )


def _norm(names: Mapping[str, Any], group: str, batch: str = "") -> NormKind:
    if group in names:
        return "group"
    return "frozen" if batch in names else "none"


def _outputs(fpn: bool) -> str:
    return "fastrcnn/outputs" if fpn else "fastrcnn"


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor, in names that end in `era`."""
    arch = spec.arch

    def layer(
        ours: str, theirs: str, *, weight: tuple[Step, ...] = (_KERNEL,), rows: tuple[Step, ...] = (), bias: bool = True
    ) -> Iterator[Link]:
        yield Link(f"{ours}.weight", f"{theirs}/W{era}", (*weight, *rows))
        if bias:
            yield Link(f"{ours}.bias", f"{theirs}/b{era}", rows)

    def norm(ours: str, theirs: str, kind: NormKind) -> Iterator[Link]:
        for mine, name in {**_AFFINE, **({} if kind == "group" else _STATISTICS)}.items() if kind != "none" else ():
            yield Link(f"{ours}.norm.{mine}", f"{theirs}/{name}{era}")

    def conv_norm(ours: str, theirs: str) -> Iterator[Link]:
        yield from layer(f"{ours}.conv", theirs, bias=False)
        yield from norm(ours, f"{theirs}/{'gn' if arch.norm == 'group' else 'bn'}", arch.norm)

    yield from conv_norm("backbone.stem", "conv0")
    for stage, blocks in enumerate(arch.blocks, 2):
        place = "box_head" if stage == 5 and arch.neck == "c4" else "backbone"
        for index in range(blocks):
            ours, theirs = f"{place}.res{stage}.{index}", f"group{stage - 2}/block{index}"
            for number in (1, 2, 3):
                yield from conv_norm(f"{ours}.conv{number}", f"{theirs}/conv{number}")
            if index == 0:
                yield from conv_norm(f"{ours}.shortcut", f"{theirs}/convshortcut")
    if arch.neck == "fpn":
        for level in (2, 3, 4, 5):
            yield from layer(f"fpn.lateral{level}.conv", f"fpn/lateral_1x1_c{level}")
            yield from norm(f"fpn.lateral{level}", f"fpn/gn_c{level}", arch.neck_norm)
            yield from layer(f"fpn.output{level}.conv", f"fpn/posthoc_3x3_p{level}")
            yield from norm(f"fpn.output{level}", f"fpn/gn_p{level}", arch.neck_norm)
    for ours, theirs in (("convs.0", "conv0"), ("objectness", "class"), ("deltas", "box")):
        yield from layer(f"rpn.{ours}", f"rpn/{theirs}")
    for index in range(arch.box_convs):
        yield from layer(f"box_head.convs.{index}.conv", f"fastrcnn/conv{index}")
        yield from norm(f"box_head.convs.{index}", f"fastrcnn/gn{index}", arch.box_norm)
    if arch.box_head == "fc":
        for index, theirs in enumerate(("fc",) if arch.box_convs else ("fc6", "fc7")):
            yield from layer(f"box_head.fcs.{index}", f"fastrcnn/{theirs}", weight=(_DENSE,))
    outputs, rows = _outputs(arch.neck == "fpn"), arch.classes + 1
    quads = () if arch.box_rows == "agnostic" else (background_last(4 * rows, 4),)
    yield from layer("box_predictor.cls", f"{outputs}/class", weight=(_DENSE,), rows=(background_last(rows),))
    yield from layer("box_predictor.deltas", f"{outputs}/box", weight=(_DENSE,), rows=quads)
    for index in range(arch.mask_convs):
        yield from layer(f"mask_head.convs.{index}.conv", f"maskrcnn/fcn{index}")
        yield from norm(f"mask_head.convs.{index}", f"maskrcnn/gn{index}", arch.mask_norm)
    yield from layer("mask_head.upsample", "maskrcnn/deconv")
    yield from layer("mask_predictor.logits", "maskrcnn/conv")


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    return "of the training, not of the model" if name.split(":")[0] in _OF_TRAINING else ""


def _landmarks(era: str) -> tuple[str, ...]:
    layers = ("conv0", "group0/block0/convshortcut", "rpn/conv0", "rpn/class", "maskrcnn/deconv", "maskrcnn/conv")
    return tuple(f"{layer}/W{era}" for layer in layers)


FAMILY = Family(
    name="tensorpack",
    title="Tensorpack",
    landmarks=_landmarks(":0"),
    older_landmarks=(_landmarks(""),),
    read=read,
    links=links,
    ignored=ignored,
    eras=ERAS,
)
