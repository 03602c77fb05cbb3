"""COCO metrics: against the reference implementation where it is installed, and against results known by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maskgraft import coco
from maskgraft.detections import Detections
from maskgraft.errors import DataError
from maskgraft.evaluation import SUMMARY, Metrics, coco_metrics

SIZE = (60, 80)  # height, width


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    images = [{"id": 7 + i, "file_name": f"{i}.png", "width": SIZE[1], "height": SIZE[0]} for i in range(12)]
    annotations = []
    for image in images[:-1]:  # the last one has none
        for _ in range(random.integers(1, 5)):
            side = float(random.integers(6, 30))
            x, y = (float(random.integers(0, length - side)) for length in (SIZE[1], SIZE[0]))
            crowd = bool(random.random() < 0.15)
            mask = np.zeros(SIZE, np.uint8, order="F")
            mask[int(y) : int(y + side), int(x) : int(x + side)] = 1
            runs = np.diff(np.flatnonzero(np.concatenate(([1], np.diff(mask.ravel("F")), [1]))))
            counts = [0, *runs.tolist()] if mask[0, 0] else runs.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(random.choice([3, 8, 9])),
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": int(crowd),
                    "segmentation": {"size": list(SIZE), "counts": counts} if crowd else [square(x, y, side)],
                }
            )
    categories = [
        {"id": 3, "name": "cat"},
        {"id": 8, "name": "dog"},
        {"id": 9, "name": "eel"},
        {"id": 11, "name": "yak"},
    ]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return coco.read(path, folder, need_files=False)


def detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    order = sorted(range(len(boxes)), key=lambda index: -scores[index])
    return Detections(
        boxes=torch.tensor([boxes[i] for i in order]).reshape(-1, 4),
        scores=torch.tensor([scores[i] for i in order]),
        labels=torch.tensor([labels[i] for i in order], dtype=torch.int64),
        masks=masks[order],
        mask_probs=torch.zeros(len(boxes), 1, 1),
    )


CLASSES = ("dog", "zebra", "cat", "eel")  # another order than the data's, one class too many, one too few


def noisy(data: coco.Dataset, shake: float) -> list[tuple[coco.ImageRecord, Detections]]:
    random = np.random.default_rng(1)
    found = []
    for image in data.images:
        boxes, scores, labels = [], [], []
        for one in image.annotations:
            for _ in range(random.integers(0, 3)):
                box = np.array(one.box) + random.normal(0, shake, 4)
                boxes.append([*box[:2].clip(0), *np.minimum(box[2:], SIZE[::-1])])
                scores.append(float(random.random()))
                labels.append(CLASSES.index(data.classes[one.label]))
        found.append((image, detections(boxes, scores, labels)))
    return found


def perfect(data: coco.Dataset) -> Metrics:
    found = [
        (
            image,
            detections(
                [list(one.box) for one in image.instances],
                [0.9] * len(image.instances),
                [CLASSES.index(data.classes[one.label]) for one in image.instances],
            ),
        )
        for image in data.images
    ]
    return coco_metrics(data, found, images=data.images, classes=CLASSES)


def test_the_truth_itself_scores_one(data: coco.Dataset) -> None:
    metrics = perfect(data)
    assert metrics.box["AP"] == pytest.approx(1.0)
    assert metrics.mask["AP"] == pytest.approx(1.0)
    assert metrics.per_class["cat"] == (pytest.approx(1.0), pytest.approx(1.0))
    assert metrics.per_class["yak"] == (None, None)
    assert metrics.unmatched == ("zebra",)
    json.dumps(metrics.as_json(), allow_nan=False)


def test_nothing_found_scores_nought(data: coco.Dataset) -> None:
    found = [(image, detections([], [], [])) for image in data.images]
    metrics = coco_metrics(data, found, images=data.images, classes=CLASSES)
    assert metrics.box["AP"] == metrics.mask["AP"] == 0.0


def test_agrees_with_the_reference_implementation(data: coco.Dataset, tmp_path: Path) -> None:
    reference = pytest.importorskip("pycocotools.cocoeval", reason="pycocotools is not installed")
    from pycocotools.coco import COCO

    results = tmp_path / "results.json"
    metrics = coco_metrics(data, noisy(data, 1.5), images=data.images, classes=CLASSES, results=results)
    truth = COCO(str(data.path))
    for kind, ours in (("bbox", metrics.box), ("segm", metrics.mask)):
        entries = json.loads(results.read_text())
        if kind == "segm":
            entries = [{name: value for name, value in entry.items() if name != "bbox"} for entry in entries]
        evaluation = reference.COCOeval(truth, truth.loadRes(entries), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        for name, value in zip(SUMMARY, evaluation.stats, strict=True):
            assert (ours[name] if ours[name] is not None else -1) == pytest.approx(value, abs=1e-9), (kind, name)
    assert 0.1 < metrics.box["AP"] < 0.9  # a comparison of zeros would prove nothing


def test_no_common_class_is_an_error(data: coco.Dataset) -> None:
    with pytest.raises(DataError, match="no name in common"):
        coco_metrics(data, [], images=data.images, classes=("zebra",))
