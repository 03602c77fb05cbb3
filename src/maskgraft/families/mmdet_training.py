"""What an MMDetection config says about training: what a step asks for, samples and weighs.

Sources: mmdet 3.3.0 `models/dense_heads/anchor_head.py`, `models/task_modules/assigners/max_iou_assigner.py`,
`models/detectors/two_stage.py`; what a config leaves out has the defaults that these give it.
"""

from collections.abc import Mapping
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import setting
from maskgraft.families.family import idle_settings

Config = Mapping[str, Any]

_PLAIN = {"L1Loss": "smooth-l1", "SmoothL1Loss": "smooth-l1"}


def read(model: Config, head: Config, training: Config, testing: Config) -> dict[str, Any]:
    """The fields of `Numerics` that a training's settings set.

    `model` and `head` as of `mmdet_places.model_of` and `head_of`; `training` and `testing` are `train_cfg` and
    `test_cfg` with `rpn` and `rcnn` in them.
    """
    return {
        **_losses(model, head),
        **_anchors(training.get("rpn") or {}),
        **_proposals(model, head, training, testing),
        **_regions(training.get("rcnn") or {}),
    }


def _losses(model: Config, head: Config) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for part, where, beta, kind in (
        (model, "rpn_head", "rpn_beta", "rpn_box_loss"),
        (head, "bbox_head", "box_beta", "box_loss"),
    ):
        loss = setting(part, f"{where}.loss_bbox")
        if isinstance(loss, Mapping):
            named = str(loss.get("type"))
            changes[kind] = _PLAIN.get(named, "giou" if named == "GIoULoss" else None)
            changes[beta] = {"L1Loss": 0.0, "SmoothL1Loss": float(loss.get("beta", 1.0))}.get(named)
    weights = [
        setting(part, f"{key}.loss_weight")
        for part, key in (
            (model, "rpn_head.loss_cls"),
            (model, "rpn_head.loss_bbox"),
            (head, "bbox_head.loss_cls"),
            (head, "bbox_head.loss_bbox"),
            (head, "mask_head.loss_mask"),
        )
    ]
    changes["loss_weights"] = tuple(1.0 if one is None else float(one) for one in weights)
    return {name: value for name, value in changes.items() if value is not None}


def _anchors(rpn: Config) -> dict[str, Any]:
    changes = _sampled(rpn, "rpn")
    assigner = rpn.get("assigner")
    if isinstance(assigner, Mapping):
        changes["rpn_rescue"] = "taken" if assigner.get("match_low_quality", True) else "none"
        changes["rpn_rescue_iou"] = float(assigner.get("min_pos_iou", 0.0))
        if isinstance(assigner.get("neg_iou_thr"), float):
            changes["rpn_negative_iou"] = assigner["neg_iou_thr"]
    if "allowed_border" in rpn:
        changes["rpn_straddle"] = float(rpn["allowed_border"]) if rpn["allowed_border"] >= 0 else None
    return changes


def _proposals(model: Config, head: Config, training: Config, testing: Config) -> dict[str, Any]:
    """Those of a step are made as for testing where nothing else is said."""
    said = training.get("rpn_proposal") or (testing.get("rpn") if training else None) or {}
    return made(said, "_train", whole="type" in model, by_level=head is model)


def made(said: Config, suffix: str, *, whole: bool, by_level: bool) -> dict[str, Any]:
    """The fields of `Numerics`, of this `suffix`, that say how many proposals are made, and how small they may be.

    Candidates are all where there are 0 of them or fewer, and where the least side is below 0 none is dropped for its
    own; so where a config that is `whole` does not say. `by_level`: the config is MMDetection 1's, which took so many
    of each level at first.
    """
    changes: dict[str, Any] = {}
    candidates: int | None = said.get("nms_pre")
    of_level: int | None = said.get("nms_post")
    least: float | None = said.get("min_bbox_size")
    if candidates is not None or (said and whole):
        changes[f"rpn_pre_nms{suffix}"] = int(candidates) if candidates and candidates > 0 else None
    if (of_all := most(said)) is not None and of_all > 0:
        changes[f"rpn_post_nms{suffix}"] = int(of_all)
    if by_level and of_level is not None and candidates is not None and of_level < candidates:
        changes[f"rpn_level_post_nms{suffix}"] = int(of_level)
    if least is not None or (said and whole):
        changes[f"rpn_min_size{suffix}"] = float(least) if least is not None and least >= 0 else None
    return changes


