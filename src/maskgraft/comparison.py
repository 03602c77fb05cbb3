"""Two models stage by stage: where they first differ, and which conventions could be the cause.

found = compare(mg.load("model.pth"), mg.load("converted.pth"), "street.jpg")
found.first, found.suspects          # "c3", {"stride_in": ("1x1", "3x3")}

Names, shapes and a clean load prove nothing about numbers; only this does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskgraft import turning
from maskgraft.detections import Detections
from maskgraft.errors import CheckpointError, Finding, UsageError
from maskgraft.model import MaskRCNN
from maskgraft.preprocess import Prepared, as_rgb, prepare
from maskgraft.spec import NUMERICS_FIELDS, Spec

# Float32 noise of one model on two machines is about 1e-5 of a stage's largest value; ten times that is a difference.
TOLERANCE = 1e-4
_PIXELS = 2e-3  # the share of pixels on the rims of masks that noise turns

# How names of stages begin, and the first field of `Numerics` that acts later; fields stand in the data's order.
_ENDS = (
    ("input", "norm_eps"),
    ("rpn.", "rpn_scope"),
    ("anchors", "rpn_activation"),
    ("proposals", "level_epsilon"),
    ("roi.", "box_delta_weights"),
    ("detections", "mask_paste"),
    ("masks", "rpn_pre_nms_train"),
    ("c", "anchor_sizes"),
    ("p", "anchor_sizes"),
)
# What `_alike` takes off a stage, which no stage before would show.
_SCALES = {"rpn.deltas": "rpn_delta_weights", "roi.box_deltas": "box_delta_weights"}
_BOXES = NUMERICS_FIELDS[NUMERICS_FIELDS.index("inclusive_boxes") : NUMERICS_FIELDS.index("rpn_activation")]
# What acts again where things are found, though it stands earlier.
_AGAIN = (
    "box_scale",
    *_BOXES,
    *NUMERICS_FIELDS[NUMERICS_FIELDS.index("delta_clip") : NUMERICS_FIELDS.index("level_epsilon")],
)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: the largest difference, in absolute terms and as a share of the stage's largest value.

    `note` says why there is no number: another shape, or missing on one side. `allowed` is the share that is noise.
    """

    name: str
    largest: float
    relative: float
    note: str = ""
    allowed: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        """Whether the difference is float noise."""
        return not self.note and self.relative <= self.allowed


