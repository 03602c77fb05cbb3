"""How time grows: of a prediction with the image's side, with instances and with classes, beside torchvision; of the
data pipeline with worker processes, beside torchvision's; of a training step with processes, beside one of them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.transforms.functional import to_tensor

import maskgraft as mg
from benchmarks import feeding, several, timing
from benchmarks.peers import ROOT, photographs, theirs_with, workplace
from benchmarks.timing import Row

SIDES, INSTANCES, CLASSES = (400, 800, 1200), (1, 10, 100), (1, 80, 1203)
WORKERS, PROCESSES = (0, 1, 2, 4), (1, 2)


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    rounds = 1 if quick else 3
    with workplace() as (folder, file):
        rows = _predicting(folder, file, quick=quick, rounds=rounds)
        rows += feeding.loading(folder, file, workers=WORKERS[-1:] if quick else WORKERS, rounds=rounds, bar="")
        rows += _training(file, rounds=rounds)
    timing.report("growth", rows, quick=quick, out=out)


@torch.inference_mode()
def _predicting(folder: Path, file: Path, *, quick: bool, rounds: int) -> list[Row]:
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
    return rows


def _training(file: Path, *, rounds: int) -> list[Row]:
    """The same batch in one process and in several, which share the processor's cores."""
    cores = os.cpu_count() or 1
    found = {}
    for many in PROCESSES:
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // many)), "PYTHONPATH": _paths()}
        starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(many)]
        command = [sys.executable, *starter, "-m", "benchmarks.several", str(file), str(rounds)]
        with tempfile.TemporaryFile("w+") as said:  # torchrun's own words are on the other stream
            subprocess.run(command, cwd=ROOT, env=environment, stdout=said, check=True)
            said.seek(0)
            found[many] = [float(word) for word in said.read().split()]
    (alone, loss), rows = found[1], []
    for many, (seconds, same) in found.items():
        told = f"the loss of the batch within {abs(same - loss) / loss:.0e}"
        work = f"training step, {several.IMAGES} images of {several.SIDE} pixels, {many} process{'es' * (many > 1)}"
        rows.append(Row(work, seconds, alone, "one process", "", told))
    return rows


def _paths() -> str:
    return os.pathsep.join((str(ROOT / "src"), str(ROOT)))


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
