"""What in an MMDetection config changes the computation in ways that maskgraft does not have."""

from collections.abc import Mapping
from typing import Any

from maskgraft.families import mmdet_training
from maskgraft.families.configs import setting
from maskgraft.families.mmdet_places import TRUNK, Config, head_of, model_of, norms, stage_settings, transforms

# Kinds of norms, of which groups are 32.
_NORMS = ("BN", "BN2d", "SyncBN", "MMSyncBN", "GN", "BatchNorm2d", "SyncBatchNorm", "GroupNorm")
# The steps of a test pipeline that either change nothing of the pixels or are read.
_STEPS = (
    *("LoadImageFromFile", "LoadImageFromNDArray", "LoadImageFromWebcam", "InferencerLoader", "LoadAnnotations"),
    *("Resize", "RandomFlip", "Normalize", "Pad", "ImageToTensor", "ToTensor", "DefaultFormatBundle", "Collect"),
    *("PackDetInputs", "MultiScaleFlipAug", "TestTimeAug"),
)


# Strides, dilations and which stages are looked at, of the backbone before each neck.
_STAGES = {
    "fpn": ((1, 2, 2, 2), (1, 1, 1, 1), (0, 1, 2, 3)),
    "c4": ((1, 2, 2), (1, 1, 1), (2,)),
    "dc5": ((1, 2, 2, 1), (1, 1, 1, 2), (3,)),
}


def refusal(config: Config, neck: str) -> str:
    """What in a config changes the computation in ways that maskgraft does not have, or ""; `neck` as of `Arch`."""
    model, head = model_of(config), head_of(config)
    testing = stage_settings(config, "test_cfg")
    coders = ("DeltaXYWHBBoxCoder", "LegacyDeltaXYWHBBoxCoder")
    nothing = (0.0,) * 4
    strides, dilations, seen = _STAGES[neck]
    allowed: tuple[tuple[Any, str, tuple[Any, ...]], ...] = (
        (model, "type", ("MaskRCNN",)),
        (model, "data_preprocessor.type", ("DetDataPreprocessor",)),
        (model, "data_preprocessor.pad_value", (0,)),
        (model, "data_preprocessor.rgb_to_bgr", (False,)),
        (model, "backbone.type", ("ResNet", "ResNeXt", "ResNetV1c", "ResNetV1d")),
        (model, "backbone.conv_cfg.type", ("Conv", "Conv2d")),
        (model, "backbone.base_channels", (64,)),
        (model, "backbone.strides", (strides,)),
        (model, "backbone.dilations", (dilations,)),
        (model, "backbone.out_indices", (seen,)),
        (model, "neck.type", ("FPN",)),
        (model, "neck.conv_cfg.type", ("Conv", "Conv2d")),
        (model, "neck.start_level", (0,)),
        (model, "neck.end_level", (-1, 3)),
        (model, "neck.num_outs", (5,)),
        (model, "neck.act_cfg", ()),
        (model, "neck.upsample_cfg.mode", ("nearest",)),
        (model, "rpn_head.type", ("RPNHead",)),
        (model, "rpn_head.loss_cls.use_sigmoid", (True,)),
        (model, "rpn_head.anchor_generator.type", ("AnchorGenerator", "LegacyAnchorGenerator")),
        (model, "rpn_head.bbox_coder.type", coders),
        (model, "rpn_head.bbox_coder.target_means", (nothing,)),
        (model, "rpn_head.bbox_coder.clip_border", (True,)),
        (model, "rpn_head.bbox_coder.add_ctr_clip", (False,)),
        (head, "bbox_roi_extractor.type", ("SingleRoIExtractor",)),
        (head, "bbox_roi_extractor.finest_scale", (56,)),
        (head, "bbox_roi_extractor.featmap_strides", ((4, 8, 16, 32), (16,))),
        (head, "bbox_roi_extractor.roi_layer.type", ("RoIAlign",)),
        (head, "bbox_roi_extractor.roi_layer.pool_mode", ("avg",)),
        (head, "mask_roi_extractor.type", ("SingleRoIExtractor",)),
        (head, "mask_roi_extractor.finest_scale", (56,)),
        (head, "mask_roi_extractor.featmap_strides", ((4, 8, 16, 32), (16,))),
        (head, "mask_roi_extractor.roi_layer.type", ("RoIAlign",)),
        (head, "mask_roi_extractor.roi_layer.pool_mode", ("avg",)),
        *(
            (head, f"mask_roi_extractor.roi_layer.{name}", (said,))
            for name in ("aligned", "sampling_ratio", "sample_num")
            if (said := setting(head, f"bbox_roi_extractor.roi_layer.{name}")) is not None
        ),
        (head, "bbox_head.bbox_coder.type", coders),
        (head, "bbox_head.bbox_coder.target_means", (nothing,)),
        (head, "bbox_head.target_means", (nothing,)),
        (head, "bbox_head.bbox_coder.clip_border", (True,)),
        (head, "bbox_head.bbox_coder.add_ctr_clip", (False,)),
        (head, "bbox_head.loss_cls.type", ("CrossEntropyLoss",)),
        (head, "bbox_head.loss_cls.use_sigmoid", (False,)),
        (head, "bbox_head.cls_predictor_cfg.type", ("Linear",)),
        (head, "bbox_head.reg_predictor_cfg.type", ("Linear",)),
        (head, "mask_head.type", ("FCNMaskHead",)),
        (head, "mask_head.conv_cfg.type", ("Conv", "Conv2d")),
        (head, "mask_head.conv_kernel_size", (3,)),
        (head, "mask_head.upsample_cfg.type", ("deconv",)),
        (head, "mask_head.predictor_cfg.type", ("Conv", "Conv2d")),
        (testing, "rpn.nms_across_levels", (False,)),
        *(
            (testing, f"{stage}.nms.{name}", usual)
            for stage in ("rpn", "rcnn")
            for name, usual in (
                ("type", ("nms",)),
                ("class_agnostic", (False,)),
                ("offset", (0,)),
                ("max_num", (-1, 0)),
                ("score_threshold", (0,)),
            )
        ),
    )
    for part, key, values in allowed:
        said = setting(part, key)
        if said is not None and (tuple(said) if isinstance(said, list) else said) not in values:
            return f"{key} is {said!r}"
    steps = (_step_fault(step) for step in transforms(config))
    faults = (
        *steps,
        _padding_fault(config),
        _norm_fault(model, head),
        _legacy_fault(model, head),
        _count_fault(testing),
    )
    return next(filter(None, faults), "")


