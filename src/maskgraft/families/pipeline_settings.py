"""What a `pipeline.config` of the TF Object Detection API sets: obeyed, refused by name, or told.

Defaults and meanings: tensorflow/models, research/object_detection `protos/*.proto` and `builders/*.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families.configs import changes_from, setting
from maskgraft.families.family import Config, class_count_fault, learned, not_taken_up, unsupported
from maskgraft.families.pipeline_config import STRAYS
from maskgraft.families.protobuf_text import entries
from maskgraft.families.tf_object_detection import NUMERICS
from maskgraft.files import Tensors
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics

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

_LAYERS = (
    f"{_MODEL}.first_stage_box_predictor_conv_hyperparams",
    f"{_HEADS}.conv_hyperparams",
    f"{_HEADS}.fc_hyperparams",
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
    *((f"{layers}.{norm}", ()) for layers in _LAYERS for norm in ("batch_norm", "sync_batch_norm", "group_norm")),
)


# Settings of trainings alone that one here does not take up, and the value that it has all the same.
_OF_TRAINING: tuple[tuple[str, Any], ...] = (
    (f"{_MODEL}.hard_example_miner", None),
    (f"{_MODEL}.second_stage_classification_loss", {"weighted_softmax": {}}),
    (f"{_MODEL}.feature_extractor.batch_norm_trainable", False),
    ("train_config.freeze_variables", None),
    ("train_config.update_trainable_variables", None),
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


def disagreements(tensors: Tensors, arch: Arch, config: Config, *, extractor: str) -> Iterator[Finding]:
    """Where a config that can be obeyed is not that of the file; `extractor` is what it should call the backbone."""
    yield from class_count_fault(tensors, arch.classes, setting(config, f"{_MODEL}.num_classes"), "num_classes")
    yield from not_taken_up(config, _OF_TRAINING)
    if passed_over := config.get(STRAYS):
        yield Finding(
            "config.mismatch",
            "warning",
            f"the config has what is no part of it, and is read without: {', '.join(passed_over)}",
            evidence={"words": passed_over},
            effect="none here; TensorFlow's own parser stops there",
            fix="delete it",
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
