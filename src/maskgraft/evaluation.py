"""COCO average precision of boxes and masks, computed by faster-coco-eval on results that are encoded as they come."""

import gc
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgraft import coco, segmentation
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.detections import Detections
from maskgraft.errors import DataError, Finding, UsageError
from maskgraft.files.writing import atomic

if TYPE_CHECKING:
    from maskgraft.model import MaskRCNN

# The twelve numbers of COCO's summary, in its order.
SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True, slots=True)
class Metrics:
    """COCO metrics, each 0..1, or None where nothing of the kind was there to find.

    `box` and `mask` hold COCO's twelve numbers by name (`SUMMARY`); `per_class` the box and mask AP of each class.
    `unmatched` are classes of the model that the dataset does not have; they are left out.
    """

    box: Mapping[str, float | None]
    mask: Mapping[str, float | None]
    per_class: Mapping[str, tuple[float | None, float | None]]
    images: int
    unmatched: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The metrics as plain JSON types; the keys are stable."""
        return {
            "images": self.images,
            "box": dict(self.box),
            "mask": dict(self.mask),
            "per_class": {name: {"box": box, "mask": mask} for name, (box, mask) in self.per_class.items()},
            "unmatched": list(self.unmatched),
        }


def evaluate(
    model: "MaskRCNN",
    data: Dataset,
    *,
    limit: int | None = None,
    results: str | Path | None = None,
    progress: Callable[[Sequence[ImageRecord]], Iterable[ImageRecord]] = iter,
    together: bool = False,
) -> Metrics:
    """Box and mask AP of a model on a dataset.

        metrics = mg.evaluate(model, mg.read_coco("instances_val2017.json", "val2017"))
        metrics.box["AP"], metrics.mask["AP"]

    Classes are matched by name. `limit` takes the first images only; `results` is a JSON file to write the detections
    to, in COCO's results format. Raises `DataError` when the model and the dataset share no class, and `UsageError` for
    a `limit` below 1 or a `results` that cannot be written, before anything is computed.

    `together`: each process of torch.distributed takes a part of the images, and all get the metrics of all.
    """
    from maskgraft import processes  # imports torch, which metrics as such do not need

    check_arguments(limit, results)
    _categories_in_common(data, model.spec.classes)
    images = data.images[:limit] if limit is not None else data.images
    mine = processes.share(images) if together else images
    found = ((image, model.predict([image.load()])[0]) for image in progress(mine))
    return coco_metrics(
        data,
        found,
        images=images,
        classes=model.spec.classes,
        inclusive=model.spec.numerics.inclusive_areas,
        results=results,
        together=together,
    )


def coco_metrics(
    data: Dataset,
    found: Iterable[tuple[ImageRecord, Detections]],
    *,
    images: Sequence[ImageRecord],
    classes: Sequence[str],
    inclusive: bool = False,
    results: str | Path | None = None,
    together: bool = False,
) -> Metrics:
    """COCO metrics of detections on `images` of a dataset; `classes` are the names of the detections' labels.

    `inclusive` boxes end with their last pixel, and are one wider and higher (Detectron's `xyxy_to_xywh`).
    """
    from maskgraft import processes

    category = _categories_in_common(data, classes)
    entries = [
        entry
        for image, detections in found
        for entry in _results(image, detections, classes, category, inclusive=inclusive)
    ]
    if together:
        order = {image.id: place for place, image in enumerate(images)}
        entries = sorted(processes.gathered(entries), key=lambda entry: order[entry["image_id"]])
    if results is not None and (processes.leads() or not together):
        with atomic(results) as temporary:
            temporary.write_text(json.dumps(entries))
    with _uncollected():
        truth = _truth(data, images)
        box, box_by_class = _run("bbox", truth, entries, data)
        mask, mask_by_class = _run("segm", truth, entries, data)
    return Metrics(
        box=box,
        mask=mask,
        per_class={name: (box_by_class[name], mask_by_class[name]) for name in data.classes},
        images=len(images),
        unmatched=tuple(name for name in classes if name not in category),
    )


def check_arguments(limit: int | None, results: str | Path | None) -> None:
    """Raises `UsageError` for a limit below 1, or results that cannot be written."""
    findings = []
    if limit is not None and limit < 1:
        findings.append(Finding("data.limit", "error", f"limit is {limit}; it is a number of images, 1 at least"))
    if results is not None and Path(results).is_dir():
        message = f"results is the folder {results}, not a file"
        findings.append(
            Finding("data.results", "error", message, fix=f"results={str(Path(results, 'results.json'))!r}")
        )
    elif results is not None and not Path(results).parent.is_dir():
        message = f"results is {results}, but there is no folder {Path(results).parent}"
        findings.append(Finding("data.results", "error", message, fix="make the folder first"))
    if findings:
        raise UsageError(findings)


def _categories_in_common(data: Dataset, classes: Sequence[str]) -> dict[str, int]:
    """The category id of each class of the dataset; `DataError` when a model of `classes` knows none of them."""
    category = dict(zip(data.classes, data.category_ids, strict=True))
    if not set(classes) & set(category):
        raise DataError(
            Finding(
                "data.classes-unknown",
                "error",
                f"the model's classes ({_first(classes)}) and those of {data.path} ({_first(data.classes)}) have no "
                "name in common",
                fix="load the model with classes=[…] named as in the dataset",
            )
        )
    return category


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _results(
    image: ImageRecord,
    detections: Detections,
    classes: Sequence[str],
    category: Mapping[str, int],
    *,
    inclusive: bool,
) -> Iterable[dict[str, Any]]:
    found = zip(
        detections.labels.tolist(),
        detections.boxes.tolist(),
        detections.scores.tolist(),
        segmentation.packed(detections.masks.numpy()),
        strict=True,
    )
    for label, (x1, y1, x2, y2), score, encoded in found:
        if classes[label] not in category:
            continue
        yield {
            "image_id": image.id,
            "category_id": category[classes[label]],
            "bbox": [x1, y1, x2 - x1 + inclusive, y2 - y1 + inclusive],
            "score": score,
            "segmentation": encoded,
        }


def _truth(data: Dataset, images: Sequence[ImageRecord]) -> dict[str, Any]:
    pairs = [(image, one) for image in images for one in image.annotations]
    annotations = [
        coco.entry(replace(one, id=number, segmentation=coco.rle(one, image.height, image.width)), image, data)
        for number, (image, one) in enumerate(pairs, 1)
    ]
    return {
        "images": [{"id": image.id, "width": image.width, "height": image.height} for image in images],
        "annotations": annotations,
        "categories": coco.categories(data),
    }


def _run(
    kind: str, truth: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], data: Dataset
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    from faster_coco_eval import COCO, COCOeval_faster

    # It writes into the annotations that it is given, so each run has its own; their masks it leaves alone, and a deep
    # copy of these took a third of the whole time.
    known = COCO({**truth, "annotations": [dict(one) for one in truth["annotations"]]})
    # loadRes measures areas by the box where there is one.
    left_out = "bbox" if kind == "segm" else "segmentation"
    given = [{name: value for name, value in entry.items() if name != left_out} for entry in entries]
    evaluation = COCOeval_faster(known, known.loadRes(given), kind, separate_eval=False)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    summary = {name: _number(value) for name, value in zip(SUMMARY, evaluation.stats, strict=False)}
    precision = evaluation.eval["precision"]  # [IoU, recall, class, area, most detections]
    by_class = {}
    for name, number in zip(data.classes, data.category_ids, strict=True):
        values = precision[:, :, list(evaluation.params.catIds).index(number), 0, -1]
        values = values[values > -1]
        by_class[name] = float(values.mean()) if values.size else None
    return summary, by_class


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for cycles: COCO's tools make an object for each image and class, and none is in one."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _number(value: float) -> float | None:
    value = float(value)
    return None if value < 0 or math.isnan(value) else value
