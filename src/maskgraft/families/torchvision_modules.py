"""What a whole model that torchvision's users pickled (`torch.save(model)`) says of its conventions.

Every argument of the constructors stands in some module of it, so that nothing has to be assumed. Conventions:
torchvision 0.29 `models/detection/` (transform.py, anchor_utils.py, rpn.py, roi_heads.py), `ops/poolers.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import changes_from, setting
from maskgraft.families.family import not_taken_up, refuse_other_pooling, refuse_what_cannot_be_obeyed, unsupported
from maskgraft.files import Tensors
from maskgraft.spec import Learned

_TRANSFORM = "models.detection.transform.GeneralizedRCNNTransform"


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


# Field of Numerics ← (module and attribute, how its value reads)
_FROM_MODULES: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("min_size", "transform.min_size", lambda sizes: int(sizes[-1])),  # of several, the last is that of evaluation
    ("max_size", "transform.max_size", int),
    ("fixed_size", "transform.fixed_size", lambda size: (int(size[1]), int(size[0]))),
    ("pixel_mean", "transform.image_mean", _numbers),
    ("pixel_std", "transform.image_std", _numbers),
    ("pad_multiple", "transform.size_divisible", int),
    ("anchor_sizes", "anchor_generator.sizes", lambda levels: tuple(map(_numbers, levels))),
    ("anchor_ratios", "anchor_generator.aspect_ratios", lambda levels: _numbers(levels[0])),
    ("rpn_pre_nms", "rpn._pre_nms_top_n.testing", int),
    ("rpn_pre_nms_train", "rpn._pre_nms_top_n.training", int),
    ("rpn_post_nms", "rpn._post_nms_top_n.testing", int),
    ("rpn_post_nms_train", "rpn._post_nms_top_n.training", int),
    ("rpn_nms_threshold", "rpn.nms_thresh", float),
    ("rpn_score_threshold", "rpn.score_thresh", lambda score: float(score) or None),
    ("rpn_min_size", "rpn.min_size", float),
    ("rpn_delta_weights", "rpn.box_coder.weights", _numbers),
    ("rpn_positive_iou", "rpn.proposal_matcher.high_threshold", float),
    ("rpn_negative_iou", "rpn.proposal_matcher.low_threshold", float),
    ("rpn_samples", "rpn.fg_bg_sampler.batch_size_per_image", int),
    ("rpn_positive_fraction", "rpn.fg_bg_sampler.positive_fraction", float),
    ("roi_sampling", "box_roi_pool.sampling_ratio", int),
    ("box_pool_size", "box_roi_pool.output_size", lambda sides: int(sides[0])),
    ("mask_pool_size", "mask_roi_pool.output_size", lambda sides: int(sides[0])),
    ("delta_clip", "roi_heads.box_coder.bbox_xform_clip", float),
    ("box_delta_weights", "roi_heads.box_coder.weights", _numbers),
    ("score_threshold", "roi_heads.score_thresh", float),
    ("nms_threshold", "roi_heads.nms_thresh", float),
    ("max_detections", "roi_heads.detections_per_img", int),
    ("roi_positive_iou", "roi_heads.proposal_matcher.high_threshold", float),
    ("roi_samples", "roi_heads.fg_bg_sampler.batch_size_per_image", int),
    ("roi_positive_fraction", "roi_heads.fg_bg_sampler.positive_fraction", float),
)
# Where in the model the modules stand that are called by a shorter name above.
_PLACES = {
    "transform": "transform",
    "anchor_generator": "rpn.anchor_generator",
    "rpn": "rpn",
    "roi_heads": "roi_heads",
    "box_roi_pool": "roi_heads.box_roi_pool",
    "mask_roi_pool": "roi_heads.mask_roi_pool",
}
# Attributes whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("box_roi_pool.canonical_scale", (224,)),
    ("box_roi_pool.canonical_level", (4,)),
    ("mask_roi_pool.canonical_scale", (224,)),
    ("mask_roi_pool.canonical_level", (4,)),
)
_POOLING = ("mask_roi_pool.sampling_ratio", "box_roi_pool.sampling_ratio")


def numerics_of(tensors: Tensors) -> tuple[dict[str, Any], dict[str, Learned], tuple[Finding, ...]]:
    """The fields of `Numerics` that a pickled model says, how each was learned, and what of it is not taken up.

    Nothing for any other file.
    Raises `CheckpointError` for what maskgraft does not have.
    """
    modules = tensors.about.get("modules")
    roots = [
        name.removesuffix("transform")
        for name, one in (modules.items() if isinstance(modules, Mapping) else ())
        if str(one.get("class", "")).endswith(_TRANSFORM)
    ]
    if not isinstance(modules, Mapping) or len(roots) != 1:
        return {}, {}, ()
    said = {short: modules.get(roots[0] + place, {}) for short, place in _PLACES.items()}
    title = "torchvision"
    refuse_what_cannot_be_obeyed(tensors, said, _REQUIRED, title)
    refuse_other_pooling(tensors, said, _POOLING, title)
    ratios = setting(said, "anchor_generator.aspect_ratios")
    if ratios and any(list(level) != list(ratios[0]) for level in ratios):
        raise unsupported(tensors, title, "anchors whose ratios differ from level to level")
    how: dict[str, Learned] = {}
    changes = changes_from(said, _FROM_MODULES, how)
    body, heads = (_eps(modules, f"{roots[0]}{part}") for part in ("backbone.body.", "roi_heads."))
    if body is not None:
        changes["norm_eps"] = body
    if heads is not None and heads != body:
        changes["head_norm_eps"] = heads
    if setting(said, "transform._skip_resize"):
        changes["min_size"] = 0
    matcher = "roi_heads.proposal_matcher"
    ignored = not_taken_up(said, ((f"{matcher}.low_threshold", setting(said, f"{matcher}.high_threshold")),))
    return changes, {f"numerics.{name}": Learned("read", "the pickled model") for name in changes}, tuple(ignored)


def _eps(modules: Mapping[str, Mapping[str, Any]], place: str) -> float | None:
    """What the first norm below `place` adds to the variance; None where there is none."""
    return next((float(one["eps"]) for name, one in modules.items() if name.startswith(place) and "eps" in one), None)
