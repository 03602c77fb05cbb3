"""Pictures of shapes with their truth, drawn: data to try a training on, alike on every machine.

    path = shapes.draw("shapes/train", images=200, classes=("disc", "box", "star"), seed=1)
    data = mg.read_coco(path, path.parent)

Grounds and shapes are textured, colours say nothing of the class, and shapes hide parts of one another.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from maskgraft.errors import Finding, UsageError
from maskgraft.files.writing import atomic
from maskgraft.segmentation import window_of

INSTANCES = "instances.json"
_MOST, _TRIES = 5, 12  # shapes of a picture, and places that are tried for them
_VISIBLE = 0.4  # least part of a shape that others leave to be seen
_FINE = 4  # outlines are drawn this much larger, and every cell's centre is taken

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def _around(corners: int, *, inner: float = 1.0, first: float = 0.0) -> Points:
    """Points on the unit circle from the angle `first` on, every second of them on a circle of radius `inner`."""
    turn = first + np.arange(corners) * (2 * np.pi / corners)
    radius = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack((np.cos(turn), np.sin(turn)), 1) * radius[:, None]


OUTLINES: dict[str, Callable[[], Points]] = {
    "disc": lambda: _around(64),
    "box": lambda: _around(4, first=np.pi / 4),  # stretched, it stays a rectangle
    "triangle": lambda: _around(3),
    "star": lambda: _around(10, inner=0.45),
}
CLASSES = tuple(OUTLINES)


def draw(folder: str | Path, *, images: int, classes: Sequence[str] = CLASSES, seed: int = 0, side: int = 128) -> Path:
    """Draw `images` pictures of `side` × `side` pixels into `folder`; gives the path of their instances file.

    A picture depends on its number, `seed`, `classes` and `side` alone: more pictures begin with the same ones. Masks
    are the visible pixels, as run lengths. Raises `UsageError` for classes that are not among `CLASSES`, a side below
    32, no images, or a folder that holds anything already.
    """
    target = Path(folder)
    _check(target, images, classes, side)
    target.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(images):
        picture, instances = _picture(np.random.default_rng((seed, number)), classes, side)
        name = f"{number:05}.png"
        Image.fromarray(picture).save(target / name)
        records.append({"id": number + 1, "file_name": name, "width": side, "height": side})
        for label, mask in instances:
            top, left, bottom, right = window_of(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [side, side], "counts": _runs(mask)},
                }
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(classes)]
    path = target / INSTANCES
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return path


def _check(folder: Path, images: int, classes: Sequence[str], side: int) -> None:
    findings = []
    if unknown := [name for name in classes if name not in OUTLINES]:
        message = f"no shape is called {', '.join(map(repr, unknown))}"
        findings.append(Finding("data.classes-unknown", "error", message, fix=f"some of {', '.join(CLASSES)}"))
    if not classes or len(set(classes)) < len(classes):
        findings.append(Finding("data.classes-unknown", "error", "classes are none, or given twice"))
    if images < 1 or side < 32:
        message = f"{images} images of {side} pixels; there is 1 at least, of 32 pixels at least"
        findings.append(Finding("data.limit", "error", message))
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        message = f"{folder} exists and is not an empty folder"
        findings.append(Finding("file.exists", "error", message, fix="choose another folder"))
    if findings:
        raise UsageError(findings)


def _picture(
    random: np.random.Generator, classes: Sequence[str], side: int
) -> tuple[npt.NDArray[np.uint8], list[tuple[int, Mask]]]:
    canvas = _texture(random, side)
    whole: list[int] = []
    visible: list[tuple[int, Mask]] = []
    wanted = int(random.integers(1, _MOST + 1))
    for _ in range(_TRIES):
        if len(visible) == wanted:
            break
        label, surface = int(random.integers(len(classes))), _texture(random, side)
        mask = _placed(random, OUTLINES[classes[label]](), side)
        left = [one & ~mask for _, one in visible]
        if not mask.any() or any(one.sum() < _VISIBLE * area for one, area in zip(left, whole, strict=True)):
            continue
        visible = [(kind, one) for (kind, _), one in zip(visible, left, strict=True)] + [(label, mask)]
        whole.append(int(mask.sum()))
        canvas[mask] = surface[mask]
    return canvas.round().clip(0, 255).astype(np.uint8), visible


def _texture(random: np.random.Generator, side: int) -> npt.NDArray[np.float64]:
    """A colour, blotches of it, and a grain: float64 [side, side, 3]."""
    cells = int(random.integers(3, 9))
    blotches = random.normal(0, 18, (cells, cells, 1)).repeat(-(-side // cells), 0).repeat(-(-side // cells), 1)
    grain: npt.NDArray[np.float64] = random.normal(0, 8, (side, side, 1))
    return random.uniform(40, 215, 3) + blotches[:side, :side] + grain


def _placed(random: np.random.Generator, outline: Points, side: int) -> Mask:
    """An outline of random size, turn and stretch, anywhere in the picture."""
    radius, turn = random.uniform(0.1, 0.24) * side, random.uniform(0, 2 * np.pi)
    stretch = np.array((1.0, random.uniform(0.7, 1.0)))
    towards = np.array(((np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))))
    points = (outline * stretch * radius) @ towards + random.uniform(0.6 * radius, side - 0.6 * radius, 2)
    page = Image.new("1", (side * _FINE, side * _FINE))
    ImageDraw.Draw(page).polygon([(float(x), float(y)) for x, y in points * _FINE], fill=1)
    mask: Mask = np.asarray(page)[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
    return mask


def _runs(mask: Mask) -> list[int]:
    """Run lengths down the columns, of nought first, as COCO writes them."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate(([0], edges, [flat.size]))
    return [0] * bool(flat[0]) + [int(length) for length in np.diff(ends)]
