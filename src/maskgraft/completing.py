"""Labels that new data leaves out, completed by a model that knows them.

    data = mg.complete_labels(mg.load("runs/old/best"), mg.read_coco("stars.json", "new"), score=0.6)

Where pictures show boxes and triangles, and only stars are labelled, a training takes the others for background and
unlearns them. Here what a model finds of them counts as truth (pseudo-labels: Lee 2013; for detectors that learn
further classes, Zhou et al. 2020). `Recipe(complete=0.6)` does it with the model that a run begins with.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maskgraft import coco, processes, segmentation
from maskgraft.coco import Annotation, Dataset, ImageRecord
from maskgraft.errors import Finding, UsageError
from maskgraft.files.writing import atomic
from maskgraft.keeping import known_classes
from maskgraft.model import MaskRCNN
from maskgraft.ops import boxes as box_ops
from maskgraft.recipe import Derived, Recipe

COMPLETED = "completed.json"  # in a run's folder: the data with the labels that were added
_MARK = "completed"  # the field of an added annotation: its score
_SAME = 0.5  # overlap of boxes from which a detection is an instance that the data has a label of
_PARTS = 16  # of a pixel: corners of boxes that JSON's x, y, width and height give back exactly


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance that a model found: corners of the box in pixels, and the mask as COCO's RLE."""

    image: int
    name: str
    box: tuple[float, float, float, float]
    segmentation: dict[str, Any]
    score: float


def complete_labels(
    model: MaskRCNN,
    data: Dataset,
    *,
    score: float = 0.5,
    out: str | Path | None = None,
    progress: Callable[[Sequence[ImageRecord]], Iterable[ImageRecord]] = iter,
) -> Dataset:
    """A dataset with what its labels leave out: instances of the classes that `model` knows and `data` has none of.

        stars = mg.read_coco("stars.json", "new")
        data = mg.complete_labels(mg.load("runs/old/best"), stars, out="new.json")     # look at it, correct it

    What the model finds with at least `score`, in 0..1, becomes an instance, unless it overlaps a labelled one by half.
    Its classes follow those of the data. `out` is a COCO instances file to write: the entries of the data's own file,
    and those that were added, which have their score as `completed`.

    Raises `UsageError` where the model knows no class beyond those of the data, or finds nothing of them.
    """
    found = _found(model, data, score, progress)
    return _joined(data, found) if out is None else _write(data, found, Path(out))


def of_run(
    model: MaskRCNN, data: Dataset, recipe: Recipe, folder: Path, *, resume: bool
) -> tuple[Dataset, tuple[Instance, ...]]:
    """What a run trains on, and what was added: its data, completed where the recipe says so.

    A run that goes on adds what stands in its folder.
    """
    if recipe.complete is None:
        return data, ()
    place = folder / COMPLETED
    added = _read(place) if resume and place.exists() else _found(model, data, recipe.complete, iter)
    return _joined(data, added), added


def keep(data: Dataset, added: Sequence[Instance], folder: Path) -> None:
    """Write what was added to the data of a run into its folder, where it is not there yet."""
    if added and processes.leads() and not (folder / COMPLETED).exists():
        _write(data, added, folder / COMPLETED)


def told(added: Sequence[Instance], recipe: Recipe) -> tuple[Derived, ...]:
    """What was added, as a run tells it."""
    if not added:
        return ()
    counts = Counter(one.name for one in added)
    images = len({one.image for one in added})
    of_each = ", ".join(f"{count} {name}" for name, count in counts.most_common(8))
    return (Derived("complete", recipe.complete, f"the start model found {of_each} in {images} images"),)


def absent_classes(model: MaskRCNN, data: Dataset) -> tuple[str, ...]:
    """The classes that a model has learnt, and of which a dataset has no instance."""
    seen = {data.classes[one.label] for image in data.images for one in image.annotations}
    known = known_classes(model) if model.graft else model.spec.classes
    return tuple(name for name in known if name not in seen)


