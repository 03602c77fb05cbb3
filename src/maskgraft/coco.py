"""COCO-format instance data: reading, checking, and the truth of one image.

    data = mg.read_coco("instances_train.json", "photos/")
    data.classes                                     # ("person", "forklift")
    instances = truth(data.images[0])                # boxes, labels, polygons and masks of one image

Faults are `Finding`s with `data.*` codes, all of them at once: errors stop the reading, the rest is what `check` gives.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskgraft import segmentation
from maskgraft.cutouts import Cutouts
from maskgraft.errors import DataError, Finding, Severity, UsageError, worst_first
from maskgraft.faults import Faults
from maskgraft.images import SUFFIXES, Pixels, load_image, orientation
from maskgraft.segmentation import Mask, Polygon, Segmentation

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One instance: `label` 0-based into the dataset's classes, `box` xyxy in pixels, `crowd` for a region of many.

    `segmentation` is a tuple of polygon parts, each float64 [2P] as x, y, x, y …, or an RLE as COCO writes it.
    """

    id: int
    label: int
    box: tuple[float, float, float, float]
    segmentation: Segmentation
    crowd: bool
    area: float


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a dataset, with the size that the annotations are in."""

    id: int
    path: Path
    width: int
    height: int
    annotations: tuple[Annotation, ...]

    @property
    def instances(self) -> tuple[Annotation, ...]:
        """What can be trained on: all but crowds."""
        return tuple(one for one in self.annotations if not one.crowd)

    def load(self) -> Pixels:
        """The pixels, uint8 [height, width, 3] RGB. Raises `DataError` when the file has another size."""
        pixels = load_image(self.path, size=(self.width, self.height))
        if pixels.shape[:2] != (self.height, self.width):
            raise DataError(
                Finding(
                    "data.image-size",
                    "error",
                    f"{self.path} is {pixels.shape[1]} × {pixels.shape[0]} pixels, its annotations are for "
                    f"{self.width} × {self.height}",
                    evidence={"file": list(pixels.shape[1::-1]), "annotations": [self.width, self.height]},
                    fix="give the images that were annotated, or correct width and height in the annotations",
                )
            )
        return pixels


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images and their instances. `category_ids` are the ids of `classes` in the file, in the same order."""

    path: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[ImageRecord, ...]
    findings: tuple[Finding, ...] = ()
    folder: Path | None = None  # of the images

    def trainable(self) -> tuple[ImageRecord, ...]:
        """The images with at least one instance that is no crowd."""
        return tuple(image for image in self.images if image.instances)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The instances of one image as arrays: boxes float32 [N, 4], labels int64 [N], masks bool [N, H, W].

    `polygons` holds the parts of each instance, or is None where an instance has only an RLE.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    segmentations: tuple[Segmentation, ...]
    size: tuple[int, int]
    polygons: tuple[Polygon, ...] | None

    @property
    def masks(self) -> Mask:
        """The masks on the whole image, drawn anew."""
        return segmentation.decoded(self.segmentations, *self.size)

    def cutouts(self) -> Cutouts:
        """The masks, each cut to its object."""
        return Cutouts.drawn(self.segmentations, self.size)


def truth(image: ImageRecord) -> Truth:
    """The instances of an image that can be trained on, crowds left out."""
    instances = image.instances
    segmentations = tuple(one.segmentation for one in instances)
    polygons = tuple(one for one in segmentations if isinstance(one, tuple))
    return Truth(
        boxes=np.array([one.box for one in instances], np.float32).reshape(-1, 4),
        labels=np.array([one.label for one in instances], np.int64),
        segmentations=segmentations,
        size=(image.height, image.width),
        polygons=polygons if len(polygons) == len(instances) else None,
    )


def rle(annotation: Annotation, height: int, width: int) -> dict[str, Any]:
    """The mask of an instance as COCO's packed RLE: {"size": [height, width], "counts": bytes}."""
    return segmentation.encoded(annotation.segmentation, height, width)