def most(said: Config) -> Any:
    """How many proposals are kept of an image: the word for it since 2.4, and those before."""
    return next((said[key] for key in ("max_per_img", "max_num", "nms_post") if said.get(key) is not None), None)


def _regions(rcnn: Config) -> dict[str, Any]:
    changes = _sampled(rcnn, "roi")
    assigner, sampler = rcnn.get("assigner"), rcnn.get("sampler")
    if isinstance(assigner, Mapping):
        rescued = assigner.get("match_low_quality", True)
        changes["roi_rescue_iou"] = float(assigner.get("min_pos_iou", 0.0)) if rescued else None
    if isinstance(sampler, Mapping):
        changes["roi_truth"] = bool(sampler.get("add_gt_as_proposals", True))
    if rcnn.get("soft_mask_target"):  # `structures/mask/mask_target.py`
        changes["mask_targets"] = "soft-bitmap"
    return changes


def _sampled(part: Config, name: str) -> dict[str, Any]:
    said = {
        f"{name}_positive_iou": setting(part, "assigner.pos_iou_thr"),
        f"{name}_samples": setting(part, "sampler.num"),
        f"{name}_positive_fraction": setting(part, "sampler.pos_fraction"),
    }
    return {
        field: int(value) if field.endswith("_samples") else float(value)
        for field, value in said.items()
        if value is not None
    }


def told(model: Config, head: Config, training: Config, testing: Config) -> list[Finding]:
    """What to say of settings of trainings alone that one here does not take up; arguments as of `read`."""
    rpn, rcnn = training.get("rpn") or {}, training.get("rcnn") or {}
    usual: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("train_cfg.rpn.sampler.add_gt_as_proposals", setting(rpn, "sampler.add_gt_as_proposals"), (False,)),
        ("train_cfg.rcnn.assigner.neg_iou_thr", setting(rcnn, "assigner.neg_iou_thr"), _same(rcnn)),
        ("train_cfg.rpn.assigner.neg_iou_thr", _listed(setting(rpn, "assigner.neg_iou_thr")), ()),
        ("train_cfg.rpn_proposal.nms", _overlap(training.get("rpn_proposal")), (_overlap(testing.get("rpn")),)),
        ("train_cfg.rpn_proposal.max_per_img", none_or_fewer(training.get("rpn_proposal") or {}), ()),
        ("roi_head.type", setting(model, "roi_head.type"), ("StandardRoIHead",)),
        ("mask_head.loss_mask.type", setting(head, "mask_head.loss_mask.type"), ("CrossEntropyLoss",)),
        ("rpn_head.loss_cls.type", setting(model, "rpn_head.loss_cls.type"), ("CrossEntropyLoss",)),
    ]
    for name, part in (("rpn", rpn), ("rcnn", rcnn)):
        usual += [
            (f"train_cfg.{name}.{key}", setting(part, key), values)
            for key, values in (
                ("assigner.type", ("MaxIoUAssigner",)),
                ("assigner.gt_max_assign_all", (True,)),
                ("assigner.ignore_iof_thr", (-1,)),
                ("assigner.iou_calculator.type", ("BboxOverlaps2D",)),
                ("sampler.type", ("RandomSampler",)),
                ("sampler.neg_pos_ub", (-1,)),
                ("pos_weight", (-1, 0)),
            )
        ]
    for name, part in (("rpn_head", model), ("bbox_head", head)):
        kind, decoded = setting(part, f"{name}.loss_bbox.type"), bool(setting(part, f"{name}.reg_decoded_bbox"))
        usual += [
            (f"{name}.loss_cls.class_weight", setting(part, f"{name}.loss_cls.class_weight"), ()),
            (f"{name}.loss_bbox.type", kind, ("GIoULoss",) if decoded else tuple(_PLAIN)),
        ]
    said = {key: value for key, value, values in usual if value is not None and value not in values}
    return [idle_settings(said)] if said else []


def _same(rcnn: Config) -> tuple[Any, ...]:
    return (setting(rcnn, "assigner.pos_iou_thr"),)


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else None


def _overlap(made: Any) -> Any:
    """At which overlap a proposal suppresses others."""
    if not isinstance(made, Mapping):
        return None
    said = setting(made, "nms.iou_threshold")
    return said if said is not None else made.get("nms_thr")


def none_or_fewer(made: Config) -> Any:
    """A number of proposals that is none, where it is one."""
    said = most(made)
    return said if isinstance(said, int) and said <= 0 else None
