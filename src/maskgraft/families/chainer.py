"""chainer-mask-rcnn: `.npz` of its ResNet-50 and -101 on C4.

Conventions: wkentaro/chainer-mask-rcnn 0.5.24 `chainer_mask_rcnn/models/`, chainercv 0.13 `links/model/faster_rcnn/`.
Its training script leaves a `params.yaml` beside the weights.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.families.class_names import COCO_80, VOC_20, numbered
from maskgraft.families.configs import changes_from
from maskgraft.families.family import (
    Config,
    Family,
    Reading,
    class_count_fault,
    count,
    learned,
    refuse_what_cannot_be_obeyed,
    shape,
    unsupported,
)
from maskgraft.files import Tensors
from maskgraft.links import Link, background_last, xy_first
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics, Spec

NUMERICS = Numerics(
    channel_order="rgb",
    pixel_scale=1.0,
    pixel_mean=(123.152, 115.903, 103.063),
    pixel_std=(1.0, 1.0, 1.0),
    resize="opencv-float",
    normalise_first=False,
    size_rounding="even",
    min_size=600,
    max_size=1000,
    box_scale="factor",
    pad_multiple=1,
    norm_eps=0.0,
    stride_in="1x1",
    pool_padding="cover",
    anchor_sizes=((64.0, 128.0, 256.0, 512.0),),
    anchor_order="ratio",
    anchor_rounding=False,
    anchor_stride="nominal",
    anchor_offset=0.5,
    rpn_rank="logit",
    rpn_pre_nms=6000,
    rpn_post_nms=1000,
    rpn_min_size=None,
    delta_clip=None,
    nms_at_threshold=True,
    nms_apart=True,
    level_epsilon="outside",
    roi_aligned=False,
    roi_sampling=0,
    box_pool_size=7,
    res5_stride=1,
    detect_in="photograph",
    box_min_size=0.0,
    box_rounding="drop",
    max_by="argsort",
    mask_paste="integer-box",
    rpn_pre_nms_train=12000,
    rpn_straddle=0.0,
    rpn_straddle_closed=True,
    rpn_outside="unmatched",
    rpn_normaliser="sampled",
    rpn_beta=1 / 9,
    box_beta=1.0,
    mask_targets="resized",
)

_BASE = 16  # side of the anchor of scale 1


def _scales(value: Any) -> tuple[tuple[float, ...], ...]:
    return (tuple(_BASE * float(scale) for scale in value),)


def _colour(value: Any) -> tuple[float, ...]:
    red, green, blue = (float(number) for number in value)
    return red, green, blue


# Field of Numerics ← (key of params.yaml, how its value reads)
_FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("min_size", "min_size", int),
    ("max_size", "max_size", int),
    ("pixel_mean", "mean", _colour),
    ("anchor_sizes", "anchor_scales", _scales),
    ("box_pool_size", "roi_size", int),
    ("res5_stride", "roi_size", lambda size: int(size) // 7),
)
_ASSUMED = (*(field for field, _, _ in _FROM_CONFIG), "rpn_pre_nms", "rpn_post_nms", "roi_sampling")

# What its examples train with, and take where an older params.yaml names the data set only.
_DATASETS: Mapping[str, Config] = {
    "coco": {"min_size": 800, "max_size": 1333, "anchor_scales": (2, 4, 8, 16, 32)},
    "voc": {"min_size": 600, "max_size": 1000, "anchor_scales": (4, 8, 16, 32)},
}
_CLASSES = {"coco": COCO_80, "voc": VOC_20}


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a chainer-mask-rcnn file, and of its params.yaml where there is one."""
    if "extractor/res2/a/conv1/W" not in tensors:
        raise unsupported(tensors, "chainer-mask-rcnn", "a backbone that is not a ResNet")
    refuse_what_cannot_be_obeyed(tensors, config or {}, (("pooling_func", ("align",)),), "chainer-mask-rcnn")
    arch, said = _arch(tensors), config or {}
    fifteen = arch.anchors_per_cell == len(_DATASETS["coco"]["anchor_scales"]) * len(NUMERICS.anchor_ratios)
    dataset = str(said.get("dataset", "coco" if fifteen else ""))
    why = "params.yaml: dataset" if "dataset" in said else f"{arch.anchors_per_cell} anchors a cell, as for COCO"
    how = {
        **learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__]),
        **learned("chainer-mask-rcnn's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned("its defaults; params.yaml would say", "assumed", [f"numerics.{name}" for name in _ASSUMED]),
        "classes": Learned("assumed", "80 classes: COCO's" if arch.classes == 80 else "no file says their names"),
    }
    example: dict[str, Learned] = {}
    changes = changes_from(_DATASETS.get(dataset, {}), _FROM_CONFIG, example)
    how |= {name: Learned("read" if "dataset" in said else "implied", why) for name in example}
    changes |= changes_from(said, _FROM_CONFIG, how)
    names = tuple(map(str, said.get("class_names") or ()))
    findings = class_count_fault(tensors, arch.classes, len(names) or None, "class_names")
    key = "class_names" if names else "dataset"
    names = names or _CLASSES.get(str(said.get("dataset")), ())
    if len(names) == arch.classes:
        how["classes"] = Learned("read", f"params.yaml: {key}")
    else:
        names = COCO_80 if arch.classes == 80 else numbered(arch.classes)
    spec = Spec(
        family="chainer-mask-rcnn",
        arch=arch,
        numerics=replace(NUMERICS, **changes),
        classes=names,
        learned=how,
    )
    return Reading(spec, findings=tuple(findings))


