"""A model that has learnt some classes learns another: what it keeps of the old ones, and how well it learns the new.

Drawn shapes: the model of `from_scratch` (disc, box, triangle) is retrained for box, triangle and star, `policy="all"`,
with the rows of box and triangle kept and the start model's answers distilled; plain fine-tuning, with new rows and
nothing held, is beside it and is what star could reach. Once with labels of all three classes, and once with labels of
star alone, as when only the new class was annotated. APs are of masks, on held-out pictures.

Photographs: the same on COCO's, where the folder that MASKGRAFT_SHARED names has them, from the ImageNet backbone of
the demo. So few photographs and steps teach little; the figures are what they are.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import maskgraft as mg
from benchmarks import from_scratch, timing
from benchmarks.from_scratch import BATCH, Curve
from maskgraft import coco, shapes
from maskgraft.coco import Dataset
from maskgraft.demo import story
from maskgraft.errors import UsageError
from maskgraft.recipe import Recipe

SHARED = Path(os.environ.get("MASKGRAFT_SHARED", Path(__file__).parent.parent.parent / "shared"))
OLD, NEW = from_scratch.CLASSES, ("box", "triangle", "star")
LEARNT_PART, LOST_POINTS = 0.9, 2.0  # the bars
_SETTINGS: dict[str, Any] = {
    "policy": "all",
    "batch": BATCH,
    "optimizer": "adamw",
    "lr": 3e-4,
    "clip_norm": 10.0,
    "schedule": "cosine",
    "workers": 0,
    "evaluate_every": 0,
    "retention": 0,
}
_KEPT: dict[str, Any] = {"distil": 0.2}


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        document: dict[str, Any] = {
            "machine": timing.machine(),
            "quick": quick,
            "bar": {"new_class_of_full_training": LEARNT_PART, "points_lost": LOST_POINTS},
            "shapes": {},
        }
        for part in _shapes(folder / "shapes", quick=quick):
            document["shapes"] |= part
            timing.write("retention", document, quick=quick, out=out)  # each part takes long
        document["photographs"] = _photographs(folder / "photographs", quick=quick)
        timing.write("retention", document, quick=quick, out=out)


def _shapes(folder: Path, *, quick: bool) -> Iterator[dict[str, Any]]:
    learnt = _learnt(folder, quick=quick)
    train, val = (
        coco.read(path, path.parent)
        for path in (
            shapes.draw(folder / name, images=count, classes=NEW, seed=seed, side=from_scratch.SIDE)
            for name, count, seed in (("train", 16 if quick else 800, 11), ("val", 4 if quick else 200, 12))
        )
    )
    judged = mg.evaluate(mg.load(learnt), val).per_class
    before = {name: judged[name][1] for name in NEW if name in OLD}
    yield {"before": before}
    steps = 2 if quick else 200
    for labels, data in (("all labelled", train), ("only the new labelled", _only(train, NEW[-1]))):
        told = _both(folder / labels, learnt, data, val, before, {**_SETTINGS, "steps": steps})
        _print(f"shapes, {labels}", before, told)
        yield {labels: told}


def _learnt(folder: Path, *, quick: bool) -> Path:
    """The model of the old classes: that of `from-scratch` where it has been run, else one that is trained now."""
    if not quick and from_scratch.LEARNT.exists():
        return from_scratch.LEARNT
    train, val = from_scratch.pictures(folder / "old", images=16 if quick else 2000, held_out=4 if quick else 200)
    from_scratch.learn(folder / "old-run", train, val, steps=2 if quick else from_scratch.STEPS)
    return folder / "old-run" / "best"


def _only(data: Dataset, name: str) -> Dataset:
    """The labels of one class alone, in the pictures that have it."""
    label = data.classes.index(name)
    images = [replace(one, annotations=tuple(a for a in one.annotations if a.label == label)) for one in data.images]
    return replace(data, images=tuple(one for one in images if one.annotations))


def _both(
    folder: Path, learnt: Path, data: Dataset, val: Dataset, before: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Plain fine-tuning and keeping, alike in everything else."""
    told: dict[str, Any] = {"settings": settings, "kept_by": _KEPT}
    for name in ("plain", "kept"):
        torch.manual_seed(5)
        model = mg.load(learnt, classes=data.classes) if name == "kept" else _with_new_rows(learnt, data.classes)
        recipe = Recipe(**settings, **(_KEPT if name == "kept" else {}))
        curve = Curve()
        found = mg.train(model, data, recipe, out=folder / name, val=val, watcher=curve)
        report = mg.retention((learnt, model), val, limit=16)
        assert found.metrics is not None
        told[name] = {
            "seconds": round(curve.seconds, 1),
            "cpu_seconds": round(curve.cpu_seconds, 1),
            "mask_ap": {one: pair[1] for one, pair in found.metrics.per_class.items()},
            "points_lost": {
                one: round(100 * ((value or 0.0) - (found.metrics.per_class[one][1] or 0.0)), 2)
                for one, value in before.items()
            },
            "weights_moved": {one: round(part.change, 4) for one, part in report.components.items()},
            "features": {one: round(value, 4) for one, value in report.features.items()},
        }
    return told


