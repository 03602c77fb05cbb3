"""What a model that finds hardly anything finds after all: the right places under other names, or nothing."""

from collections import Counter

import torch

from maskgraft.coco import Dataset, truth
from maskgraft.errors import DataError, Finding
from maskgraft.model import MaskRCNN
from maskgraft.ops import boxes as box_ops

LOW = 0.15  # AP50 below which it is asked
_IMAGES, _FEW = 24, 10


def examine(model: MaskRCNN, val: Dataset) -> list[Finding]:
    """Findings from the classes of detections that lie on true boxes of some images."""
    pairs: Counter[tuple[str, str]] = Counter()
    for record in [image for image in val.images if image.instances][:_IMAGES]:
        try:
            found = model.predict([record.load()])[0]
        except DataError:
            continue
        boxes = torch.from_numpy(truth(record).boxes)
        if not len(found.boxes) or not len(boxes):
            continue
        there = box_ops.iou(boxes, found.boxes.float()) >= 0.5
        # the surest of those that lie there, and not the nearest: a region answers with a box for each class
        for one, meets, index in zip(record.instances, there.any(1), there.int().argmax(1).tolist(), strict=True):
            if meets:
                pairs[val.classes[one.label], model.spec.classes[int(found.labels[index])]] += 1
    met = sum(pairs.values())
    right = sum(times for (wanted, given), times in pairs.items() if wanted == given)
    if met < _FEW or right > 0.2 * met:
        return []
    moved = {}
    for wanted in val.classes:
        of = Counter({given: times for (name, given), times in pairs.items() if name == wanted})
        if sum(of.values()) >= 3 and of.most_common(1)[0][1] >= 0.6 * sum(of.values()):
            moved[wanted] = of.most_common(1)[0][0]
    if len(moved) < 2 or len(set(moved.values())) < len(moved):
        return []
    shown = ", ".join(f"{wanted} is called {given}" for wanted, given in list(moved.items())[:5])
    return [
        Finding(
            "train.labels",
            "error",
            f"{met} objects of {val.path} are found where they are, and {right} of them under their own name: {shown}",
            names=tuple(moved),
            evidence={**moved, "met": met, "right": right},
            effect="training and validation name the classes differently: AP is nought, whatever is learnt",
            fix="compare the categories of both annotation files, ids and names",
        )
    ]
