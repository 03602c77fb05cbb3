"""A model that has learnt some classes learns another: what it keeps of the old ones, and how well it learns the new.

Drawn shapes: the model of `from_scratch` (disc, box, triangle) is retrained for box, triangle and star, `policy="all"`,
with the rows of box and triangle kept. Four trainings of as many steps, alike in everything else:

full    labels of all three, nothing held, fresh rows hastened: what star could reach, and the measure for the others
plain   labels of star alone, as when only the new class was annotated, nothing held: what fine-tuning forgets
kept    labels of star alone, those of box and triangle completed by the start model, and its answers distilled
held    labels of all three, the start model's answers distilled

The bars are for "held" and "kept". APs are of masks, on held-out pictures with labels of all three.

Photographs: the same on COCO's, where the folder that MASKGRAFT_SHARED names has them, from the ImageNet backbone of
the demo: a model that has learnt dining table, person and bowl learns cup. So few photographs teach nothing that holds
elsewhere, so both halves are trained on, and APs are those on the photographs of the first training: they tell what is
kept of what was learnt, and not how well it generalises. Photographs in which an instance of the four is narrower than
16 pixels of the input are left out. After its cups alone, a model is judged on dozens of photographs that it has seen
in the first training only.

A run that was stopped goes on with `--go-on`, training by training: what the JSON has is not measured again.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import maskgraft as mg
from benchmarks import from_scratch, timing
from benchmarks.from_scratch import BATCH, Curve
from maskgraft import coco, shapes
from maskgraft.coco import Dataset, ImageRecord
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
_PHOTO_CLASSES = ("dining table", "person", "bowl", "cup")  # the first is left out of the second training
_PHOTO_SIDE, _PHOTO_LEAST, _PHOTO_STEPS = 192, 16, (400, 70)
_FRESH: dict[str, Any] = {"fresh_rows": 10.0}
_HELD: dict[str, Any] = {**_FRESH, "distil": 0.2}
# name: whether the old classes are labelled, and what the recipe adds
_WAYS: dict[str, tuple[bool, dict[str, Any]]] = {
    "full": (True, _FRESH),
    "plain": (False, {}),
    "kept": (False, _HELD),  # and "complete"
    "held": (True, _HELD),
}


def run(*, quick: bool, out: Path | None, tensorflow: str | None, go_on: bool = False) -> None:
    earlier = timing.earlier("retention", quick=quick, out=out) if go_on else {}
    document: dict[str, Any] = {
        "machine": timing.machine(),
        "quick": quick,
        "bar": {"new_class_of_full_training": LEARNT_PART, "points_lost": LOST_POINTS},
        **earlier,
    }
    measured = timing.go(document)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if quick else from_scratch.RUNS / "retention"
        if not go_on:
            shutil.rmtree(folder, ignore_errors=True)
        for name, part in (("shapes", _shapes), ("photographs", _photographs)):
            for told in part(folder / name, document.get(name, {}), quick=quick):
                document[name] = told
                measured.append(f"{name}: {[*told][-1]}")
                timing.write("retention", document, quick=quick, out=out)  # each training takes long
        shutil.rmtree(folder, ignore_errors=True)


def _shapes(folder: Path, earlier: dict[str, Any], *, quick: bool) -> Iterator[dict[str, Any]]:
    shutil.rmtree(folder, ignore_errors=True)  # what was drawn for an earlier go, and a training that was stopped
    learnt = _learnt(folder, quick=quick)
    train, val = (
        coco.read(path, path.parent)
        for path in (
            shapes.draw(folder / name, images=count, classes=NEW, seed=seed, side=from_scratch.SIDE)
            for name, count, seed in (("train", 16 if quick else 800, 11), ("val", 4 if quick else 200, 12))
        )
    )
    settings = {**_SETTINGS, "steps": 2 if quick else 200}
    complete = None if quick else 0.6
    yield from _compared("shapes", folder, learnt, (train, val), settings, complete=complete, earlier=earlier)


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


def _compared(
    title: str,
    folder: Path,
    learnt: Path,
    data: tuple[Dataset, Dataset],
    settings: dict[str, Any],
    *,
    complete: float | None,
    earlier: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """The four trainings on the first of `data`, judged on the second; what is known after each of them.

    `complete` is the least score of labels that are completed; None where the model has learnt too little to find any.
    `earlier` is what was known after some of them; where the same was begun with, they are not done again.
    """
    train, val = data
    new = train.classes[-1]
    judged = mg.evaluate(mg.load(learnt), val).per_class
    before = {name: judged[name][1] or 0.0 for name in train.classes[:-1]}
    told: dict[str, Any] = {"before": before, "settings": settings, "images": len(train.trainable())}
    told["images_of_the_new"] = len((alone := _only(train, new)).images)
    if all(earlier.get(name) == value for name, value in told.items()):
        told |= {name: earlier[name] for name in _WAYS if name in earlier}
    for name, (labelled, added) in _WAYS.items():
        if name in told:
            continue
        own = {**added, **({"complete": complete} if name == "kept" and complete else {})}
        torch.manual_seed(5)
        model, curve = mg.load(learnt, classes=train.classes), Curve()
        recipe = Recipe(**settings, **own)
        shutil.rmtree(folder / name, ignore_errors=True)
        found = mg.train(model, train if labelled else alone, recipe, out=folder / name, val=val, watcher=curve)
        report = mg.retention((learnt, model), val, limit=16)
        assert found.metrics is not None
        after = {one: pair[1] or 0.0 for one, pair in found.metrics.per_class.items()}
        told[name] = {
            "recipe": own,
            "old_classes_labelled": labelled,
            "seconds": round(curve.seconds, 1),
            "cpu_seconds": round(curve.cpu_seconds, 1),
            "mask_ap": after,
            "points_lost": {one: round(100 * (value - after[one]), 2) for one, value in before.items()},
            "new_class_of_full_training": _part(after[new], told.get("full", {"mask_ap": after})["mask_ap"][new]),
            "weights_moved": {one: round(part.change, 4) for one, part in report.components.items()},
            "features": {one: round(value, 4) for one, value in report.features.items()},
        }
        told[name]["reached"] = _reached(told[name])
        _print(f"{title}, {name}", before, told[name])
        yield told


def _part(value: float, whole: float) -> float | None:
    return round(value / whole, 4) if whole else None


def _reached(one: dict[str, Any]) -> bool:
    learnt = one["new_class_of_full_training"]
    return learnt is not None and learnt >= LEARNT_PART and max(one["points_lost"].values()) <= LOST_POINTS


def _photographs(folder: Path, earlier: dict[str, Any], *, quick: bool) -> Iterator[dict[str, Any]]:
    try:
        weights = story.weights()
    except UsageError as error:
        yield {"not_measured": str(error)}
        return
    place = SHARED / "data" / "coco_tiny"
    if not place.exists():
        yield {"not_measured": f"there are no photographs in {place.name}"}
        return
    old, new = _PHOTO_CLASSES[:3], _PHOTO_CLASSES[1:]
    wide = [one for one in _photos(place, _PHOTO_CLASSES).trainable() if _is_wide(one)]
    if quick:
        wide = [one for one in wide if {0, 3} <= {part.label for part in one.annotations}][:4]
    first, second = (_photos(place, names, only=[one.id for one in wide]) for names in (old, new))
    small: dict[str, Any] = {"min_size": _PHOTO_SIDE, "max_size": _PHOTO_SIDE * 4 // 3}
    settings = _SETTINGS | {"batch": 4, "steps": 2 if quick else _PHOTO_STEPS[1]}
    about: dict[str, Any] = {
        "old": [*old],
        "new": [*new],
        "photographs": len(wide),
        "judged_on": "the photographs that were trained on",
        "first_images": len(first.trainable()),
        "first_settings": settings
        | {"lr": 1e-3, "from_backbone": True, "policy": "3+", "steps": 2 if quick else _PHOTO_STEPS[0]},
    }
    begun = folder / "first"
    if "first" in earlier and begun.exists() and all(earlier.get(name) == value for name, value in about.items()):
        about["first"] = earlier["first"]
    else:
        shutil.rmtree(begun, ignore_errors=True)
        torch.manual_seed(0)
        model, curve = mg.load(weights, classes=old, arch=story.ARCH, numerics={**story.NUMERICS, **small}), Curve()
        mg.train(model, first, Recipe(**about["first_settings"]), out=begun, val=first, watcher=curve)
        about["first"] = {"cpu_seconds": round(curve.cpu_seconds, 1), "curve": curve.points}
        yield about
    complete, data = None if quick else 0.5, (second, second)
    for told in _compared("photographs", folder, begun / "last", data, settings, complete=complete, earlier=earlier):
        yield {**about, **told}


def _photos(place: Path, names: Sequence[str], *, only: Sequence[int] | None = None) -> Dataset:
    """Both halves of COCO's photographs, or those of some ids, with the labels of some classes."""
    halves = [
        coco.read(place / "annotations" / f"instances_{half}2017.json", place / f"{half}2017", classes=names)
        for half in ("train", "val")
    ]
    images = tuple(one for half in halves for one in half.images if only is None or one.id in only)
    return replace(halves[0], images=images)


def _is_wide(image: ImageRecord) -> bool:
    """Whether each instance of an image can be seen in so small an input."""
    scale = _PHOTO_SIDE / min(image.width, image.height)
    sides = [min(one.box[2] - one.box[0], one.box[3] - one.box[1]) * scale for one in image.annotations]
    return min(sides) >= _PHOTO_LEAST and not any(one.crowd for one in image.annotations)


def _print(title: str, before: dict[str, Any], told: dict[str, Any]) -> None:
    learnt = told["new_class_of_full_training"]
    share = "" if learnt is None else f", the new class {learnt:.0%} of full training's"
    print(f"\n{title}: {told['cpu_seconds']:.0f} s of the processor{share}")
    for name, value in told["mask_ap"].items():
        was = f" (before: {100 * before[name]:.1f})" if name in before else ""
        print(f"  {name:<12} mask AP {100 * value:.1f}{was}", flush=True)
