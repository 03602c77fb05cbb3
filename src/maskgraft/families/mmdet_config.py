"""What an MMDetection config says about numbers: the three ways in which its versions wrote the same settings."""

from collections.abc import Callable, Mapping
from typing import Any

from maskgraft.errors import CheckpointError, Finding
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


# The steps of a test pipeline that either change nothing of the pixels or are read.
_STEPS = (
    *("LoadImageFromFile", "LoadImageFromNDArray", "LoadImageFromWebcam", "InferencerLoader", "LoadAnnotations"),
    *("Resize", "RandomFlip", "Normalize", "Pad", "ImageToTensor", "ToTensor", "DefaultFormatBundle", "Collect"),
    *("PackDetInputs", "MultiScaleFlipAug", "TestTimeAug"),
)


def refusal(config: Config) -> str:
    """What in a config changes the computation in ways that maskgraft does not have, or ""."""
    model, head = model_of(config), head_of(config)
    testing = stage_settings(config, "test_cfg")
    coders = ("DeltaXYWHBBoxCoder", "LegacyDeltaXYWHBBoxCoder")
    nothing = (0.0,) * 4
    allowed: tuple[tuple[Any, str, tuple[Any, ...]], ...] = (
        (model, "type", ("MaskRCNN",)),
        (model, "data_preprocessor.type", ("DetDataPreprocessor",)),
        (model, "data_preprocessor.pad_value", (0,)),
        (model, "data_preprocessor.rgb_to_bgr", (False,)),
        (model, "backbone.type", ("ResNet", "ResNeXt")),
        (model, "backbone.conv_cfg.type", ("Conv", "Conv2d")),
        (model, "backbone.deep_stem", (False,)),
        (model, "backbone.avg_down", (False,)),
        (model, "backbone.with_cp", (False, True)),
        (model, "backbone.strides", ((1, 2, 2, 2), (1, 2, 2))),
        (model, "backbone.dilations", ((1, 1, 1, 1), (1, 1, 1))),
        (model, "backbone.out_indices", ((0, 1, 2, 3), (2,))),
        (model, "neck.type", ("FPN",)),
        (model, "neck.conv_cfg.type", ("Conv", "Conv2d")),
        (model, "neck.start_level", (0,)),
        (model, "neck.num_outs", (5,)),
        (model, "neck.act_cfg", ()),
        (model, "neck.upsample_cfg.mode", ("nearest",)),
        (model, "rpn_head.type", ("RPNHead",)),
        (model, "rpn_head.loss_cls.use_sigmoid", (True,)),
        (model, "rpn_head.anchor_generator.type", ("AnchorGenerator", "LegacyAnchorGenerator")),
        (model, "rpn_head.anchor_generator.centers", ()),
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
        (testing, "rcnn.nms.type", ("nms",)),
        (testing, "rcnn.nms.class_agnostic", (False,)),
        (testing, "rpn.nms.type", ("nms",)),
        (testing, "rpn.nms_across_levels", (False,)),
    )
    for part, key, values in allowed:
        said = setting(part, key)
        if said is not None and (tuple(said) if isinstance(said, list) else said) not in values:
            return f"{key} is {said!r}"
    return next((fault for step in transforms(config) if (fault := _step_fault(step))), "")


def _step_fault(step: Config) -> str:
    """What a step of the test pipeline does to pixels that maskgraft does not do, or ""."""
    kind = step.get("type")
    if kind not in _STEPS:
        return f"the test pipeline has the step {kind}"
    if kind == "Resize":
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


def augmented(config: Config) -> list[Finding]:
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
            changes |= {name: value for name, value in part(config).items() if value is not None}
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
    to_rgb = _when(bool, before.get("bgr_to_rgb", False) if before else None, normalise.get("to_rgb"))
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
    return {
        "stride_in": {"caffe": "1x1", "pytorch": "3x3"}.get(str(style)),
        "norm_eps": _when(float, setting(model, "backbone.norm_cfg.eps")),
    }