def mask(annotation: Annotation, height: int, width: int) -> Mask:
    """The mask of an instance, bool [height, width], as COCO's own tools draw it."""
    drawn: Mask = segmentation.decoded([annotation.segmentation], height, width)[0]
    return drawn


def entry(one: Annotation, image: ImageRecord, data: Dataset) -> dict[str, Any]:
    """An instance as COCO writes it, in JSON's own types."""
    x1, y1, x2, y2 = one.box
    return {
        "id": one.id,
        "image_id": image.id,
        "category_id": data.category_ids[one.label],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": one.area,
        "iscrowd": int(one.crowd),
        "segmentation": segmentation.as_json(one.segmentation),
    }


def categories(data: Dataset) -> list[dict[str, Any]]:
    """The classes of a dataset as COCO writes them."""
    return [{"id": number, "name": name} for number, name in zip(data.category_ids, data.classes, strict=True)]


def read(
    annotations: str | Path, images: str | Path, *, classes: Sequence[str] | None = None, need_files: bool = True
) -> Dataset:
    """Read a COCO instances file.

        read("instances_train2017.json", "train2017")
        read("instances_train2017.json", "train2017", classes=["person", "dog"])   # these classes, in this order

    Classes are the file's categories by ascending id, or those given by name. Raises `DataError` with every fault that
    stands in the way: unreadable JSON, missing images (`need_files`), ids that nothing has, boxes that are none.
    """
    if isinstance(classes, str):
        raise UsageError(
            Finding("data.classes-unknown", "error", f"classes is the text {classes!r}, not a list of names")
        )
    path, folder = Path(annotations), Path(images)
    data = _parsed(path)
    faults = Faults(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        faults.error("data.folder", f"the image folder {folder} {what}", fix="give the folder that holds the images")
    names = _categories(data["categories"], faults)
    wanted = _wanted(names, classes, faults)
    label_of = {number: wanted.index(name) for number, name in names.items() if name in wanted}
    records = _records(data["images"], folder, faults, need_files=need_files and folder.is_dir())
    grouped = _grouped(data["annotations"], records, names, label_of, faults)
    found = tuple(
        ImageRecord(number, record.path, record.width, record.height, tuple(grouped[number]))
        for number, record in records.items()
    )
    faults.stop()
    ids = {name: number for number, name in names.items()}
    result = Dataset(path, tuple(wanted), tuple(ids[name] for name in wanted), found, faults.findings(), folder)
    if not result.trainable():
        raise DataError([_nothing_usable(result, data), *result.findings])
    return result


def class_names(annotations: str | Path) -> tuple[str, ...]:
    """The categories of a COCO instances file by ascending id. Raises `DataError` where they cannot be read."""
    faults = Faults(Path(annotations))
    names = _categories(_parsed(Path(annotations))["categories"], faults)
    faults.stop()
    return tuple(names.values())


def _parsed(path: Path) -> dict[str, list[Any]]:
    def refuse(code: str, fault: str, fix: str = "") -> DataError:
        return DataError(Finding(code, "error", f"{path} {fault}", fix=fix))

    if path.is_dir():
        inside = sorted(one.name for one in path.glob("*.json"))
        raise refuse("data.json", "is a folder", f"give one of {', '.join(inside[:5])}" if inside else "")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        near = get_close_matches(path.name, [one.name for one in path.parent.glob("*.json")], 1)
        raise refuse("data.json", "does not exist", f"did you mean {path.parent / near[0]}?" if near else "") from None
    except json.JSONDecodeError as error:
        raise refuse("data.json", f"is no JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError, OSError) as error:
        raise refuse("data.json", f"cannot be read: {error}") from None
    if isinstance(data, list) and data and isinstance(data[0], dict) and "score" in data[0]:
        raise refuse("data.json", "holds results (a list with scores), not annotations", "give the instances file")
    missing = [
        name
        for name in ("images", "annotations", "categories")
        if not isinstance(data, dict) or not isinstance(data.get(name), list)
    ]
    if missing:
        raise refuse("data.json", f"has no list of {', '.join(missing)}: no COCO instances file")
    return data  # type: ignore[no-any-return]


def _whole(entry: Any, *fields: str) -> tuple[int, ...]:
    """Fields of an entry that must be whole numbers; raises `ValueError` naming those that are not."""
    values = entry if isinstance(entry, dict) else {}
    found, wrong = [], []
    for name in fields:
        value = values.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
            value = int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0:
            found.append(int(value))
        else:
            wrong.append(f"{name} {value!r}"[:60] if name in values else f"no {name}")
    if wrong:
        raise ValueError(", ".join(wrong))
    return tuple(found)


def _categories(entries: list[Any], faults: Faults) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        try:
            (number,) = _whole(entry, "id")
        except ValueError as error:
            faults.add("data.category", "error", "categories without a whole id", f"entry {index}: {error}")
            continue
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            faults.add("data.category", "error", "categories without a name", str(number))
            continue
        if number in names:
            faults.add("data.duplicate-id", "error", "categories with the id of another", f"{number} ({name})")
        elif name in names.values():
            faults.add("data.category", "error", "categories with the name of another", f"{number} ({name})")
        names[number] = name
    return dict(sorted(names.items()))


def _wanted(names: Mapping[int, str], classes: Sequence[str] | None, faults: Faults) -> list[str]:
    if classes is None:
        return list(names.values())
    for name, times in Counter(classes).items():
        if times > 1:
            faults.error("data.classes-repeated", f"the class {name!r} is wanted {times} times", "name it once", [name])
        if name not in names.values():
            near = get_close_matches(name, names.values(), 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(list(names.values())[:20])}"
            faults.error("data.classes-unknown", f"has no category {name!r}", fix=hint, names=[name])
    return list(classes)


def _records(entries: list[Any], folder: Path, faults: Faults, *, need_files: bool) -> dict[int, ImageRecord]:
    records: dict[int, ImageRecord] = {}
    missing: list[str] = []
    for index, entry in enumerate(entries):
        try:
            number, width, height = _whole(entry, "id", "width", "height")
        except ValueError as error:
            text = "images without a whole id, width or height"
            faults.add("data.image", "error", text, f"entry {index}: {error}")
            continue
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            faults.add("data.image", "error", "images without a file_name", str(number))
            continue
        path = folder / name
        if number in records:
            faults.add("data.duplicate-id", "error", "images with the id of another", f"{number} ({name})")
        if width < 1 or height < 1:
            faults.add("data.image", "error", "images of no size", f"{name} {width} × {height}")
        if need_files and not path.is_file():
            missing.append(name)
        records[number] = ImageRecord(number, path, width, height, ())
    if missing:
        fix = _where_else(missing[0], folder)
        text = f"images are listed (of {len(entries)}) and not in {folder}"
        for name in missing:
            faults.add("data.image-missing", "error", text, name, fix)
    for path, times in Counter(record.path for record in records.values()).items():
        if times > 1:
            faults.add("data.duplicate-file", "warning", "files are listed more than once", path.name)
    return records


def _where_else(name: str, folder: Path) -> str:
    """Where a missing image is likely to be: below or beside the folder, or under its name in another spelling."""
    last = Path(name.replace("\\", "/")).name
    around = [folder, folder.parent, *sorted(folder.glob("*/")), *sorted(folder.parent.glob("*/"))]
    for place in around:
        for file in (place / name, place / last):
            if file.is_file():
                return f"there is {file}: give its folder, or correct file_name"
    # not the most similar name: photographs are numbered, and the next number is another photograph
    stem = Path(last).stem.lower()
    for path in sorted(folder.iterdir()):
        if path.stem.lower() == stem and path.suffix.lower() in SUFFIXES:
            return f"did you mean {path.name}?"
    return "check the image folder"


def _grouped(
    entries: list[Any],
    records: Mapping[int, ImageRecord],
    names: Mapping[int, str],
    label_of: Mapping[int, int],
    faults: Faults,
) -> dict[int, list[Annotation]]:
    grouped: dict[int, list[Annotation]] = defaultdict(list)
    seen: set[int] = set()
    corners: list[str] = []  # boxes that only fit their masks when read as corners
    for index, entry in enumerate(entries):
        try:
            image, category = _whole(entry, "image_id", "category_id")
            (number,) = _whole(entry, "id") if "id" in entry else (index,)
        except ValueError as error:
            text = "annotations without whole numbers for id, image_id and category_id"
            faults.add("data.annotation", "error", text, f"entry {index}: {error}")
            continue
        where = f"annotation {number} of image {image}"
        if number in seen:
            faults.add("data.duplicate-id", "warning", "annotations have the id of another", where)
        seen.add(number)
        if image not in records:
            faults.add("data.orphan", "error", "annotations are of an image that is not listed", where)
        elif category not in names:
            known = ", ".join(map(str, list(names)[:10]))
            text = f"annotations have a category_id that no category has (the file has {known})"
            faults.add("data.category-unknown", "error", text, f"{where}: {category}")
        elif category in label_of and records[image].width > 0 and records[image].height > 0:
            one = _annotation(entry, number, label_of[category], records[image], where, faults, corners)
            if one is not None:
                grouped[image].append(one)
    # One is a slip and can be trained around; most of the file is another format, and every box would be wrong.
    severity: Severity = "error" if 2 * len(corners) > sum(map(len, grouped.values())) else "warning"
    for culprit in corners:
        text = "boxes fit their masks as [x1, y1, x2, y2], not as [x, y, width, height]"
        faults.add("data.box-format", severity, text, culprit, "write bbox as [x, y, width, height]")
    return grouped


def _annotation(
    entry: Mapping[str, Any],
    number: int,
    label: int,
    image: ImageRecord,
    where: str,
    faults: Faults,
    corners: list[str],
) -> Annotation | None:
    """One entry, or None when it can be left out; what cannot be left out is an error."""
    values = segmentation.numbers(entry.get("bbox"), 4)
    if values is None:
        faults.add("data.box", "error", "annotations have no bbox [x, y, width, height]", where)
        return None
    x, y, width, height = values
    passes = max(-x, -y, x + width - image.width, y + height - image.height)
    if width <= 0 or height <= 0:
        faults.add("data.box-empty", "warning", "boxes have no area and are left out", _shape(where, values, image))
        return None
    if x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        fix = "bbox is [x, y, width, height]"
        faults.add("data.box-outside", "error", "boxes lie outside their picture", _shape(where, values, image), fix)
        return None
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        faults.add("data.crowd", "error", "annotations have an iscrowd other than 0 and 1", f"{where}: {crowd!r}"[:80])
    parsed, wrong = segmentation.parse(entry.get("segmentation"), height=image.height, width=image.width)
    for fault in wrong:
        culprit = f"{where}: {fault.detail}" if fault.detail else where
        faults.add(fault.code, fault.severity, fault.text, culprit)
    if parsed is None:
        return None
    box = _clipped((x, y, x + width, y + height), image)
    hull = segmentation.extent(parsed, image.height, image.width)
    if not _alike(box, hull):
        shown = f"{_shape(where, values, image)}, mask {_rounded(hull)}"
        if width > x and height > y and _alike(_clipped((x, y, width, height), image), hull):
            corners.append(shown)
        else:
            faults.add("data.box-mask", "warning", "boxes do not fit their masks (x1 y1 x2 y2 of the mask)", shown)
    elif passes > 1:
        text = "boxes pass the edge of their picture and are cut"
        faults.add("data.box-outside", "warning", text, _shape(where, values, image))
    area = segmentation.numbers([entry.get("area", width * height)], 1)
    if area is None or area[0] < 0:
        faults.add("data.area", "warning", "areas are no sizes; those of the boxes are used", where)
        area = None
    return Annotation(number, label, box, parsed, bool(crowd), area[0] if area and area[0] else width * height)


def _shape(where: str, bbox: Sequence[float], image: ImageRecord) -> str:
    return f"{where}: bbox [{', '.join(f'{value:g}' for value in bbox)}] on {image.width} × {image.height}"


def _clipped(box: Box, image: ImageRecord) -> Box:
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(image.width)), min(box[3], float(image.height))


def _alike(box: Box, hull: Box) -> bool:
    """Whether a box and what its mask covers are one thing: apart by 5 pixels or a tenth of the box at most."""
    worst = max(abs(box[0] - hull[0]), abs(box[1] - hull[1]), abs(box[2] - hull[2]), abs(box[3] - hull[3]))
    return worst <= max(5.0, 0.1 * max(box[2] - box[0], box[3] - box[1]))


def _nothing_usable(dataset: Dataset, data: Mapping[str, list[Any]]) -> Finding:
    crowds = sum(one.crowd for image in dataset.images for one in image.annotations)
    return Finding(
        "data.no-instances",
        "error",
        f"{dataset.path}: none of {len(dataset.images)} images has an instance to train on: {len(data['annotations'])} "
        f"annotations in the file, {crowds} of them crowds of the classes {', '.join(dataset.classes[:5])}",
        evidence={"images": len(dataset.images), "annotations": len(data["annotations"]), "crowds": crowds},
        fix="check that the class names and the images are those of the annotations",
    )


def check(
    dataset: Dataset, *, open_images: bool = False, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> tuple[Finding, ...]:
    """What is odd about a dataset that can be read: what `read` met, classes without instances, images without any,
    pictures that lie beside the listed ones. `open_images` also reads every image, compares sizes and says what became
    of EXIF orientations. Worst first."""
    faults = Faults(dataset.path)
    counts = Counter(one.label for image in dataset.images for one in image.instances)
    for label, name in enumerate(dataset.classes):
        if not counts[label]:
            faults.add("data.class-empty", "info", "classes have no instance", name)
    empty = len(dataset.images) - len(dataset.trainable())
    if empty:
        text = f"{empty} of {len(dataset.images)} images have no instance; training leaves them out"
        faults.note("data.image-empty", text, empty)
    _check_folders(dataset, faults)
    if open_images:
        for image in progress(dataset.images):
            _check_image(image, faults)
    return worst_first([*dataset.findings, *faults.findings()])


def _check_folders(dataset: Dataset, faults: Faults) -> None:
    listed = {image.path for image in dataset.images}
    for folder in sorted({path.parent for path in listed}):
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES and path not in listed:
                faults.add("data.image-unlisted", "info", f"pictures in {folder} are not in the file", path.name)


def _check_image(image: ImageRecord, faults: Faults) -> None:
    try:
        image.load()
        turn = orientation(image.path)
    except DataError as error:
        for finding in error.findings:
            faults.add(finding.code, finding.severity, "images cannot be used", finding.message, finding.fix)
        return
    size = (image.width, image.height)
    culprit = f"{image.path.name} (orientation {turn.tag})"
    if turn.tag == 1:
        return
    if turn.stored == turn.shown:
        text = "images are turned as their EXIF orientation says, which their size can neither confirm nor deny"
        faults.add("data.exif", "info", text, culprit)
    elif turn.shown == size:
        text = "images are turned as their EXIF orientation says, which fits the annotations"
        faults.add("data.exif", "info", text, culprit)
    else:
        text = "images are not turned as their EXIF orientation says: their annotations fit the stored pixels"
        faults.add(
            "data.exif", "warning", text, culprit, "remove the orientation from the files, or annotate them anew"
        )


def _rounded(box: Sequence[float]) -> str:
    return " ".join(f"{value:.0f}" for value in box)
