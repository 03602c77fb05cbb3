"""Matterport's Mask_RCNN for Keras, and its ports to TensorFlow 2: `.h5` of ResNet-50 and -101 with a pyramid.

Conventions: matterport/Mask_RCNN 2.1 `mrcnn/config.py`, `mrcnn/model.py`, `mrcnn/utils.py`. No checkpoint holds its
`Config`; its defaults are taken unless the Python file with the class is given.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families import matterport_config
from maskgraft.families.class_names import COCO_80, numbered
from maskgraft.families.family import (
    Config,
    Family,
    Reading,
    class_count_fault,
    learned,
    not_taken_up,
    shape,
    unsupported,
)
from maskgraft.files import Tensors
from maskgraft.links import Link, Reshape, Step, Transpose, background_last, xy_first
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics, Spec

NUMERICS = Numerics(
    channel_order="rgb",
    pixel_scale=1.0,
    pixel_mean=(123.7, 116.8, 103.9),
    pixel_std=(1.0, 1.0, 1.0),
    resize="skimage",
    normalise_first=False,
    size_rounding="even",
    min_size=800,
    max_size=1024,
    enlarge_only=True,
    pad_multiple=64,
    pad_square=True,
    pad_centred=True,
    pad_black=True,
    norm_eps=1e-3,
    stride_in="1x1",
    pool_padding="same",
    anchor_ratios=(2.0, 1.0, 0.5),  # RPN_ANCHOR_RATIOS are width / height
    anchor_order="ratio",
    anchor_rounding=False,
    anchor_stride="nominal",
    corner_boxes=True,
    rpn_scope="image",
    rpn_rank="probability-first",
    rpn_pre_nms=6000,
    rpn_post_nms=1000,
    rpn_min_size=None,
    detect_filled=True,
    rpn_delta_weights=(10.0, 10.0, 5.0, 5.0),
    delta_clip=None,
    nms_at_threshold=True,
    nms_apart=True,
    nms_ties="heap",
    nms_flat_last=True,
    level_epsilon="outside",
    level_epsilon_value=0.0,
    level_rounding="round",
    roi_method="crop",
    roi_aligned=False,
    roi_sampling=1,
    class_choice="best",
    score_threshold=0.7,
    box_min_size=0.0,
    nms_threshold=0.3,
    box_rounding="whole",
    mask_paste="skimage-box",
    rpn_pre_nms_train=6000,
    rpn_post_nms_train=2000,
    rpn_normaliser="sampled",
    rpn_box_mean=True,
    rpn_beta=1.0,
    roi_samples=200,
    roi_positive_fraction=0.33,
    roi_truth=False,
    roi_negatives="ratio",
    roi_filled=True,
    box_beta=1.0,
    box_mean=True,
    mask_targets="mini-crop",
)

# What `Config` is subclassed for, and no file says.
_CONFIGURED = (
    "min_size",
    "max_size",
    "pixel_mean",
    "anchor_sizes",
    "anchor_ratios",
    "rpn_pre_nms",
    "rpn_post_nms",
    "rpn_nms_threshold",
    "rpn_delta_weights",
    "box_delta_weights",
    "score_threshold",
    "nms_threshold",
    "max_detections",
    "pad_square",
)

_KERNEL = Transpose((3, 2, 0, 1))  # height, width, in, out; of a transposed convolution height, width, out, in
_DENSE = Transpose((1, 0))


def _in_layer(layer: str, weight: str) -> str:
    return f"{layer}/{layer}/{weight}:0"


def _in_rpn(layer: str, weight: str) -> str:
    return f"rpn_model/{layer}/{weight}:0"


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a Matterport file, and of the `Config` class that is given with it."""
    names = tensors.arrays
    if _in_layer("res2a_branch2a", "kernel") not in names:
        raise unsupported(tensors, "Matterport Mask_RCNN", "a backbone that is not its ResNet")
    channels = shape(tensors, _in_layer("conv1", "kernel"))[2]
    if channels != 3:
        raise unsupported(tensors, "Matterport Mask_RCNN", f"IMAGE_CHANNEL_COUNT is {channels}, not 3")
    arch = _arch(tensors)
    how = {
        **learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__]),
        **learned("Matterport's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned("Matterport's Config; yours may differ", "assumed", [f"numerics.{n}" for n in _CONFIGURED]),
        "numerics.box_pool_size": Learned("read", _in_layer("mrcnn_class_conv1", "kernel")),
        "classes": Learned("assumed", "80 classes: COCO's" if arch.classes == 80 else "the file has no class names"),
    }
    numerics = _with_pool_size(tensors)
    findings: list[Finding] = []
    if config is not None:
        if what := matterport_config.refusal(config):
            raise unsupported(tensors, "Matterport Mask_RCNN", what)
        numerics = replace(numerics, **matterport_config.read(config, how))
        rows = config.get("NUM_CLASSES")
        said = rows - 1 if isinstance(rows, int) else None
        findings += class_count_fault(tensors, arch.classes, said, "NUM_CLASSES less background")
        findings += not_taken_up(config, matterport_config.TRAINING)
    spec = Spec(
        family="matterport",
        arch=arch,
        numerics=numerics,
        classes=COCO_80 if arch.classes == 80 else numbered(arch.classes),
        learned=how,
    )
    return Reading(spec, "", tuple(findings))


