"""What a training kept of what the model knew, and what it lost.

report = mg.retention(("before", "runs/grown/best"), mg.read_coco("old.json", "old/"))
report.components["backbone"].change       # 0.03: weights moved by 3 % of their norm
report.features["p3"]                      # 0.97: linear CKA of the maps on the same images
report.classes["person"].mask              # mask AP before and after, where the data has the class
report.agreement                           # else: how much of what was found before is found still
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgraft import keeping
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.detections import Detections
from maskgraft.errors import Finding, UsageError
from maskgraft.evaluation import coco_metrics
from maskgraft.files.writing import atomic
from maskgraft.model import MaskRCNN
from maskgraft.ops import boxes as box_ops
from maskgraft.preprocess import as_rgb, prepare, stack
from maskgraft.spec import COMPONENTS, component

RETENTION = "retention.json"
_CELLS = 512  # of each map and image that are compared
_FOUND = 0.5  # score from which a detection counts as one, and overlap from which two are the same


@dataclass(frozen=True, slots=True)
class Change:
    """How far the weights of a component moved: `change` is ‖after − before‖ / ‖before‖, over `tensors` tensors of
    which `moved` are not the same to the byte. Class rows that only one model has are left out."""

    change: float
    tensors: int
    moved: int


@dataclass(frozen=True, slots=True)
class Kept:
    """AP of a class before and after, 0..1; None where there was nothing to find."""

    box: tuple[float | None, float | None]
    mask: tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both models find with scores of 0.5 and more: `found` detections before, the part of them that is `kept`
    (same class, boxes overlapping by half), and the mean overlap of those masks; None where nothing was found."""

    found: int
    kept: float | None
    mask_iou: float | None


