"""What the benchmark of trainings trains on: drawn pictures, a small model that knows them, and ways to spoil both.

A maker takes the workshop and gives a case: a model, its data and a recipe, healthy but for one thing.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import maskgraft as mg
from maskgraft import batches, coco, shapes
from maskgraft.coco import Annotation, ImageRecord
from maskgraft.init import initialise

NUMERICS: dict[str, Any] = {
    "min_size": 96,
    "max_size": 96,
    "anchor_sizes": [[8], [16], [32], [64], [96]],
    "rpn_pre_nms": 200,
    "rpn_post_nms": 60,
    "rpn_pre_nms_train": 200,
    "rpn_post_nms_train": 60,
    "roi_samples": 32,
    "rpn_samples": 128,
}
RECIPE = mg.Recipe(batch=2, workers=0, policy="all", steps=60, evaluate_every=0, gradient_norms=25)
Changes = dict[str, Any]


@dataclass
class Case:
    """What is to be trained."""

    model: mg.MaskRCNN
    data: mg.Dataset
    recipe: mg.Recipe
    val: mg.Dataset | None = None


@dataclass(frozen=True)
class Workshop:
    """Pictures, a model that has learnt them, and the folder that holds both and what cases make."""

    folder: Path
    train: mg.Dataset
    val: mg.Dataset

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def made(self) -> Path:
        """What one case makes; empty when it begins."""
        return self.folder / "made"

    def model(self, **numerics: Any) -> mg.MaskRCNN:
        model = mg.load(self.base)
        model.spec = replace(model.spec, numerics=replace(model.spec.numerics, **numerics))
        return model

    def case(self, **changes: Any) -> Case:
        """The healthy case, with fields of its recipe changed."""
        return Case(self.model(), self.train, recipe(**changes))


def workshop(folder: Path, *, steps: int = 350) -> Workshop:
    """A workshop in a folder; what stands there from an earlier one is taken as it is."""
    train, val = (
        drawn(folder / name, images=many, seed=seed) for name, many, seed in (("train", 200, 5), ("val", 16, 77))
    )
    shop = Workshop(folder, train, val)
    if not shop.base.is_dir():
        torch.manual_seed(0)
        model = mg.MaskRCNN.from_scratch("small", train.classes, norm="bn", numerics=NUMERICS)
        learning = mg.Recipe(
            from_scratch=True, train_norms=True, batch=8, steps=steps, optimizer="adamw", lr=1e-3, schedule="cosine",
            warmup=30, workers=0, gradient_norms=0,
        )  # fmt: skip
        run = mg.train(model, train, learning, out=folder / "pretraining")
        print(f"the model of all cases: loss {run.losses[0]:.2f} at its first step, {run.losses[-1]:.2f} at its last")
        mg.save(model, shop.base)
    return shop


def recipe(**changes: Any) -> mg.Recipe:
    given = {name: getattr(RECIPE, name) for name in RECIPE.model_fields_set}
    return mg.Recipe(**{**given, **changes})


def drawn(folder: Path, *, images: int, seed: int, classes: tuple[str, ...] = shapes.CLASSES) -> mg.Dataset:
    """Pictures of shapes in the colours of photographs, which have more red than blue."""
    if folder.is_dir():
        return mg.read_coco(folder / shapes.INSTANCES, folder)
    path = shapes.draw(folder, images=images, classes=classes, seed=seed, side=96)
    for picture in folder.glob("*.png"):
        tinted = np.asarray(Image.open(picture)) * np.array((1.15, 0.95, 0.7)) + np.array((12, 0, -8))
        Image.fromarray(tinted.clip(0, 255).astype(np.uint8)).save(picture)
    return mg.read_coco(path, folder)


def annotated(data: mg.Dataset, change: Callable[[Annotation, ImageRecord], Annotation]) -> mg.Dataset:
    """The data with each annotation changed."""
    images = [
        replace(image, annotations=tuple(change(one, image) for one in image.annotations)) for image in data.images
    ]
    return replace(data, images=tuple(images))


def reread(shop: Workshop, change: Callable[[dict[str, Any]], None], **arguments: Any) -> mg.Dataset:
    """The data read from a file that was changed."""
    document = json.loads((shop.folder / "train" / shapes.INSTANCES).read_text())
    change(document)
    path = shop.made / "changed.json"
    path.write_text(json.dumps(document))
    return mg.read_coco(path, shop.folder / "train", **arguments)


def runs(mask: Any) -> dict[str, Any]:
    """A mask as COCO's run lengths."""
    flat = np.concatenate(([0], mask.ravel(order="F").astype(np.int8), [-1]))
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate(([0], edges, [] if len(edges) and edges[-1] == mask.size else [mask.size])))
    return {"size": list(mask.shape), "counts": [int(one) for one in counts]}


