"""With which numbers MMDetection runs a model: its maths, what a config says, and what of it is told."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families import mmdet_training
from maskgraft.families.configs import base_fault, setting
from maskgraft.families.family import NO_SUPPRESSION, learned, limited, unsupported
from maskgraft.families.mmdet_maths import LEGACY, NUMERICS, ONE_MAP
from maskgraft.families.mmdet_places import TRUNK, Config, head_of, model_of, norms, stage_settings, transforms
from maskgraft.families.mmdet_refused import refusal
from maskgraft.files import Tensors
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics

# Fields that a config may set to nothing.
_NONE = (
    *("rpn_pre_nms", "rpn_min_size", "rpn_pre_nms_train", "rpn_min_size_train"),
    *("rpn_straddle", "roi_rescue_iou"),
)
_MASK_THRESHOLD = 0.5  # in place of one that is none


# Fields whose values are those of the published configs where no config says otherwise.
_ASSUMED = (
    "channel_order pixel_mean pixel_std min_size max_size pad_multiple stride_in anchor_sizes anchor_ratios "
    "rpn_pre_nms rpn_post_nms rpn_nms_threshold score_threshold nms_threshold max_detections roi_sampling "
    "box_pool_size mask_pool_size rpn_beta box_beta rpn_straddle roi_rescue_iou"
).split()


def numerics_of(
    tensors: Tensors, arch: Arch, config: Config, *, legacy: bool, source: str
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """The numbers with which MMDetection runs an architecture under a config, and how each was learned.

    `legacy`: it is MMDetection 1 that runs it; `source` says where the config is from. Raises `CheckpointError` for
    settings that maskgraft does not have.
    """
    maths = "MMDetection 1's maths" if legacy else "MMDetection's maths"
    assumed = "the settings of MMDetection's configs; the file's own config would say"
    how = {
        **learned(maths, "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned(assumed, "assumed", [f"numerics.{name}" for name in _ASSUMED]),
    }
    changes = {**(LEGACY if legacy else {}), **({} if arch.neck == "fpn" else ONE_MAP)}
    changes |= {"box_pool_size": 14 if arch.neck == "c4" else 7, "stride_pooled": _pools(tensors.arrays)}
    findings: list[Finding] = []
    if config:
        if what := refusal(config, arch.neck):
            raise unsupported(tensors, "MMDetection", what)
        said = _said(config)
        changes |= said
        how |= learned(source, "read", [f"numerics.{name}" for name in said])
        findings = [*base_fault(config, "give the config that MMDetection wrote into the work_dir"), *_told(config)]
    return limited(replace(NUMERICS, **changes), arch, least=1), how, findings


def _pools(names: Mapping[str, Any]) -> bool:
    """Whether a shortcut that strides averages before its convolution, whose place in it is the second then."""
    return "backbone.layer2.0.downsample.1.weight" in names and "backbone.layer2.0.downsample.2.weight" in names


def _said(config: Config) -> dict[str, Any]:
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
    heads = [norm for name, norm in norms(model, head_of(config)).items() if name not in TRUNK]
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


def _lengths(values: Any) -> list[Any]:
    """Strides, or sizes; of a pair the shorter one."""
    return [min(one) if isinstance(one, list | tuple) else one for one in values or ()]


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
        "mask_threshold": _mask_threshold(rcnn),
        "rpn_nms_threshold": _overlap(rpn),
    }


def _overlap(stage: Config) -> float | None:
    """From which overlap on a box suppresses others; with `nms=None` none does."""
    if "nms" in stage and stage["nms"] is None:
        return NO_SUPPRESSION
    said = (setting(stage, "nms.iou_threshold"), setting(stage, "nms.iou_thr"), stage.get("nms_thr"))
    return next((float(one) for one in said if one is not None), None)


def _mask_threshold(rcnn: Config) -> float | None:
    """From which probability on a pixel is the object's; below 0 none is said (`_soft_masks`)."""
    said = rcnn.get("mask_thr_binary")
    return None if said is None else float(said) if said >= 0 else _MASK_THRESHOLD


def _training(config: Config) -> dict[str, Any]:
    parts = model_of(config), head_of(config), stage_settings(config, "train_cfg"), stage_settings(config, "test_cfg")
    return mmdet_training.read(*parts)


def _told(config: Config) -> list[Finding]:
    """What to say of settings that results do not follow, and of those that a training does not."""
    training, testing = stage_settings(config, "train_cfg"), stage_settings(config, "test_cfg")
    of_training = mmdet_training.told(model_of(config), head_of(config), training, testing)
    return [*_augmented(config), *_soft_masks(testing), *of_training]


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


def _soft_masks(testing: Config) -> list[Finding]:
    """What to say where the home framework gives the probabilities of pixels for masks."""
    said = setting(testing, "rcnn.mask_thr_binary")
    if not isinstance(said, int | float) or said >= 0:
        return []
    message = f"rcnn.mask_thr_binary is {said!r}: MMDetection gives each pixel's probability as a grey level"
    return [
        Finding(
            "numerics.assumed",
            "warning",
            f"{message}; here a pixel is the object's from {_MASK_THRESHOLD} on",
            evidence={"mask_thr_binary": said},
            effect="`Detections.masks` are bool; the probabilities within the boxes are `Detections.mask_probs`",
            fix='numerics={"mask_threshold": 0.3} cuts masks elsewhere',
        )
    ]