def _arch(tensors: Tensors) -> Arch:
    names: Mapping[str, Any] = tensors.arrays
    stages = {2: "extractor", 3: "extractor", 4: "extractor", 5: "head"}
    return Arch(
        classes=shape(tensors, "head/score/W")[0] - 1,
        blocks=tuple(1 + count(names, f"{stages[i]}/res{i}/b{{}}/conv1/W", start=1) for i in (2, 3, 4, 5)),
        stem_width=shape(tensors, "extractor/conv1/W")[0],
        width_per_group=shape(tensors, "extractor/res2/a/conv2/W")[0],
        stem_bias="extractor/conv1/b" in names,
        norm="affine",
        neck="c4",
        rpn_channels=shape(tensors, "rpn/conv1/W")[0],
        anchors_per_cell=shape(tensors, "rpn/score/W")[0],
        box_head="res5",
        box_rows="with-background",
        mask_convs=0,
        mask_channels=shape(tensors, "head/mask/W")[1],
    )


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor."""
    arch = spec.arch

    def conv_norm(ours: str, theirs: str, number: int, *, bias: bool = False) -> Iterator[Link]:
        yield from layer(f"{ours}.conv", f"{theirs}/conv{number}", bias=bias)
        yield from layer(f"{ours}.norm", f"{theirs}/bn{number}")

    def layer(ours: str, theirs: str, *, bias: bool = True) -> Iterator[Link]:
        yield Link(f"{ours}.weight", f"{theirs}/W")
        if bias:
            yield Link(f"{ours}.bias", f"{theirs}/b")

    yield from conv_norm("backbone.stem", "extractor", 1, bias=arch.stem_bias)
    for stage, blocks in enumerate(arch.blocks, 2):
        place, theirs = ("box_head", "head") if stage == 5 else ("backbone", "extractor")
        for block in range(blocks):
            inside = f"{theirs}/res{stage}/{f'b{block}' if block else 'a'}"
            for number in (1, 2, 3):
                yield from conv_norm(f"{place}.res{stage}.{block}.conv{number}", inside, number)
            if block == 0:
                yield from conv_norm(f"{place}.res{stage}.{block}.shortcut", inside, 4)
    yield from layer("rpn.convs.0", "rpn/conv1")
    yield from layer("rpn.objectness", "rpn/score")
    rows = arch.classes + 1
    for vector, theirs in (("weight", "W"), ("bias", "b")):
        yield Link(f"rpn.deltas.{vector}", f"rpn/loc/{theirs}", (xy_first(4 * arch.anchors_per_cell),))
        yield Link(f"box_predictor.cls.{vector}", f"head/score/{theirs}", (background_last(rows),))
        quads = (background_last(4 * rows, 4), xy_first(4 * rows))
        yield Link(f"box_predictor.deltas.{vector}", f"head/cls_loc/{theirs}", quads)
    yield from layer("mask_head.upsample", "head/deconv6")
    yield from layer("mask_predictor.logits", "head/mask")


def ignored(name: str) -> str:
    """Nothing in such a file is superfluous."""
    return ""


FAMILY = Family(
    name="chainer-mask-rcnn",
    title="chainer-mask-rcnn",
    landmarks=("extractor/conv1/W", "rpn/loc/W", "head/cls_loc/W", "head/deconv6/W", "head/mask/W"),
    read=read,
    links=links,
    ignored=ignored,
    configs=("params.yaml",),
    settings=_FROM_CONFIG,
)
