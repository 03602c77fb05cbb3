"""What an MMDetection config says about numbers: the three ways in which its versions wrote the same settings."""

from collections.abc import Callable, Mapping
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families import mmdet_training
from maskgraft.families.configs import setting

Config = Mapping[str, Any]


def plain(config: Any) -> Any:
    """A config in which every "type" is a name alone.

        plain({"type": "mmdet.models.detectors.MaskRCNN"})      # {"type": "MaskRCNN"}

    Since 3.1 configs may import what they name, and say in a checkpoint where that stands; before, a scope may stand
    in front.
    """
    if isinstance(config, Mapping):
        return {
            key: value.rpartition(".")[2] if key == "type" and isinstance(value, str) else plain(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        inside = [plain(one) for one in config]
        return inside if isinstance(config, list) else tuple(inside)
    return config


def model_of(config: Config) -> Config:
    """The settings of the model; MMDetection 1 spread its heads over the model itself."""
    model = config.get("model")
    return model if isinstance(model, Mapping) else {}


def head_of(config: Config) -> Config:
    """The settings of what works on regions: `model.roi_head` since 2.0, the model itself before."""
    model = model_of(config)
    head = model.get("roi_head")
    return head if isinstance(head, Mapping) else model


def stage_settings(config: Config, name: str) -> Config:
    """`test_cfg` or `train_cfg` of the model: inside it since 2.3, at the top before."""
    for holder in (model_of(config), config):
        found = holder.get(name)
        if isinstance(found, Mapping) and ("rpn" in found or "rcnn" in found):
            return found
    return {}


def transforms(config: Config) -> list[Config]:
    """The steps that prepare an image for testing, those inside of a test-time augmentation too.

    They stand in the loader of the data, which is what is run, and mostly a second time under a name of their own.
    """
    for key in ("test_dataloader.dataset.pipeline", "data.test.pipeline", "test_pipeline"):
        steps = setting(config, key)
        if isinstance(steps, list | tuple):
            flat: list[Config] = []
            for step in steps:
                if isinstance(step, Mapping):
                    inner = step.get("transforms")
                    inside = [one for one in inner if isinstance(one, Mapping)] if isinstance(inner, list) else []
                    flat += [step, *inside]
            return flat
    return []


# Fields that a config may set to nothing.
_NONE = (
    *("rpn_min_size", "rpn_straddle", "roi_rescue_iou", "rpn_pre_nms"),
    *("rpn_pre_nms_train", "rpn_min_size_train"),
)
_TRUNK = ("backbone", "shared_head")  # the second is C5 of a C4 model
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


def _lengths(values: Any) -> list[Any]:
    """Strides, or sizes; of a pair the shorter one."""
    return [min(one) if isinstance(one, list | tuple) else one for one in values or ()]


def _norm_fault(model: Config, head: Config) -> str:
    """Norms that are none of those known, or of which those of the heads differ in what they add to the variance."""
    every = _norms(model, head)
    for name, norm in every.items():
        if norm.get("type") not in _NORMS or norm.get("num_groups", 32) != 32:
            return f"{name}.norm_cfg is {dict(norm)!r}"
    trunk = [norm.get("eps", 1e-5) for name, norm in every.items() if name in _TRUNK]
    heads = [norm.get("eps", 1e-5) for name, norm in every.items() if name not in _TRUNK]
    if len(set(trunk)) > 1 or len(set(heads)) > 1:
        return f"norms of {', '.join(every)} add {trunk + heads!r} to variances"
    return ""


def _norms(model: Config, head: Config) -> dict[str, Config]:
    """The settings of norms, by the part of the model that they are in."""
    parts = [(model, "backbone"), (model, "neck"), *((head, f"{name}_head") for name in ("shared", "bbox", "mask"))]
    found = {name: setting(part, f"{name}.norm_cfg") for part, name in parts}
    return {name: norm for name, norm in found.items() if isinstance(norm, Mapping)}


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
    return f"the test pipeline has the step {dict(padded)!r}, and there is a data_preprocessor"


def _count_fault(testing: Config) -> str:
    """A number of proposals that is none: the last of them would be left out, or all."""
    most = mmdet_training.none_or_fewer(testing.get("rpn") or {})
    return "" if most is None else f"rpn.max_per_img is {most!r}"


def _augmented(config: Config) -> list[Finding]:
    """What to say where the home framework looks at an image several times, at other sizes or flipped."""
    for step in transforms(config):
        if step.get("type") == "MultiScaleFlipAug":
            scales = step.get("img_scale")
            several = isinstance(scales, list) and len(scales) > 1 and isinstance(scales[0], list | tuple)
            if several or step.get("flip"):
                message = "the config tests each image " + " and ".join(
                    said for said, yes in (("at several sizes", several), ("flipped too", step.get("flip"))) if yes
                )
                effect = "here it is looked at once, at the first size; the home framework merges what it finds"
                return [Finding("numerics.resize", "warning", message, evidence={"img_scale": scales}, effect=effect)]
    return []


def read(config: Config) -> dict[str, Any]:
    """The fields of `Numerics` that a config sets. Raises `CheckpointError` naming what in it cannot be understood."""
    changes: dict[str, Any] = {}
    faults = []
    for part in (_pixels, _backbone, _proposals, _regions, _testing, _training):
        try:
            changes |= {name: value for name, value in part(config).items() if value is not None or name in _NONE}
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError) as error:
            about = part.__name__.strip("_")
            faults.append(Finding("config.mismatch", "error", f"config: its settings of {about} are odd: {error}"))
    if faults:
        raise CheckpointError(faults)
    return changes


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(one) for one in value)