def masked(change: Callable[[Any], Any], *, boxes: bool = False) -> Callable[[Workshop], Case]:
    """Masks [H, W] changed; the boxes follow where `boxes` is set."""

    def one(annotation: Annotation, image: ImageRecord) -> Annotation:
        mask = change(coco.mask(annotation, image.height, image.width))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (
            (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            if len(rows)
            else annotation.box
        )
        return replace(annotation, segmentation=runs(mask), box=box if boxes else annotation.box)

    return lambda shop: replace(shop.case(), data=annotated(shop.train, one))


def in_box(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What is inside the extent of a mask, changed."""

    def changed(mask: Any) -> Any:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        result = np.zeros_like(mask)
        result[window] = change(mask[window])
        return result

    return changed


def boxed(change: Callable[[tuple[float, ...]], tuple[float, ...]]) -> Callable[[Workshop], Case]:
    def one(annotation: Annotation, _: ImageRecord) -> Annotation:
        return replace(annotation, box=change(annotation.box))  # type: ignore[arg-type]

    return lambda shop: replace(shop.case(), data=annotated(shop.train, one))


def labelled(by: Callable[[int], int]) -> Callable[[Workshop], Case]:
    def one(annotation: Annotation, _: ImageRecord) -> Annotation:
        return replace(annotation, label=by(annotation.label))

    return lambda shop: replace(shop.case(), data=annotated(shop.train, one))


def of_others(shop: Workshop) -> Case:
    images = shop.train.images
    moved = [replace(image, annotations=images[index - 7].annotations) for index, image in enumerate(images)]
    return replace(shop.case(), data=replace(shop.train, images=tuple(moved)))


def of_neighbours(shop: Workshop) -> Case:
    """Each mask belongs to another instance of its image."""
    images = []
    for image in shop.train.images:
        every = image.annotations
        moved = tuple(replace(one, segmentation=every[index - 1].segmentation) for index, one in enumerate(every))
        images.append(replace(image, annotations=moved))
    return replace(shop.case(), data=replace(shop.train, images=tuple(images)))


def of_half_the_size(mask: Any) -> Any:
    """What was annotated on a picture of half the size."""
    small, (height, width) = np.zeros_like(mask), (side // 2 for side in mask.shape)
    small[:height, :width] = mask[: 2 * height : 2, : 2 * width : 2]
    return small


def labelled_at_random(shop: Workshop) -> Case:
    random = np.random.default_rng(0)
    return labelled(lambda _: int(random.integers(4)))(shop)


def half_annotated(shop: Workshop) -> Case:
    images = [
        replace(one, annotations=one.annotations[: max(1, len(one.annotations) // 2)]) for one in shop.train.images
    ]
    return replace(shop.case(), data=replace(shop.train, images=tuple(images)))


def annotated_twice(shop: Workshop) -> Case:
    images = [
        replace(
            image, annotations=tuple(replace(one, id=one.id + more) for one in image.annotations for more in (0, 9000))
        )
        for image in shop.train.images
    ]
    return replace(shop.case(), data=replace(shop.train, images=tuple(images)))


def repainted(change: Callable[[Any], Any]) -> Callable[[Workshop], Case]:
    """The pictures themselves changed, uint8 [H, W, 3]."""

    def made(shop: Workshop) -> Case:
        folder = shop.made / "repainted"
        shutil.copytree(shop.folder / "train", folder)
        for path in folder.glob("*.png"):
            Image.fromarray(change(np.asarray(Image.open(path)))).save(path)
        return replace(shop.case(), data=mg.read_coco(folder / shapes.INSTANCES, folder))

    return made


def left_and_right(shop: Workshop) -> Case:
    data = replace(shop.train, classes=("left hand", "right hand", "left foot", "right foot"))
    return replace(shop.case(), data=data, model=mg.load(shop.base, classes=data.classes))


def edited(change: Callable[[dict[str, Any]], None], **arguments: Any) -> Callable[[Workshop], Case]:
    return lambda shop: replace(shop.case(), data=reread(shop, change, **arguments))


def as_corners(document: dict[str, Any]) -> None:
    for one in document["annotations"]:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x, y, x + width, y + height]


def as_fractions(document: dict[str, Any]) -> None:
    for one in document["annotations"]:
        one["bbox"] = [value / 96 for value in one["bbox"]]


def further_classes(document: dict[str, Any]) -> None:
    document["categories"] += [{"id": 90 + index, "name": f"unseen {index}"} for index in range(3)]


def with_background(document: dict[str, Any]) -> None:
    document["categories"].insert(0, {"id": 0, "name": "background"})


def shifted_ids(document: dict[str, Any]) -> None:
    for one in document["annotations"]:
        one["category_id"] -= 1


def with_new_classes(change: Callable[[Workshop], Case]) -> Callable[[Workshop], Case]:
    """The case with a model that has exactly the classes of the data."""

    def made(shop: Workshop) -> Case:
        case = change(shop)
        return replace(case, model=mg.load(shop.base, classes=case.data.classes))

    return made


def leaking(shop: Workshop) -> Case:
    folder = shop.made / "leak"
    shutil.copytree(shop.folder / "train", folder)
    data = mg.read_coco(folder / shapes.INSTANCES, folder)
    return replace(shop.case(), val=replace(data, images=data.images[:12]))


def spoiled(shop: Workshop) -> Case:
    """One file of the images is cut off: the first that the twenty-first step trains on."""
    case, folder = shop.case(), shop.made / "spoiled"
    shutil.copytree(shop.folder / "train", folder)
    records = shop.train.trainable()
    first, *_ = batches.plan(records, case.recipe, 0)[20]
    path = folder / records[first[0]].path.name
    path.write_bytes(path.read_bytes()[:400])
    return replace(case, data=mg.read_coco(folder / shapes.INSTANCES, folder))


def nothing_left(shop: Workshop) -> Case:
    return replace(shop.case(), data=annotated(shop.train, lambda one, _: replace(one, crowd=True)))


def numerics(*, recipe: Changes | None = None, **changes: Any) -> Callable[[Workshop], Case]:
    """A model that is told other conventions than those it was trained with."""
    return lambda shop: replace(shop.case(**(recipe or {})), model=shop.model(**changes))


def weighted(change: Callable[[mg.MaskRCNN], None], **changes: Any) -> Callable[[Workshop], Case]:
    """A model whose weights were changed."""

    def made(shop: Workshop) -> Case:
        case = shop.case(**changes)
        with torch.no_grad():
            change(case.model)
        return case

    return made


def fresh(*parts: str) -> Callable[[mg.MaskRCNN], None]:
    return lambda model: initialise(model, parts)


def fresh_convolutions(model: mg.MaskRCNN) -> None:
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)


def without_statistics(model: mg.MaskRCNN) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()


def diverged(model: mg.MaskRCNN) -> None:
    for name, parameter in model.named_parameters():
        if name.startswith("fpn."):
            parameter.mul_(30)


def with_nan(model: mg.MaskRCNN) -> None:
    model.rpn.deltas.weight[0, 0] = float("nan")


def no_variance(model: mg.MaskRCNN) -> None:
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var[:2] = 0
            return


def trained(**changes: Any) -> Callable[[Workshop], Case]:
    return lambda shop: shop.case(**changes)


class Slow(ImageRecord):
    """An image on a slow disk."""

    def load(self) -> Any:
        time.sleep(0.5)
        return super().load()


class Hanging(ImageRecord):
    """An image that does not come for a while."""

    def load(self) -> Any:
        if torch.utils.data.get_worker_info() is not None:
            time.sleep(4)
        return super().load()


class Deadly(ImageRecord):
    """An image that ends the worker which reads it."""

    def load(self) -> Any:
        if torch.utils.data.get_worker_info() is not None:
            os._exit(1)
        return super().load()


def loaded_by(kind: type[ImageRecord], *, every: int = 1, **changes: Any) -> Callable[[Workshop], Case]:
    def made(shop: Workshop) -> Case:
        images = [
            kind(one.id, one.path, one.width, one.height, one.annotations) if index % every == every - 1 else one
            for index, one in enumerate(shop.train.images)
        ]
        return replace(shop.case(**changes), data=replace(shop.train, images=tuple(images)))

    return made


def poisoned(box: tuple[float, ...]) -> Callable[[Workshop], Case]:
    """One image of the set has such a box; it is none of the first that are looked at."""

    def made(shop: Workshop) -> Case:
        case = shop.case(steps=100)
        images = list(shop.train.images)
        one = images[117]
        wrong = replace(one.annotations[0], box=box)  # type: ignore[arg-type]
        images[117] = replace(one, annotations=(wrong, *one.annotations[1:]))
        return replace(case, data=replace(shop.train, images=tuple(images)))

    return made


def new_classes_only(shop: Workshop) -> Case:
    """The model knows four classes, and the data has two of them."""
    names = shop.train.classes[2:]
    data = mg.read_coco(shop.folder / "train" / shapes.INSTANCES, shop.folder / "train", classes=names)
    return replace(shop.case(), data=data)


def other_names_in_val(shop: Workshop) -> Case:
    val = annotated(shop.val, lambda one, _: replace(one, label=(one.label + 1) % 4))
    return replace(shop.case(steps=40, lr=2e-4), val=val)


def from_scratch(shop: Workshop) -> Case:
    torch.manual_seed(1)
    model = mg.MaskRCNN.from_scratch("small", shop.train.classes, numerics=NUMERICS)
    return Case(model, shop.train, recipe(from_scratch=True, batch=4, steps=100, optimizer="adamw", lr=5e-4))


def from_scratch_slowly(shop: Workshop) -> Case:
    return replace(from_scratch(shop), recipe=recipe(from_scratch=True, batch=2, steps=130))


def other_classes(shop: Workshop) -> Case:
    """Two of the classes under new names: their rows start afresh."""
    data = replace(shop.train, classes=("disc", "box", "peak", "burst"))
    torch.manual_seed(2)
    return replace(shop.case(steps=80), data=data, model=mg.load(shop.base, classes=data.classes))


def one_class(shop: Workshop) -> Case:
    data = mg.read_coco(shop.folder / "train" / shapes.INSTANCES, shop.folder / "train", classes=["star"])
    return replace(shop.case(policy="heads"), data=data, model=mg.load(shop.base, classes=["star"]))


def rewritten(change: Callable[[Path, dict[str, Any], list[dict[str, Any]]], None]) -> Callable[[Workshop], mg.Dataset]:
    """The data with its files rewritten: `change` is given each picture's path, its entry and those of its
    annotations, all of which it may change."""

    def made(shop: Workshop) -> mg.Dataset:
        place = shop.made / "rewritten"
        shutil.copytree(shop.folder / "train", place)
        document = json.loads((place / shapes.INSTANCES).read_text())
        for image in document["images"]:
            own = [one for one in document["annotations"] if one["image_id"] == image["id"]]
            change(place / image["file_name"], image, own)
        (place / shapes.INSTANCES).write_text(json.dumps(document))
        return mg.read_coco(place / shapes.INSTANCES, place)

    return made


def of_files(change: Callable[[Path, dict[str, Any], list[dict[str, Any]]], None]) -> Callable[[Workshop], Case]:
    return lambda shop: replace(shop.case(), data=rewritten(change)(shop))


def shrunk_pictures(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """Pictures of half the size, of which the file knows; polygons and boxes are those of the larger ones."""
    small = Image.open(path).resize((image["width"] // 2, image["height"] // 2))
    small.save(path)
    image["width"], image["height"] = small.size
    for one in own:
        one["segmentation"] = as_polygon(one)


def grown_pictures(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """Pictures of twice the size, of which the file knows; polygons and boxes are those of the smaller ones."""
    large = Image.open(path).resize((image["width"] * 2, image["height"] * 2))
    large.save(path)
    image["width"], image["height"] = large.size
    for one in own:
        one["segmentation"] = as_polygon(one)


def as_polygon(one: dict[str, Any]) -> list[list[float]]:
    """The ellipse in the box of an entry, which is about what the drawn shapes are."""
    x, y, width, height = one["bbox"]
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack((np.cos(turn) * width / 2 + x + width / 2, np.sin(turn) * height / 2 + y + height / 2), 1)
    return [points.ravel().tolist()]


def turned_by_exif(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """The stored pixels lie on their side, and a tag says so; annotations are those of the stored pixels."""
    picture = Image.open(path)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)


def of_twelve_bits(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """As a camera of industry writes them: 12 of 16 bits, grey."""
    grey = np.asarray(Image.open(path).convert("L"), np.uint16)
    Image.fromarray(grey << 4).save(path)


def of_four_colours(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """CMYK, as printers want it, under the name that it had."""
    Image.open(path).convert("CMYK").save(path, format="JPEG", quality=95)


def transposed_runs(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """Run lengths along the rows, where COCO's run down the columns; boxes are right."""
    for one in own:
        size = one["segmentation"]["size"]
        mask = np.repeat(np.arange(len(one["segmentation"]["counts"])) % 2, one["segmentation"]["counts"])
        one["segmentation"] = runs(mask.reshape(size, order="F").astype(bool).T)


def whole_pictures(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    for one in own:
        one["bbox"] = [0, 0, image["width"], image["height"]]


def middles_for_corners(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """[middle x, middle y, width, height], as YOLO has them."""
    for one in own:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x + width / 2, y + height / 2, width, height]


def all_from_the_middle(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """Boxes as YOLO has them, and polygons drawn from those boxes."""
    middles_for_corners(path, image, own)
    for one in own:
        one["segmentation"] = as_polygon(one)


def four_pixels_large(path: Path, image: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """The picture in the middle of one of six times its sides: objects have four pixels of the input."""
    inner = Image.open(path).convert("RGB")
    width, height = inner.size
    page = inner.resize((1, 1), Image.Resampling.BOX).resize((6 * width, 6 * height))  # its mean colour
    page.paste(inner, (width, height))
    page.save(path)
    image["width"], image["height"] = page.size
    for one in own:
        x, y, *size = one["bbox"]
        one["bbox"] = [x + width, y + height, *size]
        one["segmentation"] = as_polygon(one)


def mostly_one_class(shop: Workshop) -> Case:
    """Pictures of discs, and three of all shapes among them."""
    discs = drawn(shop.made / "discs", images=120, seed=9, classes=("disc",))
    return replace(shop.case(), data=replace(shop.train, images=(*shop.train.images[:3], *discs.images)))


def val_is_train(shop: Workshop) -> Case:
    return replace(shop.case(), val=shop.train)


def one_picture_many_times(shop: Workshop) -> Case:
    """The same two pictures under all names, with their annotations."""
    data, two = rewritten(lambda *_: None)(shop), shop.train.images[:2]
    images = []
    for one in data.images:
        shutil.copyfile(two[one.id % 2].path, one.path)
        images.append(replace(one, annotations=two[one.id % 2].annotations))
    return replace(shop.case(), data=replace(data, images=tuple(images)))


def two_classes_merged(shop: Workshop) -> Case:
    return labelled(lambda label: 0 if label == 1 else label)(shop)


def other_spelling(shop: Workshop) -> Case:
    """Capital letters: no name is that of the checkpoint, and every class row starts afresh."""
    classes = tuple(name.capitalize() for name in shop.train.classes)
    data = replace(shop.train, classes=classes)
    return replace(shop.case(), data=data, model=mg.load(shop.base, classes=classes))


def shifted_boxes(shop: Workshop) -> Case:
    """Boxes and masks a sixth of the picture aside."""
    return masked(lambda mask: np.roll(mask, (16, 16), (0, 1)), boxes=True)(shop)


def negatives(picture: Any) -> Any:
    return 255 - picture


def darkened(picture: Any) -> Any:
    return picture // 16


def greyed(picture: Any) -> Any:
    return np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