def _found(
    model: MaskRCNN, data: Dataset, score: float, progress: Callable[[Sequence[ImageRecord]], Iterable[ImageRecord]]
) -> tuple[Instance, ...]:
    """What the labels leave out, in the order of the images; of several processes each looks at its part."""
    absent = absent_classes(model, data)
    if not absent:
        message = f"{data.path} has instances of every class that the model knows: there is nothing to complete"
        raise UsageError(Finding("shape.classes", "error", message, fix="leave complete out"))
    mine = [one for image in progress(processes.share(data.images)) for one in _of_image(model, image, absent, score)]
    place = {image.id: number for number, image in enumerate(data.images)}
    found = tuple(sorted(processes.gathered(mine), key=lambda one: place[one.image]))
    if not found:
        message = f"the model finds nothing of {', '.join(absent[:8])} with a score of {score} or more in {data.path}"
        raise UsageError(Finding("shape.classes", "error", message, fix="a lower score"))
    return found


def _of_image(model: MaskRCNN, image: ImageRecord, absent: Sequence[str], score: float) -> list[Instance]:
    """Best first, each where no label and no better one of whatever class is."""
    found = model.predict([image.load()])[0].above(score)
    masks = segmentation.packed(found.masks.numpy())
    wanted = [model.spec.classes[label] in absent for label in found.labels.tolist()]
    drawn = found.masks.flatten(1).any(1).tolist()
    taken = torch.tensor([one.box for one in image.annotations]).reshape(-1, 4)
    instances = []
    for number, box in enumerate(found.boxes):
        free = not len(taken) or box_ops.iou(taken, box[None]).max() < _SAME
        if wanted[number] and drawn[number] and free:
            taken = torch.cat((taken, box[None]))
            x1, y1, x2, y2 = ((box * _PARTS).round() / _PARTS).tolist()
            name, certain = model.spec.classes[int(found.labels[number])], float(found.scores[number])
            instances.append(Instance(image.id, name, (x1, y1, x2, y2), masks[number], certain))
    return instances


def _joined(data: Dataset, found: Sequence[Instance]) -> Dataset:
    """The dataset with further instances, and their classes behind its own."""
    further = tuple(dict.fromkeys(one.name for one in found if one.name not in data.classes))
    classes = (*data.classes, *further)
    added: dict[int, list[Annotation]] = {}
    for number, one in enumerate(found, _first_id(data)):
        area = (one.box[2] - one.box[0]) * (one.box[3] - one.box[1])
        new = Annotation(number, classes.index(one.name), one.box, one.segmentation, False, area)
        added.setdefault(one.image, []).append(new)
    images = tuple(replace(image, annotations=(*image.annotations, *added.get(image.id, ()))) for image in data.images)
    first = max(data.category_ids, default=0) + 1
    ids = (*data.category_ids, *range(first, first + len(further)))
    return replace(data, classes=classes, category_ids=ids, images=images)


def _first_id(data: Dataset) -> int:
    """The id of the first instance that is added."""
    return max((one.id for image in data.images for one in image.annotations), default=0) + 1


def _write(data: Dataset, found: Sequence[Instance], path: Path) -> Dataset:
    """Write the completed data as a COCO instances file, in which what was added is marked; gives it."""
    completed = _joined(data, found)
    scores = {number: one.score for number, one in enumerate(found, _first_id(data))}
    folder = data.folder or Path()
    document = {
        "images": [
            {
                "id": image.id,
                "file_name": (
                    image.path.relative_to(folder) if image.path.is_relative_to(folder) else image.path
                ).as_posix(),
                "width": image.width,
                "height": image.height,
            }
            for image in completed.images
        ],
        "annotations": [
            coco.entry(one, image, completed) | ({_MARK: scores[one.id]} if one.id in scores else {})
            for image in completed.images
            for one in image.annotations
        ],
        "categories": coco.categories(completed),
    }
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(document), encoding="utf-8")
    return completed


def _read(path: Path) -> tuple[Instance, ...]:
    """What was added to the data that `_write` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in document["categories"]}
    found = []
    for one in document["annotations"]:
        if _MARK in one:
            x, y, width, height = one["bbox"]
            box = (x, y, x + width, y + height)
            found.append(Instance(one["image_id"], names[one["category_id"]], box, one["segmentation"], one[_MARK]))
    return tuple(found)
