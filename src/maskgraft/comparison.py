"""Two models stage by stage: where they first differ, and which conventions could be the cause.

found = compare(mg.load("model.pth"), mg.load("converted.pth"), "street.jpg")
found.first, found.suspects          # "c3", {"stride_in": ("1x1", "3x3")}

Names, shapes and a clean load prove nothing about numbers; only this does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskgraft.errors import CheckpointError, Finding
from maskgraft.model import MaskRCNN
from maskgraft.spec import NUMERICS_FIELDS

# Float32 noise of one model on two machines is about 1e-5 of a stage's largest value; ten times that is a difference.
TOLERANCE = 1e-4

# The field of `Numerics` with which the conventions of each part of the way begin; fields stand in the data's order.
_SECTIONS = (
    ("input", "channel_order"),
    ("features", "norm_eps"),
    ("anchors", "anchor_sizes"),
    ("boxes", "inclusive_boxes"),
    ("proposals", "rpn_activation"),
    ("regions", "level_epsilon"),
    ("detections", "box_delta_weights"),
    ("training", "rpn_pre_nms_train"),
)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: the largest difference, in absolute terms and as a share of the stage's largest value.

    `note` says why there is no number: another shape, or missing on one side.
    """

    name: str
    largest: float
    relative: float
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the difference is float noise."""
        return not self.note and self.relative <= TOLERANCE


@dataclass(frozen=True, slots=True)
class Comparison:
    """All stages in order; `first` is the first that differs, or ""; `suspects` the conventions in which the two models
    differ and that act up to there, name → both values. Of a stage dump no conventions are known (None): those that
    act between the stage before and `first` are named."""

    stages: tuple[Stage, ...]
    first: str
    suspects: Mapping[str, tuple[Any, Any]]

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain JSON types; the keys are stable."""
        return {
            "first": self.first or None,
            "stages": [
                {"name": one.name, "largest": one.largest, "relative": one.relative, "note": one.note}
                for one in self.stages
            ],
            "suspects": {name: list(pair) for name, pair in self.suspects.items()},
        }


def compare(one: MaskRCNN, other: MaskRCNN | Mapping[str, Tensor], image: Any) -> Comparison:
    """Hold two models, or a model and a stage dump, against each other on one image.

    A stage dump maps the stage names of `MaskRCNN.trace` to arrays. Proposals are compared as sets of rows, for the
    rank of near-equal scores is noise.
    """
    rois = _regions(one, image)
    ours = one.trace(image, rois)
    theirs = other.trace(image, rois) if isinstance(other, MaskRCNN) else dict(other)
    stages = tuple(_stage(name, value, theirs.get(name)) for name, value in ours.items() if name in theirs)
    first = next((stage.name for stage in stages if not stage.agrees), "")
    suspects = _suspects(one, other if isinstance(other, MaskRCNN) else None, first) if first else {}
    return Comparison(stages, first, suspects)


def _regions(model: MaskRCNN, image: Any) -> Tensor:
    """Regions for the heads that both models are given: the first model's own best proposals."""
    return model.trace(image)["proposals"][:16]


def _stage(name: str, ours: Tensor, theirs: Tensor | None) -> Stage:
    if theirs is None:
        return Stage(name, float("nan"), float("nan"), "only in the first")
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


# For each kind of stage, the sections with which the conventions that act there begin, and those after them.
_PLACES = {
    "input": ("input", "features"),
    "c": ("features", "anchors"),
    "p": ("features", "anchors"),
    "anchors": ("anchors", "boxes"),
    "rpn": ("proposals", "regions"),
    "proposals": ("anchors", "regions"),
    "roi": ("regions", "detections"),
}


def _suspects(one: MaskRCNN, other: MaskRCNN | None, first: str) -> dict[str, tuple[Any, Any]]:
    """The conventions in which two models differ and that act no later than the stage `first`; without another model,
    those that act just there."""
    kind = next((kind for kind in ("input", "anchors", "proposals", "rpn", "roi") if first.startswith(kind)), first[0])
    start, end = (NUMERICS_FIELDS.index(dict(_SECTIONS)[section]) for section in _PLACES[kind])
    mine = one.spec.numerics
    if other is None:
        return {name: (getattr(mine, name), None) for name in NUMERICS_FIELDS[start:end]}
    theirs = other.spec.numerics
    pairs = ((name, getattr(mine, name), getattr(theirs, name)) for name in NUMERICS_FIELDS[:end])
    return {name: (value, yours) for name, value, yours in pairs if value != yours}


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
