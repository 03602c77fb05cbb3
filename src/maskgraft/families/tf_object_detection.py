"""What the TF Object Detection API does with a Mask R-CNN, under either TensorFlow, and its `pipeline.config`.

Conventions: tensorflow/models, research/object_detection `meta_architectures/faster_rcnn_meta_arch.py`,
`core/post_processing.py`, `core/preprocessor.py`, `utils/ops.py`, and the defaults of `protos/*.proto`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families.class_names import COCO_90, numbered
from maskgraft.families.configs import changes_from, setting
from maskgraft.families.family import Config, class_count_fault, learned, unsupported
from maskgraft.families.pipeline_config import entries, unused
from maskgraft.files import Tensors
from maskgraft.links import Link, Transpose, background_last, xy_first
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics

KERNEL = Transpose((3, 2, 0, 1))  # height, width, in, out
DENSE = Transpose((1, 0))

NUMERICS = Numerics(
    channel_order="rgb",
    pixel_scale=1.0,
    pixel_mean=(123.68, 116.779, 103.939),
    pixel_std=(1.0, 1.0, 1.0),
    resize="tensorflow-1",
    normalise_first=False,
    size_rounding="even-float",
    min_size=800,
    max_size=1365,
    box_scale="fractions",
    pad_multiple=1,
    norm_eps=1e-5,
    stride_in="3x3",
    pool_padding="same",
    anchor_sizes=((64.0, 128.0, 256.0, 512.0),),
    anchor_ratios=(2.0, 1.0, 0.5),  # aspect_ratios are width / height
    anchor_order="ratio",
    anchor_rounding=False,
    anchor_stride="nominal",
    anchor_clip=True,
    nms_apart=True,
    clip_after_nms=True,
    rpn_activation="relu6",
    rpn_scope="image",
    rpn_rank="probability-first",
    rpn_pre_nms=None,
    rpn_score_threshold=0.0,
    rpn_post_nms=300,
    rpn_min_size=0.0,
    rpn_delta_weights=(10.0, 10.0, 5.0, 5.0),
    delta_clip=None,
    level_epsilon="outside",
    roi_method="crop",
    roi_aligned=False,
    roi_sampling=1,
    box_pool_size=14,
    roi_max_pool=(2, 2),
    score_threshold=0.0,
    box_min_size=0.0,
    nms_threshold=0.6,
    max_per_class=100,
    mask_paste="crop",
    mask_size=33,
    rpn_pre_nms_train=None,
    rpn_post_nms_train=300,
    rpn_straddle=0.0,
    rpn_straddle_closed=True,
    rpn_outside="absent",
    rpn_rescue="first",
    rpn_normaliser="sampled",
    rpn_beta=1.0,
    roi_samples=64,
    roi_truth=False,
    box_beta=1.0,
    loss_mean="image",
    mask_targets="soft-crop",
    loss_weights=(1.0, 2.0, 1.0, 2.0, 4.0),
)

EXTRACTOR = "tf_object_detection_extractor"  # the family under which backbones of other detectors are taken

# What TF-Slim calls its networks.
SLIM_SCOPES = {
    "MobilenetV1": "MobileNet v1",
    "MobilenetV2": "MobileNet v2",
    "MobilenetV3": "MobileNet v3",
    "InceptionV2": "Inception v2",
    "InceptionV3": "Inception v3",
    "InceptionResnetV2": "Inception-ResNet v2",
    "resnet_v1_50": "ResNet-50",
    "resnet_v1_101": "ResNet-101",
    "resnet_v1_152": "ResNet-152",
}

# What the backbones' feature extractors do before and in them.
INCEPTION: dict[str, Any] = {
    "pixel_scale": 2 / 255,
    "pixel_mean": (1.0, 1.0, 1.0),
    "norm_eps": 1e-3,
    "conv_padding": "same",
}

# What a config that does not say otherwise means (`protos/faster_rcnn.proto` and what it names).
_PROTO_DEFAULTS: dict[str, Any] = {
    "min_size": 600,
    "max_size": 1024,
    "c4_stride": 16,
    "rpn_dilation": 1,
    "roi_max_pool": (1, 1),
    "mask_size": 15,
    "class_scores": "logit",
}

_MODEL = "model.faster_rcnn"
_RESIZER = f"{_MODEL}.image_resizer"
_ANCHORS = f"{_MODEL}.first_stage_anchor_generator.grid_anchor_generator"
_HEADS = f"{_MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor"
_AFTER = f"{_MODEL}.second_stage_post_processing"
_NMS = f"{_AFTER}.batch_non_max_suppression"
SCORES = {"SOFTMAX": "softmax", "SIGMOID": "sigmoid", "IDENTITY": "logit"}


# The weights of a pipeline.config, in the order of `Numerics.loss_weights`.
LOSS_WEIGHTS = (
    "first_stage_objectness_loss_weight",
    "first_stage_localization_loss_weight",
    "second_stage_classification_loss_weight",
    "second_stage_localization_loss_weight",
    "second_stage_mask_prediction_loss_weight",
)


def _base(generator: Mapping[str, Any]) -> tuple[float, float]:
    return float(generator.get("height", 256)), float(generator.get("width", 256))


def _sizes(generator: Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    height, width = _base(generator)
    return (tuple(sqrt(height * width) * float(scale) for scale in entries(generator, "scales")),)


def _ratios(generator: Mapping[str, Any]) -> tuple[float, ...]:
    height, width = _base(generator)
    return tuple(height / width / float(ratio) for ratio in entries(generator, "aspect_ratios"))


_KEEP, _FIXED = f"{_RESIZER}.keep_aspect_ratio_resizer", f"{_RESIZER}.fixed_shape_resizer"
_RESIZER_KINDS = {"keep_aspect_ratio_resizer", "fixed_shape_resizer", "identity_resizer"}
METHODS: dict[str, Any] = {  # of resizing
    "BILINEAR": "tensorflow-1",
    "NEAREST_NEIGHBOR": "tensorflow-1-nearest",
    "BICUBIC": "tensorflow-1-cubic",
    "AREA": "tensorflow-1-area",
}


def _offset(generator: Mapping[str, Any]) -> float:
    return float(generator.get("height_offset", 0)) / float(generator.get("height_stride", 16))


# Field of Numerics ← (key of the config, how its value reads)
FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("min_size", f"{_KEEP}.min_dimension", int),
    ("max_size", f"{_KEEP}.max_dimension", int),
    ("resize", f"{_KEEP}.resize_method", METHODS.__getitem__),
    ("pad_square", f"{_KEEP}.pad_to_max_dimension", bool),
    ("pad_black", f"{_KEEP}.pad_to_max_dimension", bool),
    ("clip_shown", f"{_KEEP}.pad_to_max_dimension", bool),
    ("mask_regions", f"{_KEEP}.pad_to_max_dimension", lambda padded: "stretched" if padded else "boxes"),
    ("fixed_size", _FIXED, lambda one: (int(one.get("height", 300)), int(one.get("width", 300)))),
    ("resize", f"{_FIXED}.resize_method", METHODS.__getitem__),
    ("min_size", f"{_RESIZER}.identity_resizer", lambda _: 0),
    ("c4_stride", f"{_MODEL}.feature_extractor.first_stage_features_stride", int),
    ("anchor_sizes", _ANCHORS, _sizes),
    ("anchor_ratios", _ANCHORS, _ratios),
    ("anchor_offset", _ANCHORS, _offset),
    ("anchor_clip_train", f"{_MODEL}.clip_anchors_to_image", bool),
    ("rpn_straddle", f"{_MODEL}.clip_anchors_to_image", lambda cut: None if cut else 0.0),
    ("rpn_outside", f"{_MODEL}.clip_anchors_to_image", lambda cut: "matched" if cut else "absent"),
    ("rpn_dilation", f"{_MODEL}.first_stage_atrous_rate", int),
    ("rpn_score_threshold", f"{_MODEL}.first_stage_nms_score_threshold", float),
    ("rpn_nms_threshold", f"{_MODEL}.first_stage_nms_iou_threshold", float),
    ("rpn_post_nms", f"{_MODEL}.first_stage_max_proposals", int),
    ("rpn_post_nms_train", f"{_MODEL}.first_stage_max_proposals", int),
    ("rpn_samples", f"{_MODEL}.first_stage_minibatch_size", int),
    ("rpn_positive_fraction", f"{_MODEL}.first_stage_positive_balance_fraction", float),
    ("box_pool_size", f"{_MODEL}.initial_crop_size", int),
    (
        "roi_max_pool",
        _MODEL,
        lambda model: (int(model.get("maxpool_kernel_size", 1)), int(model.get("maxpool_stride", 1))),
    ),
    ("mask_size", f"{_HEADS}.mask_height", int),
    ("class_scores", f"{_AFTER}.score_converter", SCORES.__getitem__),
    ("logit_scale", f"{_AFTER}.logit_scale", float),
    ("score_threshold", f"{_NMS}.score_threshold", float),
    ("nms_threshold", f"{_NMS}.iou_threshold", float),
    ("max_per_class", f"{_NMS}.max_detections_per_class", int),
    ("max_detections", f"{_NMS}.max_total_detections", int),
    ("roi_samples", f"{_MODEL}.second_stage_batch_size", int),
    ("roi_positive_fraction", f"{_MODEL}.second_stage_balance_fraction", float),
    ("loss_weights", _MODEL, lambda model: tuple(float(model.get(name, 1)) for name in LOSS_WEIGHTS)),
)

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (f"{_KEEP}.resize_method", tuple(METHODS)),
    (f"{_KEEP}.convert_to_grayscale", (False,)),
    (f"{_KEEP}.per_channel_pad_value", (0, [0, 0], [0, 0, 0])),
    (f"{_FIXED}.resize_method", tuple(METHODS)),
    (f"{_FIXED}.convert_to_grayscale", (False,)),
    (f"{_MODEL}.feature_extractor.first_stage_features_stride", (8, 16)),
    (f"{_MODEL}.first_stage_box_predictor_kernel_size", (3,)),
    (f"{_AFTER}.score_converter", tuple(SCORES)),
    (f"{_AFTER}.calibration_config", ()),
    (f"{_HEADS}.predict_keypoints", (False,)),
    (f"{_NMS}.soft_nms_sigma", (0,)),
    (f"{_NMS}.use_class_agnostic_nms", (False,)),
    (f"{_NMS}.use_combined_nms", (False,)),
    (f"{_MODEL}.use_combined_nms_in_first_stage", (False,)),
    (f"{_MODEL}.context_config", ()),
    (f"{_HEADS}.convolve_then_upsample_masks", (False,)),
    (f"{_HEADS}.conv_hyperparams.activation", ("RELU",)),
    (f"{_HEADS}.fc_hyperparams.activation", ("RELU", "NONE")),
)


# Settings of trainings alone, which one here does not take up, and what it does instead.
_OF_TRAINING: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (f"{_MODEL}.hard_example_miner", ()),
    (f"{_MODEL}.second_stage_classification_loss", ({"weighted_softmax": {}},)),
    (f"{_MODEL}.feature_extractor.batch_norm_trainable", (False,)),
    ("train_config.freeze_variables", ()),
    ("train_config.update_trainable_variables", ()),
)


def numerics(
    tensors: Tensors, config: Config | None, assumed: Mapping[str, Any], *, title: str
) -> tuple[Numerics, dict[str, Learned]]:
    """The conventions of a file, and how each was learned; `assumed` are those of the published models of its backbone.

    Raises `CheckpointError` for settings that the model cannot obey.
    """
    settings = [name for name, _, _ in FROM_CONFIG]
    how = {
        **learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__]),
        **learned(f"the maths of the {title}", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned(
            "as in the published models; pipeline.config would say", "assumed", [f"numerics.{one}" for one in settings]
        ),
    }
    found = replace(NUMERICS, **assumed)
    if config is None:
        return found, how
    _refuse_what_cannot_be_obeyed(tensors, config, title)
    how |= learned("config: protobuf's default", "read", [f"numerics.{name}" for name in settings])
    found = replace(found, **{**_PROTO_DEFAULTS, "fixed_size": None, **changes_from(config, FROM_CONFIG, how)})
    return found, how


def _refuse_what_cannot_be_obeyed(tensors: Tensors, config: Config, title: str) -> None:
    if setting(config, _MODEL) is None:
        kind = ", ".join(config["model"]) if isinstance(config.get("model"), Mapping) else repr(config.get("model"))
        message = f"the config describes another kind of model ({kind}), {tensors.path.name} holds a Mask R-CNN"
        fix = "give the pipeline.config that stood beside the checkpoint"
        raise CheckpointError(Finding("config.mismatch", "error", message, evidence={"model": kind}, fix=fix))
    for key, allowed in _REQUIRED:
        value = setting(config, key)
        if value is not None and value not in allowed:
            instead = f", not {' or '.join(map(str, allowed))}" if allowed else ""
            raise unsupported(tensors, title, f"{key} is {value}{instead}")
    resizers = setting(config, _RESIZER)
    if isinstance(resizers, Mapping) and not _RESIZER_KINDS & set(resizers):
        raise unsupported(tensors, title, f"image_resizer is {', '.join(resizers)}")
    if setting(config, _ANCHORS) is None:
        raise unsupported(tensors, title, "anchors of no grid_anchor_generator")
    anchors = setting(config, _ANCHORS)
    if anchors.get("height_offset", 0) != anchors.get("width_offset", 0):
        raise unsupported(tensors, title, "anchors of a height_offset that is not their width_offset")
    stride = setting(config, f"{_MODEL}.feature_extractor.first_stage_features_stride") or 16
    if {anchors.get("height_stride", 16), anchors.get("width_stride", 16)} != {stride}:
        raise unsupported(
            tensors, title, f"anchors of a stride that is not first_stage_features_stride, which is {stride}"
        )
    masks = setting(config, _HEADS) or {}
    if masks.get("mask_height", 15) != masks.get("mask_width", 15):
        raise unsupported(tensors, title, "masks that are not square")
    for part in ("conv_hyperparams", "fc_hyperparams"):
        if setting(config, f"{_HEADS}.{part}.batch_norm") is not None:
            raise unsupported(tensors, title, f"batch_norm in the {part} of the second stage")
    if setting(config, f"{_MODEL}.first_stage_box_predictor_conv_hyperparams.batch_norm") is not None:
        raise unsupported(tensors, title, "batch_norm in the conv_hyperparams of the first stage")


def without_masks(tensors: Tensors, title: str, backbone: str) -> CheckpointError:
    """The refusal of a Faster R-CNN, and how its backbone can be had all the same."""
    refusal = unsupported(tensors, title, f"no mask head (Faster R-CNN with {backbone})")
    fix = f'mg.load("{tensors.path.name}", family="{EXTRACTOR}") takes its feature extractor and its proposal head'
    return CheckpointError([replace(finding, fix=fix) for finding in refusal.findings])


def disagreements(tensors: Tensors, arch: Arch, config: Config, *, extractor: str) -> Iterator[Finding]:
    """Where a config that can be obeyed is not that of the file; `extractor` is what it should call the backbone."""
    yield from class_count_fault(tensors, arch.classes, setting(config, f"{_MODEL}.num_classes"), "num_classes")
    idle = [key for key, usual in _OF_TRAINING if (said := setting(config, key)) is not None and said not in usual]
    if idle:
        yield Finding(
            "numerics.training",
            "info",
            f"settings that a training here does not take up: {', '.join(idle)}",
            names=tuple(idle),
            effect="none on results; a training differs from one at home",
        )
    surplus = [number for number in config.get("label_map", ()) if number > arch.classes]
    if surplus:
        message = (
            f"{tensors.path.name} has {arch.classes} classes, the label map that its config names goes up to id "
            f"{max(surplus)}"
        )
        fix = "give the label map of the training"
        yield Finding("shape.classes", "warning", message, evidence={"ids": surplus}, fix=fix)
    said = setting(config, f"{_MODEL}.feature_extractor.type")
    if isinstance(said, str) and said != extractor:
        era = said.removesuffix("_keras") == extractor.removesuffix("_keras")
        yield Finding(
            "config.era" if era else "config.mismatch",
            "warning",
            f"{tensors.path.name} holds a {extractor}, its config says {said} (feature_extractor.type)",
            evidence={"file": extractor, "config": said},
            effect=(
                "one is of TensorFlow 1, the other of TensorFlow 2; the home framework would restore nothing"
                if era
                else "the home framework would restore only the layers that both have"
            ),
            fix="give the pipeline.config that stood beside the checkpoint",
        )
    generator = setting(config, _ANCHORS)
    anchors = len(entries(generator, "scales")) * len(entries(generator, "aspect_ratios"))
    if anchors != arch.anchors_per_cell:
        message = (
            f"{tensors.path.name} has {arch.anchors_per_cell} anchors a cell, its config {anchors} (scales × "
            "aspect_ratios)"
        )
        raise CheckpointError(
            Finding("config.mismatch", "error", message, evidence={"file": arch.anchors_per_cell, "config": anchors})
        )


def class_names(arch: Arch, config: Config | None) -> tuple[tuple[str, ...], Learned]:
    """The names of the classes, and how they were learned; id k of a label map is class k - 1."""
    labels = config.get("label_map") if config is not None else None
    if labels:
        names = tuple(labels.get(number, unused(number)) for number in range(1, arch.classes + 1))
        return names, Learned("read", "the label map that the config names")
    if arch.classes == len(COCO_90):
        return COCO_90, Learned("assumed", "90 classes: COCO's category ids")
    return numbered(arch.classes), Learned("assumed", "no label map was found")


def norm_links(ours: str, theirs: str, *, scale: bool = True) -> Iterator[Link]:
    """The vectors of a batch normalisation layer."""
    if scale:
        yield Link(f"{ours}.weight", f"{theirs}/gamma")
    yield Link(f"{ours}.bias", f"{theirs}/beta")
    yield Link(f"{ours}.running_mean", f"{theirs}/moving_mean")
    yield Link(f"{ours}.running_var", f"{theirs}/moving_variance")


def proposal_links(arch: Arch, layers: Mapping[str, str], *, kernel: str, bias: str) -> Iterator[Link]:
    """The proposal head; `layers`, `kernel` and `bias` as in `head_links`."""
    yield Link("rpn.convs.0.weight", f"{layers['rpn']}/{kernel}", (KERNEL,))
    yield Link("rpn.convs.0.bias", f"{layers['rpn']}/{bias}")
    yield Link("rpn.objectness.weight", f"{layers['rpn.objectness']}/{kernel}", (KERNEL,))
    yield Link("rpn.objectness.bias", f"{layers['rpn.objectness']}/{bias}")
    order = xy_first(4 * arch.anchors_per_cell)
    yield Link("rpn.deltas.weight", f"{layers['rpn.deltas']}/{kernel}", (KERNEL, order))
    yield Link("rpn.deltas.bias", f"{layers['rpn.deltas']}/{bias}", (order,))


def head_links(
    arch: Arch, layers: Mapping[str, str], masks: Sequence[str], *, kernel: str, bias: str
) -> Iterator[Link]:
    """Both box predictors and the mask head.

    `layers` has their names for "rpn", "rpn.deltas", "rpn.objectness", "cls" and "deltas", `masks` those of the mask
    head's convolutions, of which the last is the predictor; `kernel` and `bias` are what tensors are called there.
    """
    yield from proposal_links(arch, layers, kernel=kernel, bias=bias)
    background = background_last(arch.classes + 1)
    yield Link("box_predictor.cls.weight", f"{layers['cls']}/{kernel}", (DENSE, background))
    yield Link("box_predictor.cls.bias", f"{layers['cls']}/{bias}", (background,))
    order = xy_first(4 if arch.box_rows == "agnostic" else 4 * arch.classes)
    yield Link("box_predictor.deltas.weight", f"{layers['deltas']}/{kernel}", (DENSE, order))
    yield Link("box_predictor.deltas.bias", f"{layers['deltas']}/{bias}", (order,))
    for index, name in enumerate(masks):
        last = index == len(masks) - 1
        ours = "mask_predictor.logits" if last else f"mask_head.convs.{index}.conv"
        yield Link(f"{ours}.weight", f"{name}/{kernel}", (KERNEL,))
        yield Link(f"{ours}.bias", f"{name}/{bias}")
