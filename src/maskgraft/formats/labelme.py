"""LabelMe: a folder with one JSON file for each image."""

import base64
import binascii
import io
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskgraft.faults import Faults
from maskgraft.formats.photos import (
    Instance,
    Photo,
    Source,
    ellipse,
    finite,
    parsed_json,
    rectangle,
    run_lengths,
    size_of,
)


def read(folder: Path) -> Source:
    """Every `*.json` below a folder. Shapes of one `group_id` and label are the parts of one instance.

    An image that is not on disk comes from `imageData` inside the JSON. Points and lines have no area and are left out.
    """
    faults, photos = Faults(folder), list[Photo]()
    for path in sorted(folder.rglob("*.json")):
        value = parsed_json(path, faults)
        if isinstance(value, dict) and isinstance(value.get("shapes"), list):
            photo = _photo(path, value, faults)
            if photo is not None:
                photos.append(photo)
        elif value is not None:
            faults.add("data.unlisted", "info", "JSON files are not LabelMe's and are left out", path.name)
    return Source(photos, [], faults)


def _photo(path: Path, value: dict[str, Any], faults: Faults) -> Photo | None:
    name = str(value.get("imagePath") or path.with_suffix(".jpg").name).replace("\\", "/")
    image, encoded = path.parent / name, None
    if not image.is_file():
        try:
            encoded = base64.b64decode(value["imageData"], validate=True)
            with Image.open(io.BytesIO(encoded)) as opened:
                size: tuple[int, int] | None = opened.size
        except (KeyError, TypeError, binascii.Error, OSError, ValueError):
            text = "images are neither on disk nor in imageData"
            faults.add("data.image-missing", "error", text, f"{path}: {name}")
            return None
    else:
        size = size_of(image, faults, str(path))
    if size is None:
        return None
    said = value.get("imageWidth"), value.get("imageHeight")
    if None not in said and said != size:
        text = "images have another size than their annotations say"
        faults.add("data.image-size", "error", text, f"{path}: {said[0]} × {said[1]} for {size[0]} × {size[1]}")
        return None
    photo = Photo(image, *size, encoded=encoded)
    groups: dict[tuple[str, str], Instance] = {}
    for index, shape in enumerate(value["shapes"]):
        where = f"{path}: shape {index}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
            faults.add("data.annotation", "error", "shapes have no label", where)
            continue
        drawn = _drawn(shape, photo, where, faults)
        if drawn is None:
            continue
        group = shape.get("group_id")
        key = (shape["label"], repr(group))
        before = groups.get(key) if group is not None else None
        if before is not None and isinstance(before.segmentation, list) and isinstance(drawn, list):
            before.segmentation.extend(drawn)
            continue
        one = Instance(shape["label"], drawn)
        groups[key] = one
        photo.instances.append(one)
    return photo


def _drawn(
    shape: dict[str, Any], photo: Photo, where: str, faults: Faults
) -> list[list[float]] | dict[str, Any] | None:
    kind = shape.get("shape_type") or "polygon"
    listed = shape.get("points")
    points = [finite(point, 2) for point in listed] if isinstance(listed, list) else []
    if not points or any(point is None for point in points):
        faults.add("data.mask", "error", "shapes have no points x, y", where)
        return None
    known = [point for point in points if point is not None]
    if kind == "polygon" and len(known) >= 3:
        return [[value for point in known for value in point]]
    if kind == "rectangle" and len(known) == 2:
        return [rectangle(*known[0], *known[1])]
    if kind == "circle" and len(known) == 2:
        radius = hypot(known[1][0] - known[0][0], known[1][1] - known[0][1])
        return [ellipse(known[0][0], known[0][1], radius, radius)]
    if kind == "mask" and len(known) == 2:
        return _mask(shape, known, photo, where, faults)
    if kind in ("point", "line", "linestrip", "points"):
        faults.add("data.mask-points", "warning", "points and lines have no area and are left out", f"{where}: {kind}")
        return None
    faults.add("data.mask", "error", "shapes cannot be drawn", f"{where}: {kind} of {len(known)} points")
    return None


def _mask(
    shape: dict[str, Any], points: list[list[float]], photo: Photo, where: str, faults: Faults
) -> dict[str, Any] | None:
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as image:
            part = np.asarray(image.convert("1"))
    except (KeyError, TypeError, binascii.Error, OSError, ValueError) as error:
        faults.add("data.mask", "error", "mask shapes hold no picture", f"{where}: {error}")
        return None
    x, y = (round(value) for value in points[0])
    if x < 0 or y < 0 or y + part.shape[0] > photo.height or x + part.shape[1] > photo.width:
        faults.add("data.mask-outside", "error", "mask shapes pass the edge of their picture", where)
        return None
    page = np.zeros((photo.height, photo.width), np.bool_)
    page[y : y + part.shape[0], x : x + part.shape[1]] = part
    return run_lengths(page)
