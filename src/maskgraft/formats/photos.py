"""What every format is read into: photographs and their instances, not yet numbered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskgraft.errors import DataError, Finding
from maskgraft.faults import Faults
from maskgraft.images import SUFFIXES, orientation

_CORNERS = 64  # of the polygon that stands for an ellipse: off by a thousandth of its radius


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance: the name of its class and its mask, as COCO writes masks; `box` xyxy where the source has one."""

    name: str
    segmentation: list[list[float]] | dict[str, Any]
    crowd: bool = False
    box: tuple[float, float, float, float] | None = None


@dataclass(slots=True)
class Photo:
    """One photograph: a file, or bytes of one (`encoded`) that get the file's name."""

    path: Path
    width: int
    height: int
    instances: list[Instance] = field(default_factory=list)
    encoded: bytes | None = None
    split: str = ""


@dataclass(slots=True)
class Source:
    """What a reader found: photographs by split, and class names in the source's order where it has one."""

    photos: list[Photo]
    classes: list[str]
    faults: Faults


def size_of(path: Path, faults: Faults, where: str) -> tuple[int, int] | None:
    """Width and height of an image file as it is shown, or None with a finding."""
    try:
        return orientation(path).shown
    except DataError as error:
        for finding in error.findings:
            faults.add(finding.code, "error", "images cannot be read", f"{where}: {finding.message}")
        return None


def parsed_json(path: Path, faults: Faults) -> Any:
    """The value of a JSON file, or None with a finding that says line and column."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        faults.add("data.json", "error", "files are no JSON", f"{path}:{error.lineno}:{error.colno}: {error.msg}")
    except (ValueError, RecursionError, OSError) as error:
        faults.add("data.json", "error", "files cannot be read", f"{path}: {error}")
    return None


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> list[float]:
    """An ellipse about (x, y) as a polygon x, y, x, y …; `angle` in radians turns its first axis towards +y."""
    points: list[float] = []
    for step in range(_CORNERS):
        along, across = rx * cos(2 * pi * step / _CORNERS), ry * sin(2 * pi * step / _CORNERS)
        points += [x + along * cos(angle) - across * sin(angle), y + along * sin(angle) + across * cos(angle)]
    return points


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    """A rectangle as a polygon, whichever two opposite corners are given."""
    left, right = sorted((left, right))
    top, bottom = sorted((top, bottom))
    return [left, top, right, top, right, bottom, left, bottom]


def run_lengths(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A mask, bool [H, W], as COCO's packed RLE with text counts."""
    from faster_coco_eval import mask as coco_mask

    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in packed["size"]], "counts": packed["counts"].decode("ascii")}


def levels(path: Path, faults: Faults) -> npt.NDArray[np.int64] | None:
    """The values of a mask file [H, W]: palette indices, grey levels of 8 or 16 bits, or None with a finding."""
    try:
        with Image.open(path) as image:
            if image.mode in ("RGB", "RGBA"):
                values = np.asarray(image.convert("RGB"), np.int64)
                return values[..., 0] + 256 * values[..., 1] + 65536 * values[..., 2]
            return np.asarray(image).astype(np.int64)
    except (OSError, ValueError, SyntaxError) as error:
        faults.add("data.image-unreadable", "error", "masks cannot be read", f"{path}: {error}")
        return None


def pictures(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without suffix. Raises `DataError` where there is no such folder."""
    if not folder.is_dir():
        raise DataError(Finding("data.folder", "error", f"there is no folder {folder}"))
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}


def finite(values: Any, count: int | None = None) -> list[float] | None:
    """A list of finite numbers, or None."""
    if not isinstance(values, Sequence) or isinstance(values, str) or (count is not None and len(values) != count):
        return None
    try:
        array = np.array([float(one) for one in values])
    except (TypeError, ValueError):
        return None
    return array.tolist() if np.isfinite(array).all() else None
