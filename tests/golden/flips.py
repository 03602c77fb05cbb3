"""Every convention of `Numerics` turned into another, one at a time, and the first golden stage that tells."""

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from maskgraft.errors import UsageError
from maskgraft.graft import rebuilt
from maskgraft.model import MaskRCNN
from maskgraft.preprocess import prepare, stack
from maskgraft.spec import NUMERICS_FIELDS, Numerics
from tests.golden.cases import Case, batch_of, lonely, lonely_proposals, stage_fault, step_numerics

# What a number is turned into: the first of these that it is not, and then the others, until a stage tells.
NUMBERS: dict[str, tuple[Any, ...]] = {
    "pixel_scale": (1.0, 1 / 255),
    "min_size": (800, 257),
    "max_size": (1333, 300),
    "fixed_size": (None, (256, 320)),
    "least_scale": (0.0, 2.0),
    "pad_multiple": (32, 64, 1, 128),
    "norm_eps": (1e-5, 1e-3, 0.0),
    "head_norm_eps": (None, 1e-3),
    "anchor_offset": (0.0, 0.5),
    "rpn_dilation": (1, 2),
    "rpn_pre_nms": (1000, 6000, None, 200),
    "rpn_score_threshold": (None, 0.0, 0.5),
    "rpn_level_post_nms": (None, 20),
    "rpn_post_nms": (1000, 50),
    "rpn_nms_threshold": (0.7, 0.6),
    "rpn_min_size": (0.0, None, 1.0, 16.0),
    "rpn_delta_weights": ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)),
    "delta_clip": (4.135166556742356, None, 0.5),
    "level_epsilon_value": (1e-6, 0.0),
    "box_pool_size": (7, 14),
    "roi_max_pool": ((1, 1), (2, 2)),
    "mask_pool_size": (14, 7),
    "res5_stride": (2, 1),
    "roi_sampling": (2, 0, 1),
    "box_delta_weights": ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)),
    "score_threshold": (0.05, 0.5),
    "box_min_size": (0.0, 0.01, 16.0),
    "nms_threshold": (0.5, 0.3),
    "max_detections": (100, 10),
    "max_per_class": (None, 100, 1),
    "mask_size": (28, 33, 15),
    "mask_threshold": (0.5, 0.4),
    "rpn_pre_nms_train": (2000, 12000, 100),
    "rpn_level_post_nms_train": (None, 20),
    "rpn_post_nms_train": (2000, 100),
    "rpn_min_size_train": ("as in detecting", 16.0, 64.0),
    "rpn_positive_iou": (0.7, 0.5),
    "rpn_negative_iou": (0.3, 0.4),
    "rpn_straddle": (None, 0.0),
    "rpn_rescue_iou": (0.0, 0.3, 0.9),
    "roi_rescue_iou": (None, 0.5),
    "rpn_samples": (256, 512),
    "rpn_positive_fraction": (0.5, 0.25),
    "rpn_beta": (0.0, 1 / 9, 1.0),
    "roi_positive_iou": (0.5, 0.6),
    "roi_samples": (512, 64),
    "roi_positive_fraction": (0.25, 0.33),
    "box_beta": (0.0, 1 / 9, 1.0),
    "mean_offset": (0.0, 0.01),
    "loss_weights": ((1.0, 1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0, 2.0)),
}

HINTS = typing.get_type_hints(Numerics)
TRAINING = NUMERICS_FIELDS[NUMERICS_FIELDS.index("rpn_pre_nms_train") :]

IN_BACKBONE = ("norm_eps", "stride_in", "stride_pooled", "stride_at", "c4_stride", "conv_padding", "pool_padding")


def conventions(numerics: Numerics) -> list[str]:
    """The fields that a family sets away from the default, and those that have none."""
    return [
        field.name
        for field in dataclasses.fields(Numerics)
        if field.default is dataclasses.MISSING or getattr(numerics, field.name) != field.default
    ]


def others(name: str, value: Any) -> Iterator[Any]:
    """What a convention that is `value` can be turned into: any other word, or a number that another framework has."""
    kind = HINTS[name]
    if name in ("pixel_mean", "pixel_std"):
        yield tuple(1.01 * one for one in value)
    elif name == "anchor_sizes":
        yield tuple(tuple(1.02 * size for size in level) for level in value)
    elif name == "anchor_ratios":
        yield tuple(reversed(value))
    elif kind is bool:
        yield not value
    else:
        words = typing.get_args(kind) if typing.get_origin(kind) is Literal else NUMBERS[name]
        yield from (other for other in words if other != value)