def _when(convert: Callable[[Any], Any], *values: Any) -> Any:
    """The first of `values` that is set, converted."""
    first = next((value for value in values if value is not None), None)
    return None if first is None else convert(first)


def _pixels(config: Config) -> dict[str, Any]:
    steps = transforms(config)
    normalise: Config = next((step for step in steps if step.get("type") == "Normalize"), {})
    if "mean" not in normalise:
        normalise = setting(config, "img_norm_cfg") or {}
    before: Config = setting(config, "model.data_preprocessor") or {}
    to_rgb = _when(bool, before.get("bgr_to_rgb", False) if "mean" in before else None, normalise.get("to_rgb"))
    scales = [step.get("scale") or step.get("img_scale") for step in steps]
    scale = next((one for one in scales if isinstance(one, list | tuple)), None)
    if scale and isinstance(scale[0], list | tuple):
        scale = scale[0]
    pad: Config = next((step for step in steps if step.get("type") == "Pad"), {})
    multiple = before.get("pad_size_divisor", 1) if before else pad.get("size_divisor")
    return {
        "channel_order": None if to_rgb is None else "rgb" if to_rgb else "bgr",
        "pixel_mean": _when(_numbers, before.get("mean"), normalise.get("mean")),
        "pixel_std": _when(_numbers, before.get("std"), normalise.get("std")),
        "min_size": min(scale) if scale else None,
        "max_size": max(scale) if scale else None,
        "pad_multiple": _when(int, multiple),
    }


def _backbone(config: Config) -> dict[str, Any]:
    model = model_of(config)
    style = setting(model, "backbone.style")
    heads = [norm for name, norm in _norms(model, head_of(config)).items() if name not in _TRUNK]
    return {
        "stride_in": {"caffe": "1x1", "pytorch": "3x3"}.get(str(style)),
        "norm_eps": _when(float, setting(model, "backbone.norm_cfg.eps")),
        "head_norm_eps": next((float(norm.get("eps", 1e-5)) for norm in heads), None),
    }


def _proposals(config: Config) -> dict[str, Any]:
    head: Config = model_of(config).get("rpn_head") or {}
    made: Config = head.get("anchor_generator") or {}
    scales = made.get("scales", head.get("anchor_scales"))
    strides = made.get("strides", head.get("anchor_strides"))
    bases = _lengths(made.get("base_sizes") or head.get("anchor_base_sizes") or strides)
    offset = _offset(made, head, _lengths(strides), bases)
    octave, steps = made.get("octave_base_scale"), made.get("scales_per_octave")
    if octave is not None and steps is not None:
        scales = [octave * 2 ** (step / steps) for step in range(steps)]
    sizes = tuple(tuple(float(scale * base) for scale in scales) for base in bases) if scales and bases else None
    stds = _when(_numbers, setting(head, "bbox_coder.target_stds"), head.get("target_stds"))
    changes: dict[str, Any] = {
        "anchor_sizes": sizes,
        "anchor_ratios": _when(_numbers, made.get("ratios"), head.get("anchor_ratios")),
        "anchor_order": None if made.get("scale_major", True) else "size",
        "anchor_offset": offset,
        "rpn_delta_weights": tuple(round(1 / std, 9) for std in stds) if stds else None,
    }
    if made.get("type") == "LegacyAnchorGenerator":
        changes |= {"anchor_rounding": True}
    if setting(head, "bbox_coder.type") == "LegacyDeltaXYWHBBoxCoder":
        changes |= {"inclusive_boxes": True, "decoded_wider": True}
    return changes