@dataclass(frozen=True, slots=True)
class Comparison:
    """All stages in order; `first` is the first that differs, or ""; `suspects` name → both values.

    Of two models, suspects are the conventions in which they differ and that act between the last stage that agrees
    before it and the first one that differs.
    Of a model and a stage dump, those that alone, turned into the second value, make this stage agree; where there is
    none, all that act between the stages that agree and this one, without a second value (None). `unseen` are, of two
    models, the conventions in which they differ and that act on stages which agree: on this photograph they do nothing,
    or weights make up for them.
    """

    stages: tuple[Stage, ...]
    first: str
    suspects: Mapping[str, tuple[Any, Any]]
    unseen: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain JSON types; the keys are stable."""
        return {
            "first": self.first or None,
            "stages": [
                {"name": one.name, "largest": one.largest, "relative": one.relative, "note": one.note}
                for one in self.stages
            ],
            "suspects": {name: list(pair) for name, pair in self.suspects.items()},
            "unseen": {name: list(pair) for name, pair in self.unseen.items()},
        }


def compare(one: MaskRCNN, other: MaskRCNN | Mapping[str, Tensor], image: Any) -> Comparison:
    """Hold two models, or a model and a stage dump, against each other on one image.

    A stage dump maps the stage names of `MaskRCNN.trace` to arrays; its regions, where it has any, are those of
    "rois" [N, 4]. Proposals are compared as sets of rows, for the rank of near-equal scores is noise. Two models are
    compared to the end: "detections", as sets too, and the pixels of their "masks".
    """
    if isinstance(other, MaskRCNN):
        return _of_models(one, other, image)
    rois = other["rois"] if "rois" in other else one.trace(image)["proposals"][:16]
    stages = _stages(one.trace(image, rois), other)
    first = _first(stages)
    before = [stage.name for stage in stages[: [stage.name for stage in stages].index(first)]] if first else []
    return Comparison(stages, first, _remedies(one, other, image, rois, first, before) if first else {})


def _of_models(one: MaskRCNN, other: MaskRCNN, image: Any) -> Comparison:
    rois = one.trace(image)["proposals"][:16]
    stages = _stages(*(_alike(model.trace(image, rois), model.spec) for model in (one, other)))
    stages += _results(one.predict([image])[0], other.predict([image])[0])
    first = _first(stages)
    if first == "input" and stages[1].agrees:  # the first convolution has taken up another order or scale of colours
        first = _first(stages[1:])
    if not first:
        return Comparison(stages, "", {}, unseen=_suspects(one, other, "masks", []))
    before = [stage.name for stage in stages[: [stage.name for stage in stages].index(first)] if stage.agrees]
    suspects, acting = _suspects(one, other, first, before), _suspects(one, other, first, [])
    return Comparison(stages, first, suspects, {name: pair for name, pair in acting.items() if name not in suspects})


def _stages(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[Stage, ...]:
    return tuple(_stage(name, value, theirs[name]) for name, value in ours.items() if name in theirs)


def _first(stages: Sequence[Stage]) -> str:
    return next((stage.name for stage in stages if not stage.agrees), "")


def _alike(stages: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Stages in a form in which neither the order of a cell's anchors shows, nor the scale of deltas, nor rows of the
    background, nor whether all classes share a row."""
    numerics, classes, found = spec.numerics, spec.arch.classes, dict(stages)
    level = [
        (size, ratio) for size in range(len(numerics.anchor_sizes[0])) for ratio in range(len(numerics.anchor_ratios))
    ]
    if numerics.anchor_order == "ratio":
        level.sort(key=lambda pair: pair[::-1])
    sizes, ratios = numerics.anchor_sizes[0], numerics.anchor_ratios
    order = sorted(range(len(level)), key=lambda place: (sizes[level[place][0]], ratios[level[place][1]]))
    for name, value in stages.items():
        if name.startswith("rpn.logits"):
            found[name] = value[:, order]
        elif name.startswith("rpn.deltas"):
            parts = value.reshape(1, -1, 4, *value.shape[2:])[:, order]
            found[name] = parts / parts.new_tensor(numerics.rpn_delta_weights)[:, None, None]
        elif name == "anchors":
            found[name] = value.reshape(-1, len(order), 4)[:, order]
        elif name == "roi.box_deltas":
            rows = value.reshape(len(value), -1, 4) / value.new_tensor(numerics.box_delta_weights)
            found[name] = _of_classes(rows, classes, shared=spec.arch.box_rows.startswith("agnostic"))
        elif name == "roi.mask_logits":
            found[name] = _of_classes(value, classes, shared=spec.arch.mask_rows.startswith("agnostic"))
    return found


def _of_classes(rows: Tensor, classes: int, *, shared: bool) -> Tensor:
    """Rows [N, R, …] of each foreground class, [N, K, …]."""
    return rows[:, :1].expand(-1, classes, *rows.shape[2:]) if shared else rows[:, :classes]


def _stage(name: str, ours: Tensor, theirs: Tensor) -> Stage:
    first, second = (np.asarray(value.cpu(), dtype=np.float64) for value in (ours, theirs))
    if name.startswith("proposals"):
        return _as_sets(name, first, second)
    if first.shape != second.shape:
        return Stage(name, float("nan"), float("nan"), f"{list(first.shape)} and {list(second.shape)}")
    if not first.size:
        return Stage(name, 0.0, 0.0)
    largest = float(np.abs(first - second).max())
    return Stage(name, largest, largest / max(float(np.abs(first).max()), 1e-12))


def _as_sets(name: str, first: np.ndarray, second: np.ndarray) -> Stage:
    if abs(len(first) - len(second)) > 0.02 * max(len(first), len(second)):
        return Stage(name, float("nan"), float("nan"), f"{len(first)} and {len(second)} of them")
    rows = first.reshape(len(first), -1), second.reshape(len(second), -1)
    apart = np.array([np.abs(rows[1] - row).max(1).min() for row in rows[0]]) if len(second) else np.zeros(0)
    # a few may come and go at the edge of suppression; the typical one tells
    largest = float(np.quantile(apart, 0.98)) if len(apart) else 0.0
    return Stage(name, largest, largest / max(float(np.abs(first).max(initial=0)), 1e-12))


