"""A COCO-format dataset cut from the two photographs: 64 squares to learn from, 7 strips to be judged by.

The pictures to be judged by come from parts of the photographs that training never sees: the lower two rows of coins,
and the right third of the sky.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskgraft.demo.photos import Labelled, Pixels, coins, galaxies
from maskgraft.files.writing import atomic
from maskgraft.segmentation import window_of

CLASSES = ("coin", "galaxy")
SIDE = 256  # of a training picture, and the short side of the others

_COIN_ROWS = 150  # coins above this row are learned from, those below are judged
_SKY_COLUMNS = 640
_SKY_STRIPS = 6
_LEAST_VISIBLE = 0.3  # an instance that is cut off to less than this is not learned from and not counted


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a photograph, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """That part of an array [H, W, …]."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, slots=True)
class Seen:
    """An instance as a picture shows it: `mask` bool [H, W]; `label` is that of the photograph."""

    kind: str
    label: int
    mask: npt.NDArray[np.bool_]
    doubtful: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the dataset: `pixels` uint8 [H, W, 3] and what is seen in it."""

    pixels: Pixels
    instances: tuple[Seen, ...]


def make(folder: Path, *, seed: int = 0) -> tuple[Path, Path]:
    """Write the dataset: `train/`, `val/`, `train.json`, `val.json`. Returns the two JSON files.

    Raises `UsageError` where scikit-image is not installed.
    """
    photographs = (coins(), galaxies())
    rng = np.random.default_rng(seed)
    train = [picture for photo in photographs for picture in learned_from(photo, rng)]
    val = [picture for photo in photographs for picture in judged_by(photo)]
    return _write(folder, "train", train), _write(folder, "val", val)


def objects(path: Path) -> dict[str, int]:
    """How many different things of each class a half of the dataset shows; crops show most of them many times."""
    shown = {
        (one["category_id"], one["object"]) for one in json.loads(path.read_text())["annotations"] if not one["iscrowd"]
    }
    return {name: sum(category == i for category, _ in shown) for i, name in enumerate(CLASSES, 1)}


def learned_from(photo: Labelled, rng: np.random.Generator, count: int = 32) -> Iterator[Picture]:
    """`count` squares of random place, size, turn and mirroring from the training part of a photograph."""
    height, width = photo.labels.shape
    bottom, right = (_COIN_ROWS, width) if photo.kind == "coin" else (height, _SKY_COLUMNS)
    made = 0
    while made < count:
        side = int(rng.integers(110, 150))
        window = Window(int(rng.integers(0, bottom - side + 1)), int(rng.integers(0, right - side + 1)), side, side)
        shares = [share for label, share in _shown(photo, window).items() if label not in photo.doubtful]
        if shares and min(shares) >= _LEAST_VISIBLE:
            yield _picture(photo, window, turns=int(rng.integers(4)), mirrored=bool(rng.integers(2)))
            made += 1


def judged_by(photo: Labelled) -> Iterator[Picture]:
    """The held-out part of a photograph, cut without overlap into strips of about the training scale."""
    height, width = photo.labels.shape
    if photo.kind == "coin":
        windows = [Window(_COIN_ROWS, 0, height - _COIN_ROWS, width)]
    else:
        tall = height // _SKY_STRIPS
        windows = [Window(i * tall, _SKY_COLUMNS, tall, width - _SKY_COLUMNS) for i in range(_SKY_STRIPS)]
    for window in windows:
        yield _picture(photo, window, turns=0, mirrored=False)


def _shown(photo: Labelled, window: Window) -> dict[int, float]:
    """Which instances a window shows, and the share of each that is inside."""
    everywhere = np.bincount(photo.labels.ravel())
    inside = np.bincount(window.of(photo.labels).ravel(), minlength=len(everywhere))
    return {i: float(inside[i] / everywhere[i]) for i in np.flatnonzero(inside).tolist() if i}


def _picture(photo: Labelled, window: Window, *, turns: int, mirrored: bool) -> Picture:
    pixels, labels = (np.rot90(window.of(array), turns) for array in (photo.pixels, photo.labels))
    if mirrored:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    scale = SIDE / min(labels.shape)
    size = round(labels.shape[1] * scale), round(labels.shape[0] * scale)
    enlarged = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC))
    instances = []
    for label, share in _shown(photo, window).items():
        grey = Image.fromarray(((labels == label) * 255).astype(np.uint8))
        mask = np.asarray(grey.resize(size, Image.Resampling.BILINEAR)) > 127
        if mask.any():
            instances.append(Seen(photo.kind, label, mask, label in photo.doubtful or share < _LEAST_VISIBLE))
    return Picture(enlarged, tuple(instances))


def _write(folder: Path, part: str, pictures: list[Picture]) -> Path:
    from faster_coco_eval import mask as coco_mask

    (folder / part).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures, 1):
        name = f"{part}/{index:03d}.png"
        Image.fromarray(picture.pixels).save(folder / name)
        height, width = picture.pixels.shape[:2]
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        for one in picture.instances:
            rle = coco_mask.encode(np.asfortranarray(one.mask.astype(np.uint8)))
            top, left, bottom, right = window_of(one.mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": CLASSES.index(one.kind) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(one.mask.sum()),
                    "iscrowd": int(one.doubtful),
                    "object": one.label,
                    "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
                }
            )
    content = {
        "info": {"description": "coins and galaxies from scikit-image's photographs; labels drawn by segmentation"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
    }
    path = folder / f"{part}.json"
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content))
    return path