def _with_pool_size(tensors: Tensors) -> Numerics:
    return replace(NUMERICS, box_pool_size=shape(tensors, _in_layer("mrcnn_class_conv1", "kernel"))[0])


def _blocks(names: Mapping[str, Any], stage: int) -> int:
    count = 0
    while _in_layer(f"res{stage}{_letter(count)}_branch2a", "kernel") in names:
        count += 1
    return count


def _letter(block: int) -> str:
    return chr(ord("a") + block)


def _arch(tensors: Tensors) -> Arch:
    names = tensors.arrays
    mask_convs = 0
    while _in_layer(f"mrcnn_mask_conv{mask_convs + 1}", "kernel") in names:
        mask_convs += 1
    return Arch(
        classes=shape(tensors, _in_layer("mrcnn_class_logits", "kernel"))[1] - 1,
        blocks=tuple(_blocks(names, stage) for stage in (2, 3, 4, 5)),
        stem_width=shape(tensors, _in_layer("conv1", "kernel"))[3],
        width_per_group=shape(tensors, _in_layer("res2a_branch2a", "kernel"))[3],
        conv_bias=_in_layer("conv1", "bias") in names,
        norm="frozen",
        neck_channels=shape(tensors, _in_layer("fpn_c5p5", "kernel"))[3],
        rpn_channels=shape(tensors, _in_rpn("rpn_conv_shared", "kernel"))[3],
        anchors_per_cell=shape(tensors, _in_rpn("rpn_class_raw", "kernel"))[3] // 2,
        objectness="softmax",
        box_fcs=2,
        box_fc_width=shape(tensors, _in_layer("mrcnn_class_conv1", "kernel"))[3],
        fc_norm="frozen",
        box_rows="with-background",
        mask_convs=mask_convs,
        mask_channels=shape(tensors, _in_layer("mrcnn_mask_deconv", "kernel"))[2],
        mask_norm="frozen",
        mask_rows="with-background",
    )


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor."""
    arch, classes = spec.arch, spec.arch.classes + 1
    yield from _conv("backbone.stem.conv", "conv1", bias=arch.conv_bias)
    yield from _norm("backbone.stem.norm", "bn_conv1")
    for stage, blocks in enumerate(arch.blocks, 2):
        for block in range(blocks):
            ours, theirs = f"backbone.res{stage}.{block}", f"{stage}{_letter(block)}_branch"
            branches = {"conv1": "2a", "conv2": "2b", "conv3": "2c"} | ({} if block else {"shortcut": "1"})
            for part, branch in branches.items():
                yield from _conv(f"{ours}.{part}.conv", f"res{theirs}{branch}", bias=arch.conv_bias)
                yield from _norm(f"{ours}.{part}.norm", f"bn{theirs}{branch}")
    for level in (2, 3, 4, 5):
        yield from _conv(f"fpn.lateral{level}.conv", f"fpn_c{level}p{level}")
        yield from _conv(f"fpn.output{level}.conv", f"fpn_p{level}")
    for part, layer, steps in (
        ("convs.0", "rpn_conv_shared", ()),
        ("objectness", "rpn_class_raw", ()),
        ("deltas", "rpn_bbox_pred", (xy_first(4 * arch.anchors_per_cell),)),
    ):
        yield Link(f"rpn.{part}.weight", _in_rpn(layer, "kernel"), (_KERNEL, *steps))
        yield Link(f"rpn.{part}.bias", _in_rpn(layer, "bias"), steps)
    width, pool = arch.box_fc_width, spec.numerics.box_pool_size
    for index, (before, side) in enumerate(((arch.neck_channels, pool), (width, 1))):
        flat = Reshape((width, before, side, side), (width, before * side**2))
        yield from _conv(f"box_head.fcs.{index}", f"mrcnn_class_conv{index + 1}", kernel=(_KERNEL, flat))
        yield from _norm(f"box_head.fc_norms.{index}", f"mrcnn_class_bn{index + 1}")
    rows = (background_last(classes),)
    quads = (background_last(4 * classes, 4), xy_first(4 * classes))
    yield from _conv("box_predictor.cls", "mrcnn_class_logits", kernel=(_DENSE, *rows), vector=rows)
    yield from _conv("box_predictor.deltas", "mrcnn_bbox_fc", kernel=(_DENSE, *quads), vector=quads)
    for index in range(arch.mask_convs):
        yield from _conv(f"mask_head.convs.{index}.conv", f"mrcnn_mask_conv{index + 1}", bias=arch.conv_bias)
        yield from _norm(f"mask_head.convs.{index}.norm", f"mrcnn_mask_bn{index + 1}")
    yield from _conv("mask_head.upsample", "mrcnn_mask_deconv")
    yield from _conv("mask_predictor.logits", "mrcnn_mask", kernel=(_KERNEL, *rows), vector=rows)


def _conv(
    ours: str,
    layer: str,
    *,
    kernel: tuple[Step, ...] = (_KERNEL,),
    vector: tuple[Step, ...] = (),
    bias: bool = True,
) -> Iterator[Link]:
    yield Link(f"{ours}.weight", _in_layer(layer, "kernel"), kernel)
    if bias:
        yield Link(f"{ours}.bias", _in_layer(layer, "bias"), vector)


def _norm(ours: str, layer: str) -> Iterator[Link]:
    for mine, theirs in (
        ("weight", "gamma"),
        ("bias", "beta"),
        ("running_mean", "moving_mean"),
        ("running_var", "moving_variance"),
    ):
        yield Link(f"{ours}.{mine}", _in_layer(layer, theirs))


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    return "anchors are computed, not learned" if name.startswith("anchors/") else ""


FAMILY = Family(
    name="matterport",
    title="Matterport Mask_RCNN (Keras)",
    landmarks=(
        _in_layer("fpn_c2p2", "kernel"),
        _in_rpn("rpn_conv_shared", "kernel"),
        _in_layer("mrcnn_class_conv1", "kernel"),
        _in_layer("mrcnn_bbox_fc", "kernel"),
        _in_layer("mrcnn_mask_deconv", "kernel"),
    ),
    read=read,
    links=links,
    ignored=ignored,
    read_config=matterport_config.read_class,
    settings=matterport_config.FROM_CONFIG,
)
