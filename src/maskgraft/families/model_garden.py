"""TF Model Garden (tensorflow/models `official/vision`): `maskrcnn` with a ResNet and a pyramid, by its Trainer.

Conventions: official/vision `configs/maskrcnn.py`, `dataloaders/maskrcnn_input.py`, `modeling/`, `ops/`;
field by field in `_FROM_CONFIG`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families.class_names import COCO_90, numbered
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
from maskgraft.links import Link, Reorder, Reshape, Transpose, background_last, xy_first
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics, Spec

TITLE = "TF Model Garden"

NUMERICS = Numerics(
    channel_order="rgb",
    pixel_scale=0.003921568859368563,  # 1 / 255 as float32: TensorFlow multiplies, and does not divide by 255
    pixel_mean=(0.485, 0.456, 0.406),
    pixel_std=(0.229, 0.224, 0.225),
    resize="tensorflow",
    normalise_first=True,
    size_rounding="even-float",
    fixed_size=(1024, 1024),
    fixed_fit="inside",
    pad_multiple=64,
    norm_eps=1e-4,
    stride_in="3x3",
    conv_padding="same",
    pool_padding="same",
    anchor_ratios=(2.0, 1.0, 0.5),  # aspect_ratios are width / height
    anchor_order="size",
    anchor_rounding=False,
    anchor_stride="nominal",
    anchor_offset=0.5,
    nms_at_threshold=True,
    nms_apart=True,
    nms_tiled=True,
    rpn_nms_tiled=True,
    rpn_rank="probability-first",
    rpn_min_size=None,
    level_epsilon="outside",
    level_epsilon_value=0.0,
    roi_aligned=False,
    roi_any_size=True,
    roi_sampling=1,
    box_min_size=0.0,
    detect_padded=True,
    mask_paste="integer-box",
    rpn_post_nms_train=1000,
    rpn_rescue="first",
    rpn_normaliser="regions",
    rpn_box_mean=True,
    rpn_box_levels=True,
    rpn_beta=1 / 9,
    rpn_filled=True,
    box_beta=1.0,
    box_mean=True,
    mean_offset=0.01,
    mask_targets="mini-sample",
    loss_weights=(1.0, 1 / 9, 1.0, 1.0, 1.0),  # the Huber loss is smooth L1 times its delta
)

_MODEL = "task.model"


def _sizes(anchor: Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    scales = int(anchor.get("num_scales", 1))
    steps = [float(anchor.get("anchor_size", 8.0)) * 2 ** (octave / scales) for octave in range(scales)]
    return tuple(tuple(2**level * step for step in steps) for level in (2, 3, 4, 5, 6))


def _weights(value: Any) -> tuple[float, ...]:
    y, x, height, width = map(float, value)
    return x, y, width, height


def _loss_weights(losses: Mapping[str, Any]) -> tuple[float, ...]:
    """Its Huber losses are smooth L1 times their deltas."""
    weights = {"rpn_score": 1.0, "rpn_box": losses.get("rpn_huber_loss_delta", 1 / 9), "frcnn_class": 1.0}
    weights |= {"frcnn_box": losses.get("frcnn_huber_loss_delta", 1.0), "mask": 1.0}
    every = float(losses.get("loss_weight", 1.0))
    return tuple(every * weight * float(losses.get(f"{name}_weight", 1.0)) for name, weight in weights.items())


def _above_nothing(value: Any) -> float | None:
    return float(value) or None


# Field of Numerics ← (key of the config, how its value reads)
_FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("fixed_size", f"{_MODEL}.input_size", lambda size: (int(size[0]), int(size[1]))),
    ("norm_eps", f"{_MODEL}.norm_activation.norm_epsilon", float),
    ("anchor_sizes", f"{_MODEL}.anchor", _sizes),
    ("anchor_ratios", f"{_MODEL}.anchor.aspect_ratios", lambda ratios: tuple(1 / float(ratio) for ratio in ratios)),
    ("rpn_pre_nms", f"{_MODEL}.roi_generator.test_pre_nms_top_k", int),
    ("rpn_score_threshold", f"{_MODEL}.roi_generator.test_pre_nms_score_threshold", _above_nothing),
    ("rpn_post_nms", f"{_MODEL}.roi_generator.test_num_proposals", int),
    ("rpn_nms_threshold", f"{_MODEL}.roi_generator.test_nms_iou_threshold", float),
    ("rpn_pre_nms_train", f"{_MODEL}.roi_generator.pre_nms_top_k", int),
    ("rpn_post_nms_train", f"{_MODEL}.roi_generator.num_proposals", int),
    ("box_pool_size", f"{_MODEL}.roi_aligner.crop_size", int),
    ("mask_pool_size", f"{_MODEL}.mask_roi_aligner.crop_size", int),
    ("score_threshold", f"{_MODEL}.detection_generator.pre_nms_score_threshold", float),
    ("nms_threshold", f"{_MODEL}.detection_generator.nms_iou_threshold", float),
    ("max_detections", f"{_MODEL}.detection_generator.max_num_detections", int),
    ("roi_samples", f"{_MODEL}.roi_sampler.num_sampled_rois", int),
    ("roi_positive_fraction", f"{_MODEL}.roi_sampler.foreground_fraction", float),
    ("roi_positive_iou", f"{_MODEL}.roi_sampler.foreground_iou_threshold", float),
    ("roi_truth", f"{_MODEL}.roi_sampler.mix_gt_boxes", bool),
    ("rpn_samples", "task.train_data.parser.rpn_batch_size_per_im", int),
    ("rpn_positive_fraction", "task.train_data.parser.rpn_fg_fraction", float),
    ("rpn_positive_iou", "task.train_data.parser.rpn_match_threshold", float),
    ("rpn_negative_iou", "task.train_data.parser.rpn_unmatched_threshold", float),
    ("rpn_beta", "task.losses.rpn_huber_loss_delta", float),
    ("box_beta", "task.losses.frcnn_huber_loss_delta", float),
    ("loss_weights", "task.losses", _loss_weights),
)

# The same of settings that its later versions have.
_OF_LATER: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("box_delta_weights", f"{_MODEL}.detection_generator.box_coder_weights", _weights),
    # all versions but v2 are greedy; "batched", TensorFlow's `combined_non_max_suppression`, keeps boxes of no area
    ("nms_tiled", f"{_MODEL}.detection_generator.nms_version", lambda version: version == "v2"),
    ("nms_at_threshold", f"{_MODEL}.detection_generator.nms_version", lambda version: version != "batched"),
    ("detect_filled", f"{_MODEL}.detection_generator.nms_version", lambda version: version == "batched"),
)

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (f"{_MODEL}.min_level", (2,)),
    (f"{_MODEL}.max_level", (6,)),
    (f"{_MODEL}.norm_activation.activation", ("relu",)),
    (f"{_MODEL}.backbone.resnet.stem_type", ("v0",)),
    (f"{_MODEL}.backbone.resnet.resnetd_shortcut", (False,)),
    (f"{_MODEL}.backbone.resnet.replace_stem_max_pool", (False,)),
    (f"{_MODEL}.decoder.fpn.fusion_type", ("sum",)),
    (f"{_MODEL}.roi_generator.test_pre_nms_min_size_threshold", (0,)),
    (f"{_MODEL}.roi_aligner.sample_offset", (0.5,)),
    (f"{_MODEL}.mask_roi_aligner.sample_offset", (0.5,)),
    (f"{_MODEL}.mask_head.upsample_factor", (2,)),
    (f"{_MODEL}.detection_generator.apply_nms", (True,)),
    (f"{_MODEL}.roi_generator.use_batched_nms", (False,)),
    (f"{_MODEL}.detection_generator.nms_version", ("v1", "v2", "batched")),
    (f"{_MODEL}.detection_generator.use_sigmoid_probability", (False,)),
    (f"{_MODEL}.detection_generator.use_class_agnostic_nms", (False,)),
    (f"{_MODEL}.backbone.type", ("resnet",)),
    (f"{_MODEL}.decoder.type", ("fpn",)),
    (f"{_MODEL}.outer_boxes_scale", (1,)),
    ("task.train_data.parser.pad", (True,)),
    ("task.train_data.parser.keep_aspect_ratio", (True,)),
)

# Settings of trainings alone, which one here does not take up.
_OF_TRAINING: tuple[tuple[str, Any], ...] = (
    (f"{_MODEL}.roi_generator.pre_nms_min_size_threshold", 0),
    (f"{_MODEL}.roi_sampler.background_iou_low_threshold", 0),
    ("task.train_data.parser.mask_crop_size", 112),
    ("task.losses.frcnn_class_use_binary_cross_entropy", False),
    ("task.losses.frcnn_class_loss_top_k_percent", 1),
    ("task.losses.class_weights", None),
    ("task.allowed_mask_class_ids", None),
)
# … and those that are the same as another, here.
_SAME_IN_TRAINING = (
    (f"{_MODEL}.roi_generator.nms_iou_threshold", f"{_MODEL}.roi_generator.test_nms_iou_threshold"),
    (f"{_MODEL}.roi_generator.pre_nms_score_threshold", f"{_MODEL}.roi_generator.test_pre_nms_score_threshold"),
    (f"{_MODEL}.roi_sampler.background_iou_high_threshold", f"{_MODEL}.roi_sampler.foreground_iou_threshold"),
)

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
    how = {
        **learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__]),
        **learned("Model Garden's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned(
            "Model Garden's defaults; params.yaml would say",
            "assumed",
            [f"numerics.{one}" for one, _, _ in _FROM_CONFIG],
        ),
    }
    found, findings = NUMERICS, []
    if config is not None:
        refuse_what_cannot_be_obeyed(tensors, config, _REQUIRED, TITLE)
        found = replace(found, **changes_from(config, (*_FROM_CONFIG, *_OF_LATER), how))
        said = setting(config, f"{_MODEL}.num_classes")
        key = f"{_MODEL}.num_classes, which counts the background"
        findings += class_count_fault(tensors, arch.classes, None if said is None else int(said) - 1, key)
        masks, positives = (
            f"{_MODEL}.mask_sampler.num_sampled_masks",
            int(found.roi_samples * found.roi_positive_fraction),
        )
        enough = (masks, max(positives, int(setting(config, masks) or 0)))  # as many masks as there are positives
        alike = [(key, other) for key, like in _SAME_IN_TRAINING if (other := setting(config, like)) is not None]
        findings += not_taken_up(config, (*_OF_TRAINING, enough, *alike))
        generator = f"{_MODEL}.detection_generator"
        most, version = setting(config, f"{generator}.pre_nms_top_k"), setting(config, f"{generator}.nms_version")
        if isinstance(most, int) and most < found.rpn_post_nms and version != "batched":
            what = f"{generator}.pre_nms_top_k is {most}, and there are {found.rpn_post_nms} proposals"
            raise unsupported(tensors, TITLE, what)
        if version == "v1" and setting(config, f"{generator}.soft_nms_sigma"):
            raise unsupported(tensors, TITLE, f"{generator}.soft_nms_sigma with nms_version v1")
    anchors = len(found.anchor_ratios) * len(found.anchor_sizes[0])
    if anchors != arch.anchors_per_cell:
        message = (
            f"{tensors.path.name} has {arch.anchors_per_cell} anchors a cell, its config {anchors} (num_scales × "
            "aspect_ratios)"
        )
        raise CheckpointError(Finding("config.mismatch", "error", message))
    classes = COCO_90 if arch.classes == len(COCO_90) else numbered(arch.classes)
    how["classes"] = Learned(
        "assumed", "91 rows: COCO's category ids" if classes is COCO_90 else "Model Garden's files have no class names"
    )
    spec = Spec(family="tf_model_garden", arch=arch, numerics=found, classes=classes, learned=how)
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
    arch, side = spec.arch, spec.numerics.box_pool_size
    channels = arch.box_conv_channels if arch.box_convs else arch.neck_channels
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
    settings=_FROM_CONFIG,
)