def _norm_fault(model: Config, head: Config) -> str:
    """Norms that are none of those known, or of which those of the heads differ in what they add to the variance."""
    every = norms(model, head)
    for name, norm in every.items():
        if norm.get("type") not in _NORMS or norm.get("num_groups", 32) != 32:
            return f"{name}.norm_cfg is {dict(norm)!r}"
    trunk = [norm.get("eps", 1e-5) for name, norm in every.items() if name in TRUNK]
    heads = [norm.get("eps", 1e-5) for name, norm in every.items() if name not in TRUNK]
    if len(set(trunk)) > 1 or len(set(heads)) > 1:
        return f"norms of {', '.join(every)} add {trunk + heads!r} to variances"
    return ""


def _legacy_fault(model: Config, head: Config) -> str:
    """Boxes that are part of MMDetection 1 and part of what came after, or ""."""
    coders = [setting(model, "rpn_head.bbox_coder.type"), setting(head, "bbox_head.bbox_coder.type")]
    made = setting(model, "rpn_head.anchor_generator.type")
    legacy = [str(one).startswith("Legacy") for one in (*coders, made) if one is not None]
    return "" if all(legacy) or not any(legacy) else f"coders {coders[0]} and {coders[1]} with a {made}"


def _step_fault(step: Config) -> str:
    """What a step of the test pipeline does to pixels that maskgraft does not do, or ""."""
    kind = step.get("type")
    if kind not in _STEPS:
        return f"the test pipeline has the step {kind}"
    if kind == "MultiScaleFlipAug" and step.get("img_scale") is None:
        return "images are resized by a factor"
    if kind in ("LoadImageFromFile", "LoadImageFromNDArray"):
        for key, usual in (("to_float32", False), ("color_type", "color")):
            if step.get(key, usual) != usual:
                return f"images are read with {key} {step[key]!r}"
    if kind == "Resize":
        if step.get("scale_factor") is not None:
            return "images are resized by a factor"
        # since 3.0 a `scale` is taken without its ratio where nothing else is said
        if not step.get("keep_ratio", "scale" not in step):
            return "images are resized without keeping their ratio"
        for key, usual in (("backend", "cv2"), ("interpolation", "bilinear")):
            if step.get(key, usual) != usual:
                return f"images are resized with {key} {step[key]!r}"
    if kind == "Pad":
        filled = step.get("pad_val", 0)
        filled = filled.get("img", 0) if isinstance(filled, Mapping) else filled
        if step.get("size") is not None or step.get("pad_to_square") or filled not in (0, (0, 0, 0), [0, 0, 0]):
            return "images are padded to a size of their own, or with another colour than 0"
    return ""


def _padding_fault(config: Config) -> str:
    """Padding by the pipeline, up to whose end boxes are cut since 3.0, and by what comes after it, or ""."""
    padded = next((step for step in transforms(config) if step.get("type") == "Pad"), None)
    if padded is None or setting(config, "model.data_preprocessor") is None:
        return ""
    return f"the test pipeline pads ({dict(padded)!r}) before the data_preprocessor does"


def _count_fault(testing: Config) -> str:
    """A number of proposals that is none: the last of them would be left out, or all."""
    most = mmdet_training.none_or_fewer(testing.get("rpn") or {})
    return "" if most is None else f"rpn.max_per_img is {most!r}"