@dataclass(frozen=True, slots=True)
class Retention:
    """What was kept, on `images` images. `classes` are those that both models know and the data has."""

    components: Mapping[str, Change]
    features: Mapping[str, float]
    classes: Mapping[str, Kept]
    agreement: Agreement
    images: int

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON types; the keys are stable."""
        return asdict(self)


def retention(
    models: tuple[MaskRCNN | str | Path, MaskRCNN | str | Path],
    data: Dataset,
    *,
    limit: int | None = None,
    known: Sequence[str] | None = None,
) -> Retention:
    """Compare a model before and after a training, on the same images.

    `models` are the two, or where `mg.load` finds them; both must be of one architecture but for their classes. `limit`
    takes the first images only, and `known` are the classes that the first model has learnt, where it has rows of
    others too. Feature similarity is linear CKA (Kornblith et al. 2019, equation 6) over cells of the maps: 1
    for maps that are equal but for turning and scaling, near 0 for unrelated ones.

    Raises `UsageError` for models of different architectures, without a class in common, or a `limit` below 1.
    """
    before, after = (_loaded(one) for one in models)
    images = data.images[:limit] if limit is not None else data.images
    shared = [name for name in before.spec.classes if name in after.spec.classes and (known is None or name in known)]
    _check(before, after, shared if known is None else None, limit)
    old, new = ([one.predict([image.load()])[0] for image in images] for one in (before, after))
    return Retention(
        components=_changes(before, after, shared),
        features=_similarities(before, after, images),
        classes=_classes(before, after, data, images, (old, new), shared),
        agreement=_agreement(old, new, before.spec.classes, after.spec.classes, shared),
        images=len(images),
    )


def of_run(model: MaskRCNN, folder: Path, data: Dataset, *, limit: int) -> Retention | None:
    """What a run kept of the model that it began with, written into its folder as `retention.json`.

    `data` are images to compare on, of which `limit` are taken; components that came from no file are left out. None
    where the run's folder holds no start: its model came from no file, or it was not to tell.
    """
    start = keeping.start_of(folder)
    if start is None:
        return None
    report = _since(start, model, data, limit)
    with atomic(folder / RETENTION) as temporary:
        told = {**report.as_json(), "known": list(start.known), "data": str(data.path)}
        temporary.write_text(json.dumps(told, indent=1))
    return report


def of_start(model: MaskRCNN, folder: Path, data: Dataset, *, limit: int) -> Retention | None:
    """The same, and nothing is written."""
    start = keeping.start_of(folder)
    return _since(start, model, data, limit) if start else None


def _since(start: keeping.Start, model: MaskRCNN, data: Dataset, limit: int) -> Retention:
    data = replace(data, images=data.trainable() or data.images)
    report = retention((start.model.to(model.device), model), data, limit=limit, known=start.known)
    return replace(report, components={name: one for name, one in report.components.items() if name in start.parts})


def _loaded(model: MaskRCNN | str | Path) -> MaskRCNN:
    from maskgraft.graft import load

    return model if isinstance(model, MaskRCNN) else load(model)


def _check(before: MaskRCNN, after: MaskRCNN, shared: Sequence[str] | None, limit: int | None) -> None:
    findings = []
    ours, theirs = before.state_dict(), after.state_dict()
    heads = ("box_predictor", "mask_predictor")
    apart = [
        name
        for name in (*ours, *(one for one in theirs if one not in ours))
        if component(name) not in heads
        and (name not in ours or name not in theirs or ours[name].shape != theirs[name].shape)
    ]
    if apart:
        message = f"the two models are of different architectures: {len(apart)} tensors differ, first {apart[0]}"
        findings.append(Finding("shape.other", "error", message, tuple(apart[:20])))
    if shared is not None and not shared:
        findings.append(Finding("shape.classes", "error", "the two models have no class in common"))
    if limit is not None and limit < 1:
        findings.append(Finding("data.limit", "error", f"limit is {limit}; it is a number of images, 1 at least"))
    if findings:
        raise UsageError(findings)


def _changes(before: MaskRCNN, after: MaskRCNN, shared: Sequence[str]) -> dict[str, Change]:
    sums = {one: [0.0, 0.0, 0, 0] for one in COMPONENTS}
    theirs = after.state_dict()
    for name, tensor in before.state_dict().items():
        one, other = keeping.paired(name, tensor.cpu(), theirs[name].cpu(), before, after, shared)
        if not one.is_floating_point():
            continue
        entry = sums[component(name)]
        entry[0] += float((other.double() - one.double()).square().sum())
        entry[1] += float(one.double().square().sum())
        entry[2] += 1
        entry[3] += not torch.equal(one, other)
    return {
        name: Change(math.sqrt(moved / norm) if norm else 0.0, int(tensors), int(differ))
        for name, (moved, norm, tensors, differ) in sums.items()
        if tensors
    }


@torch.inference_mode()
def _similarities(before: MaskRCNN, after: MaskRCNN, images: Sequence[ImageRecord]) -> dict[str, float]:
    cells: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for image in images:
        # one input for both: what is compared is what each makes of it
        prepared = prepare(as_rgb(image.load()), before.spec.numerics)
        pixels = stack([prepared], before.spec.numerics.pad_multiple)
        for side, model in enumerate((before, after)):
            with model.evaluating():
                maps = model.features(pixels.to(model.device))
            for name, map_ in maps.items():
                flat = map_[0].flatten(1).T.double().cpu()
                chosen = flat[:: max(1, -(-len(flat) // _CELLS))]
                cells.setdefault(name, ([], []))[side].append(chosen)
    return {name: cka(torch.cat(one), torch.cat(other)) for name, (one, other) in cells.items()}


def cka(one: Tensor, other: Tensor) -> float:
    """Linear CKA of two representations [N, C] and [N, C'] of the same N examples, 0..1.

    ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of the centred matrices, Frobenius norms. Two constant representations are alike.
    """
    x, y = one - one.mean(0), other - other.mean(0)
    apart = (x.T @ x).norm() * (y.T @ y).norm()
    if not apart:
        return float(not x.any() and not y.any())
    return float((y.T @ x).square().sum() / apart)


def _classes(
    before: MaskRCNN,
    after: MaskRCNN,
    data: Dataset,
    images: Sequence[ImageRecord],
    found: tuple[Sequence[Detections], Sequence[Detections]],
    shared: Sequence[str],
) -> dict[str, Kept]:
    labelled = {data.classes[one.label] for image in images for one in image.instances}
    if not labelled.intersection(shared):
        return {}
    one, other = (
        coco_metrics(
            data,
            zip(images, each, strict=True),
            images=images,
            classes=model.spec.classes,
            inclusive=model.spec.numerics.inclusive_areas,
        ).per_class
        for model, each in zip((before, after), found, strict=True)
    )
    return {
        name: Kept((one[name][0], other[name][0]), (one[name][1], other[name][1]))
        for name in shared
        if name in labelled
    }


def _agreement(
    before: Sequence[Detections],
    after: Sequence[Detections],
    ours: Sequence[str],
    theirs: Sequence[str],
    shared: Sequence[str],
) -> Agreement:
    found, overlaps = 0, list[float]()
    for old, new in zip(before, after, strict=True):
        old, new = old.above(_FOUND), new.above(_FOUND)
        for name in shared:
            mine = torch.nonzero(old.labels == ours.index(name)).flatten().tolist()
            open_ = torch.nonzero(new.labels == theirs.index(name)).flatten().tolist()
            found += len(mine)
            for index in mine:  # best first, each taking the detection that fits it best
                if not open_:
                    break
                overlap = box_ops.iou(old.boxes[[index]], new.boxes[open_], inclusive=False)[0]
                if overlap.max() < _FOUND:
                    continue
                other = open_.pop(int(overlap.argmax()))
                both = (old.masks[index] & new.masks[other]).sum().item()
                either = (old.masks[index] | new.masks[other]).sum().item()
                overlaps.append(both / either if either else 1.0)
    kept = len(overlaps) / found if found else None
    return Agreement(found, kept, sum(overlaps) / len(overlaps) if overlaps else None)
