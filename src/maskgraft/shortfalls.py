"""What stands between a model and an AP of 1: which stage of the detector loses the objects, and what that costs.

short = mg.shortfall(model, mg.read_coco("val.json", "val/"))
short.ap, short.kinds["proposals"].points     # mask AP at an overlap of 0.5, and what perfect proposals would add
short.metrics.mask["AP"]                      # COCO's metrics of the same detections
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskgraft import coco, misses
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.detections import Detections
from maskgraft.errors import Finding, UsageError
from maskgraft.evaluation import Metrics, check_arguments, coco_metrics
from maskgraft.misses import KINDS, Floats, Ints, Judged, Overlaps
from maskgraft.model import MaskRCNN
from maskgraft.ops import boxes as box_ops
from maskgraft.preprocess import Prepared, as_rgb, prepare
from maskgraft.segmentation import Mask

SHORTFALL = "shortfall.json"  # in a run's folder: that of its best model
_EXAMPLES = 6  # of each kind
_WORST = 8  # images
_CONFIDENT = 0.5  # score from which a detection is shown, and counts in the confusion of classes


@dataclass(frozen=True, slots=True)
class Cost:
    """One kind of error: `points` of AP (0..1) that mending it alone would add, how many `objects` are lost to it and
    how many `detections` are false for it."""

    points: float
    objects: int
    detections: int


@dataclass(frozen=True, slots=True)
class Example:
    """One error: `detection` is its place among what the model finds on the image, `truth` among the image's instances;
    None where the error has none. `label` is the object's class, or the detection's where there is no object."""

    image: int
    kind: str
    detection: int | None
    truth: int | None
    label: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why AP is not 1, over `objects` instances of `images` images.

    `ap` is mask AP at `overlap`, the mean over classes that model and data share; `kinds` are those of
    `maskgraft.misses.KINDS`, each mended by itself, so that points need not add up. `proposals` counts the objects by
    their best overlap with a proposal, 0 to 0.1 … 0.9 to 1. `curves` is precision at 101 recalls from 0 to 1, by what
    is counted and by class. `confusion` has objects as rows and detections of scores from 0.5 as columns, both in the
    order of `classes`; the last row is background, the last column nothing found. `worst` are ids of images, `metrics`
    COCO's of the same detections.
    """

    ap: float
    overlap: float
    images: int
    objects: int
    kinds: Mapping[str, Cost]
    proposals: tuple[int, ...]
    curves: Mapping[str, tuple[float, ...]]
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    worst: tuple[int, ...]
    examples: tuple[Example, ...]
    metrics: Metrics

    @property
    def proposal_recall(self) -> float | None:
        """The share of objects that a proposal meets by half; None without objects."""
        return sum(self.proposals[5:]) / self.objects if self.objects else None

    def as_json(self) -> dict[str, Any]:
        """All of it as plain JSON types; the keys are stable."""
        told = asdict(self)
        told["curves"] = {name: [round(value, 4) for value in values] for name, values in self.curves.items()}
        return {**told, "proposal_recall": self.proposal_recall, "metrics": self.metrics.as_json()}


def shortfall(
    model: MaskRCNN,
    data: Dataset,
    *,
    overlap: float = 0.5,
    limit: int | None = None,
    results: str | Path | None = None,
    progress: Callable[[Sequence[ImageRecord]], Iterable[ImageRecord]] = iter,
) -> Shortfall:
    """Follow every object through the detector, and every detection back to what it should have been.

        for kind, cost in mg.shortfall(model, data).kinds.items():
            print(f"{kind:14} {100 * cost.points:5.1f} points  {cost.objects} lost  {cost.detections} false")

    Detections are matched to objects by their masks, as COCO does, at one `overlap`. An object that is lost is lost at
    the first stage behind which it is no more: no proposal meets it by `overlap`, no region near it is taken for its
    class, no such box lies on it, suppression takes it, its mask is off. Crowds are as in COCO; `limit` takes the first
    images only, `results` is a file for the detections in COCO's format. The box head looks at each image twice,
    otherwise it costs as much as `mg.evaluate`, and raises what that raises; also `UsageError` for an `overlap` that is
    none.
    """
    if not misses.NEAR < overlap < 1:
        message = f"overlap is {overlap}; it lies between {misses.NEAR} and 1"
        raise UsageError(Finding("spec.field", "error", message))
    check_arguments(limit, results)
    images = data.images[:limit] if limit is not None else data.images
    judged: list[_Image] = []

    def found() -> Iterator[tuple[ImageRecord, Detections]]:
        for image in progress(images):
            detections, one = _examine(model, image, data.classes, overlap)
            judged.append(one)
            yield image, detections

    metrics = coco_metrics(
        data,
        found(),
        images=images,
        classes=model.spec.classes,
        inclusive=model.spec.numerics.inclusive_areas,
        results=results,
    )
    return _summed(judged, data, overlap, metrics)


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """What is kept of one image; `places` and `objects` are indices among all detections and instances of it."""

    record: ImageRecord
    judged: Judged
    places: Ints
    objects: Ints
    proposals: Floats