def _offset(made: Config, head: Config, strides: list[Any], bases: list[Any]) -> float | None:
    """Where anchors are centred, in strides. Raises `ValueError` where that is another share of each."""
    centres = made.get("centers")
    if centres is not None:
        shares = {part / stride for centre, stride in zip(centres, strides, strict=True) for part in centre}
        if len(shares) != 1:
            raise ValueError(f"anchors are centred at {centres!r}")
        return float(shares.pop())
    said: float | None = _when(float, made.get("center_offset"))
    if bases != strides and (said or "anchor_base_sizes" in head):
        raise ValueError(f"anchors of {bases!r} pixels are centred by their size, and not by their stride")
    return said


def _regions(config: Config) -> dict[str, Any]:
    head = head_of(config)
    layer: Config = setting(head, "bbox_roi_extractor.roi_layer") or {}
    for_masks: Config = setting(head, "mask_roi_extractor.roi_layer") or {}
    stds = setting(head, "bbox_head.bbox_coder.target_stds") or setting(head, "bbox_head.target_stds")
    return {
        "roi_aligned": _when(bool, layer.get("aligned")),
        "roi_sampling": _when(int, layer.get("sampling_ratio"), layer.get("sample_num")),
        "box_pool_size": _when(int, layer.get("output_size"), layer.get("out_size")),
        "mask_pool_size": _when(int, for_masks.get("output_size"), for_masks.get("out_size")),
        "res5_stride": _when(int, setting(head, "shared_head.stride")),
        "box_delta_weights": tuple(round(1 / std, 9) for std in _numbers(stds)) if stds else None,
    }


def _testing(config: Config) -> dict[str, Any]:
    testing = stage_settings(config, "test_cfg")
    rpn: Config = testing.get("rpn") or {}
    rcnn: Config = testing.get("rcnn") or {}
    return {
        **mmdet_training.made(rpn, "", whole="type" in model_of(config), by_level=head_of(config) is model_of(config)),
        "score_threshold": _when(float, rcnn.get("score_thr")),
        "nms_threshold": _overlap(rcnn),
        "max_detections": _when(int, rcnn.get("max_per_img")),
        "mask_threshold": None if _soft_masks(testing) else _when(float, rcnn.get("mask_thr_binary")),
        "rpn_nms_threshold": _overlap(rpn),
    }


def _overlap(stage: Config) -> float | None:
    """From which overlap on a box suppresses others; with `nms=None` none does."""
    if "nms" in stage and stage["nms"] is None:
        return 2.0
    said = (setting(stage, "nms.iou_threshold"), setting(stage, "nms.iou_thr"), stage.get("nms_thr"))
    return next((float(one) for one in said if one is not None), None)


def _soft_masks(testing: Config) -> bool:
    """Whether the home framework gives masks as grey levels of their probabilities."""
    said = setting(testing, "rcnn.mask_thr_binary")
    return isinstance(said, int | float) and said < 0


def _training(config: Config) -> dict[str, Any]:
    parts = model_of(config), head_of(config), stage_settings(config, "train_cfg"), stage_settings(config, "test_cfg")
    return mmdet_training.read(*parts)


def told(config: Config) -> list[Finding]:
    """What to say of settings that results do not follow, and of those that a training does not."""
    training, testing = stage_settings(config, "train_cfg"), stage_settings(config, "test_cfg")
    soft = [
        Finding(
            "numerics.assumed",
            "warning",
            f"rcnn.mask_thr_binary is {setting(testing, 'rcnn.mask_thr_binary')!r}: MMDetection gives each pixel's "
            "probability as a grey level; here a pixel is the object's from 0.5 on",
            effect="masks are bool; `Detections.mask_probs` has the probabilities within the boxes",
            fix='numerics={"mask_threshold": 0.3} cuts them elsewhere',
        )
    ]
    return [
        *_augmented(config),
        *(soft if _soft_masks(testing) else []),
        *mmdet_training.told(model_of(config), head_of(config), training, testing),
    ]