@dataclass(frozen=True)
class Base:
    """A case as it is: what the flips need not compute again, and how much of it float noise leaves without a twin."""

    case: Case
    model: MaskRCNN
    maps: dict[str, torch.Tensor]
    lonely_proposals: int
    lonely: int
    losses: dict[str, float]
    golden_losses: dict[str, float]

    @classmethod
    def of(cls, case: Case) -> "Base":
        model = case.load(case.about["checkpoint"])
        prepared = prepare(case.golden["image"], model.spec.numerics)
        with torch.inference_mode():
            maps = model.features(stack([prepared], model.spec.numerics.pad_multiple))
        keeping(model, maps)
        lonely_now = len(lonely(case, model.predict([case.golden["image"]])[0], model))
        alone = len(lonely_among(case, model.trace(prepared)["proposals"]))
        modes = [
            wanted
            for mode, wanted in (case.about["losses"] or {}).get("modes", {}).items()
            if mode != "batchnorm_train"
        ]
        losses = losses_of(case, model, maps, {}) if modes else {}
        return cls(case, model, maps, alone, lonely_now, losses, modes[0] if modes else {})

    def first_fault(self, name: str, value: Any) -> str:
        """The first golden stage that differs with the convention `name` turned into `value`, or ""."""
        if name in TRAINING:
            return self._loss_fault({name: value})
        try:
            model = rebuilt(self.model, self.model.spec.with_numerics({name: value}))
            prepared = prepare(self.case.golden["image"], model.spec.numerics)
        except (RuntimeError, UsageError) as error:
            return f"it cannot be built: {error}"
        pixels = stack([prepared], model.spec.numerics.pad_multiple)
        if "input" in self.case.about["stages"] and (fault := stage_fault(self.case, "input", pixels)):
            return fault
        if name not in IN_BACKBONE:
            keeping(model, self.maps)
        elif fault := self._map_fault(model, pixels):
            return fault
        stages = model.trace(prepared, self.case.regions("rois"))
        for stage in self.case.about["stages"]:
            if fault := stage_fault(self.case, stage, stages[stage]):
                return fault
        if len(alone := lonely_among(self.case, stages["proposals"])) > self.lonely_proposals:
            return f"proposals: {alone[0]}"
        left = lonely(self.case, model.predict([self.case.golden["image"]])[0], model)
        return left[0] if len(left) > self.lonely else ""

    def _map_fault(self, model: MaskRCNN, pixels: torch.Tensor) -> str:
        with torch.inference_mode():
            maps = model.features(pixels)
        known = [name for name in maps if name in self.case.about["stages"]]
        return next((fault for name in known if (fault := stage_fault(self.case, name, maps[name]))), "")

    def _loss_fault(self, numerics: dict[str, Any]) -> str:
        """A loss that leaves the golden one by ten times what it differs by as things are."""
        if not self.losses:
            return ""
        losses = losses_of(self.case, self.model, self.maps, numerics)
        for name, wanted in self.golden_losses.items():
            allowed = max(10 * abs(self.losses[name] - wanted), 1e-4 * abs(wanted))
            if not abs(losses[name] - wanted) <= allowed:
                return f"loss {name}: {losses[name]:.6g}, golden {wanted:.6g}"
        return ""


def lonely_among(case: Case, proposals: torch.Tensor) -> list[str]:
    """Golden proposals without a twin, and one line where there are more or fewer proposals."""
    stored = case.regions("proposals")
    if stored is None:
        return []
    if stored.shape != proposals.shape:
        return [f"{len(proposals)}, golden {len(stored)}"] * (1 + len(stored))
    return [f"golden {box.tolist()} has no twin" for box in lonely_proposals(case, proposals)[0]]


def losses_of(case: Case, model: MaskRCNN, maps: dict[str, torch.Tensor], numerics: dict[str, Any]) -> dict[str, float]:
    """The losses of the golden step, norms as in evaluation."""
    spec = model.spec.with_numerics({**step_numerics(case, model), **numerics})
    trained = keeping(rebuilt(model, spec), maps).train()
    for module in trained.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        return {name: loss.item() for name, loss in trained(batch_of(case, trained)).items()}


def keeping(model: MaskRCNN, maps: dict[str, torch.Tensor]) -> MaskRCNN:
    """The model, whose backbone and neck are not run again."""
    model.features = lambda pixels: dict(maps)  # type: ignore[method-assign]
    return model
