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

from maskgraft.errors import DataError, Finding, worst_first
from maskgraft.images import Pixels, load_image

Mask = npt.NDArray[np.bool_]
Rle = Mapping[str, Any]
Polygon = tuple[npt.NDArray[np.float64], ...]

_EXAMPLES = 5  # how many culprits a message names


@dataclass(frozen=True, slots=True)
class Annotation:
    """One instance: `label` 0-based into the dataset's classes, `box` xyxy in pixels, `crowd` for a region of many.

    `segmentation` is a tuple of polygon parts, each float64 [2P] as x, y, x, y …, or an RLE as COCO writes it.
    """

    id: int
    label: int
    box: tuple[float, float, float, float]
    segmentation: Polygon | Rle
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
    masks: Mask
    polygons: tuple[Polygon, ...] | None


def truth(image: ImageRecord) -> Truth:
    """The instances of an image that can be trained on, crowds left out."""
    instances = image.instances
    polygons = [one.segmentation for one in instances if isinstance(one.segmentation, tuple)]
    masks = [mask(one, image.height, image.width) for one in instances]
    return Truth(
        boxes=np.array([one.box for one in instances], np.float32).reshape(-1, 4),
        labels=np.array([one.label for one in instances], np.int64),
        masks=np.stack(masks) if masks else np.zeros((0, image.height, image.width), np.bool_),
        polygons=tuple(polygons) if len(polygons) == len(instances) else None,
    )


def rle(annotation: Annotation, height: int, width: int) -> dict[str, Any]:
    """The mask of an instance as COCO's compressed RLE: {"size": [height, width], "counts": bytes}."""
    from faster_coco_eval import mask as coco_mask  # slow to import, and not needed to read a file

    segmentation = annotation.segmentation
    if isinstance(segmentation, tuple):
        parts = coco_mask.frPyObjects([part.tolist() for part in segmentation], height, width)
        merged: dict[str, Any] = coco_mask.merge(parts)
        return merged
    if isinstance(segmentation["counts"], list):
        encoded: dict[str, Any] = coco_mask.frPyObjects(dict(segmentation), height, width)
        return encoded
    counts = segmentation["counts"]
    return {"size": list(segmentation["size"]), "counts": counts.encode() if isinstance(counts, str) else counts}


def mask(annotation: Annotation, height: int, width: int) -> Mask:
    """The mask of an instance, bool [height, width], as COCO's own tools draw it."""
    from faster_coco_eval import mask as coco_mask

    decoded: Mask = coco_mask.decode(rle(annotation, height, width)).astype(np.bool_)
    return decoded


def read(
    annotations: str | Path, images: str | Path, *, classes: Sequence[str] | None = None, need_files: bool = True
) -> Dataset:
    """Read a COCO instances file.

        read("instances_train2017.json", "train2017")
        read("instances_train2017.json", "train2017", classes=["person", "dog"])   # these classes, in this order

    Classes are the file's categories by ascending id, or those given by name. Raises `DataError` with every fault that
    stands in the way: unreadable JSON, missing images (`need_files`), ids that nothing has, boxes that are none.
    """
    path, folder = Path(annotations), Path(images)
    data = _parsed(path)
    faults = _Faults(path)
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
    result = Dataset(path, tuple(wanted), tuple(ids[name] for name in wanted), found)
    if not result.trainable():
        raise DataError(_nothing_usable(result, data))
    return Dataset(path, result.classes, result.category_ids, found, faults.findings())


