"""Why AP is not 1: each kind of error in a case where it is known, and AP as COCO measures it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import maskgraft as mg
from maskgraft import coco, misses
from maskgraft.misses import KINDS, Judged, Overlaps
from maskgraft.model import MaskRCNN
from maskgraft.ops.selection import Scored
from maskgraft.shortfalls import Shortfall
from tests.tiny import CLASSES, draw_dataset, tiny_model

SIDE = 96
OBJECT = (10.0, 10.0, 50.0, 50.0)
DISC, BOX, NOTHING = 0, 1, 2

# A proposal: where it is, what it is taken for, how surely, and by how much its box is moved to the right.
Region = tuple[tuple[float, float, float, float], int, float, float]


class Scripted(MaskRCNN):
    """The whole way of a model from proposals on, of which proposals and answers are given."""

    def __init__(self, regions: Sequence[Sequence[Region]], *, filled: float = 1.0) -> None:
        super().__init__(tiny_model().spec)
        self.regions, self.filled, self.now = list(regions), filled, -1
        self.box_head, self.box_predictor = nn.Identity(), _Answers(self)  # type: ignore[assignment]
        self.eval()

    def to_proposals(self, pixels: Tensor, prepared: Any) -> Any:
        self.now += 1
        boxes = torch.tensor([one[0] for one in self.regions[self.now]], dtype=torch.float32).reshape(-1, 4)
        return {}, {}, {}, [], Scored(boxes, torch.ones(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64))

    def pool(self, maps: Any, boxes: Any, *rest: Any, **more: Any) -> Tensor:
        return torch.zeros(len(boxes[0]), 1)

    def mask_logits(self, maps: Any, boxes: Any, *rest: Any, **more: Any) -> Tensor:
        logits = torch.full((len(boxes[0]), 1, 28, 28), -9.0)
        logits[..., : round(28 * self.filled)] = 9.0
        return logits


class _Answers(nn.Module):
    def __init__(self, model: Scripted) -> None:
        super().__init__()
        self.of: Callable[[], Sequence[Region]] = lambda: model.regions[model.now]

    def forward(self, _: Tensor) -> tuple[Tensor, Tensor]:
        regions = self.of()
        logits, deltas = torch.full((len(regions), 3), -20.0), torch.zeros(len(regions), 2, 4)
        for row, (box, label, sure, shift) in enumerate(regions):
            logits[row, label], logits[row, NOTHING] = np.log(sure), np.log(1 - sure) if label != NOTHING else 0.0
            deltas[row, :, 0] = 10 * shift / (box[2] - box[0])  # torchvision's weight of dx is 10
        return logits, deltas.flatten(1)


def dataset(folder: Path, truth: Sequence[Sequence[tuple[tuple[float, float, float, float], int]]]) -> coco.Dataset:
    """Images with these boxes, filled; the discs are square too."""
    folder.mkdir()
    annotations: list[dict[str, Any]] = []
    for image, objects in enumerate(truth):
        Image.new("RGB", (SIDE, SIDE)).save(folder / f"{image}.png")
        for (x1, y1, x2, y2), label in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    images = [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(len(truth))]
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return coco.read(path, folder)


def told(folder: Path, truth: Any, regions: Any, **options: Any) -> Shortfall:
    return mg.shortfall(Scripted(regions, **options), dataset(folder / "data", truth))


def only(short: Shortfall, kind: str, *, objects: int, detections: int) -> None:
    """Nothing went wrong but for one kind, which is all that is lacking."""
    counts = {name: (cost.objects, cost.detections) for name, cost in short.kinds.items()}
    assert counts == {name: (objects, detections) if name == kind else (0, 0) for name in KINDS}
    assert short.ap + short.kinds[kind].points == pytest.approx(1)
    assert all(cost.points == 0 for name, cost in short.kinds.items() if name != kind)


def test_what_is_found_is_found(tmp_path: Path) -> None:
    short = told(tmp_path, [[(OBJECT, DISC)]], [[(OBJECT, DISC, 0.9, 0.0)]])
    assert short.ap == 1 and short.proposal_recall == 1 and not short.examples and not short.worst
    assert {cost.points for cost in short.kinds.values()} == {0}


def test_no_proposal_is_there(tmp_path: Path) -> None:
    far = (60.0, 60.0, 90.0, 90.0)
    truth = [[(OBJECT, DISC)], [(OBJECT, DISC)]]
    short = told(tmp_path, truth, [[(OBJECT, DISC, 0.9, 0.0)], [(far, NOTHING, 1.0, 0.0)]])
    only(short, "proposals", objects=1, detections=0)
    # recall ends at a half: 51 of COCO's 101 recalls have a precision of 1
    assert short.ap == pytest.approx(51 / 101)
    assert short.proposals == (1, 0, 0, 0, 0, 0, 0, 0, 0, 1) and short.proposal_recall == 0.5
    assert [(one.image, one.truth, one.detection) for one in short.examples] == [(1, 0, None)]
    assert short.worst == (1,)


def test_nothing_is_proposed_at_all(tmp_path: Path) -> None:
    only(told(tmp_path, [[(OBJECT, DISC)]], [[]]), "proposals", objects=1, detections=0)


def test_the_classifier_takes_it_for_background(tmp_path: Path) -> None:
    truth = [[(OBJECT, DISC)], [(OBJECT, DISC)]]
    short = told(tmp_path, truth, [[(OBJECT, DISC, 0.9, 0.0)], [(OBJECT, NOTHING, 1.0, 0.0)]])
    only(short, "rejected", objects=1, detections=0)


def test_it_is_taken_for_another_class(tmp_path: Path) -> None:
    short = told(tmp_path, [[(OBJECT, DISC)]], [[(OBJECT, BOX, 0.9, 0.0)]])
    only(short, "class", objects=1, detections=1)
    assert short.confusion == ((0, 1, 0), (0, 0, 0), (0, 0, 0))
    assert short.examples[0].label == "disc" and short.examples[0].detection == 0


def test_the_box_is_off(tmp_path: Path) -> None:
    # 40 wide, moved by 20: overlap 1/3
    only(told(tmp_path, [[(OBJECT, DISC)]], [[(OBJECT, DISC, 0.9, 20.0)]]), "box", objects=1, detections=1)


def test_suppression_takes_a_neighbour(tmp_path: Path) -> None:
    beside = (20.0, 10.0, 60.0, 50.0)  # overlap 0.6 with the object
    truth = [[(OBJECT, DISC), (beside, DISC)]]
    short = told(tmp_path, truth, [[(OBJECT, DISC, 0.9, 0.0), (beside, DISC, 0.8, 0.0)]])
    only(short, "suppression", objects=1, detections=0)


def test_the_mask_is_off(tmp_path: Path) -> None:
    short = told(tmp_path, [[(OBJECT, DISC)]], [[(OBJECT, DISC, 0.9, 0.0)]], filled=0.25)
    only(short, "mask", objects=1, detections=1)
    assert short.curves["box, overlap 0.5"][0] == 1 and short.curves["mask, overlap 0.5"][0] == 0


def test_it_is_found_twice(tmp_path: Path) -> None:
    upper, lower = (10.0, 10.0, 50.0, 38.0), (10.0, 22.0, 50.0, 50.0)  # 0.7 of the object each, 0.4 of each other
    short = told(
        tmp_path,
        [[(OBJECT, DISC)], [(OBJECT, DISC)]],
        [[(upper, DISC, 0.9, 0.0), (lower, DISC, 0.8, 0.0)], [(OBJECT, DISC, 0.7, 0.0)]],
    )
    only(short, "duplicate", objects=0, detections=1)
    # right, wrong, right: 51 recalls at 1, 50 at 2/3
    assert short.ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_something_is_found_where_there_is_nothing(tmp_path: Path) -> None:
    far = (60.0, 60.0, 90.0, 90.0)
    short = told(tmp_path, [[(OBJECT, DISC)]], [[(far, DISC, 0.95, 0.0), (OBJECT, DISC, 0.9, 0.0)]])
    only(short, "background", objects=0, detections=1)
    assert short.ap == 0.5 and short.confusion[2][0] == 1


def test_a_wrong_class_in_a_wrong_place(tmp_path: Path) -> None:
    near = (30.0, 10.0, 70.0, 50.0)  # overlap 1/3
    truth = [[(OBJECT, DISC), ((60.0, 60.0, 90.0, 90.0), BOX)]]
    regions = [[(OBJECT, DISC, 0.9, 0.0), ((60.0, 60.0, 90.0, 90.0), BOX, 0.7, 0.0), (near, BOX, 0.8, 0.0)]]
    short = told(tmp_path, truth, regions)
    only(short, "class and box", objects=0, detections=1)


def test_images_that_a_setting_leaves_out_and_settings_that_are_none(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", [[(OBJECT, DISC)], []])
    assert mg.shortfall(Scripted([[]]), data, limit=1).images == 1
    with pytest.raises(mg.UsageError, match="limit is 0"):
        mg.shortfall(Scripted([[]]), data, limit=0)
    with pytest.raises(mg.UsageError, match="overlap is 1"):
        mg.shortfall(Scripted([[]]), data, overlap=1.0)
    empty = mg.shortfall(Scripted([[], []]), replace(data, images=data.images[1:]))
    assert empty.ap == 0 and empty.objects == 0 and empty.proposal_recall is None


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=6))


def scattered(random: np.random.Generator, images: int) -> list[Overlaps]:
    """Detections against objects of three classes, with overlaps of all kinds, crowds among them."""
    found = []
    for _ in range(images):
        count, objects, crowds = (int(random.integers(0, most)) for most in (30, 6, 3))
        mask = random.random((count, objects)) ** 2
        found.append(
            Overlaps(
                mask=mask,
                box=np.clip(mask + random.normal(0, 0.2, mask.shape), 0, 1),
                crowd=random.random((count, crowds)),
                crowd_box=random.random((count, crowds)),
                labels=random.integers(0, 3, count),
                scores=np.sort(random.random(count))[::-1],
                truth=random.integers(0, 3, objects),
                crowds=random.integers(0, 3, crowds),
            )
        )
    return found


def test_mending_one_kind_never_harms_and_mending_all_leaves_nothing() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        every: list[Judged] = []
        for one in scattered(random, 8):
            stages = random.choice(["", *list(KINDS)[:5]], len(one.truth)).tolist()
            every.append(misses.judge(one, stages))
        as_is = misses.rankings([(one.overlaps, one.matched) for one in every], 3)
        among = [label for label in range(3) if as_is[label].objects]
        ap = misses.mean_precision(as_is, among).mean()
        for kind in KINDS:
            assert misses.mean_precision(misses.mended(every, [kind], 3), among).mean() >= ap - 1e-12
        assert misses.mean_precision(misses.mended(every, list(KINDS), 3), among).mean() == pytest.approx(1)


def test_every_false_detection_and_every_lost_object_has_one_reason() -> None:
    for one in scattered(np.random.default_rng(1), 50):
        judged = misses.judge(one, [""] * len(one.truth))
        for kind, of, ignored in zip(judged.kinds, judged.matched.of, judged.matched.ignored, strict=True):
            assert (kind == "") == (of >= 0 or ignored) and kind in {"", *KINDS}
        for kind, found in zip(judged.lost, judged.matched.found, strict=True):
            assert (kind == "") == found and kind in {"", *KINDS}
        assert len(set(judged.matched.of[judged.matched.of >= 0])) == judged.matched.found.sum()


def test_ap_is_cocos(drawn: coco.Dataset) -> None:
    """Detections around the objects of real images, of the right and of other classes, against faster-coco-eval."""
    from maskgraft.detections import Detections

    random = np.random.default_rng(3)

    def around(record: coco.ImageRecord) -> Detections:
        truth = coco.truth(record)
        boxes, labels, masks = [], [], []
        for box, label, mask in zip(truth.boxes, truth.labels, truth.masks, strict=True):
            for _ in range(4):
                shift = random.integers(-12, 12, 2)
                boxes.append(box + np.tile(shift, 2))
                masks.append(np.roll(mask, tuple(shift[::-1]), (0, 1)))
                labels.append(label if random.random() < 0.7 else 1 - label)
        scores = np.sort(random.random(len(boxes)))[::-1].copy()
        return Detections(
            torch.tensor(np.array(boxes), dtype=torch.float32),
            torch.tensor(scores, dtype=torch.float32),
            torch.tensor(labels),
            torch.tensor(np.array(masks)),
            torch.zeros(len(boxes), 1, 1),
        )

    class Given(Scripted):
        def instances(self, *_: Any) -> Detections:
            return around(drawn.images[self.now])

    short = mg.shortfall(Given([[]] * len(drawn.images)), drawn)
    coco_says = short.metrics
    assert 0 < short.ap < 1
    assert short.ap == pytest.approx(coco_says.mask["AP50"], abs=1e-12)
    for curve, expected in (
        ("mask, overlap 0.75", coco_says.mask["AP75"]),
        ("box, overlap 0.5", coco_says.box["AP50"]),
    ):
        assert np.mean(short.curves[curve]) == pytest.approx(expected, abs=1e-12)
    json.dumps(short.as_json(), allow_nan=False)
