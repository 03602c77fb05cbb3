"""COCO metrics: against the reference implementation where it is installed, and against results known by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from maskgraft import coco
from maskgraft.detections import Detections
from maskgraft.errors import DataError, UsageError
from maskgraft.evaluation import SUMMARY, Metrics, coco_metrics, evaluate

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


def test_boxes_that_hold_their_last_pixel_are_one_wider(data: coco.Dataset, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    found = noisy(data, 1.5)
    coco_metrics(data, found, images=data.images, classes=CLASSES, inclusive=True, results=results)
    entry, (_, first) = json.loads(results.read_text())[0], found[0]
    x1, y1, x2, y2 = first.boxes[0].tolist()
    assert entry["bbox"] == [x1, y1, x2 - x1 + 1, y2 - y1 + 1]


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
    assert any(one["iscrowd"] for one in truth.anns.values())
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
        for index, name in enumerate(data.classes):
            values = evaluation.eval["precision"][:, :, index, 0, -1]
            expected = values[values > -1].mean() if (values > -1).any() else None
            assert metrics.per_class[name][kind == "segm"] == pytest.approx(expected, abs=1e-9), (kind, name)
    assert 0.1 < metrics.box["AP"] < 0.9  # a comparison of zeros would prove nothing


def test_no_common_class_is_an_error(data: coco.Dataset) -> None:
    with pytest.raises(DataError, match="no name in common"):
        coco_metrics(data, [], images=data.images, classes=("zebra",))


class Model:
    """Stands for a model: finds the truth of its images, and counts how often it is asked."""

    def __init__(self, data: coco.Dataset, classes: tuple[str, ...]) -> None:
        self.spec = SimpleNamespace(classes=classes, numerics=SimpleNamespace(inclusive_areas=False))
        self.answers = iter(noisy(data, 0.0))
        self.asked = 0

    def predict(self, images: list[np.ndarray]) -> list[Detections]:
        self.asked += len(images)
        assert all(image.shape == (*SIZE, 3) for image in images)
        return [next(self.answers)[1] for _ in images]


@pytest.fixture
def drawn(data: coco.Dataset) -> coco.Dataset:
    for image in data.images:
        Image.new("RGB", (image.width, image.height)).save(image.path)
    return data


def test_evaluate_asks_the_model_for_each_image(
    drawn: coco.Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, path = Model(drawn, CLASSES), tmp_path / "results.json"
    seen = []
    metrics = evaluate(
        model,
        drawn,
        limit=5,
        results=path,
        progress=lambda images: (seen.append(image.id) or image for image in images),
    )
    assert model.asked == metrics.images == len(seen) == 5
    entries = json.loads(path.read_text())
    assert entries and {entry["image_id"] for entry in entries} <= set(seen)
    assert {entry["category_id"] for entry in entries} <= {3, 8, 9}
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"limit": -1}, "limit is -1"),
        ({"results": "{folder}"}, "is the folder"),
        ({"results": "{folder}/none/results.json"}, "there is no folder"),
    ],
)
def test_what_cannot_end_well_does_not_begin(
    data: coco.Dataset, tmp_path: Path, more: dict[str, str | int], text: str
) -> None:
    model = Model(data, CLASSES)
    given = {name: value.format(folder=tmp_path) if isinstance(value, str) else value for name, value in more.items()}
    with pytest.raises(UsageError, match=text):
        evaluate(model, data, **given)
    with pytest.raises(DataError, match="no name in common"):
        evaluate(Model(data, ("zebra",)), data)
    assert model.asked == 0
