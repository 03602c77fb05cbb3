"""COCO's metrics of thousands of images, beside pycocotools."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import timing
from benchmarks.timing import Row
from maskgraft import coco
from maskgraft.detections import Detections
from maskgraft.evaluation import coco_metrics


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        row = _evaluating(Path(scratch), 200 if quick else 5000, 1 if quick else 3)
    timing.report("evaluating", [row], quick=quick, out=out)


def _evaluating(folder: Path, images: int, rounds: int) -> Row:
    """Drawn truth and results: about seven objects an image, found with some error, and three that are not there."""
    random = np.random.default_rng(0)
    side, classes = 160, 80
    records, annotations = [], []
    found: dict[int, Detections] = {}
    for number in range(1, images + 1):
        records.append({"id": number, "file_name": f"{number}.jpg", "width": side, "height": side})
        boxes, labels, scores = [], [], []
        for index in range(int(random.integers(1, 14)) + 3):
            x, y, width, height = *random.uniform(0, 100, 2), *random.uniform(8, 59, 2)
            label, real = int(random.integers(classes)), index >= 3
            if real:
                outline = [x, y, x + width, y, x + width, y + height, x, y + height]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
                    | {"bbox": [x, y, width, height], "area": width * height, "segmentation": [outline]}
                )
            moved = np.clip(np.array([x, y, x + width, y + height]) + random.normal(0, 3, 4), 0, side)
            boxes.append(np.concatenate((np.minimum(moved[:2], moved[2:] - 1), moved[2:])))
            labels.append(label if random.random() < 0.8 else int(random.integers(classes)))
            scores.append(random.random())
        order = np.argsort(scores)[::-1].copy()
        drawn = torch.tensor(np.array(boxes)[order], dtype=torch.float32)
        masks = torch.zeros(len(order), side, side, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, drawn.round().int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        labels_of = torch.tensor(labels)[order]
        scores_of = torch.tensor(scores, dtype=torch.float32)[order]
        found[number] = Detections(drawn, scores_of, labels_of, masks, torch.zeros(len(order), 28, 28))
    categories = [{"id": index + 1, "name": f"class {index}"} for index in range(classes)]
    document = {"images": records, "annotations": annotations, "categories": categories}
    path = folder / "truth.json"
    path.write_text(json.dumps(document))
    data = coco.read(path, folder, need_files=False)
    pairs = [(image, found[image.id]) for image in data.images]
    names = [f"class {index}" for index in range(classes)]

    def ours() -> Any:
        known = coco.read(path, folder, need_files=False)
        with contextlib.redirect_stdout(io.StringIO()):
            return coco_metrics(known, pairs, images=known.images, classes=names)

    def theirs() -> list[float]:
        from pycocotools import mask as coding
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        entries = []
        for image, one in pairs:
            for box, score, label, mask in zip(
                one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), one.masks, strict=True
            ):
                encoded = coding.encode(np.asfortranarray(mask.numpy(), np.uint8))
                entry = {"image_id": image.id, "category_id": label + 1, "score": score, "segmentation": encoded}
                entries.append({**entry, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]})
        answers = []
        with contextlib.redirect_stdout(io.StringIO()):
            known = COCO(str(path))
            for kind in ("bbox", "segm"):
                given = [{k: v for k, v in one.items() if kind == "bbox" or k != "bbox"} for one in entries]
                judged = COCOeval(known, known.loadRes(given), kind)
                judged.evaluate()
                judged.accumulate()
                judged.summarize()
                answers.append(float(judged.stats[0]))
        return answers

    answers: dict[str, Any] = {}
    works = {
        "ours": lambda: answers.update(ours=ours()),
        "theirs": lambda: answers.update(theirs=theirs()),
    }
    spent = timing.alternate(rounds, works)
    mine, others = answers["ours"], answers["theirs"]
    furthest = max(abs((mine.box["AP"] or 0) - others[0]), abs((mine.mask["AP"] or 0) - others[1]))
    told = f"box and mask AP within {furthest:.0e}"
    return Row(f"evaluate results of {images:,} images", spent["ours"], spent["theirs"], "pycocotools", "≥ 3×", told)
