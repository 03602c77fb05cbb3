"""What TF Model Garden computes with: its conventions, and the settings of its `params.yaml` that change them.

Conventions: official/vision `configs/maskrcnn.py`, `dataloaders/maskrcnn_input.py`, `modeling/`, `ops/`;
field by field in `FROM_CONFIG`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import changes_from, setting
from maskgraft.families.family import (
    Config,
    class_count_fault,
    learned,
    not_taken_up,
    refuse_what_cannot_be_obeyed,
    unsupported,
)
from maskgraft.files import Tensors
from maskgraft.spec import NUMERICS_FIELDS, Learned, Numerics

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
_DETECTIONS = f"{_MODEL}.detection_generator"
_NEVER = 2.0  # a threshold that no overlap passes: at 0, proposals are not suppressed


def _sizes(anchor: Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    scales = int(anchor.get("num_scales", 1))
    steps = [float(anchor.get("anchor_size", 8.0)) * 2 ** (octave / scales) for octave in range(scales)]
    return tuple(tuple(2**level * step for step in steps) for level in (2, 3, 4, 5, 6))


def _loss_weights(losses: Mapping[str, Any]) -> tuple[float, ...]:
    """Its Huber losses are smooth L1 times their deltas."""
    weights = {"rpn_score": 1.0, "rpn_box": losses.get("rpn_huber_loss_delta", 1 / 9), "frcnn_class": 1.0}
    weights |= {"frcnn_box": losses.get("frcnn_huber_loss_delta", 1.0), "mask": 1.0}
    every = float(losses.get("loss_weight", 1.0))
    return tuple(every * weight * float(losses.get(f"{name}_weight", 1.0)) for name, weight in weights.items())


# Field of Numerics ← (key of the config, how its value reads)
FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("fixed_size", f"{_MODEL}.input_size", lambda size: (int(size[0]), int(size[1]))),
    ("norm_eps", f"{_MODEL}.norm_activation.norm_epsilon", float),
    ("anchor_sizes", f"{_MODEL}.anchor", _sizes),
    ("anchor_ratios", f"{_MODEL}.anchor.aspect_ratios", lambda ratios: tuple(1 / float(ratio) for ratio in ratios)),
    ("rpn_pre_nms", f"{_MODEL}.roi_generator.test_pre_nms_top_k", int),
    ("rpn_score_threshold", f"{_MODEL}.roi_generator.test_pre_nms_score_threshold", lambda least: float(least) or None),
    ("rpn_post_nms", f"{_MODEL}.roi_generator.test_num_proposals", int),
    ("rpn_nms_threshold", f"{_MODEL}.roi_generator.test_nms_iou_threshold", lambda most: float(most) or _NEVER),
    ("rpn_pre_nms_train", f"{_MODEL}.roi_generator.pre_nms_top_k", int),
    ("rpn_post_nms_train", f"{_MODEL}.roi_generator.num_proposals", int),
    ("box_pool_size", f"{_MODEL}.roi_aligner.crop_size", int),
    ("mask_pool_size", f"{_MODEL}.mask_roi_aligner.crop_size", int),
    ("score_threshold", f"{_DETECTIONS}.pre_nms_score_threshold", float),
    ("nms_threshold", f"{_DETECTIONS}.nms_iou_threshold", float),
    ("max_detections", f"{_DETECTIONS}.max_num_detections", int),
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

# The same of settings that are not written for it: words, and those of later versions.
_READ_TOO: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("box_delta_weights", f"{_DETECTIONS}.box_coder_weights", lambda yxhw: tuple(float(yxhw[i]) for i in (1, 0, 3, 2))),
    ("nms_tiled", f"{_DETECTIONS}.nms_version", lambda version: version == "v2"),
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
    (f"{_DETECTIONS}.apply_nms", (True,)),
    (f"{_DETECTIONS}.nms_version", ("v1", "v2", "batched")),
    (f"{_DETECTIONS}.use_sigmoid_probability", (False,)),
    (f"{_DETECTIONS}.use_class_agnostic_nms", (False,)),
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


def numerics_of(
    tensors: Tensors, classes: int, config: Config | None, title: str
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """The numbers with which it runs a model of `classes` under a config, how each was learned, and what is odd.

    Raises `CheckpointError` for settings that maskgraft does not have.
    """
    source, read_by = (
        "Model Garden's defaults; params.yaml would say",
        [f"numerics.{name}" for name, _, _ in FROM_CONFIG],
    )
    how = {
        **learned("Model Garden's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned(source, "assumed", read_by),
    }
    if config is None:
        return NUMERICS, how, []
    refuse_what_cannot_be_obeyed(tensors, config, _REQUIRED, title)
    numerics = replace(NUMERICS, **changes_from(config, (*FROM_CONFIG, *_READ_TOO), how))
    numerics = _of_detections(tensors, config, _of_proposals(config, numerics), title)
    said, key = setting(config, f"{_MODEL}.num_classes"), f"{_MODEL}.num_classes, which counts the background"
    findings = class_count_fault(tensors, classes, None if said is None else int(said) - 1, key)
    return numerics, how, [*findings, *_idle(config, numerics)]


def _of_proposals(config: Config, numerics: Numerics) -> Numerics:
    """How proposals are suppressed: in tiles, by a kernel of TensorFlow that takes all anchors, or not at all."""
    if numerics.rpn_nms_threshold == _NEVER:  # nor are candidates chosen
        return replace(numerics, rpn_nms_tiled=False, rpn_pre_nms=0, rpn_score_threshold=None)
    if not setting(config, f"{_MODEL}.roi_generator.use_batched_nms"):
        return numerics
    return replace(
        numerics,
        rpn_nms_tiled=False,
        rpn_pre_nms=None,
        rpn_level_post_nms=numerics.rpn_pre_nms,
        rpn_pre_nms_train=None,
        rpn_level_post_nms_train=numerics.rpn_pre_nms_train,
    )


def _of_detections(tensors: Tensors, config: Config, numerics: Numerics, title: str) -> Numerics:
    """How detections are suppressed: TensorFlow's kernels, and no others, keep boxes of no area in the corner."""
    keys = ("nms_version", "soft_nms_sigma", "pre_nms_top_k")
    version, sigma, most = (setting(config, f"{_DETECTIONS}.{key}") for key in keys)
    if version == "v1" and sigma:
        raise unsupported(tensors, title, f"{_DETECTIONS}.soft_nms_sigma with nms_version v1")
    if version != "batched" and isinstance(most, int) and most < numerics.rpn_post_nms:
        what = f"{_DETECTIONS}.pre_nms_top_k is {most}, and there are {numerics.rpn_post_nms} proposals"
        raise unsupported(tensors, title, what)
    kernel = version == "batched" or (version == "v1" and sigma is not None)
    return replace(numerics, nms_at_threshold=not kernel and numerics.rpn_nms_tiled, detect_filled=kernel)


def _idle(config: Config, numerics: Numerics) -> Iterator[Finding]:
    """What a training here does not take up."""
    masks, positives = f"{_MODEL}.mask_sampler.num_sampled_masks", numerics.roi_samples * numerics.roi_positive_fraction
    enough = (masks, max(int(positives), int(setting(config, masks) or 0)))  # as many masks as there are positives
    alike = [(key, other) for key, like in _SAME_IN_TRAINING if (other := setting(config, like)) is not None]
    return not_taken_up(config, (*_OF_TRAINING, enough, *alike))
