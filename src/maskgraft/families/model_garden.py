"""TF Model Garden (tensorflow/models `official/vision`): `maskrcnn` with a ResNet and a pyramid, by its Trainer.

Names: official/vision `modeling/` and what `core/base_trainer.py` saves. Conventions: `model_garden_config`.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import isqrt

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families.class_names import COCO_90, numbered
from maskgraft.families.family import Config, Family, Reading, count, learned, shape, unsupported
from maskgraft.families.model_garden_config import FROM_CONFIG, numerics_of
from maskgraft.families.model_garden_config import NUMERICS as NUMERICS
from maskgraft.files import Tensors
from maskgraft.links import Link, Reorder, Reshape, Transpose, background_last, xy_first
from maskgraft.spec import Arch, Learned, Spec

TITLE = "TF Model Garden"

_KERNEL = Transpose((3, 2, 0, 1))  # height, width, in, out; of a transposed convolution height, width, out, in
_DENSE = Transpose((1, 0))
_BACKBONE, _DECODER = "backbone/layer_with_weights-{}", "decoder/layer_with_weights-{}"
_RPN, _MASK = "rpn_head", "mask_head"
# Where the detection head stands. A checkpoint of the model alone has all else below "model"; the trainer's names the
# parts at its root too (`checkpoint_items`), and those names are the shorter ones.
_HEADS = ("model/_config_dict/detection_head", "model/detection_head", "detection_head/0", "detection_head")
# In the order in which Keras numbers them: P5's output comes before the others because P6 is made of it.
_PYRAMID = (
    *("lateral5", "lateral4", "lateral3", "lateral2"),
    *("output5", "output2", "output3", "output4", "coarsest"),
)
_PYRAMID_NORMS = ("output2", "output3", "output4", "output5", "coarsest")


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a Model Garden checkpoint, and of its `params.yaml` where there is one."""
    _refuse_what_cannot_be_built(tensors)
    era = next((era for era in _HEADS if f"{era}/_classifier/kernel" in tensors), None)
    if era is None or (era.endswith("/0") and f"{era[:-1]}1/_classifier/kernel" in tensors):
        raise unsupported(tensors, TITLE, "more than one detection head (cascade)")
    arch = _arch(tensors, era)
    numerics, how, findings = numerics_of(tensors, arch.classes, config, TITLE)
    how |= learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__])
    anchors = len(numerics.anchor_ratios) * len(numerics.anchor_sizes[0])
    if config is not None and anchors != arch.anchors_per_cell:
        message = (
            f"{tensors.path.name} has {arch.anchors_per_cell} anchors a cell, its config {anchors} (num_scales × "
            "aspect_ratios)"
        )
        raise CheckpointError(Finding("config.mismatch", "error", message))
    if how["numerics.box_pool_size"].how != "read":  # the config does not say, and the first layer that is dense does
        places = shape(tensors, dense := f"{era}/_fcs/0/kernel")[0] // _pooled_channels(arch)
        numerics = replace(numerics, box_pool_size=isqrt(places))
        how["numerics.box_pool_size"] = Learned("read", dense)
    classes = COCO_90 if arch.classes == len(COCO_90) else numbered(arch.classes)
    how["classes"] = Learned(
        "assumed", "91 rows: COCO's category ids" if classes is COCO_90 else "Model Garden's files have no class names"
    )
    spec = Spec(family="tf_model_garden", arch=arch, numerics=numerics, classes=classes, learned=how)
    return Reading(spec, era, tuple(findings))


_UNKNOWN_PARTS = (
    ("depthwise_kernel", "separable convolutions"),
    ("_squeeze_excitation", "squeeze and excitation"),
    ("_shortcut1", "averaged shortcuts (resnetd_shortcut)"),
)


def _refuse_what_cannot_be_built(tensors: Tensors) -> None:
    """Raises `CheckpointError` for what names and shapes show without a config."""
    root = "model/" if f"model/{_BACKBONE.format(0)}/kernel" in tensors else ""
    parts = {part for name in tensors for part in name.split("/")}
    for part, what in _UNKNOWN_PARTS:
        if part in parts:
            raise unsupported(tensors, TITLE, what)
    if f"{root}{_MASK}/_mask_regressor/kernel" not in tensors:
        raise unsupported(tensors, TITLE, "no mask head")
    if shape(tensors, f"{root}{_BACKBONE.format(0)}/kernel")[0] != 7:
        raise unsupported(tensors, TITLE, "a stem that is not one 7×7 convolution (stem_type)")
    last = f"{root}{_BACKBONE.format(2)}/_conv3/kernel"
    if last not in tensors:
        raise unsupported(tensors, TITLE, "a backbone that is not a ResNet of bottleneck blocks")
    if tensors[last].shape[3] != 256:
        raise unsupported(
            tensors, TITLE, f"a ResNet of other widths (depth_multiplier {tensors[last].shape[3] / 256:g})"
        )
    layers, usual = count(tensors, f"{root}{_DECODER}/kernel"), len(_PYRAMID)
    norms = count(tensors, f"{root}{_DECODER}/gamma", start=layers)
    if (layers, norms) != (usual, len(_PYRAMID_NORMS)):
        raise unsupported(tensors, TITLE, f"a decoder that is not a pyramid of levels 2 to 6 ({layers} convolutions)")
    if shape(tensors, f"{root}{_MASK}/_deconv/kernel")[0] != 2:
        raise unsupported(tensors, TITLE, "masks that are not twice as large as their features (upsample_factor)")