@torch.inference_mode()
def _examine(model: MaskRCNN, record: ImageRecord, classes: Sequence[str], overlap: float) -> tuple[Detections, _Image]:
    """Detect on one image as `predict` does, and judge what is found with what is known of the way there."""
    known = {name: index for index, name in enumerate(model.spec.classes)}
    truth = coco.truth(record)
    objects = np.flatnonzero([classes[label] in known for label in truth.labels])
    wanted = torch.tensor([known[classes[label]] for label in truth.labels[objects]], dtype=torch.int64)
    with model.evaluating():
        prepared = prepare(as_rgb(record.load()), model.spec.numerics)
        pixels = model.stacked(prepared)
        maps, _, _, _, proposed = model.to_proposals(pixels, prepared)
        padded = int(pixels.shape[2]), int(pixels.shape[3])
        detections = model.instances(maps, proposed.boxes, prepared, padded)
        boxes = torch.from_numpy(truth.boxes[objects])
        near = box_ops.iou(prepared.to_original(proposed.boxes).cpu(), boxes)
        stages, best = [""] * len(objects), np.zeros(len(objects))
        if len(objects) and len(near):
            classified = model.box_head(model.pool(maps, [proposed.boxes], model.spec.numerics.box_pool_size, padded))
            logits, deltas = model.box_predictor(classified)
            stages = _stages(model, prepared, (proposed.boxes, logits, deltas), near, boxes, wanted, overlap)
            best = near.amax(0).double().numpy()
        elif len(objects):
            stages = ["proposals"] * len(objects)
    overlaps, places = _overlaps(detections, record, truth, objects, classes, model.spec.classes)
    there = (overlaps.box >= overlap) & (overlaps.labels[:, None] == overlaps.truth[None])
    stages = ["" if arrived else stage for stage, arrived in zip(stages, there.any(0), strict=True)]
    return detections, _Image(record, misses.judge(overlaps, stages, overlap=overlap), places, objects, best)


def _stages(
    model: MaskRCNN,
    prepared: Prepared,
    regions: tuple[Tensor, Tensor, Tensor],
    near: Tensor,
    boxes: Tensor,
    wanted: Tensor,
    overlap: float,
) -> list[str]:
    """Where each object is lost before suppression, or "suppression" where it came so far.

    `regions` are the proposals [N, 4], their class logits [N, K + 1] and box deltas; `near` [N, G] their overlaps with
    the true `boxes` [G, 4] in the photograph, whose classes in the model are `wanted` [G].
    """
    numerics, (proposed, logits, deltas) = model.spec.numerics, regions
    decoded = box_ops.decode(
        deltas,
        proposed,
        numerics.box_delta_weights,
        numerics.delta_clip,
        both_ways=numerics.delta_clip_both,
        inclusive=numerics.inclusive_boxes,
        wider=numerics.decoded_wider,
    )
    row = torch.zeros_like(wanted) if decoded.shape[1] == 1 else wanted
    moved = prepared.to_original(decoded[:, row].reshape(-1, 4)).reshape(len(proposed), len(wanted), 4).cpu()
    placed = torch.stack([box_ops.iou(moved[:, one], boxes[one : one + 1])[:, 0] for one in range(len(wanted))], 1)
    probabilities = logits.float().softmax(1).cpu()
    answered = probabilities[:, wanted] > numerics.score_threshold
    first = probabilities.argmax(1)
    if numerics.class_choice == "best":
        answered &= first[:, None] == wanted[None]
    close, right = near >= overlap, answered & (placed >= overlap)
    other = close & (first[:, None] != wanted[None]) & (first[:, None] < probabilities.shape[1] - 1)
    told = torch.stack((right, close & answered, other, close)).any(1).tolist()
    return [
        "suppression" if good else "box" if heard else "class" if confused else "rejected" if met else "proposals"
        for good, heard, confused, met in zip(*told, strict=True)
    ]


def _overlaps(
    detections: Detections,
    record: ImageRecord,
    truth: coco.Truth,
    objects: Ints,
    classes: Sequence[str],
    names: Sequence[str],
) -> tuple[Overlaps, Ints]:
    """Detections of classes that the data has against the objects; and their places among all detections."""
    from faster_coco_eval import mask as coco_mask

    label_of = {name: index for index, name in enumerate(classes)}
    labels = np.array([label_of.get(names[label], -1) for label in detections.labels.tolist()], np.int64)
    places = np.flatnonzero(labels >= 0)
    crowds = [one for one in record.annotations if one.crowd]
    height, width = record.height, record.width
    found = _encoded(detections.masks.numpy()[places])
    real = _encoded(truth.masks[objects])
    crowded = [coco.rle(one, height, width) for one in crowds]
    boxes = detections.boxes[torch.from_numpy(places)]

    def shared(others: Sequence[Any], crowd: bool) -> Floats:
        if not found or not others:
            return np.zeros((len(found), len(others)))
        return np.asarray(coco_mask.iou(found, list(others), [int(crowd)] * len(others)), np.float64)

    real_boxes = torch.from_numpy(truth.boxes[objects])
    crowd_boxes = torch.tensor([one.box for one in crowds], dtype=torch.float32).reshape(-1, 4)
    inside = box_ops.iou(boxes, crowd_boxes)  # of the whole; COCO's is of the detection
    area, crowd_area = (box_ops.area(one, inclusive=False) for one in (boxes, crowd_boxes))
    inside = inside * (area[:, None] + crowd_area[None]) / (1 + inside) / area[:, None].clamp(min=1e-9)
    return (
        Overlaps(
            mask=shared(real, False),
            box=box_ops.iou(boxes, real_boxes).double().numpy(),
            crowd=shared(crowded, True),
            crowd_box=inside.double().numpy(),
            labels=labels[places],
            scores=detections.scores.double().numpy()[places],
            truth=truth.labels[objects],
            crowds=np.array([one.label for one in crowds], np.int64),
        ),
        places,
    )


