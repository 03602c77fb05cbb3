"""Predicting, a training step, loading, and evaluation, beside torchvision and pycocotools, with what they agree on.

The weights are those of `tests/golden/torchvision-r50fpn` (made by rule, 90 classes), the photographs those of COCO in
the folder that MASKGRAFT_SHARED names, or the golden case's own, drawn one where it is absent.
"""

import contextlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.transforms.functional import to_tensor

import maskgraft as mg
from benchmarks import timing
from benchmarks.timing import Row
from maskgraft import coco, policy
from maskgraft.detections import Detections
from maskgraft.evaluation import coco_metrics
from maskgraft.ops.boxes import iou
from maskgraft.targets import Batch, Target

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "torchvision-r50fpn"
SHARED = Path(os.environ.get("MASKGRAFT_SHARED", ROOT.parent / "shared"))
CLASSES = 90

LOAD = """
import sys, time, torch
if sys.argv[1] == "ours":
    import maskgraft.graft, maskgraft.model
    import maskgraft as mg
else:
    from torchvision.models.detection import maskrcnn_resnet50_fpn
before, begin = memory(), time.perf_counter()
if sys.argv[1] == "ours":
    model = mg.load(sys.argv[2])
else:
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    model.load_state_dict(torch.load(sys.argv[2], weights_only=True))
    model.eval()
spent = time.perf_counter() - begin
size = sum(one.nbytes for one in model.state_dict().values())
print(spent, (memory() - before) * 2**20 / size)
"""


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    rounds = 1 if quick else 5
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with tarfile.open(GOLDEN / "checkpoint.tar.xz") as tar:
            tar.extractall(folder, filter="data")
        file = next(folder.glob("*.pth"))
        photographs = _photographs(folder, 2 if quick else 4)
        rows = [
            _predicting(file, photographs, rounds),
            _training(file, rounds),
            *_loading(file, 1 if quick else 5),
            _evaluating(folder, 200 if quick else 5000),
        ]
    timing.report("speed", rows, quick=quick, out=out)


def _photographs(folder: Path, number: int) -> list[Path]:
    real = sorted(SHARED.rglob("coco_tiny/**/*.jpg"))[:number]
    if real:
        return real
    with np.load(GOLDEN / "golden.npz") as golden:
        drawn = golden["image"]
    for index in range(number):
        turned = drawn[:, ::-1] if index % 2 else drawn
        Image.fromarray(np.ascontiguousarray(turned)).save(folder / f"{index}.png")
    return [folder / f"{index}.png" for index in range(number)]


def theirs_with(file: Path, **options: Any) -> Any:
    """torchvision's model as its own builder makes it, with frozen norms as its trained detectors have them."""
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1, **options)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], FrozenBatchNorm2d(module.num_features, eps=module.eps))
    state = torch.load(file, weights_only=True)
    model.load_state_dict({name: one for name, one in state.items() if not name.endswith("num_batches_tracked")})
    return model


@torch.inference_mode()
def _predicting(file: Path, photographs: list[Path], rounds: int) -> Row:
    theirs, ours = theirs_with(file).eval(), mg.load(file)

    def torchvision_finds(path: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        found = theirs([to_tensor(Image.open(path).convert("RGB"))])[0]
        return found, found["masks"][:, 0] > 0.5

    agree = total = 0
    for path in photographs:
        wanted, masks = torchvision_finds(path)
        found = ours.predict([path])[0]
        total += len(masks)
        for box, label, mask in zip(wanted["boxes"], wanted["labels"] - 1, masks, strict=True):
            near = iou(box[None], found.boxes)[0] * (found.labels == label)
            twin = int(near.argmax()) if len(near) else -1
            if twin >= 0 and near[twin] > 0.98:
                union = (found.masks[twin] | mask).sum()
                agree += int((found.masks[twin] & mask).sum() >= 0.98 * union)
    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: [ours.predict([path]) for path in photographs],
        "theirs": lambda: [torchvision_finds(path) for path in photographs],
    }
    spent = timing.alternate(rounds, works)
    many = len(photographs)
    told = f"{agree} of {total} detections and masks"
    return Row(
        "predict one photograph, 800 pixels",
        spent["ours"] / many,
        spent["theirs"] / many,
        "torchvision",
        "≥ 1.5×",
        told,
    )


