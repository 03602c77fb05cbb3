"""The `pipeline.config` of the TF Object Detection API, written from a spec: the model, and its label map."""

from collections.abc import Mapping
from typing import Any

from maskgraft.families import tf2_object_detection
from maskgraft.families.pipeline_settings import LOSS_WEIGHTS, METHODS, SCORES
from maskgraft.spec import Numerics, Spec

LABEL_MAP = "label_map.pbtxt"
_MODEL = "model.faster_rcnn"
_HEADS = f"{_MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor"
_NMS = f"{_MODEL}.second_stage_post_processing.batch_non_max_suppression"
# What the builder asks of each kind of layer, and what weights that are restored make no use of.
_CONV = {
    "op": "CONV",
    "regularizer.l2_regularizer.weight": 0.0,
    "initializer.truncated_normal_initializer.stddev": 0.01,
}
_DENSE = {
    "op": "FC",
    "regularizer.l2_regularizer.weight": 0.0,
    "initializer.variance_scaling_initializer.factor": 1.0,
    "initializer.variance_scaling_initializer.uniform": True,
    "initializer.variance_scaling_initializer.mode": "FAN_AVG",
}


def settings(spec: Spec) -> Mapping[str, Any]:
    """The settings by dotted key, as `protobuf_text.write_text` nests them; words in capitals are enum values."""
    arch, numerics = spec.arch, spec.numerics
    stride = tf2_object_detection.STRIDE if spec.family == tf2_object_detection.FAMILY.name else numerics.c4_stride
    said: dict[str, Any] = {"number_of_stages": 3, "num_classes": arch.classes}
    said |= {f"image_resizer.{key}": value for key, value in _resizer(numerics).items()}
    anchors: dict[str, Any] = {
        "height_stride": stride,
        "width_stride": stride,
        "scales": [size / 256 for size in numerics.anchor_sizes[0]],
        "aspect_ratios": [1 / ratio for ratio in numerics.anchor_ratios],
    }
    if offset := numerics.anchor_offset * stride:
        anchors |= {"height_offset": round(offset), "width_offset": round(offset)}
    said |= {
        "feature_extractor.type": _extractor(spec),
        "feature_extractor.first_stage_features_stride": stride,
        **{f"first_stage_anchor_generator.grid_anchor_generator.{key}": value for key, value in anchors.items()},
        "first_stage_atrous_rate": numerics.rpn_dilation,
        **{f"first_stage_box_predictor_conv_hyperparams.{key}": value for key, value in _CONV.items()},
        "first_stage_nms_score_threshold": numerics.rpn_score_threshold or 0.0,
        "first_stage_nms_iou_threshold": numerics.rpn_nms_threshold,
        "first_stage_max_proposals": numerics.rpn_post_nms,
        "first_stage_minibatch_size": numerics.rpn_samples,
        "first_stage_positive_balance_fraction": numerics.rpn_positive_fraction,
        "initial_crop_size": numerics.box_pool_size,
        "maxpool_kernel_size": numerics.roi_max_pool[0],
        "maxpool_stride": numerics.roi_max_pool[1],
        "second_stage_batch_size": numerics.roi_samples,
        "second_stage_balance_fraction": numerics.roi_positive_fraction,
        "second_stage_post_processing.score_converter": next(
            word for word, kind in SCORES.items() if kind == numerics.class_scores
        ),
        **dict(zip(LOSS_WEIGHTS, numerics.loss_weights, strict=True)),
    }
    if numerics.logit_scale != 1:
        said["second_stage_post_processing.logit_scale"] = numerics.logit_scale
    if numerics.anchor_clip_train:
        said["clip_anchors_to_image"] = True
    heads = {
        **{f"fc_hyperparams.{key}": value for key, value in _DENSE.items()},
        **{f"conv_hyperparams.{key}": value for key, value in _CONV.items()},
        "use_dropout": False,
        "dropout_keep_probability": 1.0,
        "predict_instance_masks": True,
        "mask_prediction_conv_depth": arch.mask_channels,
        "mask_prediction_num_conv_layers": arch.mask_convs + 1,
        "mask_height": numerics.mask_size,
        "mask_width": numerics.mask_size,
        "share_box_across_classes": arch.box_rows == "agnostic",
        "masks_are_class_agnostic": arch.mask_rows == "agnostic",
    }
    most = numerics.max_detections if numerics.max_per_class is None else numerics.max_per_class
    suppression = {
        "score_threshold": numerics.score_threshold,
        "iou_threshold": numerics.nms_threshold,
        "max_detections_per_class": most,
        "max_total_detections": numerics.max_detections,
    }
    return {
        **{f"{_MODEL}.{key}": value for key, value in said.items()},
        **{f"{_HEADS}.{key}": value for key, value in heads.items()},
        **{f"{_NMS}.{key}": value for key, value in suppression.items()},
        **{f"{reader}.label_map_path": LABEL_MAP for reader in ("train_input_reader", "eval_input_reader")},
    }


def _resizer(numerics: Numerics) -> dict[str, Any]:
    method = next((word for word, kind in METHODS.items() if kind == numerics.resize), "BILINEAR")
    if numerics.fixed_size is not None:
        height, width = numerics.fixed_size
        kind, said = "fixed_shape_resizer", {"height": height, "width": width}
    elif numerics.min_size == 0:
        return {"identity_resizer": {}}
    else:
        kind, said = (
            "keep_aspect_ratio_resizer",
            {"min_dimension": numerics.min_size, "max_dimension": numerics.max_size},
        )
        if numerics.pad_square:
            said |= {"pad_to_max_dimension": True}
    return {f"{kind}.{key}": value for key, value in said.items()} | (
        {f"{kind}.resize_method": method} if method != "BILINEAR" else {}
    )


def _extractor(spec: Spec) -> str:
    arch = spec.arch
    name = f"resnet{sum(arch.blocks) * 3 + 2}" if arch.backbone == "resnet" else arch.backbone
    return f"faster_rcnn_{name}" + ("_keras" if spec.family.startswith("tf2") else "")