def _encoded(masks: Mask) -> list[Any]:
    from faster_coco_eval import mask as coco_mask

    if not len(masks):
        return []
    return list(coco_mask.encode(np.asfortranarray(masks.view(np.uint8).transpose(1, 2, 0))))


# ---- all images together ---------------------------------------------------------------------------------------------


def _summed(images: Sequence[_Image], data: Dataset, overlap: float, metrics: Metrics) -> Shortfall:
    every, count = [one.judged for one in images], len(data.classes)
    as_is = misses.rankings([(one.overlaps, one.matched) for one in every], count)
    among = [label for label in range(count) if as_is[label].objects and data.classes[label] in metrics.per_class]
    ap = float(misses.mean_precision(as_is, among).mean())

    def cost(kind: str) -> Cost:
        better = float(misses.mean_precision(misses.mended(every, [kind], count), among).mean()) if every else 0.0
        lost, false = (sum(names.count(kind) for names in found) for found in _names(every))
        return Cost(better - ap, lost, false)

    curves = {f"mask, overlap {overlap:g}": misses.mean_precision(as_is, among)}
    for name, at, boxes in (("mask, overlap 0.75", 0.75, False), ("box, overlap 0.5", 0.5, True)):
        matched = [(one.overlaps, misses.match(one.overlaps, at, boxes=boxes)) for one in every]
        curves[name] = misses.mean_precision(misses.rankings(matched, count), among)
    curves |= {data.classes[label]: misses.mean_precision(as_is, [label]) for label in among}
    best = np.concatenate([np.zeros(0), *(one.proposals for one in images)])
    return Shortfall(
        ap=ap,
        overlap=overlap,
        images=len(images),
        objects=sum(len(one.overlaps.truth) for one in every),
        kinds={kind: cost(kind) for kind in KINDS},
        proposals=tuple(np.bincount(np.minimum((best * 10).astype(np.int64), 9), minlength=10).tolist()),
        curves={name: tuple(values.tolist()) for name, values in curves.items()},
        classes=data.classes,
        confusion=tuple(map(tuple, misses.confusion(every, count, score=_CONFIDENT).tolist())),
        worst=_worst(images),
        examples=tuple(example for kind in KINDS for example in _examples(images, kind, data.classes)),
        metrics=metrics,
    )


def _names(every: Sequence[Judged]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    return [one.lost for one in every], [one.kinds for one in every]


def _worst(images: Sequence[_Image]) -> tuple[int, ...]:
    """The images with the most lost objects and confident false detections."""

    def faults(one: _Image) -> int:
        false = sum(
            bool(kind) and score >= _CONFIDENT
            for kind, score in zip(one.judged.kinds, one.judged.overlaps.scores, strict=True)
        )
        return int(false + sum(map(bool, one.judged.lost)))

    ranked = sorted(images, key=faults, reverse=True)
    return tuple(one.record.id for one in ranked[:_WORST] if faults(one))


def _examples(images: Sequence[_Image], kind: str, classes: Sequence[str]) -> list[Example]:
    """The most telling errors of a kind: false detections by their scores, else the largest objects that are lost."""
    false, lost = [], []
    for one in images:
        overlaps = one.judged.overlaps
        for row in np.flatnonzero([name == kind for name in one.judged.kinds]).tolist():
            at = int(one.judged.at[row])
            label = classes[overlaps.truth[at] if at >= 0 else overlaps.labels[row]]
            truth, score = (int(one.objects[at]) if at >= 0 else None), float(overlaps.scores[row])
            example = Example(one.record.id, kind, int(one.places[row]), truth, label, score)
            false.append((score, example))
        for index in np.flatnonzero([name == kind for name in one.judged.lost]).tolist():
            truth = int(one.objects[index])
            example = Example(one.record.id, kind, None, truth, classes[overlaps.truth[index]], None)
            lost.append((one.record.instances[truth].area, example))
    chosen = false or lost
    return [example for _, example in sorted(chosen, key=lambda item: -item[0])[:_EXAMPLES]]