class _Faults:
    """Collects culprits by code, so that each fault becomes one finding however often it occurs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.single: list[Finding] = []
        self.culprits: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)

    def error(self, code: str, message: str, fix: str = "", names: Sequence[str] = ()) -> None:
        self.single.append(Finding(code, "error", f"{self.path}: {message}", names=tuple(names), fix=fix))

    def add(self, code: str, severity: str, text: str, culprit: str, fix: str = "") -> None:
        self.culprits[(code, severity, text, fix)].append(culprit)

    def findings(self) -> tuple[Finding, ...]:
        folded = [
            Finding(
                code,
                severity,  # type: ignore[arg-type]
                f"{self.path}: {len(culprits)} × {text}: {'; '.join(culprits[:_EXAMPLES])}"
                + (" …" if len(culprits) > _EXAMPLES else ""),
                names=tuple(culprits),
                evidence={"count": len(culprits)},
                fix=fix,
            )
            for (code, severity, text, fix), culprits in self.culprits.items()
        ]
        return worst_first([*self.single, *folded])

    def stop(self) -> None:
        findings = self.findings()
        if any(finding.severity == "error" for finding in findings):
            raise DataError(findings)


def _parsed(path: Path) -> dict[str, list[Any]]:
    def refuse(code: str, fault: str, fix: str = "") -> DataError:
        return DataError(Finding(code, "error", f"{path} {fault}", fix=fix))

    if path.is_dir():
        inside = sorted(one.name for one in path.glob("*.json"))
        raise refuse("data.json", "is a folder", f"give one of {', '.join(inside[:5])}" if inside else "")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = get_close_matches(path.name, [one.name for one in path.parent.glob("*.json")], 1)
        raise refuse("data.json", "does not exist", f"did you mean {path.parent / near[0]}?" if near else "") from None
    except json.JSONDecodeError as error:
        raise refuse("data.json", f"is no JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError, OSError) as error:
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


def _categories(entries: list[Any], faults: _Faults) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        try:
            number, name = int(entry["id"]), str(entry["name"])
        except (KeyError, TypeError, ValueError):
            faults.add("data.category", "error", "categories without an id or a name", f"entry {index}")
            continue
        if number in names:
            faults.add("data.duplicate-id", "error", "categories with the id of another", f"{number} ({name})")
        elif name in names.values():
            faults.add("data.category", "error", "categories with the name of another", f"{number} ({name})")
        names[number] = name
    return dict(sorted(names.items()))


def _wanted(names: Mapping[int, str], classes: Sequence[str] | None, faults: _Faults) -> list[str]:
    if classes is None:
        return list(names.values())
    for name in classes:
        if name not in names.values():
            near = get_close_matches(name, names.values(), 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(list(names.values())[:20])}"
            faults.error("data.classes-unknown", f"has no category {name!r}", fix=hint, names=[name])
    return list(classes)


def _records(entries: list[Any], folder: Path, faults: _Faults, *, need_files: bool) -> dict[int, ImageRecord]:
    records: dict[int, ImageRecord] = {}
    for index, entry in enumerate(entries):
        try:
            number, name = int(entry["id"]), str(entry["file_name"])
            width, height = int(entry["width"]), int(entry["height"])
        except (KeyError, TypeError, ValueError):
            faults.add("data.image", "error", "images without id, file_name, width or height", f"entry {index}")
            continue
        path = folder / name
        if number in records:
            faults.add("data.duplicate-id", "error", "images with the id of another", f"{number} ({name})")
        if width < 1 or height < 1:
            faults.add("data.image", "error", "images of no size", f"{name} {width} × {height}")
        if need_files and not path.is_file():
            faults.add(
                "data.image-missing", "error", f"images are listed and not in {folder}", name, "check the image folder"
            )
        records[number] = ImageRecord(number, path, width, height, ())
    for name, times in Counter(record.path.name for record in records.values()).items():
        if times > 1:
            faults.add("data.duplicate-file", "warning", "files are listed more than once", name)
    return records


def _grouped(
    entries: list[Any],
    records: Mapping[int, ImageRecord],
    names: Mapping[int, str],
    label_of: Mapping[int, int],
    faults: _Faults,
) -> dict[int, list[Annotation]]:
    grouped: dict[int, list[Annotation]] = defaultdict(list)
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        try:
            number, image, category = int(entry.get("id", index)), int(entry["image_id"]), int(entry["category_id"])
        except (KeyError, TypeError, ValueError, AttributeError):
            faults.add("data.annotation", "error", "annotations without image_id or category_id", f"entry {index}")
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
        elif category in label_of:
            one = _annotation(entry, number, label_of[category], records[image], where, faults)
            if one is not None:
                grouped[image].append(one)
    return grouped


def _annotation(
    entry: Mapping[str, Any], number: int, label: int, image: ImageRecord, where: str, faults: _Faults
) -> Annotation | None:
    """One entry, or None when it can be left out; what cannot be left out is an error."""
    box, segmentation = entry.get("bbox"), entry.get("segmentation")
    crowd = bool(entry.get("iscrowd", 0))
    if not _numbers(box, 4):
        faults.add("data.box", "error", "annotations have no bbox [x, y, width, height]", where)
        return None
    x, y, width, height = (float(value) for value in box)  # type: ignore[union-attr]
    shape = f"{where}: [{x:g}, {y:g}, {width:g}, {height:g}] on {image.width} × {image.height}"
    if width <= 0 or height <= 0:
        faults.add("data.box-empty", "warning", "boxes have no area and are left out", shape)
        return None
    if x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        faults.add(
            "data.box-outside", "error", "boxes lie outside their picture", shape, "bbox is [x, y, width, height]"
        )
        return None
    if x < -1 or y < -1 or x + width > image.width + 1 or y + height > image.height + 1:
        looks_xyxy = width > x and height > y and width <= image.width + 1 and height <= image.height + 1
        if looks_xyxy:
            text = "boxes pass the edge of their picture and would fit as [x1, y1, x2, y2]"
            faults.add("data.box-format", "warning", text, shape, "bbox is [x, y, width, height]")
        else:
            faults.add("data.box-outside", "warning", "boxes pass the edge of their picture and are cut", shape)
    right, bottom = min(x + width, image.width), min(y + height, image.height)
    clipped = (max(x, 0.0), max(y, 0.0), float(right), float(bottom))
    parsed = _segmentation(segmentation, image, where, faults)
    if parsed is None:
        return None
    return Annotation(number, label, clipped, parsed, crowd, float(entry.get("area") or width * height))


def _segmentation(value: Any, image: ImageRecord, where: str, faults: _Faults) -> Polygon | Rle | None:
    if isinstance(value, Mapping):
        counts, size = value.get("counts"), value.get("size")
        if not _numbers(size, 2) or not isinstance(counts, str | bytes | list):
            faults.add("data.mask", "error", "RLE masks lack counts or size", where)
            return None
        if [*(size or ())] != [image.height, image.width]:
            text = "RLE masks have another size than their image"
            faults.add("data.mask-size", "error", text, f"{where}: {size} for {[image.height, image.width]}")
            return None
        if isinstance(counts, list) and (
            not all(isinstance(one, int) and one >= 0 for one in counts) or sum(counts) != image.height * image.width
        ):
            faults.add("data.mask", "error", "RLE counts do not add up to their image", where)
            return None
        return value
    if isinstance(value, list) and value and isinstance(value[0], int | float):
        value = [value]  # one polygon without its outer list, as some tools write it
    if not isinstance(value, list) or not value:
        faults.add("data.mask-empty", "warning", "annotations without a mask are left out", where)
        return None
    parts = []
    for part in value:
        if not isinstance(part, list) or not _numbers(part, len(part)) or len(part) % 2:
            faults.add("data.mask", "error", "polygons are no even list of numbers", where)
            return None
        if len(part) < 6:
            faults.add("data.mask-points", "warning", "polygon parts of fewer than 3 points are left out", where)
            continue
        parts.append(np.array(part, np.float64))
    if not parts:
        faults.add("data.mask-empty", "warning", "annotations without a mask are left out", where)
        return None
    return tuple(parts)


def _numbers(value: Any, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(isinstance(one, int | float) and not isinstance(one, bool) and np.isfinite(one) for one in value)
    )


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
    """What is odd about a dataset that can be read: what `read` met, masks that disagree with boxes, classes without
    instances, images without any. `open_images` also reads every image and compares sizes. Worst first."""
    faults = _Faults(dataset.path)
    counts = Counter(one.label for image in dataset.images for one in image.instances)
    for label, name in enumerate(dataset.classes):
        if not counts[label]:
            faults.add("data.class-empty", "info", "classes have no instance", name)
    empty = len(dataset.images) - len(dataset.trainable())
    if empty:
        text = f"{empty} of {len(dataset.images)} images have no instance; training leaves them out"
        faults.single.append(Finding("data.image-empty", "info", f"{dataset.path}: {text}", evidence={"count": empty}))
    for image in progress(dataset.images):
        if open_images:
            try:
                image.load()
            except DataError as error:
                faults.single += error.findings
        for one in image.instances:
            _check_mask(one, image, faults)
    return worst_first([*dataset.findings, *faults.findings()])


def _check_mask(one: Annotation, image: ImageRecord, faults: _Faults) -> None:
    if not isinstance(one.segmentation, tuple):
        return
    points = np.concatenate([part.reshape(-1, 2) for part in one.segmentation])
    hull = (*points.min(0).clip(0), *np.minimum(points.max(0), (image.width, image.height)))
    worst = max(abs(a - b) for a, b in zip(hull, one.box, strict=True))
    if worst > max(5.0, 0.1 * max(one.box[2] - one.box[0], one.box[3] - one.box[1])):
        shown = f"annotation {one.id} of image {image.id}: box {_rounded(one.box)}, mask {_rounded(hull)}"
        faults.add("data.box-mask", "warning", "boxes do not fit their masks (x1 y1 x2 y2)", shown)


def _rounded(box: Sequence[float]) -> str:
    return " ".join(f"{value:.0f}" for value in box)
