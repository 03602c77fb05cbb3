"""What is odd about a dataset, in four layers: structure, quality, distribution, and fit to a model.

report = mg.check_data(data, val=val, spec=mg.diagnose("model.pth").spec)
report.findings                         # worst first
report.pictures().save("worst.jpg")     # the instances that were found fault with, drawn
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy.typing as npt
from PIL import Image

from maskgraft import coco, draw, outlines, similarity
from maskgraft.anchor_fitting import anchor_coverage
from maskgraft.coco import Annotation, Dataset, ImageRecord
from maskgraft.errors import DataError, Finding, worst_first
from maskgraft.faults import Faults
from maskgraft.preprocess import network_size
from maskgraft.spec import Spec

_TINY = 16.0  # square pixels of a box of which little can be learnt
_HUGE = 0.98  # of both sides of the photograph
_SMALL_INPUT = 8.0  # pixels of the network's input: the shortest side that a cell of P2 and P3 can tell
_FEW, _UNEQUAL = 10, 100  # instances of a class, and the largest class by the smallest
_ALMOST_ALL = 0.95  # of the instances
_CROWDED = 0.2
_SHOWN, _WIDTH = 24, 400  # pictures of a sheet, and their width in pixels


@dataclass(frozen=True, slots=True)
class Suspect:
    """An instance, or a whole image, that was found fault with."""

    code: str
    image: ImageRecord
    annotation: Annotation | None


@dataclass(frozen=True, slots=True)
class DataReport:
    """The findings of each layer, and what pictures can be drawn of."""

    classes: tuple[str, ...]
    structure: tuple[Finding, ...]
    quality: tuple[Finding, ...]
    distribution: tuple[Finding, ...]
    fit: tuple[Finding, ...]
    suspects: tuple[Suspect, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All layers, worst first."""
        return worst_first([*self.structure, *self.quality, *self.distribution, *self.fit])

    def layers(self) -> dict[str, tuple[Finding, ...]]:
        """The findings by the name of their layer."""
        return {
            "structure": self.structure,
            "quality": self.quality,
            "distribution": self.distribution,
            "fit": self.fit,
        }

    def pictures(self, most: int = _SHOWN) -> Image.Image | None:
        """A contact sheet of the worst, of each kind by turns; None where there is nothing to show."""
        kinds: dict[str, list[Suspect]] = {}
        for one in self.suspects:
            kinds.setdefault(one.code, []).append(one)
        turns = [one[turn] for turn in range(most) for one in kinds.values() if turn < len(one)][:most]
        drawn = [_drawn(one, self.classes) for one in turns]
        shown = [one for one in drawn if one is not None]
        return draw.sheet(shown, columns=min(4, len(shown)), width=_WIDTH) if shown else None


