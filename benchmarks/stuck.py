"""Trainings with faults of known cause: is the first finding of the doctor that cause?

python -m benchmarks stuck                  # every fault and every healthy run, both ways, and the scores
python -m benchmarks.stuck --only anchors   # those with this in their name
python -m benchmarks.stuck --way watched    # one of the two ways

Pictures of shapes are drawn and a small model is trained on them first, so that nothing else is needed. Each case is
asked about in two ways. "examined": before its first step, and where nothing above "info" is found, it trains with the
doctor looking on, for 200 steps at most. "watched": nothing is examined before the first step, and the doctor has only
what passes by; faults that do not show there (in files that are never opened, or refused before) do not count. Healthy
runs train all of their steps, and must stay silent both ways.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args
from unittest import mock

import numpy as np
import torch
from PIL import Image

import maskgraft as mg
from benchmarks.scoring import counted
from benchmarks.timing import RESULTS
from maskgraft import coco, lookouts, shapes
from maskgraft.attending import Attendant
from maskgraft.coco import Annotation, ImageRecord
from maskgraft.init import initialise
from maskgraft.losses import LOSSES

HEALTHY = "healthy"
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
Way = Literal["examined", "watched"]
WAYS: tuple[Way, ...] = get_args(Way)


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


def drawn(folder: Path, *, images: int, seed: int) -> mg.Dataset:
    """Pictures of shapes in the colours of photographs, which have more red than blue."""
    if folder.is_dir():
        return mg.read_coco(folder / shapes.INSTANCES, folder)
    path = shapes.draw(folder, images=images, seed=seed, side=96)
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
    path = shop.folder / "changed.json"
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
        folder = shop.folder / "repainted"
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
    folder = shop.folder / "leak"
    shutil.copytree(shop.folder / "train", folder)
    data = mg.read_coco(folder / shapes.INSTANCES, folder)
    return replace(shop.case(), val=replace(data, images=data.images[:12]))


def spoiled(shop: Workshop) -> Case:
    """One file of the images is cut off."""
    folder = shop.folder / "spoiled"
    shutil.copytree(shop.folder / "train", folder)
    path = folder / "00007.png"
    path.write_bytes(path.read_bytes()[:400])
    return replace(shop.case(), data=mg.read_coco(folder / shapes.INSTANCES, folder))


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


@dataclass(frozen=True)
class Fault:
    """What was done, the codes that the first finding may have, and how it is made; `shows`: in what passes by while
    it trains, and not only in files and settings that are read before."""

    name: str
    expected: str | tuple[str, ...]
    make: Callable[[Workshop], Case] = field(repr=False)
    shows: bool = True


_ANCHORS = (8.0, 16.0, 32.0, 64.0, 96.0)
_BACKGROUND = ("data.class-background", "data.class-empty")

FAULTS: tuple[Fault, ...] = (
    # annotations
    Fault("labels shifted by one", "train.labels", labelled(lambda label: (label + 1) % 4)),
    Fault("two labels exchanged, two as well", "train.labels", labelled(lambda label: label ^ 1)),
    Fault("category ids less one in the file", "data.category-unknown", edited(shifted_ids), shows=False),
    Fault("validation names the classes otherwise", "train.labels", other_names_in_val),
    Fault("corners in the place of sides", ("data.box-format", "train.boxes"), edited(as_corners), shows=False),
    Fault("sides taken for corners", "train.boxes", boxed(lambda box: (*box[:2], box[2] - box[0], box[3] - box[1]))),
    Fault("boxes of half the size", "train.boxes", boxed(lambda box: tuple(value / 2 for value in box))),
    Fault("annotations upside down", "train.boxes", masked(lambda mask: mask[::-1], boxes=True)),
    Fault("annotations mirrored", "train.boxes", masked(lambda mask: mask[:, ::-1], boxes=True)),
    Fault("x and y exchanged", "train.boxes", masked(lambda mask: mask.T, boxes=True)),
    Fault("annotations of other pictures", "train.boxes", of_others),
    Fault("masks empty", "train.masks-empty", masked(np.zeros_like)),
    Fault("masks flipped in their boxes", "train.masks-flipped", masked(in_box(lambda mask: mask[::-1]))),
    Fault("masks of the ground", "train.masks-inverted", masked(in_box(np.logical_not))),
    Fault("boxes drawn as masks", "train.masks-boxes", masked(in_box(np.ones_like))),
    Fault("classes that no image has", "data.class-empty", with_new_classes(edited(further_classes)), shows=False),
    Fault("a class called background", _BACKGROUND, with_new_classes(edited(with_background)), shows=False),
    Fault("crowds only", "train.no-instances", nothing_left, shows=False),
    Fault("classes that the model does not have", "shape.classes", edited(further_classes), shows=False),
    Fault("images of validation among those of training", "data.leak", leaking, shows=False),
    Fault("an image that is cut off", ("data.image", "data.image-unreadable", "data.image-truncated"), spoiled),
    # annotations, once more
    Fault("masks of other instances", "train.boxes", of_neighbours),
    Fault("fractions for pixels", "train.boxes", edited(as_fractions)),
    Fault("annotated on smaller pictures", "train.boxes", masked(of_half_the_size, boxes=True)),
    Fault("labels at random", "train.labels", labelled_at_random),
    Fault("half of the objects without annotation", "train.unlabelled", half_annotated, shows=False),
    Fault("every instance twice", "data.duplicate-instance", annotated_twice, shows=False),
    Fault("blank pictures", "data.pixels", repainted(lambda picture: 0 * picture)),
    Fault("left and right in mirrored pictures", "train.flip", left_and_right),
    # the input and the weights
    Fault("BGR for RGB", "numerics.channel-order", numerics(channel_order="bgr", pixel_mean=(0.406, 0.456, 0.485))),
    Fault("no mean", "train.pixel-scale", numerics(pixel_mean=(0.0, 0.0, 0.0))),
    Fault("0 to 255 for 0 to 1", "train.pixel-scale", numerics(pixel_scale=1.0)),
    Fault("no deviation", "train.pixel-scale", numerics(pixel_std=(1.0, 1.0, 1.0))),
    Fault("another mean", "train.pixel-scale", numerics(pixel_mean=(0.9, 0.9, 0.9))),
    Fault("a random backbone, frozen", "train.frozen-random", weighted(fresh("backbone"), policy="heads")),
    Fault("random convolutions under old norms", "train.frozen-random", weighted(fresh_convolutions, policy="heads")),
    Fault("a head that was lost", "train.head-random", weighted(fresh("box_head", "box_predictor"))),
    Fault("a weight that is NaN", "values.nan", weighted(with_nan)),
    Fault("variances of nought", "numerics.norm-eps", weighted(no_variance)),
    Fault("eps 0 with fp16", "numerics.norm-eps", numerics(norm_eps=0.0, recipe={"precision": "fp16"})),
    # parts that were lost on the way
    Fault("a proposal network that was lost", "train.head-random", weighted(fresh("rpn"))),
    Fault("a mask head that was lost", "train.head-random", weighted(fresh("mask_head", "mask_predictor"))),
    Fault("a pyramid that was lost", "values.untrained", weighted(fresh("fpn"))),
    Fault("a random backbone that trains", "values.untrained", weighted(fresh("backbone"))),
    Fault("statistics of norms that were lost", "train.batchnorm", weighted(without_statistics)),
    Fault("weights that had diverged", "values.diverged", weighted(diverged)),
    # what trains, and how fast
    Fault("nothing trains", "train.nothing-trainable", trained(multipliers=dict.fromkeys(
        ("backbone", "fpn", "rpn", "box_head", "box_predictor", "mask_head", "mask_predictor"), 0.0))),
    Fault("a learning rate of a hundred times", "train.lr-high", trained(lr=0.25)),
    Fault("a learning rate of a thousandth", "train.lr-low", trained(lr=2.5e-6)),
    Fault("adamw at SGD's rate", "train.lr-high", trained(optimizer="adamw", lr=0.02)),
    Fault("momentum of 0.999", "train.lr-high", trained(momentum=0.999)),
    Fault("a warm-up that never ends", "train.lr-low", trained(warmup=10_000)),
    Fault("a schedule that ends at once", "train.lr-low", trained(milestones=[0.0, 0.0])),
    Fault("clipped to nothing", "train.lr-low", trained(clip_norm=1e-4)),
    Fault("weights that decay", "train.weight-decay", trained(weight_decay=0.5, steps=150, lr=0.01)),
    Fault("held to the start", "train.held", trained(l2sp=100.0)),
    Fault("mask weight of a hundred", "train.loss-dominates", trained(loss_weights={"mask": 100.0})),
    Fault("mask weight of a thousandth", "train.loss-faint", trained(loss_weights={"mask": 0.001})),
    Fault("training norms with batches of one", "train.batchnorm", trained(train_norms=True, batch=1)),
    Fault("old classes without images", "train.forgetting", new_classes_only, shows=False),
    Fault("gradients clipped by value", "train.lr-low", trained(clip_value=1e-6)),
    Fault("a backbone at two hundred times the rate", "train.lr-high", trained(multipliers={"backbone": 200.0})),
    Fault("all losses times fifty", "train.lr-high", trained(loss_weights=dict.fromkeys(LOSSES, 50.0))),
    Fault("adamw with a decay of 30", "train.weight-decay", trained(optimizer="adamw", lr=1e-3, weight_decay=30.0)),
    # what is sampled
    Fault("anchors of eight times", "train.anchors-miss", numerics(anchor_sizes=tuple((8 * a,) for a in _ANCHORS))),
    Fault("anchors of an eighth", "train.anchors-miss", numerics(anchor_sizes=tuple((a / 8,) for a in _ANCHORS))),
    Fault("no positive anchors", "train.rpn-starved", trained(numerics={"rpn_positive_fraction": 0.001})),
    Fault("no negative anchors", "train.rpn-starved", trained(numerics={"rpn_negative_iou": 0.0})),
    Fault("no regions of objects", "train.heads-starved", trained(numerics={"roi_positive_fraction": 0.01})),
    Fault("large proposals only", "train.rpn-recall", trained(numerics={"rpn_min_size": 80})),
    Fault("three proposals", "train.rpn-recall", trained(numerics={"rpn_post_nms_train": 3})),
    Fault("sure detections only", "train.thresholds", trained(numerics={"score_threshold": 0.95})),
    Fault("input of 32 pixels", ("train.input-small", "train.anchors-miss"), trained(min_size=32, max_size=32)),
    Fault("regions beside objects taken for them", "train.sampling", trained(numerics={"roi_positive_iou": 0.05})),
    Fault("anchors beside objects taken for them", "train.sampling", trained(
        numerics={"rpn_positive_iou": 0.1, "rpn_negative_iou": 0.05})),
    Fault("one detection at most", "train.thresholds", trained(numerics={"max_detections": 1})),
    Fault("shrunk to nothing", "train.input-small", trained(scale_jitter=(0.05, 0.1))),
    # while it trains
    Fault("a slow disk", "train.loader-slow", loaded_by(Slow, steps=20)),
    Fault("a worker that hangs", "train.loader-stalled", loaded_by(Hanging, every=9, workers=1, steps=12)),
    Fault("a worker that ends", "train.loader-died", loaded_by(Deadly, every=9, workers=1, steps=40)),
    Fault("a box that is not a number", "train.boxes", poisoned((float("nan"), 10.0, 50.0, 60.0))),
    Fault("a box of no width", ("train.boxes", "train.outlier"), poisoned((40.0, 10.0, 40.0, 60.0))),
)  # fmt: skip


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


HEALTHY_RUNS: tuple[Fault, ...] = (
    Fault("everything trains, with validation", HEALTHY, lambda shop: replace(shop.case(steps=100), val=shop.val)),
    Fault("the heads train", HEALTHY, trained(policy="heads")),
    Fault("from scratch", HEALTHY, from_scratch),
    Fault("from scratch, by SGD", HEALTHY, from_scratch_slowly),
    Fault("new classes", HEALTHY, other_classes),
    Fault("one class", HEALTHY, one_class),
    Fault("strong augmentation", HEALTHY, trained(scale_jitter=(0.7, 1.4), photometric=1.0, flip_vertical=0.5)),
    Fault("stages, cosine, a running mean, bf16", HEALTHY, lambda shop: Case(shop.model(), shop.train, mg.Recipe(
        batch=2, workers=1, stages="heads:30st@2e-3, all:50st@1e-3", schedule="cosine", ema=0.9, precision="bf16",
        clip_norm=5.0, evaluate_every=0))),
    Fault("twice the usual rate, one image a step", HEALTHY, trained(batch=1, lr=0.0025, steps=80)),
    Fault("adamw, gentle", HEALTHY, trained(optimizer="adamw", lr=1e-4, multipliers="gentle", batch=4, steps=60)),
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    fault: Fault
    way: Way
    right: bool
    found: str
    message: str
    when: str
    seconds: float


class Enough:
    """A watcher that ends the run with the step at which the first finding above "info" came: only that one counts."""

    def __init__(self) -> None:
        self.findings: tuple[mg.Finding, ...] = ()

    def begin(self, *_: object) -> None: ...

    def examines(self, what: str) -> None: ...

    def step(self, *_: object) -> None:
        if self.findings:
            raise mg.DataError(self.findings)

    def evaluated(self, *_: object) -> None: ...

    def found(self, number: int, findings: Sequence[mg.Finding]) -> None:
        self.findings += tuple(one for one in findings if one.severity != "info")


def judged(fault: Fault, shop: Workshop, way: Way) -> Answer:
    """Make a fault, ask the doctor, and hold the first finding against the cause."""
    start = time.perf_counter()
    torch.manual_seed(0)
    findings, when = tuple[mg.Finding, ...](), "before"
    try:
        case = fault.make(shop)
    except mg.MaskgraftError as error:  # the data cannot even be read
        case, findings, when = None, error.findings, "reading"
    if case is not None and way == "examined":
        findings = mg.doctor(case.model, case.data, case.recipe, val=case.val).findings
    if case is not None and all(one.severity == "info" for one in findings):
        out, when = shop.folder / "run", "while training"
        doctor = Attendant(case.data, val=case.val, examines=way == "examined")
        watcher = Enough() if way == "watched" else None
        try:
            mg.train(case.model, case.data, case.recipe, out=out, val=case.val, doctor=doctor, watcher=watcher)
        except mg.MaskgraftError as error:  # the log of the run has it, if there is one
            findings = error.findings
        if out.exists():
            findings = mg.doctor(run=out).findings
            shutil.rmtree(out)
    grave = [one for one in findings if one.severity != "info"]
    first = grave[0] if grave else None
    found, message = (first.code, first.message) if first else (HEALTHY, "")
    allowed = (fault.expected,) if isinstance(fault.expected, str) else fault.expected
    return Answer(fault, way, found in allowed, found, message, when, time.perf_counter() - start)


def answers(shop: Workshop, way: Way, names: str = "", *, every: int = 1, first: str = "") -> Iterator[Answer]:
    """Every case whose name has `names` in it, told as it comes; what each left in the folder is removed."""
    kept = set(shop.folder.iterdir())
    cases = [one for one in (*HEALTHY_RUNS, *FAULTS) if one.shows or way == "examined"]
    begin = next((number for number, one in enumerate(cases) if first in one.name), 0)
    for fault in cases[begin::every]:
        if names not in fault.name:
            continue
        with mock.patch.object(lookouts, "PATIENCE", 2.5):  # half a minute would be half of the benchmark
            one = judged(fault, shop, way)
        mark = "ok  " if one.right else "MISS"
        told = f"{mark} {way} {fault.name}: {one.found} ({one.when}, {one.seconds:.0f} s): {one.message[:140]}"
        print(told, flush=True)
        yield one
        for path in set(shop.folder.iterdir()) - kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def told(found: list[Answer], *, out: Path | None = None, whole: bool = False) -> bool:
    """Print the scores, and whether they are good enough: nine of ten causes first, and silence over healthy runs."""
    if out is not None:
        written(found, out, whole=whole)
    enough = True
    for way in WAYS:
        if some := [one for one in found if one.way == way]:
            print(f"{way}:")
            enough &= counted(some, healthy=HEALTHY, what="runs").reaches(0.9)
    return enough


def written(found: list[Answer], out: Path, *, whole: bool = False) -> None:
    """Write each case and the scores into a file; unless this is the `whole` of it, what it holds already stays."""
    known = json.loads(out.read_text()) if out.exists() and not whole else {}
    result: dict[str, Any] = {way: known.get(way, {"cases": {}}) for way in WAYS}
    for one in found:
        kind = "healthy" if one.fault.expected == HEALTHY else "fault"
        case = {"kind": kind, "found": one.found, "right": one.right, "when": one.when}
        result[one.way]["cases"][one.fault.name] = case
    for of in result.values():
        for kind in ("fault", "healthy"):
            some = [one for one in of["cases"].values() if one["kind"] == kind]
            of[kind] = {"cases": len(some), "right": sum(one["right"] for one in some)}
    out.write_text(json.dumps(result, indent=1) + "\n")


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    """Print what was missed and the scores; `quick` takes every fifth case. TensorFlow is not needed."""
    with tempfile.TemporaryDirectory() as folder:
        shop = workshop(Path(folder))
        for number, way in enumerate(WAYS):
            found = list(answers(shop, way, every=5 if quick else 1))
            told(found, out=out or (None if quick else RESULTS / "stuck.json"), whole=number == 0)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stuck")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--way", choices=WAYS, help="one of the two ways; else both")
    parser.add_argument("--from", dest="first", default="", help="the name of the case to begin with")
    parser.add_argument("--out", type=Path, help="a file for the scores, as JSON")
    parser.add_argument("--keep", type=Path, help="a folder whose pictures and model are made once and taken again")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        shop = workshop(options.keep or Path(folder))
        found = []
        for way in (options.way,) if options.way else WAYS:
            found += answers(shop, way, options.only, first=options.first)
        return 0 if told(found, out=options.out) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