def _root(era: str) -> str:
    return "model/" if era.startswith("model/") else ""


def _blocks(tensors: Tensors, backbone: str) -> tuple[int, ...]:
    """Residual blocks of each stage: the first of each has a shortcut of its own."""
    blocks: list[int] = []
    for index in range(count(tensors, f"{backbone}/_conv1/kernel", start=2)):
        if f"{backbone.format(index + 2)}/_shortcut/kernel" in tensors:
            blocks.append(0)
        blocks[-1] += 1
    return tuple(blocks)


def _arch(tensors: Tensors, head: str) -> Arch:
    backbone, decoder, rpn, mask = (f"{_root(head)}{part}" for part in (_BACKBONE, _DECODER, _RPN, _MASK))
    classes = shape(tensors, f"{head}/_classifier/bias")[0] - 1
    box_convs, mask_convs = count(tensors, f"{head}/_convs/{{}}/kernel"), count(tensors, f"{mask}/_convs/{{}}/kernel")
    boxes, masks = shape(tensors, f"{head}/_box_regressor/bias")[0], shape(tensors, f"{mask}/_mask_regressor/bias")[0]
    if f"{head}/_fcs/0/kernel" not in tensors:
        raise unsupported(tensors, TITLE, "a detection head without fully connected layers (num_fcs 0)")
    return Arch(
        classes=classes,
        blocks=_blocks(tensors, backbone),
        stem_width=shape(tensors, f"{backbone.format(0)}/kernel")[3],
        width_per_group=shape(tensors, f"{backbone.format(2)}/_conv1/kernel")[3],
        norm="batch",
        neck_channels=shape(tensors, f"{decoder.format(0)}/bias")[0],
        neck_norm="batch",
        neck_norm_after="outputs",
        coarsest="conv",
        head_bias=True,
        rpn_convs=count(tensors, f"{rpn}/_convs/{{}}/kernel"),
        rpn_channels=shape(tensors, f"{rpn}/_classifier/kernel")[2],
        rpn_norm="batch",
        anchors_per_cell=shape(tensors, f"{rpn}/_classifier/bias")[0],
        box_convs=box_convs,
        box_conv_channels=shape(tensors, f"{head}/_convs/0/bias")[0] if box_convs else 256,
        box_fcs=count(tensors, f"{head}/_fcs/{{}}/kernel"),
        box_fc_width=shape(tensors, f"{head}/_classifier/kernel")[0],
        box_norm="batch",
        fc_norm="batch",
        box_rows="with-background" if boxes == 4 * (classes + 1) else "agnostic",
        mask_convs=mask_convs,
        mask_channels=shape(tensors, f"{mask}/_deconv/bias")[0],
        mask_norm="batch",
        upsample_norm="batch",
        mask_rows="with-background" if masks == classes + 1 else "agnostic",
    )