def _results(ours: Detections, theirs: Detections) -> tuple[Stage, Stage]:
    """What was found: label, box and score as one row each, and the masks of those that both have."""
    side = float(max(ours.masks.shape[1:]))  # a label, or all of a score, weighs as much as the whole photograph
    rows = [
        np.asarray(torch.cat((one.boxes, side * one.scores[:, None], side * one.labels[:, None]), 1), np.float64)
        for one in (ours, theirs)
    ]
    found = _as_sets("detections", *rows)
    wrong = either = 0
    if len(rows[1]):
        nearest = [int(np.abs(rows[1] - row).max(1).argmin()) for row in rows[0]]
        for mask, index in zip(ours.masks, nearest, strict=True):
            wrong += int((mask ^ theirs.masks[index]).sum())
            either += int((mask | theirs.masks[index]).sum())
    return found, Stage("masks", float(wrong), wrong / max(either, 1), allowed=_PIXELS)


def _end(stage: str) -> int:
    """The index of the first convention that acts after a stage."""
    return NUMERICS_FIELDS.index(next(field for start, field in _ENDS if stage.startswith(start)))


def _suspects(one: MaskRCNN, other: MaskRCNN, first: str, before: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """The conventions in which two models differ and that act after the stages `before`, up to the stage `first`.

    Where the inputs differ, the weights may have taken that up, and what acts on the maps be the cause.
    """
    end = _end("c2" if first == "input" else first)
    begin = max((place for place in map(_end, before) if place < end), default=0)
    if any(name.startswith("c") for name in before):  # a map that agrees clears all that makes the input
        begin = max(begin, _end("input"))
    acting = (*NUMERICS_FIELDS[begin:end], *(field for start, field in _SCALES.items() if first.startswith(start)))
    if first.startswith(("proposals", "roi.")):
        acting += _BOXES
    elif first == "detections":
        acting += _AGAIN
    pairs = {name: (getattr(one.spec.numerics, name), getattr(other.spec.numerics, name)) for name in acting}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _remedies(
    model: MaskRCNN, dump: Mapping[str, Tensor], image: Any, rois: Tensor, first: str, before: Sequence[str]
) -> dict[str, tuple[Any, Any]]:
    """The conventions that act after the stages `before` it, and of which another value makes `first` agree."""
    begin = max((end for end in map(_end, before) if end < _end(first)), default=0)
    acting = NUMERICS_FIELDS[begin : _end(first)]
    found, pixels, maps = {}, as_rgb(image), None
    if begin >= _end("p"):  # what the maps come of is the same for all that is tried
        stages = model.trace(image, rois)
        maps = {name: map_ for name, map_ in stages.items() if name[0] in "cp" and name[1:].isdigit()}
    for name in dict.fromkeys((*acting, *(_BOXES if first.startswith(("proposals", "roi.")) else ()))):
        for value, turned in turning.others(model, name):
            try:
                prepared = prepare(pixels, turned.spec.numerics)
            except UsageError:  # no image can be prepared so
                continue
            if _stage(first, _reached(turned, prepared, rois, first, maps), dump[first]).agrees:
                found[name] = getattr(model.spec.numerics, name), value
                break
    return found or {name: (getattr(model.spec.numerics, name), None) for name in acting}


@torch.inference_mode()
def _reached(model: MaskRCNN, prepared: Prepared, rois: Tensor, stage: str, maps: dict[str, Tensor] | None) -> Tensor:
    """A stage of one image, from its maps where they are known, without what comes after it where that takes long."""
    if maps is None:
        with model.evaluating():
            inputs = model.stacked(prepared)
            if stage == "input":
                return inputs
            maps = model.features(inputs)
    if stage in maps:
        return maps[stage]
    return model.trace(prepared, rois if stage.startswith("roi.") else None, maps=maps)[stage]


def read_dump(path: Path) -> dict[str, Tensor]:
    """A stage dump: an `.npz` of arrays by stage name. Raises `CheckpointError` when it is none."""
    from maskgraft.files import open_checkpoint

    tensors = open_checkpoint(path)
    if not any(name in tensors for name in ("input", "c4", "c5", "p2")):
        message = f"{path} holds no stages of a model (input, c2 … p6, rpn.logits.p2 …)"
        raise CheckpointError(
            Finding("file.no-weights", "error", message, fix="save model.trace(image) with numpy.savez")
        )
    return {name: torch.from_numpy(np.array(array.read(), dtype=np.float32)) for name, array in tensors.items()}
