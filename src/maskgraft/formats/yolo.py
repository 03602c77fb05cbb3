"""YOLO segmentation: data.yaml, and one text file of polygons for each image."""

from pathlib import Path
from typing import Any

import yaml

from maskgraft.faults import Faults
from maskgraft.formats.photos import Instance, Photo, Source, finite, size_of
from maskgraft.images import SUFFIXES


def read(path: Path) -> Source:
    """A `data.yaml`. Each of its splits (train, val, test) is a folder, a list of folders, or a text file of paths.

    A line is a class number and x, y, x, y … as shares of width and height; labels lie beside the images, with
    `labels` for `images` in the path. Lines of five numbers are boxes and stay rectangles.
    """
    faults = Faults(path)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        faults.error("data.yaml", f"cannot be read: {error}")
        return Source([], [], faults)
    names = value.get("names") if isinstance(value, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(number, int) for number in names):
        faults.error("data.yaml", "has no names of classes", "names: {0: person, 1: dog}")
        return Source([], [], faults)
    classes = {number: str(name) for number, name in sorted(names.items())}
    root = path.parent / str(value.get("path") or "")
    root = root if root.is_dir() else path.parent
    photos: list[Photo] = []
    for split in ("train", "val", "test"):
        if value.get(split):
            for image in _images(value[split], root, faults, split):
                photo = _photo(image, classes, faults)
                if photo is not None:
                    photo.split = split
                    photos.append(photo)
    return Source(photos, list(classes.values()), faults)


def _images(given: Any, root: Path, faults: Faults, split: str) -> list[Path]:
    found: list[Path] = []
    for one in given if isinstance(given, list) else [given]:
        place = root / str(one)
        if not place.exists() and str(one).startswith("../"):
            place = root / str(one)[3:]  # as exported projects write it, against the folder of the file
        if place.is_dir():
            found += sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
        elif place.is_file():
            lines = place.read_text(encoding="utf-8", errors="replace").split("\n")
            found += [root / line.strip() for line in lines if line.strip()]
        else:
            faults.error("data.folder", f"{split}: {place} does not exist")
    return found


def _photo(image: Path, classes: dict[int, str], faults: Faults) -> Photo | None:
    size = size_of(image, faults, str(image))
    if size is None:
        return None
    photo = Photo(image, *size)
    parts = list(image.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    labels = Path(*parts).with_suffix(".txt")
    if not labels.is_file():
        faults.add("data.image-empty", "info", "images have no label file, and so no instance", image.name)
        return photo
    for number, line in enumerate(labels.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            one = _instance(line.split(), photo, classes, f"{labels}:{number}", faults)
            if one is not None:
                photo.instances.append(one)
    return photo


def _instance(words: list[str], photo: Photo, classes: dict[int, str], where: str, faults: Faults) -> Instance | None:
    values = finite(words)
    if values is None or values[0] % 1:
        faults.add("data.annotation", "error", "lines are no class number and coordinates", where)
        return None
    label, shares = int(values[0]), values[1:]
    if label not in classes:
        text = f"lines have a class number that data.yaml does not name ({', '.join(map(str, list(classes)[:10]))})"
        faults.add("data.category-unknown", "error", text, f"{where}: {label}")
        return None
    if len(shares) == 4:
        faults.add("data.mask-box", "warning", "lines are boxes, without an outline; masks are rectangles", where)
        x, y, width, height = shares
        shares = [x - width / 2, y - height / 2, x + width / 2, y - height / 2]
        shares += [x + width / 2, y + height / 2, x - width / 2, y + height / 2]
    if len(shares) < 6 or len(shares) % 2:
        text = "lines are no polygon: pairs of coordinates, three at least"
        faults.add("data.mask", "error", text, f"{where}: {len(shares)} numbers")
        return None
    if max(shares) > 1.01 or min(shares) < -0.01:
        text = "coordinates are no shares of width and height, 0 to 1"
        faults.add("data.mask-outside", "error", text, f"{where}: {min(shares):g} to {max(shares):g}")
        return None
    sides = (photo.width, photo.height)
    clipped = [min(max(share, 0.0), 1.0) * sides[index % 2] for index, share in enumerate(shares)]
    return Instance(classes[label], [clipped])