def _with_new_rows(learnt: Path, classes: Sequence[str]) -> mg.MaskRCNN:
    model = mg.load(learnt, classes=[f"new {name}" for name in classes])
    model.spec = replace(model.spec, classes=tuple(classes))
    return model


def _photographs(folder: Path, *, quick: bool) -> dict[str, Any] | str:
    try:
        weights = story.weights()
    except UsageError as error:
        return str(error)
    place = SHARED / "data" / "coco_tiny"
    if not place.exists():
        return "not measured: no photographs"
    halves = {half: place / "annotations" / f"instances_{half}2017.json" for half in ("train", "val")}
    counts = [
        Counter(whole.classes[one.label] for image in whole.images for one in image.instances)
        for whole in (coco.read(path, place / f"{half}2017") for half, path in halves.items())
    ]
    many = sorted(counts[0], key=lambda name: -min(one[name] for one in counts))
    first, second, third, fourth = many[:4]
    old, new = (third, first, second), (first, second, fourth)
    train, val = (
        {names: coco.read(path, place / f"{half}2017", classes=names) for names in (old, new)}
        for half, path in halves.items()
    )
    torch.manual_seed(0)
    settings = _SETTINGS | {"batch": 4, "lr": 1e-3, "steps": 2 if quick else 40}
    model = mg.load(weights, classes=old, arch=story.ARCH, numerics=story.NUMERICS)
    began = mg.train(
        model, train[old], Recipe(**{**settings, "from_backbone": True, "policy": "3+"}), out=folder / "first"
    )
    judged = replace(val[new], images=val[new].trainable()[: 4 if quick else None])
    before = mg.evaluate(model, judged).per_class
    result: dict[str, Any] = {
        "old": old,
        "new": new,
        "images": [len(one.trainable()) for one in train.values()],
        "held_out": len(judged.images),
        "steps": began.steps,
        "before": {name: before[name][1] for name in new if name in old},
    }
    after = {**settings, "lr": 3e-4}
    result |= _both(folder / "after", folder / "first" / "last", train[new], judged, result["before"], after)
    _print("photographs", result["before"], result)
    return result


def _print(title: str, before: dict[str, Any], told: dict[str, Any]) -> None:
    print(f"\n{title}: mask AP")
    print(f"| class | before | {' | '.join(('plain', 'kept'))} |\n|---|---|---|---|")
    for name in told["plain"]["mask_ap"]:
        values = (before.get(name), told["plain"]["mask_ap"][name], told["kept"]["mask_ap"][name])
        print(f"| {name} | {' | '.join('–' if one is None else f'{100 * one:.1f}' for one in values)} |", flush=True)
