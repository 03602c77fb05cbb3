"""Masks as pictures: Pascal VOC's pair of folders, and plain PNGs of instance numbers."""

from pathlib import Path

import numpy as np

from maskgraft.faults import Faults
from maskgraft.formats.photos import Instance, Photo, Source, levels, pictures, run_lengths, size_of

VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)
_VOID = 255  # Pascal VOC: what belongs to nothing for certain
_NAMES = ("labels.txt", "labelmap.txt", "classes.txt", "class_names.txt")


def read_voc(folder: Path) -> Source:
    """`SegmentationObject/` numbers instances, `SegmentationClass/` says what they are, `JPEGImages/` has images.

    Class names come from labels.txt (one a line; `name:colour…` as CVAT writes it), else they are Pascal VOC's twenty.
    """
    faults = Faults(folder)
    names = _names(folder) or ["background", *VOC_CLASSES]
    images = pictures(folder / "images" if (folder / "images").is_dir() else folder / "JPEGImages")
    kinds, photos = pictures(folder / "SegmentationClass"), list[Photo]()
    for stem, path in pictures(folder / "SegmentationObject").items():
        numbers = levels(path, faults)
        if stem not in images or stem not in kinds:
            missing = "an image" if stem not in images else "a class mask"
            faults.add("data.image-missing", "error", f"instance masks have no {missing[2:].strip()}", str(path))
            continue
        classes = levels(kinds[stem], faults)
        size = size_of(images[stem], faults, str(path))
        if numbers is None or classes is None or size is None:
            continue
        if numbers.shape != classes.shape or numbers.shape != size[::-1]:
            shown = f"{path}: {numbers.shape[::-1]}, class mask {classes.shape[::-1]}, image {size}"
            faults.add("data.mask-size", "error", "masks have another size than their image", shown)
            continue
        photo = Photo(images[stem], *size)
        for number in np.unique(numbers):
            if number in (0, _VOID):
                continue
            mask = numbers == number
            inside = classes[mask]
            inside = inside[(inside != 0) & (inside != _VOID)]
            label = int(np.bincount(inside).argmax()) if inside.size else 0
            where = f"{path}: instance {number}"
            if not 0 < label < len(names):
                told = f"{where}: class {label}"
                fix = "labels.txt: a name a line, in the order of the classes"
                faults.add("data.category-unknown", "error", "instances have a class that has no name", told, fix)
                continue
            if (inside != label).mean() > 0.05:
                faults.add("data.category", "warning", "instances are of several classes; most pixels decide", where)
            photo.instances.append(Instance(names[label], run_lengths(mask)))
        photos.append(photo)
    return Source(photos, [name for name in names[1:] if name], faults)


def read_plain(folder: Path, *, name: str = "object") -> Source:
    """`images/` and `masks/` (or `instances/`): each number but 0 of a mask is an instance, all of one class."""
    faults, photos = Faults(folder), list[Photo]()
    images = pictures(folder / "images")
    masks = folder / "instances" if (folder / "instances").is_dir() else folder / "masks"
    for stem, path in pictures(masks).items():
        numbers = levels(path, faults)
        if stem not in images:
            faults.add("data.image-missing", "error", "masks have no image of their name", str(path))
            continue
        size = size_of(images[stem], faults, str(path))
        if numbers is None or size is None:
            continue
        if numbers.shape != size[::-1]:
            shown = f"{path}: {numbers.shape[::-1]}, image {size}"
            faults.add("data.mask-size", "error", "masks have another size than their image", shown)
            continue
        photo = Photo(images[stem], *size)
        photo.instances += [Instance(name, run_lengths(numbers == one)) for one in np.unique(numbers) if one]
        photos.append(photo)
    return Source(photos, [name], faults)


def _names(folder: Path) -> list[str]:
    """Names by number, background first."""
    for path in (folder / name for name in _NAMES):
        if path.is_file():
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            names = [line.split(":")[0] for line in lines if line and not line.startswith("#")]
            return names if names and names[0] in ("background", "_background_") else ["background", *names]
    return []