def _proposals(config: Config) -> dict[str, Any]:
    head: Config = model_of(config).get("rpn_head") or {}
    made: Config = head.get("anchor_generator") or {}
    scales = made.get("scales", head.get("anchor_scales"))
    strides = made.get("strides", head.get("anchor_strides"))
    bases = made.get("base_sizes") or head.get("anchor_base_sizes") or strides
    if bases:  # strides may be pairs
        bases = [min(base) if isinstance(base, list | tuple) else base for base in bases]
    octave, steps = made.get("octave_base_scale"), made.get("scales_per_octave")
    if octave is not None and steps is not None:
        scales = [octave * 2 ** (step / steps) for step in range(steps)]
    sizes = tuple(tuple(float(scale * base) for scale in scales) for base in bases) if scales and bases else None
    stds = _when(_numbers, setting(head, "bbox_coder.target_stds"), head.get("target_stds"))
    changes: dict[str, Any] = {
        "anchor_sizes": sizes,
        "anchor_ratios": _when(_numbers, made.get("ratios"), head.get("anchor_ratios")),
        "anchor_order": None if made.get("scale_major", True) else "size",
        "anchor_offset": _when(float, made.get("center_offset")),
        "rpn_delta_weights": tuple(round(1 / std, 9) for std in stds) if stds else None,
        "rpn_beta": _beta(head.get("loss_bbox")),
        "rpn_box_loss": _LOSSES.get(str(setting(head, "loss_bbox.type"))),
    }
    if made.get("type") == "LegacyAnchorGenerator":
        changes |= {"anchor_rounding": True}
    if setting(head, "bbox_coder.type") == "LegacyDeltaXYWHBBoxCoder":
        changes |= {"inclusive_boxes": True, "decoded_wider": True}
    return changes


_LOSSES = {"L1Loss": "smooth-l1", "SmoothL1Loss": "smooth-l1", "GIoULoss": "giou"}


def _beta(loss: Any) -> float | None:
    if not isinstance(loss, Mapping):
        return None
    return {"L1Loss": 0.0, "SmoothL1Loss": float(loss.get("beta", 1.0))}.get(str(loss.get("type")))


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
        "box_beta": _beta(setting(head, "bbox_head.loss_bbox")),
        "box_loss": _LOSSES.get(str(setting(head, "bbox_head.loss_bbox.type"))),
    }


def _testing(config: Config) -> dict[str, Any]:
    testing = stage_settings(config, "test_cfg")
    rpn: Config = testing.get("rpn") or {}
    rcnn: Config = testing.get("rcnn") or {}
    return {
        **_candidates(rpn, ""),
        "score_threshold": _when(float, rcnn.get("score_thr")),
        "nms_threshold": _when(float, setting(rcnn, "nms.iou_threshold"), setting(rcnn, "nms.iou_thr")),
        "max_detections": _when(int, rcnn.get("max_per_img")),
        "mask_threshold": _when(float, rcnn.get("mask_thr_binary")),
        "rpn_nms_threshold": _when(float, setting(rpn, "nms.iou_threshold"), rpn.get("nms_thr")),
        "rpn_min_size": _when(float, rpn.get("min_bbox_size")),
    }


def _candidates(rpn: Config, when: str) -> dict[str, Any]:
    return {
        f"rpn_pre_nms{when}": _when(int, rpn.get("nms_pre")),
        f"rpn_post_nms{when}": _when(int, rpn.get("max_per_img"), rpn.get("max_num"), rpn.get("nms_post")),
    }


def _training(config: Config) -> dict[str, Any]:
    training = stage_settings(config, "train_cfg")
    rpn: Config = training.get("rpn") or {}
    rcnn: Config = training.get("rcnn") or {}
    border = rpn.get("allowed_border")
    changes: dict[str, Any] = {
        **_candidates(training.get("rpn_proposal") or {}, "_train"),
        "rpn_positive_iou": _when(float, setting(rpn, "assigner.pos_iou_thr")),
        "rpn_negative_iou": _when(float, setting(rpn, "assigner.neg_iou_thr")),
        "rpn_samples": _when(int, setting(rpn, "sampler.num")),
        "rpn_positive_fraction": _when(float, setting(rpn, "sampler.pos_fraction")),
        "roi_positive_iou": _when(float, setting(rcnn, "assigner.pos_iou_thr")),
        "roi_samples": _when(int, setting(rcnn, "sampler.num")),
        "roi_positive_fraction": _when(float, setting(rcnn, "sampler.pos_fraction")),
    }
    if border is not None and border >= 0:
        changes["rpn_straddle"] = float(border)
    return changes
