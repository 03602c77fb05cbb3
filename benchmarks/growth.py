"""How the time of one prediction grows with the image's side, with instances and with classes, beside torchvision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.transforms.functional import to_tensor

import maskgraft as mg
from benchmarks import timing
from benchmarks.peers import photographs, theirs_with, workplace
from benchmarks.timing import Row

SIDES, INSTANCES, CLASSES = (400, 800, 1200), (1, 10, 100), (1, 80, 1203)


@torch.inference_mode()
def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    rounds = 1 if quick else 3
    with workplace() as (folder, file):
        (photo,) = photographs(folder, 1)
        rows = []
        for side in SIDES[:1] if quick else SIDES:
            ours = mg.load(file, numerics={"min_size": side, "max_size": 2 * side})
            theirs = theirs_with(file, min_size=side, max_size=2 * side)
            rows.append(_row(f"a side of {side} pixels", ours, theirs, photo, rounds))
        for many in INSTANCES[:1] if quick else INSTANCES:
            ours = mg.load(file, numerics={"min_size": 400, "score_threshold": 0.0, "max_detections": many})
            options = {"box_score_thresh": 0.0, "box_detections_per_img": many}
            rows.append(
                _row(f"{many} instances, 400 pixels", ours, theirs_with(file, min_size=400, **options), photo, rounds)
            )
        for many in CLASSES[:1] if quick else CLASSES:
            ours, theirs = _untrained(folder, many)
            rows.append(_row(f"{many} classes, 400 pixels", ours, theirs, photo, rounds))
    timing.report("growth", rows, quick=quick, out=out)


def _untrained(folder: Path, classes: int) -> tuple[Any, Any]:
    """Both models with the same untrained weights, of which about half of all (region, class) pairs are suppressed."""
    torch.manual_seed(0)
    threshold = 1 / (classes + 1)
    options: dict[str, Any] = {"min_size": 400, "box_score_thresh": threshold}
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes + 1, **options)
    torch.save(theirs.state_dict(), folder / "untrained.pth")
    return mg.load(folder / "untrained.pth", numerics={"min_size": 400, "score_threshold": threshold}), theirs


def _row(work: str, ours: Any, theirs: Any, photo: Path, rounds: int) -> Row:
    theirs.eval()
    found: dict[str, int] = {}

    def we() -> None:
        found["ours"] = len(ours.predict([photo])[0].boxes)

    def they() -> None:
        answer = theirs([to_tensor(Image.open(photo).convert("RGB"))])[0]
        _ = answer["masks"] > 0.5
        found["theirs"] = len(answer["boxes"])

    works: dict[str, Callable[[], Any]] = {"ours": we, "theirs": they}
    spent = timing.alternate(rounds, works)
    told = f"{found['ours']} and {found['theirs']} detections"
    return Row(f"predict, {work}", spent["ours"], spent["theirs"], "torchvision", "", told)
