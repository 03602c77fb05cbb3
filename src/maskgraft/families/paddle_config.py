"""With which numbers PaddleDetection runs a model: its maths, its defaults, and `config.yml`.

Conventions: PaddleDetection release/2.6 `configs/mask_rcnn/`, `ppdet/modeling/`, `ppdet/data/transform/operators.py`;
Paddle 2 `generate_proposals` (its least side is 1 pixel), `distribute_fpn_proposals`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import base_fault, changes_from, setting
from maskgraft.families.family import (
    Config,
    class_count_fault,
    learned,
    not_taken_up,
    refuse_what_cannot_be_obeyed,
    unsupported,
)
from maskgraft.files import Tensors
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics

TITLE = "PaddleDetection"

NUMERICS = Numerics(
    channel_order="rgb",
    pixel_scale=1 / 255,
    pixel_mean=(0.485, 0.456, 0.406),
    pixel_std=(0.229, 0.224, 0.225),
    resize="opencv-cubic",
    normalise_first=False,
    size_rounding="even",
    box_scale="factor",
    clip_unrounded=True,
    norm_eps=1e-5,
    stride_in="3x3",
    anchor_order="size",
    anchor_rounding=False,
    anchor_stride="nominal",
    rpn_rank="logit",
    rpn_min_size=1.0,
    level_epsilon="inside",
    level_epsilon_value=1e-8,
    roi_aligned=True,
    roi_sampling=0,
    nms_apart=True,
    box_min_size=0.0,
    mask_paste="grid-sample",
    rpn_post_nms_train=1000,
    rpn_rescue="overlapping",
    rpn_normaliser="samples",
    rpn_beta=0.0,
    box_beta=0.0,
    mask_targets="polygon",
)

C4: dict[str, Any] = {
    "anchor_sizes": ((32.0, 64.0, 128.0, 256.0, 512.0),),
    "rpn_pre_nms": 6000,
    "rpn_pre_nms_train": 12000,
    "rpn_post_nms_train": 2000,
    "pad_multiple": 1,
    "box_pool_size": 14,
}

_TEST = "TestReader.sample_transforms"
_INTERPOLATIONS = {1: "opencv-factor", 2: "opencv-cubic"}  # OpenCV's numbers of them


def _sizes(value: Any) -> tuple[tuple[float, ...], ...]:
    """One list for all levels, or one for each."""
    levels = value if isinstance(value[0], list | tuple) else [value]
    return tuple(tuple(float(size) for size in level) for level in levels)


def _ratios(value: Any) -> tuple[float, ...]:
    first = value[0] if isinstance(value[0], list | tuple) else value
    return tuple(float(ratio) for ratio in first)


# Field of Numerics ← (key of the config, how its value reads)
FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("stride_in", "ResNet.variant", lambda variant: "1x1" if variant == "a" else "3x3"),
    ("anchor_sizes", "RPNHead.anchor_generator.anchor_sizes", _sizes),
    ("anchor_ratios", "RPNHead.anchor_generator.aspect_ratios", _ratios),
    ("anchor_offset", "RPNHead.anchor_generator.offset", float),
    ("rpn_pre_nms", "RPNHead.test_proposal.pre_nms_top_n", int),
    ("rpn_post_nms", "RPNHead.test_proposal.post_nms_top_n", int),
    ("rpn_nms_threshold", "RPNHead.test_proposal.nms_thresh", float),
    ("rpn_min_size", "RPNHead.test_proposal.min_size", lambda least: max(1.0, float(least))),
    ("rpn_pre_nms_train", "RPNHead.train_proposal.pre_nms_top_n", int),
    ("rpn_post_nms_train", "RPNHead.train_proposal.post_nms_top_n", int),
    ("rpn_samples", "RPNHead.rpn_target_assign.batch_size_per_im", int),
    ("rpn_positive_fraction", "RPNHead.rpn_target_assign.fg_fraction", float),
    ("rpn_positive_iou", "RPNHead.rpn_target_assign.positive_overlap", float),
    ("rpn_negative_iou", "RPNHead.rpn_target_assign.negative_overlap", float),
    ("roi_aligned", "BBoxHead.roi_extractor.aligned", bool),
    ("roi_sampling", "BBoxHead.roi_extractor.sampling_ratio", int),
    ("box_pool_size", "BBoxHead.roi_extractor.resolution", int),
    ("mask_pool_size", "MaskHead.roi_extractor.resolution", int),
    ("box_delta_weights", "RCNNBox.prior_box_var", lambda weights: tuple(map(float, weights))),
    ("roi_samples", "BBoxAssigner.batch_size_per_im", int),
    ("roi_positive_iou", "BBoxAssigner.fg_thresh", float),
    ("roi_positive_fraction", "BBoxAssigner.fg_fraction", float),
    ("score_threshold", "BBoxPostProcess.nms.score_threshold", float),
    ("nms_threshold", "BBoxPostProcess.nms.nms_threshold", float),
    ("max_detections", "BBoxPostProcess.nms.keep_top_k", int),
    ("mask_threshold", "MaskPostProcess.binary_thresh", float),
)
_ASSUMED = (
    *(field for field, _, _ in FROM_CONFIG),
    *("min_size", "max_size", "resize", "pixel_mean", "pixel_std", "pixel_scale", "pad_multiple"),
)

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("architecture", ("MaskRCNN",)),
    ("RPNHead.anchor_generator.strides", ((4, 8, 16, 32, 64), (16,))),
    ("RPNHead.anchor_generator.variance", ((1.0, 1.0, 1.0, 1.0),)),
    *(
        (f"{head}.roi_extractor.{name}", (usual,))
        for head in ("BBoxHead", "MaskHead")
        for name, usual in (("canconical_level", 4), ("canonical_size", 224), ("start_level", 0), ("end_level", 3))
    ),
    ("BBoxPostProcess.nms.name", ("MultiClassNMS",)),
    ("RPNHead.test_proposal.eta", (1.0,)),
    ("BBoxPostProcess.nms.nms_eta", (1.0,)),
    ("BBoxPostProcess.nms.normalized", (True,)),
    ("BBoxPostProcess.decode", ("RCNNBox",)),
)
# Settings of trainings alone, which one here does not take up; those with a key for a value are the same as another.
_OF_TRAINING: tuple[tuple[str, Any], ...] = (
    ("RPNHead.loss_rpn_bbox", None),
    ("RPNHead.train_proposal.eta", 1),
    ("RPNHead.rpn_target_assign.ignore_thresh", -1),
    ("BBoxAssigner.ignore_thresh", -1),
    ("BBoxHead.bbox_loss", None),
    ("BBoxHead.loss_normalize_pos", False),
)
_SAME_IN_TRAINING = (
    ("RPNHead.train_proposal.nms_thresh", "RPNHead.test_proposal.nms_thresh"),
    ("RPNHead.train_proposal.min_size", "RPNHead.test_proposal.min_size"),
    ("BBoxAssigner.bg_thresh", "BBoxAssigner.fg_thresh"),
    ("BBoxHead.bbox_weight", "RCNNBox.prior_box_var"),
)
# What its proposal generator takes for what a config does not say of it, though it says others (`ProposalGenerator`).
_PROPOSALS: tuple[tuple[str, str, Any], ...] = (
    ("rpn_pre_nms", "RPNHead.test_proposal.pre_nms_top_n", 12000),
    ("rpn_post_nms", "RPNHead.test_proposal.post_nms_top_n", 2000),
    ("rpn_nms_threshold", "RPNHead.test_proposal.nms_thresh", 0.5),
    ("rpn_pre_nms_train", "RPNHead.train_proposal.pre_nms_top_n", 12000),
    ("rpn_post_nms_train", "RPNHead.train_proposal.post_nms_top_n", 2000),
)
# Settings of the pooling for masks, which is that for boxes, and what its RoIAlign takes where none is given.
_POOLING: Mapping[str, Any] = {"aligned": False, "sampling_ratio": 0}


def numerics_of(
    tensors: Tensors, arch: Arch, config: Config | None
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """The numbers with which PaddleDetection runs an architecture under a config, and how each was learned.

    Raises `CheckpointError` for settings that maskgraft does not have.
    """
    how = {
        **learned("PaddleDetection's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned("as in configs/mask_rcnn", "assumed", [f"numerics.{name}" for name in _ASSUMED]),
    }
    changes = dict(C4) if arch.neck == "c4" else {}
    if config is None:
        return replace(NUMERICS, **changes), how, []
    _refuse_what_cannot_be_obeyed(tensors, config, arch)
    changes |= changes_from(config, FROM_CONFIG, how)
    if arch.neck == "fpn" and len(changes.get("anchor_sizes", ())) == 1:
        changes["anchor_sizes"] *= 5
    if isinstance(setting(config, "BBoxHead.roi_extractor"), Mapping):
        changes.setdefault("roi_aligned", False)  # the default of its RoIAlign
    for field, key, usual in _PROPOSALS:
        if isinstance(setting(config, key.rpartition(".")[0]), Mapping):
            changes.setdefault(field, usual)
    most, proposals = setting(config, "BBoxPostProcess.nms.nms_top_k"), changes.get("rpn_post_nms", 1000)
    if isinstance(most, int) and 0 <= most < proposals:
        what = f"BBoxPostProcess.nms.nms_top_k is {most}, not -1, and there are {proposals} proposals"
        raise unsupported(tensors, TITLE, what)
    pixels = _pixels(tensors, config)
    how |= learned(f"config: {_TEST}", "read", [f"numerics.{name}" for name in pixels])
    alike = [(key, other) for key, like in _SAME_IN_TRAINING if (other := setting(config, like)) is not None]
    findings = [
        *class_count_fault(tensors, arch.classes, setting(config, "num_classes"), "num_classes"),
        *not_taken_up(config, (*_OF_TRAINING, *alike)),
        *base_fault(config, "give the folder of configs that it came from, as it was"),
    ]
    return replace(NUMERICS, **changes | pixels), how, findings


def _refuse_what_cannot_be_obeyed(tensors: Tensors, config: Config, arch: Arch) -> None:
    shared = (("MaskHead.share_bbox_feat", (arch.neck == "c4",)), ("BBoxHead.with_pool", (arch.neck == "c4",)))
    refuse_what_cannot_be_obeyed(tensors, config, (*_REQUIRED, *shared), TITLE)
    ratios = setting(config, "RPNHead.anchor_generator.aspect_ratios")
    if isinstance(ratios, list) and isinstance(ratios[0], list) and any(level != ratios[0] for level in ratios):
        raise unsupported(tensors, TITLE, "anchors whose ratios differ from level to level")
    masks, boxes = (setting(config, f"{head}.roi_extractor") for head in ("MaskHead", "BBoxHead"))
    if arch.neck == "fpn" and isinstance(masks, Mapping) and isinstance(boxes, Mapping):
        for name, usual in _POOLING.items():
            if masks.get(name, usual) != boxes.get(name, usual):
                what = f"MaskHead.roi_extractor.{name} is {masks.get(name, usual)}, that of BBoxHead"
                raise unsupported(tensors, TITLE, f"{what} {boxes.get(name, usual)}")


def _pixels(tensors: Tensors, config: Config) -> dict[str, Any]:
    """What the steps of the test reader say. Raises `CheckpointError` for one that maskgraft does not have."""
    steps = setting(config, _TEST)
    if not isinstance(steps, list):
        return {}
    changes: dict[str, Any] = {}
    for step in steps:
        for name, said in step.items() if isinstance(step, Mapping) else ():
            options = said if isinstance(said, Mapping) else {}
            if name == "Resize":
                size = options.get("target_size", 0)
                sides = [int(side) for side in (size if isinstance(size, list | tuple) else [size])]
                if options.get("keep_ratio", True) is not True:
                    raise unsupported(tensors, TITLE, f"{_TEST}: Resize with another ratio of sides")
                interp = options.get("interp", 1)
                if interp not in _INTERPOLATIONS:
                    raise unsupported(tensors, TITLE, f"{_TEST}: Resize with interp {interp}, not 1 or 2")
                changes |= {"resize": _INTERPOLATIONS[interp], "min_size": min(sides), "max_size": max(sides)}
            elif name == "NormalizeImage":
                if options.get("norm_type", "mean_std") != "mean_std":
                    raise unsupported(tensors, TITLE, f"{_TEST}: NormalizeImage {options['norm_type']}")
                changes["pixel_scale"] = 1 / 255 if options.get("is_scale", True) else 1.0
                for field, key in (("pixel_mean", "mean"), ("pixel_std", "std")):
                    if key in options:
                        changes[field] = tuple(float(one) for one in options[key])
            elif name not in ("Decode", "Permute"):
                raise unsupported(tensors, TITLE, f"{_TEST}: {name}")
    for step in setting(config, "TestReader.batch_transforms") or ():
        stride = (step.get("PadBatch") or {}).get("pad_to_stride") if isinstance(step, Mapping) else None
        if stride is not None:
            changes["pad_multiple"] = max(1, int(stride))
    return changes