def _pooled_channels(arch: Arch) -> int:
    """Of what the box head flattens."""
    return arch.box_conv_channels if arch.box_convs else arch.neck_channels


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor; the era is where the detection head stands."""
    arch = spec.arch
    backbone, decoder, rpn, mask = (f"{_root(era)}{part}" for part in (_BACKBONE, _DECODER, _RPN, _MASK))
    yield from _conv("backbone.stem.conv", backbone.format(0), bias=False)
    yield from _norm("backbone.stem.norm", backbone.format(1))
    number = 2
    for stage, blocks in enumerate(arch.blocks, 2):
        for index in range(blocks):
            ours, theirs = f"backbone.res{stage}.{index}", backbone.format(number)
            for conv in (1, 2, 3):
                yield from _conv(f"{ours}.conv{conv}.conv", f"{theirs}/_conv{conv}", bias=False)
                yield from _norm(f"{ours}.conv{conv}.norm", f"{theirs}/_norm{conv}")
            if index == 0:
                yield from _conv(f"{ours}.shortcut.conv", f"{theirs}/_shortcut", bias=False)
                yield from _norm(f"{ours}.shortcut.norm", f"{theirs}/_norm0")
            number += 1
    for index, name in enumerate(_PYRAMID):
        yield from _conv(f"fpn.{name}.conv", decoder.format(index))
    for index, name in enumerate(_PYRAMID_NORMS, len(_PYRAMID)):
        yield from _norm(f"fpn.{name}.norm", decoder.format(index))
    for index in range(arch.rpn_convs):
        yield from _conv(f"rpn.convs.{index}", f"{rpn}/_convs/{index}")
        for level in range(len(_PYRAMID_NORMS)):
            yield from _norm(f"rpn.norms.{level}.{index}", f"{rpn}/_norms/{level}/{index}")
    yield from _conv("rpn.objectness", f"{rpn}/_classifier")
    order = xy_first(4 * arch.anchors_per_cell)
    yield Link("rpn.deltas.weight", f"{rpn}/_box_regressor/kernel", (_KERNEL, order))
    yield Link("rpn.deltas.bias", f"{rpn}/_box_regressor/bias", (order,))
    yield from _detection_head(spec, era)
    for index in range(arch.mask_convs):
        yield from _conv(f"mask_head.convs.{index}.conv", f"{mask}/_convs/{index}")
        yield from _norm(f"mask_head.convs.{index}.norm", f"{mask}/_conv_norms/{index}")
    yield from _conv("mask_head.upsample", f"{mask}/_deconv")
    yield from _norm("mask_head.norm", f"{mask}/_deconv_bn")
    background = background_last(arch.classes + 1) if arch.mask_rows == "with-background" else Reorder(0, (0,))
    yield Link("mask_predictor.logits.weight", f"{mask}/_mask_regressor/kernel", (_KERNEL, background))
    yield Link("mask_predictor.logits.bias", f"{mask}/_mask_regressor/bias", (background,))


def _detection_head(spec: Spec, head: str) -> Iterator[Link]:
    arch, side, channels = spec.arch, spec.numerics.box_pool_size, _pooled_channels(spec.arch)
    for index in range(arch.box_convs):
        yield from _conv(f"box_head.convs.{index}.conv", f"{head}/_convs/{index}")
        yield from _norm(f"box_head.convs.{index}.norm", f"{head}/_conv_norms/{index}")
    for index in range(arch.box_fcs):
        flat, width = channels * side * side, arch.box_fc_width
        channels_first = (  # they flatten height, width, channels
            Reshape((width, flat), (width, side, side, channels)),
            Transpose((0, 3, 1, 2)),
            Reshape((width, channels, side, side), (width, flat)),
        )
        steps = (_DENSE, *(channels_first if index == 0 else ()))
        yield Link(f"box_head.fcs.{index}.weight", f"{head}/_fcs/{index}/kernel", steps)
        yield Link(f"box_head.fcs.{index}.bias", f"{head}/_fcs/{index}/bias")
        yield from _norm(f"box_head.fc_norms.{index}", f"{head}/_fc_norms/{index}")
    background = background_last(arch.classes + 1)
    yield Link("box_predictor.cls.weight", f"{head}/_classifier/kernel", (_DENSE, background))
    yield Link("box_predictor.cls.bias", f"{head}/_classifier/bias", (background,))
    rows = 4 if arch.box_rows == "agnostic" else 4 * (arch.classes + 1)
    order = (background_last(rows, 4), xy_first(rows))
    yield Link("box_predictor.deltas.weight", f"{head}/_box_regressor/kernel", (_DENSE, *order))
    yield Link("box_predictor.deltas.bias", f"{head}/_box_regressor/bias", order)


def _conv(ours: str, theirs: str, *, bias: bool = True) -> Iterator[Link]:
    yield Link(f"{ours}.weight", f"{theirs}/kernel", (_KERNEL,))
    if bias:
        yield Link(f"{ours}.bias", f"{theirs}/bias")


def _norm(ours: str, theirs: str) -> Iterator[Link]:
    yield Link(f"{ours}.weight", f"{theirs}/gamma")
    yield Link(f"{ours}.bias", f"{theirs}/beta")
    yield Link(f"{ours}.running_mean", f"{theirs}/moving_mean")
    yield Link(f"{ours}.running_var", f"{theirs}/moving_variance")
    yield Link(f"{ours}.num_batches_tracked", f"{theirs}/num_batches_tracked", optional=True)


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    return "a counter of steps" if name in ("global_step", "save_counter") else ""


_LANDMARKS = (
    f"{_BACKBONE.format(2)}/_conv1/kernel",
    f"{_DECODER.format(0)}/kernel",
    f"{_RPN}/_classifier/kernel",
    f"{_RPN}/_box_regressor/kernel",
    f"{_MASK}/_mask_regressor/kernel",
)

FAMILY = Family(
    name="tf_model_garden",
    title=TITLE,
    landmarks=tuple(f"model/{name}" for name in _LANDMARKS),
    older_landmarks=(_LANDMARKS,),
    read=read,
    links=links,
    ignored=ignored,
    eras=_HEADS,
    configs=("params.yaml",),
    settings=FROM_CONFIG,
)