# The losses by their names here and in torchvision.
_LOSSES = {
    "rpn_cls": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "cls": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}
_TRAINED = ("backbone.body.layer2", "backbone.body.layer3", "backbone.body.layer4", "backbone.fpn", "rpn", "roi_heads")
_EVERYTHING = 100_000


def _training(file: Path, rounds: int) -> Row:
    """A step of two images of 416 pixels; stem and first stage frozen, as torchvision trains."""
    compared = _steps(file, everything=True)  # so that nothing is drawn by lot
    mine, others = compared["ours"](), compared["theirs"]()
    furthest = max(abs(mine[ours] - others[theirs]) / others[theirs] for ours, theirs in _LOSSES.items())
    spent = timing.alternate(rounds, _steps(file, everything=False))
    told = f"the five losses within {furthest:.1e}, all regions sampled"
    return Row("training step, 2 images of 416 pixels", spent["ours"], spent["theirs"], "torchvision", "≥ 1.25×", told)


def _steps(file: Path, *, everything: bool) -> dict[str, Callable[[], dict[str, float]]]:
    side = 416
    options: dict[str, Any] = {"min_size": side, "max_size": side, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    numerics = None
    if everything:
        options |= {"rpn_batch_size_per_image": _EVERYTHING, "box_batch_size_per_image": _EVERYTHING}
        numerics = {"rpn_samples": _EVERYTHING, "roi_samples": _EVERYTHING}
    theirs, ours = theirs_with(file, **options).train(), mg.load(file, numerics=numerics).train()
    policy.apply(ours, "3+")
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(name.startswith(_TRAINED))
    batch = _batch(side)
    pixels = list(batch.pixels)
    targets = [
        {"boxes": one.boxes, "labels": one.labels + 1, "masks": one.masks.to(torch.uint8)} for one in batch.targets
    ]
    return {"ours": _step(ours, lambda: ours(batch)), "theirs": _step(theirs, lambda: theirs(pixels, targets))}


def _step(model: Any, losses: Callable[[], dict[str, torch.Tensor]]) -> Callable[[], dict[str, float]]:
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1e-12, momentum=0.9)

    def step() -> dict[str, float]:
        found = losses()
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(found.values())).sum().backward()
        optimizer.step()
        return {name: value.item() for name, value in found.items()}

    return step


def _batch(side: int) -> Batch:
    random = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(2):
        corners = torch.rand(8, 2, generator=random) * side * 0.6
        boxes = torch.cat((corners, corners + 20 + torch.rand(8, 2, generator=random) * side * 0.3), 1)
        masks = torch.zeros(8, side, side, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        targets.append(Target(boxes, torch.randint(0, CLASSES, (8,), generator=random), masks, None))
    pixels = torch.rand(2, 3, side, side, generator=random)
    return Batch(pixels, ((side, side),) * 2, tuple(targets), (1, 2))


def _loading(file: Path, rounds: int) -> list[Row]:
    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    memory: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for who in spent:
            _, (seconds, share) = timing.child(LOAD, who, str(file))
            spent[who].append(float(seconds))
            memory[who].append(float(share))
    ours, theirs = (sorted(spent[who])[rounds // 2] for who in ("ours", "theirs"))
    told = f"memory {max(memory['ours']):.2f}× the weights (theirs {max(memory['theirs']):.2f}×; bar 1.3×)"
    return [Row("load 170 MB to a ready model", ours, theirs, "torch.load, load_state_dict", "≥ 1.5×", told)]


def _evaluating(folder: Path, images: int) -> Row:
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

    mine, others = ours(), theirs()
    furthest = max(abs((mine.box["AP"] or 0) - others[0]), abs((mine.mask["AP"] or 0) - others[1]))
    spent = timing.alternate(1, {"ours": ours, "theirs": theirs})
    told = f"box and mask AP within {furthest:.0e}"
    return Row(f"evaluate results of {images:,} images", spent["ours"], spent["theirs"], "pycocotools", "≥ 3×", told)