def check_data(
    data: Dataset,
    *,
    val: Dataset | None = None,
    spec: Spec | None = None,
    open_images: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> DataReport:
    """Everything that is odd about a dataset that can be read.

    Structure is what `coco.check` says. Quality looks at instances and, with `open_images`, at the pictures:
    duplicates, also between `data` and `val`, and unusual kinds of file. Distribution looks at classes. Fit holds
    classes, sizes and anchors against those of `spec`, and is empty without it.
    """
    suspects: list[Suspect] = []
    return DataReport(
        data.classes,
        coco.check(data, open_images=open_images, progress=progress),
        _quality(data, val, suspects, open_images=open_images, progress=progress),
        _distribution(data, val),
        _fit(data, spec) if spec is not None else (),
        tuple(suspects),
    )


def _quality(
    data: Dataset,
    val: Dataset | None,
    suspects: list[Suspect],
    *,
    open_images: bool,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> tuple[Finding, ...]:
    faults = Faults(data.path)
    for image in data.images:
        seen: dict[tuple[float, ...], int] = {}
        for one in image.annotations:
            where = f"annotation {one.id} of {image.path.name}"
            for code, text in _odd(one, image):
                faults.add(code, "warning", text, where)
                suspects.append(Suspect(code, image, one))
            key = (one.label, *(round(side) for side in one.box))
            if key in seen:
                text = "instances have the class and box of another of their image"
                faults.add("data.duplicate-instance", "warning", text, f"{where}, {seen[key]}")
                suspects.append(Suspect("data.duplicate-instance", image, one))
            seen.setdefault(key, one.id)
    if open_images:
        _duplicates(data, val, faults, suspects, progress)
        for image in data.images:
            kind = _kind(image)
            if kind:
                faults.add("data.image-kind", "info", f"images are {kind} and are read as RGB", image.path.name)
    return faults.findings()


def _odd(one: Annotation, image: ImageRecord) -> list[tuple[str, str]]:
    width, height = one.box[2] - one.box[0], one.box[3] - one.box[1]
    found = []
    if width * height < _TINY and not one.crowd:
        found.append(("data.box-tiny", f"boxes have less than {_TINY:g} square pixels"))
    if width >= _HUGE * image.width and height >= _HUGE * image.height and not one.crowd:
        found.append(("data.box-huge", f"boxes are {100 * _HUGE:g} % of their picture or more"))
    if isinstance(one.segmentation, tuple) and any(map(outlines.crosses_itself, one.segmentation)):
        found.append(("data.mask-crossing", "polygons cross themselves"))
    return found


def _duplicates(
    data: Dataset,
    val: Dataset | None,
    faults: Faults,
    suspects: list[Suspect],
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> None:
    images = [*data.images, *(val.images if val else ())]
    prints = [similarity.fingerprint(image.path) for image in progress(images)]
    for first, second, exact in similarity.alike(prints):
        one, other = images[first], images[second]
        across = first < len(data.images) <= second
        if first >= len(data.images) or (one.path == other.path and not across):
            continue
        what = "the same file" if exact else "nearly the same picture"
        where = "once for training and once for validation" if across else "more than once"
        code = "data.leak" if across else "data.duplicate-image"
        fix = "`maskgraft data split` keeps them on one side" if across else ""
        faults.add(code, "warning", f"images are {what}, {where}", f"{one.path.name} = {other.path.name}", fix)
        suspects += [Suspect(code, one, None), Suspect(code, other, None)]


def _kind(image: ImageRecord) -> str:
    """What is unusual about how a file holds its picture, from its header."""
    try:
        with Image.open(image.path) as opened:
            mode = opened.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""  # told by the layer of structure
    if mode.startswith("I") or mode == "F":
        return "of 16 bits or floats"
    return {"L": "grey", "1": "black and white", "LA": "grey", "CMYK": "CMYK"}.get(mode, "")


def _distribution(data: Dataset, val: Dataset | None) -> tuple[Finding, ...]:
    faults = Faults(data.path)
    counts = Counter(data.classes[one.label] for image in data.images for one in image.instances)
    few = {name: number for name, number in counts.items() if number < _FEW}
    for name, number in sorted(few.items(), key=lambda item: item[1]):
        faults.add("data.class-rare", "info", f"classes have fewer than {_FEW} instances", f"{name} {number}")
    if counts and max(counts.values()) >= _UNEQUAL * min(counts.values()):
        (most, many), (least, some) = counts.most_common()[0], counts.most_common()[-1]
        text = f"classes are {_UNEQUAL} times as frequent as others or more"
        faults.add("data.class-imbalance", "warning", text, f"{most} {many}, {least} {some}")
    if len(counts) > 1 and max(counts.values()) > _ALMOST_ALL * counts.total():
        (most, many), whole = counts.most_common()[0], counts.total()
        fix = "more images of the others, or train for that class alone: --classes"
        text = f"class has more than {100 * _ALMOST_ALL:.0f} % of all instances; the others are hardly learnt"
        faults.add("data.class-dominates", "warning", text, f"{most} {many} of {whole}", fix)
    ids = data.category_ids
    if ids and sorted(ids) != list(range(min(ids), min(ids) + len(ids))):
        text = f"{len(ids)} category ids run from {min(ids)} to {max(ids)} with gaps; labels are 0 to {len(ids) - 1}"
        faults.note("data.category-gaps", text, len(ids))
    for name in data.classes:
        if name.lower().strip("_") in ("background", "bg", "void", "ignore"):
            text = "classes are called as what is no class; if labels start there, all are off by one"
            faults.add("data.class-background", "warning", text, f"{name} ({counts[name]} instances)", "leave it out")
    every = [one for image in data.images for one in image.annotations]
    crowds = sum(one.crowd for one in every)
    if every and crowds > _CROWDED * len(every):
        text = "annotations are crowds, which are not trained on"
        faults.add("data.crowds", "warning", text, f"{crowds} of {len(every)}")
    if val is not None:
        here, there = set(counts), {val.classes[one.label] for image in val.images for one in image.instances}
        for name in sorted(there - here):
            faults.add("data.class-unlearnt", "warning", "classes are in validation and not in training", name)
    return faults.findings()


def _fit(data: Dataset, spec: Spec) -> tuple[Finding, ...]:
    faults = Faults(data.path)
    new = [name for name in data.classes if name not in spec.classes]
    for name in new:
        near = get_close_matches(name, spec.classes, 1)
        text = "classes are not among the checkpoint's and start afresh"
        faults.add("data.class-new", "info", text, f"{name} (is it {near[0]}?)" if near else name)
    if len(new) == len(data.classes) and len(data.classes) == len(spec.classes):
        text = f"no class has a name of the checkpoint's, but there are {len(new)} of both"
        faults.error("data.class-names", text, fix="rename the categories, or every class row starts afresh", names=new)
    small, every, crowded = 0, 0, []
    for image in data.images:
        height, width = network_size((image.height, image.width), spec.numerics)
        x, y = width / image.width, height / image.height
        sides = [min((one.box[2] - one.box[0]) * x, (one.box[3] - one.box[1]) * y) for one in image.instances]
        small, every = small + sum(side < _SMALL_INPUT for side in sides), every + len(sides)
        if len(sides) > spec.numerics.max_detections:
            crowded.append(f"{image.path.name}: {len(sides)}")
    for culprit in crowded:
        text = f"images have more instances than the {spec.numerics.max_detections} that the model gives"
        faults.add("data.many-instances", "warning", text, culprit, "--set max_detections=…")
    if every and small > 0.1 * every:
        text = f"boxes are under {_SMALL_INPUT:g} pixels at an input of {spec.numerics.min_size}"
        faults.add("data.box-small", "warning", text, f"{small} of {every}", "a larger min_size, or crops")
    cover = anchor_coverage(data, spec)
    if every and cover.recall(0.5) < 0.9:
        told = f"{100 * cover.recall(0.5):.0f} % at IoU 0.5, {100 * cover.recall(0.7):.0f} % at 0.7"
        severity = "warning" if cover.recall(0.5) < 0.8 else "info"
        faults.add("data.anchors", severity, "share of boxes that anchors meet", told, "maskgraft data anchors …")  # type: ignore[arg-type]
    return faults.findings()


def _drawn(one: Suspect, classes: Sequence[str]) -> Image.Image | None:
    try:
        pixels = one.image.load()
    except DataError:
        return None
    larger = -(-_WIDTH // one.image.width)  # so that what is written over a small picture hides little of it
    shapes = []
    if one.annotation is not None:
        label = one.annotation.label
        mask = _enlarged(coco.mask(one.annotation, one.image.height, one.image.width), larger)
        text = f"{one.code.removeprefix('data.')}: {classes[label]} {one.annotation.id}"
        x1, y1, x2, y2 = (side * larger for side in one.annotation.box)
        shapes.append(draw.Shape((x1, y1, x2, y2), mask, text, draw.colour(label)))
    picture = draw.overlay(_enlarged(pixels, larger), shapes)
    title = f"{one.image.path.name}" if one.annotation else f"{one.code.removeprefix('data.')}: {one.image.path.name}"
    return draw.side_by_side([picture], [title])


def _enlarged(pixels: npt.NDArray[Any], times: int) -> npt.NDArray[Any]:
    """Each pixel as a square of them."""
    return pixels.repeat(times, 0).repeat(times, 1)
