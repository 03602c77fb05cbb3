"""A model of random weights on drawn shapes, on the CPU; torchvision's reference recipe beside it for the same time.

Textured grounds, shapes that hide one another, three classes, pictures of 128 pixels. The recipe is what
`Recipe(from_scratch=True)` proposes; by hand come the length, the batch, and what fits pictures so small: input,
anchors, and how many proposals are sampled. The best model stays in `runs/benchmarks/shapes`, for `retention`.

Time is that of the clock and that of the processor; on a machine that does other work, the second is what was had.

torchvision's is its own Mask R-CNN with the settings of its reference script: ResNet-50 with batch norms, SGD of 0.02
for 16 images in proportion, momentum 0.9, decay 1e-4, warm-up over the first epoch, a tenth after 16/26 and 22/26 of
the time, mirrored images. It has the pictures of ours and as many seconds of the processor, twice: once as the script
is, which brings pictures to 800 pixels, two in a batch; and once with the input size, anchors, proposals and batch of
ours, which is the fairer peer. It is judged once, beyond that time, and for 800 pixels on fewer pictures.

A run that was stopped goes on with `--go-on`: what the JSON has is not measured again, and a training of torchvision's
begins where it stood a minute before it was stopped.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator

import maskgraft as mg
from benchmarks import timing
from maskgraft import coco, shapes
from maskgraft.augmenting import Scene, mirrored
from maskgraft.coco import Dataset
from maskgraft.detections import Detections
from maskgraft.evaluation import Metrics, coco_metrics
from maskgraft.files.writing import atomic
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe, Resolved

CLASSES = ("disc", "box", "triangle")
SIDE, BATCH, STEPS = 128, 8, 600
BAR, MINUTES, CORES = 0.5, 20, 2
ANCHORS = [[8], [16], [32], [64], [128]]
NUMERICS: dict[str, Any] = {
    "min_size": SIDE,
    "max_size": SIDE,
    "anchor_sizes": ANCHORS,
    "rpn_pre_nms_train": 500,
    "rpn_post_nms_train": 100,
    "rpn_pre_nms": 300,
    "rpn_post_nms": 50,
    "rpn_samples": 64,
    "roi_samples": 64,
}
_OUR_INPUT: dict[str, Any] = {
    "min_size": SIDE,
    "max_size": SIDE,
    "rpn_anchor_generator": AnchorGenerator(
        tuple(tuple(level) for level in ANCHORS), ((0.5, 1.0, 2.0),) * len(ANCHORS)
    ),
    "rpn_pre_nms_top_n_train": NUMERICS["rpn_pre_nms_train"],
    "rpn_post_nms_top_n_train": NUMERICS["rpn_post_nms_train"],
    "rpn_pre_nms_top_n_test": NUMERICS["rpn_pre_nms"],
    "rpn_post_nms_top_n_test": NUMERICS["rpn_post_nms"],
    "rpn_batch_size_per_image": NUMERICS["rpn_samples"],
    "box_batch_size_per_image": NUMERICS["roi_samples"],
}
RUNS = Path(__file__).parent.parent / "runs" / "benchmarks"
LEARNT = RUNS / "shapes"
_MILESTONES = (16 / 26, 22 / 26)
_KEPT_EVERY = 60  # seconds of the processor


def run(*, quick: bool, out: Path | None, tensorflow: str | None, go_on: bool = False) -> None:
    document = timing.earlier("from-scratch", quick=quick, out=out) if go_on else {}
    measured = timing.go(document)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train, val = pictures(folder, images=16 if quick else 2000, held_out=4 if quick else 200)
        if "ours" not in document:
            ours = learn(folder / "run", train, val, steps=4 if quick else STEPS)
            if not quick:
                shutil.rmtree(LEARNT, ignore_errors=True)
                shutil.copytree(folder / "run" / "best", LEARNT)
            measured.append("ours")
            document |= {
                "machine": timing.machine(),
                "quick": quick,
                "bar": {"mask_ap": BAR, "minutes": MINUTES, "cores": CORES},
                "reached": ours["curve"][-1]["mask_ap"] >= BAR and ours["cpu_seconds"] <= 60 * MINUTES * CORES,
                "data": {"classes": CLASSES, "side": SIDE, "images": len(train.images), "held_out": len(val.images)},
                "ours": ours,
            }
            timing.write("from-scratch", document, quick=quick, out=out)  # each of the others takes as long
        _print("ours", document["ours"])
        few = _few(val, 2 if quick else 16)
        peers = {
            "torchvision, our input": partial(reference, train, val, options=_OUR_INPUT, batch=BATCH),
            "torchvision, as its script is": partial(reference, train, few, options={}, batch=2),
        }
        for name, peer in peers.items():
            if name not in document:
                place = RUNS / f"{name}.pt"
                if not go_on:
                    place.unlink(missing_ok=True)
                document[name] = peer(seconds=document["ours"]["cpu_seconds"], kept=None if quick else place)
                measured.append(name)
                timing.write("from-scratch", document, quick=quick, out=out)
                place.unlink(missing_ok=True)
            _print(name, document[name])


def _print(name: str, one: Mapping[str, Any]) -> None:
    print(f"{name}: {one['steps']} steps, {one['seconds']:.0f} s, {one['load']:.1f} processes ran beside it or in it")
    for point in one["curve"]:
        print(f"  step {point['step']:>5}, {point['seconds']:>5.0f} s: mask AP {point['mask_ap']:.3f}", flush=True)


def _few(data: Dataset, count: int) -> Dataset:
    return replace(data, images=data.images[:count])


def pictures(folder: Path, *, images: int, held_out: int, classes: Sequence[str] = CLASSES) -> tuple[Dataset, Dataset]:
    """Pictures to learn from, and others to be judged by."""
    train = shapes.draw(folder / "train", images=images, classes=classes, seed=1, side=SIDE)
    val = shapes.draw(folder / "val", images=held_out, classes=classes, seed=2, side=SIDE)
    return coco.read(train, train.parent), coco.read(val, val.parent)


class Curve:
    """A watcher that notes mask AP by step and seconds, after those that were spent before."""

    def __init__(self, *, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self.began, self.cpu_began = time.perf_counter() - seconds, time.process_time() - cpu_seconds
        self.points: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    @property
    def cpu_seconds(self) -> float:
        return time.process_time() - self.cpu_began

    def begin(self, resolved: Resolved, trainable: Trainable, findings: Sequence[mg.Finding]) -> None:
        """The clock runs already."""

    def examines(self, what: str) -> None:
        """No doctor looks on."""

    def found(self, number: int, findings: Sequence[mg.Finding]) -> None:
        """Say what keeps the run waiting."""
        print(*(str(one) for one in findings), sep="\n", flush=True)

    def step(self, number: int, entry: Mapping[str, Any]) -> None:
        """Say every now and then where it stands."""
        if number % 50 == 0:
            print(f"  step {number}, {self.seconds:.0f} s: loss {entry['total']:.3f}", flush=True)

    def evaluated(self, number: int, metrics: Metrics) -> None:
        """A point of the curve."""
        point = {"step": number, "seconds": round(self.seconds, 1), "cpu_seconds": round(self.cpu_seconds, 1)}
        point |= {"mask_ap": metrics.mask["AP"] or 0.0, "box_ap": metrics.box["AP"] or 0.0}
        self.points.append(point)
        print(f"  step {number}, {point['seconds']:.0f} s: mask AP {point['mask_ap']:.3f}", flush=True)


def learn(folder: Path, train: Dataset, val: Dataset, *, steps: int) -> dict[str, Any]:
    """Train from random weights as the recipe proposes; the run stays in `folder`."""
    curve = Curve()
    torch.manual_seed(0)
    model = mg.MaskRCNN.from_scratch("small", train.classes, numerics=NUMERICS)
    recipe = Recipe(from_scratch=True, batch=BATCH, steps=steps, workers=0)
    mg.train(model, train, recipe, out=folder, val=val, watcher=curve)
    given = recipe.model_dump(mode="json", include=recipe.model_fields_set)
    return _told(curve, steps, model, {"set": given, "architecture": "small", "numerics": NUMERICS})


def reference(
    train: Dataset, val: Dataset, *, seconds: float, options: Mapping[str, Any], batch: int, kept: Path | None = None
) -> dict[str, Any]:
    """torchvision's Mask R-CNN, for so many seconds of the processor, and judged after them.

    `kept` is a file in which it stands every minute, and from which it goes on.
    """
    random, rate = np.random.default_rng(0), 0.02 * batch / 16
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=len(train.classes) + 1, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    records, step, curve = train.trainable(), 0, Curve()
    order: list[int] = []
    if kept is not None and kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch"])
        random.bit_generator.state = state["random"]
        step, order = state["step"], state["order"]
        curve = Curve(seconds=state["seconds"], cpu_seconds=state["cpu_seconds"])
    warmup = min(1000, max(1, len(records) // batch - 1))
    saved = curve.cpu_seconds
    while step == 0 or curve.cpu_seconds < seconds:
        if kept is not None and curve.cpu_seconds > saved + _KEPT_EVERY:
            saved = curve.cpu_seconds
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "torch": torch.get_rng_state()}
            state |= {"random": random.bit_generator.state, "step": step, "order": order}
            with atomic(kept) as temporary:
                torch.save({**state, "seconds": curve.seconds, "cpu_seconds": curve.cpu_seconds}, temporary)
        if len(order) < batch:
            order = random.permutation(len(records)).tolist()
        share = curve.cpu_seconds / seconds
        factor = 0.1 ** sum(share >= one for one in _MILESTONES)
        if step < warmup:
            factor *= 1e-3 + (1 - 1e-3) * step / warmup
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        drawn = [_drawn(train, order.pop(), random) for _ in range(batch)]
        losses = model.train()([pixels for pixels, _ in drawn], [target for _, target in drawn])
        optimizer.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        curve.step(step, {"total": total.item()})
    spent = {"seconds": round(curve.seconds, 1), "cpu_seconds": round(curve.cpu_seconds, 1)}
    curve.evaluated(step, _judged(model, val))
    curve.points[-1] |= spent
    settings = {
        "architecture": "maskrcnn_resnet50_fpn",
        "short_side": options.get("min_size", 800),
        "batch": batch,
        "lr": rate,
        "milestones": "16/26 and 22/26 of the time",
        "warmup": warmup,
        "norm": "batch",
        "judged_on": len(val.images),
    }
    return _told(curve, step, model, settings) | spent


def _drawn(data: Dataset, index: int, random: np.random.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    scene = Scene.of(data.trainable()[index])
    if random.random() < 0.5:
        scene = mirrored(scene)
    pixels = torch.from_numpy(scene.image.copy()).permute(2, 0, 1).float() / 255
    boxes, labels, masks = (torch.from_numpy(a.copy()) for a in (scene.boxes, scene.labels, scene.masks.planes()))
    return pixels, {"boxes": boxes, "labels": labels + 1, "masks": masks.to(torch.uint8)}


@torch.inference_mode()
def _judged(model: torch.nn.Module, val: Dataset) -> Metrics:
    model.eval()
    found = []
    for image in val.images:
        pixels = torch.from_numpy(image.load().copy()).permute(2, 0, 1).float() / 255
        one = model([pixels])[0]
        probs = F.adaptive_avg_pool2d(one["masks"], 28)[:, 0]
        masks = one["masks"][:, 0] > 0.5
        found.append((image, Detections(one["boxes"], one["scores"], one["labels"] - 1, masks, probs)))
    return coco_metrics(val, found, images=val.images, classes=val.classes)


def _told(curve: Curve, steps: int, model: torch.nn.Module, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": steps,
        "seconds": round(curve.seconds, 1),
        "cpu_seconds": round(curve.cpu_seconds, 1),
        "load": os.getloadavg()[2],
        "parameters": sum(one.numel() for one in model.parameters()),
        **settings,
        "curve": curve.points,
    }
