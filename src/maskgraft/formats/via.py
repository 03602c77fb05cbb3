"""VGG Image Annotator, versions 1 and 2: one JSON file for many images."""

from collections import Counter
from pathlib import Path
from typing import Any

from maskgraft.faults import Faults
from maskgraft.formats.photos import Instance, Photo, Source, ellipse, finite, parsed_json, rectangle, size_of

_NUMBERS = {
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}


def read(path: Path, images: Path) -> Source:
    """A project (version 2) or an annotation export (version 1 or 2); `images` is the folder of its images.

    The class of a region is the region attribute that most regions have; where regions have none, it is "object".
    """
    faults = Faults(path)
    value = parsed_json(path, faults)
    entries = value.get("_via_img_metadata", value) if isinstance(value, dict) else None
    if not isinstance(entries, dict):
        if value is not None:
            faults.error("data.json", "holds no VIA annotations")
        return Source([], [], faults)
    listed = [(key, one) for key, one in entries.items() if isinstance(one, dict) and "filename" in one]
    attribute = _attribute(one for _, one in listed)
    photos = []
    for key, entry in listed:
        file = images / str(entry["filename"])
        if not file.is_file():
            text, fix = f"images are not in {images}", "--images FOLDER, or images= in Python"
            faults.add("data.image-missing", "error", text, f"{path}: {key}", fix)
            continue
        size = size_of(file, faults, f"{path}: {key}")
        if size is None:
            continue
        photo = Photo(file, *size)
        for number, region in _regions(entry):
            where = f"{path}: {entry['filename']} region {number}"
            outline = _outline(region.get("shape_attributes"), where, faults)
            name = _name(region, attribute)
            if name is None:
                text = f"regions have no {attribute!r}"
                faults.add("data.category", "error", text, where, "give each region its class")
            elif outline is not None:
                photo.instances.append(Instance(name, [outline]))
        photos.append(photo)
    return Source(photos, [], faults)


def _regions(entry: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    regions = entry.get("regions") or []
    pairs = regions.items() if isinstance(regions, dict) else ((str(n), one) for n, one in enumerate(regions))
    return [(str(number), one) for number, one in pairs if isinstance(one, dict)]


def _attributes(region: dict[str, Any]) -> dict[str, Any]:
    found = region.get("region_attributes")
    return found if isinstance(found, dict) else {}


def _attribute(entries: Any) -> str | None:
    counts = Counter(name for entry in entries for _, region in _regions(entry) for name in _attributes(region))
    return counts.most_common(1)[0][0] if counts else None


def _name(region: dict[str, Any], attribute: str | None) -> str | None:
    if attribute is None:
        return "object"
    value = _attributes(region).get(attribute)
    if isinstance(value, dict):  # a checkbox
        value = next((name for name, on in value.items() if on), None)
    return str(value).strip() or None if value is not None else None


def _outline(shape: Any, where: str, faults: Faults) -> list[float] | None:
    if not isinstance(shape, dict):
        faults.add("data.mask", "error", "regions have no shape", where)
        return None
    kind = shape.get("name")
    if kind in ("polygon", "polyline"):
        x, y = finite(shape.get("all_points_x")), finite(shape.get("all_points_y"))
        if x is None or y is None or len(x) != len(y) or len(x) < 3:
            faults.add("data.mask", "error", "polygons need as many x as y, and three", where)
            return None
        return [value for point in zip(x, y, strict=True) for value in point]
    if kind in _NUMBERS:
        values = finite([shape.get(name) for name in _NUMBERS[kind]])
        if values is None:
            faults.add("data.mask", "error", f"regions lack numbers ({', '.join(_NUMBERS[kind])})", f"{where}: {kind}")
            return None
        if kind == "rect":
            return rectangle(values[0], values[1], values[0] + values[2], values[1] + values[3])
        angle = finite([shape.get("theta", 0)]) or [0.0]
        return ellipse(values[0], values[1], values[2], values[-1], angle[0] if kind == "ellipse" else 0.0)
    faults.add("data.mask-points", "warning", "points have no area and are left out", f"{where}: {kind}")
    return None
