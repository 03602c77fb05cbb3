"""Datasets of other tools as COCO instances files.

mg.convert_data("labelme/", out="coco/")                      # kind and classes as they are found
mg.convert_data("via.json", out="coco/", images="photos/", copy=True)
"""

import json
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from maskgraft import segmentation
from maskgraft.errors import DataError, Finding, UsageError
from maskgraft.formats import labelme, mask_pngs, tfrecords, via, yolo
from maskgraft.formats.photos import Photo, Source

Kind = Literal["labelme", "via", "yolo", "voc", "mask-png", "tfrecord"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: by split ("" where the source has none) the instances file, and the folder of its images."""

    kind: Kind
    annotations: dict[str, Path]
    images: Path
    photos: int
    instances: int
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return {
            "kind": self.kind,
            "annotations": {split: str(path) for split, path in self.annotations.items()},
            "images": str(self.images),
            "photos": self.photos,
            "instances": self.instances,
            "classes": list(self.classes),
            "findings": [finding.as_json() for finding in self.findings],
        }


def convert_data(
    source: str | Path,
    *,
    out: str | Path,
    kind: Kind | None = None,
    images: str | Path | None = None,
    label_map: str | Path | None = None,
    classes: Sequence[str] | None = None,
    copy: bool = False,
) -> Converted:
    """Write a dataset as COCO instances JSON into the new folder `out`.

    `kind` is told from the content when it is not given. `images` is where VIA's images are, if not beside its file.
    Images stay where they are and are named by their path, or are copied into `out/images` (`copy`); images inside the
    source (TFRecords, LabelMe's imageData) are always written there. Classes are in the source's order, or by name, or
    as `classes` says; instances of plain mask PNGs are of the class "object", or of the only one in `classes`.

    All or nothing: raises `DataError` with every fault, each with file and line or number, and writes nothing then.
    `UsageError` when `out` exists or nothing known is at `source`.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(Finding("spec.field", "error", f"the kind {kind!r} is none", fix=f"one of {', '.join(KINDS)}"))
    place, folder = Path(source), Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(Finding("file.exists", "error", f"{folder} exists and is not empty", fix="choose another"))
    if not place.exists() and not list(place.parent.glob(place.name)):
        raise DataError(Finding("data.folder", "error", f"{place} does not exist"))
    chosen = kind or _kind(place)
    read = _read(place, chosen, Path(images) if images else None, Path(label_map) if label_map else None, classes)
    read.faults.stop()
    if not read.photos:
        finding = Finding("data.no-instances", "error", f"{place} holds no image with annotations of {chosen}")
        raise DataError([finding, *read.faults.findings()])
    names = _classes(read, classes)
    return _written(read, names, folder, chosen, copy=copy)


def _kind(place: Path) -> Kind:
    if place.is_dir():
        if (place / "SegmentationObject").is_dir():
            return "voc"
        if any((place / name).is_file() for name in ("data.yaml", "data.yml", "dataset.yaml")):
            return "yolo"
        if (place / "images").is_dir() and any((place / name).is_dir() for name in ("masks", "instances")):
            return "mask-png"
        if _shards(place):
            return "tfrecord"
        if any(place.rglob("*.json")):
            return "labelme"
    elif place.suffix.lower() in (".yaml", ".yml"):
        return "yolo"
    elif place.suffix.lower() == ".json":
        return _kind_of_json(place)
    elif "record" in place.name and _shards(place):
        return "tfrecord"
    message = f"{place} is none of the known kinds of dataset"
    raise UsageError(Finding("data.folder", "error", message, fix=f"say which with --from: {', '.join(KINDS)}"))


def _kind_of_json(place: Path) -> Kind:
    try:
        keys = set(json.loads(place.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError, RecursionError):
        return "via"  # whose reader tells what is wrong with it
    if {"images", "annotations", "categories"} <= keys:
        fix = f"maskgraft data check {place} IMAGES"
        raise UsageError(Finding("data.folder", "error", f"{place} is a COCO file already", fix=fix))
    if "shapes" in keys:
        message = f"{place} is LabelMe's, of one image"
        raise UsageError(Finding("data.folder", "error", message, fix=f"give the folder, {place.parent}"))
    return "via"


def _shards(place: Path) -> list[Path]:
    """TFRecord files: one, those of a folder, or those that a pattern such as train.record-* finds."""
    if place.is_file():
        return [place]
    found = place.iterdir() if place.is_dir() else place.parent.glob(place.name)
    endings = (".record", ".tfrecord", ".tfrecords")
    return sorted(
        path
        for path in found
        if path.is_file() and (path.suffix in endings or any(f"{end}-" in path.name for end in endings))
    )


def _read(
    place: Path, kind: Kind, images: Path | None, label_map: Path | None, classes: Sequence[str] | None
) -> Source:
    match kind:
        case "labelme":
            return labelme.read(place)
        case "via":
            return via.read(place, images or place.parent)
        case "yolo":
            inside = [place / name for name in ("data.yaml", "data.yml", "dataset.yaml")]
            if place.is_dir() and not any(path.is_file() for path in inside):
                raise DataError(Finding("data.folder", "error", f"{place} holds no data.yaml"))
            return yolo.read(next((path for path in inside if path.is_file()), place))
        case "voc":
            return mask_pngs.read_voc(place)
        case "mask-png":
            return mask_pngs.read_plain(place, name=classes[0] if classes and len(classes) == 1 else "object")
        case "tfrecord":
            shards = _shards(place)
            if not shards:
                raise DataError(Finding("data.folder", "error", f"{place} holds no TFRecord file"))
            beside = sorted(shards[0].parent.glob("*label_map*.pbtxt"))
            return tfrecords.read(shards, label_map or (beside[0] if len(beside) == 1 else None))


def _classes(read: Source, wanted: Sequence[str] | None) -> list[str]:
    used = {one.name for photo in read.photos for one in photo.instances}
    if wanted is None:
        known = list(dict.fromkeys(read.classes))
        return known + sorted(used - set(known))
    if missing := sorted(used - set(wanted)):
        message = f"the source has classes that are not among those wanted: {', '.join(missing[:8])}"
        raise UsageError(Finding("data.classes-unknown", "error", message, tuple(missing), fix="name them, or none"))
    return list(wanted)


def _written(read: Source, names: list[str], folder: Path, kind: Kind, *, copy: bool) -> Converted:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
        inside = copy or any(photo.encoded is not None for photo in read.photos)
        root = folder / "images" if inside else _common(read.photos)
        if inside:
            (temporary / "images").mkdir()
        splits, instances = defaultdict[str, list[Photo]](list), 0
        for photo in read.photos:
            splits[photo.split].append(photo)
        files: dict[str, Path] = {}
        taken: set[str] = set()
        for split, photos in splits.items():
            data = _coco(photos, names, read, root, temporary / "images" if inside else None, taken)
            instances += len(data["annotations"])
            name = f"instances_{split}.json" if split else "instances.json"
            (temporary / name).write_text(json.dumps(data), encoding="utf-8")
            files[split] = folder / name
        read.faults.stop()
        if folder.is_dir():
            folder.rmdir()
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Converted(kind, files, root, len(read.photos), instances, tuple(names), read.faults.findings())


def _common(photos: Sequence[Photo]) -> Path:
    return Path(os.path.commonpath([photo.path.resolve().parent for photo in photos]))


def _coco(
    photos: Sequence[Photo], names: list[str], read: Source, root: Path, inside: Path | None, taken: set[str]
) -> dict[str, Any]:
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, photo in enumerate(photos, 1):
        name = _stored(photo, inside, taken) if inside else photo.path.resolve().relative_to(root).as_posix()
        images.append({"id": number, "file_name": name, "width": photo.width, "height": photo.height})
        for one in photo.instances:
            parsed, faults = segmentation.parse(one.segmentation, height=photo.height, width=photo.width)
            for fault in faults:
                read.faults.add(fault.code, fault.severity, fault.text, f"{photo.path}: {one.name} {fault.detail}")
            if parsed is None:
                continue
            left, top, right, bottom = one.box or segmentation.extent(parsed, photo.height, photo.width)
            area = float(segmentation.decoded([parsed], photo.height, photo.width).sum())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(one.name) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "iscrowd": int(one.crowd),
                    "segmentation": one.segmentation,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _stored(photo: Photo, folder: Path, taken: set[str]) -> str:
    """Copy an image, or write its bytes, under a name that no other image has."""
    name, number = photo.path.name, 1
    while name in taken:
        number += 1
        name = f"{photo.path.stem}-{number}{photo.path.suffix}"
    taken.add(name)
    if photo.encoded is not None:
        (folder / name).write_bytes(photo.encoded)
    else:
        shutil.copyfile(photo.path, folder / name)
    return name
