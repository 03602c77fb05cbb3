"""What is done to a photograph and its truth before the network sees them, as one seed draws it.

    scene = Scene.of(record)
    scene = augment(scene, recipe, np.random.default_rng(7), others=records, grey=(124, 116, 104))

Pixels are changed by torchvision's transforms (`torchvision.transforms.v2.functional`); masks follow by the nearest
pixel, polygons and boxes exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from maskgraft import coco, outlines
from maskgraft.coco import ImageRecord
from maskgraft.cutouts import Cutouts
from maskgraft.images import Pixels
from maskgraft.recipe import Recipe
from maskgraft.segmentation import Polygon, Window, window_of

_FEWEST_PIXELS = 4  # of an instance that is worth learning from after a cut
_TRIES = 10  # crops drawn until one holds an instance
_MOST_PASTED = 4  # instances taken from one other image


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A photograph and its instances: `image` uint8 [H, W, 3] RGB, `boxes` float32 [N, 4] xyxy, `labels` int64 [N],
    N `masks`, and N `polygons` or None where some instance has no polygon."""

    image: Pixels
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    masks: Cutouts
    polygons: tuple[Polygon, ...] | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photograph."""
        return self.image.shape[0], self.image.shape[1]

    @staticmethod
    def of(record: ImageRecord) -> "Scene":
        """One image of a dataset, read from its file."""
        truth = coco.truth(record)
        return Scene(record.load(), truth.boxes, truth.labels, truth.cutouts(), truth.polygons)


def augment(
    scene: Scene,
    recipe: Recipe,
    random: np.random.Generator,
    *,
    others: Sequence[ImageRecord] = (),
    grey: tuple[int, int, int] = (124, 116, 104),
) -> Scene:
    """A scene as a recipe changes it: copy-paste, colours, vertical flip, rotation, scale jitter, crop, mirror last.

    `others` are the images that copy-paste takes from, `grey` what fills where the photograph ends. What the recipe
    leaves out draws nothing from `random`. A scene with instances keeps at least one.
    """
    if recipe.copy_paste and others and random.random() < recipe.copy_paste:
        scene = pasted(scene, Scene.of(others[int(random.integers(len(others)))]), random)
    if recipe.photometric:
        scene = replace(scene, image=photometric(scene.image, random, strength=recipe.photometric))
    if recipe.flip_vertical and random.random() < recipe.flip_vertical:
        scene = flipped(scene)
    if recipe.rotate:
        angle = float(random.uniform(-recipe.rotate, recipe.rotate))
        scene = _unless_empty(scene, lambda: rotated(scene, angle, grey))
    if recipe.scale_jitter is not None:
        scene = _jittered(scene, recipe.scale_jitter, random, grey)
    if recipe.crop is not None:
        scene = _cropped_at_random(scene, recipe.crop, random)
    return scene


def mirrored(scene: Scene) -> Scene:
    """Left and right exchanged."""
    width = scene.size[1]
    boxes = scene.boxes[:, [2, 1, 0, 3]] * np.array((-1, 1, -1, 1), np.float32) + np.array(
        (width, 0, width, 0), np.float32
    )
    polygons = _moved(scene.polygons, ((-1, 0, width), (0, 1, 0)))
    return Scene(np.ascontiguousarray(scene.image[:, ::-1]), boxes, scene.labels, scene.masks.mirrored(), polygons)


def flipped(scene: Scene) -> Scene:
    """Top and bottom exchanged."""
    height = scene.size[0]
    boxes = scene.boxes[:, [0, 3, 2, 1]] * np.array((1, -1, 1, -1), np.float32) + np.array(
        (0, height, 0, height), np.float32
    )
    polygons = _moved(scene.polygons, ((1, 0, 0), (0, -1, height)))
    return Scene(np.ascontiguousarray(scene.image[::-1]), boxes, scene.labels, scene.masks.flipped(), polygons)


def rotated(scene: Scene, angle: float, grey: tuple[int, int, int]) -> Scene:
    """Turned about its middle by so many degrees, counter-clockwise, on a page of the same size."""
    height, width = scene.size
    image = v2.rotate(_planes(scene.image), angle, InterpolationMode.BILINEAR, fill=list(map(float, grey)))
    planes = v2.rotate(torch.from_numpy(scene.masks.planes()).to(torch.uint8), angle, InterpolationMode.NEAREST)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x, y = width / 2, height / 2
    matrix = ((cos, sin, x - cos * x - sin * y), (-sin, cos, y + sin * x - cos * y))
    polygons = _moved(scene.polygons, matrix)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    masks = Cutouts.of(planes.numpy().astype(np.bool_))
    return _settled(Scene(pixels, scene.boxes, scene.labels, masks, polygons))


def cropped(scene: Scene, top: int, left: int, height: int, width: int) -> Scene:
    """The part of a scene that lies in a window, which lies in the scene."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    polygons = _moved(scene.polygons, ((1, 0, -left), (0, 1, -top)))
    boxes = scene.boxes - np.array((left, top, left, top), np.float32)
    image = np.ascontiguousarray(scene.image[rows, columns])
    masks = scene.masks.seen_through((top, left, top + height, left + width))
    return _settled(Scene(image, boxes, scene.labels, masks, polygons), keep_whole=True)


def shrunk(scene: Scene, size: tuple[int, int], top: int, left: int, grey: tuple[int, int, int]) -> Scene:
    """A smaller copy, of `size` (height, width), on a page as large as the scene."""
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    image = np.empty_like(scene.image)
    image[:] = grey
    image[rows, columns] = _resized(scene.image, size)
    height, width = scene.size
    masks = scene.masks.resized(size).seen_through((-top, -left, height - top, width - left))
    y, x = size[0] / height, size[1] / width
    boxes = scene.boxes * np.array((x, y, x, y), np.float32) + np.array((left, top, left, top), np.float32)
    polygons = _moved(scene.polygons, ((x, 0, left), (0, y, top)))
    return _settled(Scene(image, boxes, scene.labels, masks, polygons), keep_whole=True)


def photometric(image: Pixels, random: np.random.Generator, *, strength: float) -> Pixels:
    """Brightness, contrast, saturation and hue changed, each or not by the toss of a coin.

    At strength 1 within the ranges of SSD (Liu et al. 2016): an eighth of the full brightness, a half and one and a
    half times the contrast and saturation, a twentieth of the circle of hues.
    """
    tosses, amounts = random.random(4) < 0.5, random.uniform(-strength, strength, 4).tolist()
    pixels = _planes(image)
    if tosses[0]:
        pixels = v2.adjust_brightness(pixels, 1 + 0.125 * amounts[0] * 255 / max(float(image.mean()), 1.0))
    if tosses[1]:
        pixels = v2.adjust_contrast(pixels, 1 + 0.5 * amounts[1])
    if tosses[2]:
        pixels = v2.adjust_saturation(pixels, 1 + 0.5 * amounts[2])
    if tosses[3]:
        pixels = v2.adjust_hue(pixels, 0.05 * amounts[3])
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def pasted(scene: Scene, source: Scene, random: np.random.Generator) -> Scene:
    """A few instances of another scene laid over this one (copy-paste, Ghiasi et al. 2021).

    Each is scaled by 0.5 to 1.5, but no larger than the page, and lies wholly on it. What it covers is taken from the
    masks beneath; covered instances have the box of what is left to see, and no polygon, since part of it is hidden.
    """
    height, width = scene.size
    many = min(int(random.integers(1, _MOST_PASTED + 1)), len(source.labels))
    image, masks, boxes, labels = scene.image.copy(), list(scene.masks.planes()), list(scene.boxes), list(scene.labels)
    polygons: list[Polygon | None] = list(scene.polygons or [None] * len(masks))
    extents = source.masks.extents()
    for index in random.permutation(len(source.labels))[:many].tolist():
        top, left, bottom, right = extents[index]
        scale = min(random.uniform(0.5, 1.5), height / (bottom - top), width / (right - left))
        size = max(1, int((bottom - top) * scale)), max(1, int((right - left) * scale))
        y, x = int(random.integers(height - size[0] + 1)), int(random.integers(width - size[1] + 1))
        mask = source.masks[[index]].seen_through(extents[index]).resized(size).planes()[0]
        if mask.sum() < _FEWEST_PIXELS:
            continue
        patch = _resized(np.ascontiguousarray(source.image[top:bottom, left:right]), size)
        area = slice(y, y + size[0]), slice(x, x + size[1])
        image[area][mask] = patch[mask]
        for other, beneath in enumerate(masks):
            if (beneath[area] & mask).any():
                beneath[area] &= ~mask
                boxes[other] = _box(window_of(beneath))
                polygons[other] = None
        page = np.zeros((height, width), np.bool_)
        page[area] = mask
        rows, columns = size[0] / (bottom - top), size[1] / (right - left)
        move = ((columns, 0, x - left * columns), (0, rows, y - top * rows))
        outline = None if source.polygons is None else outlines.moved(source.polygons[index], np.array(move))
        masks.append(page)
        boxes.append(_box(window_of(page)) if outline is None else np.array(outlines.hull(outline), np.float32))
        labels.append(source.labels[index])
        polygons.append(outline)
    kept = [one for one, mask in enumerate(masks) if mask.sum() >= _FEWEST_PIXELS]
    drawn = [polygon for one in kept if (polygon := polygons[one]) is not None]
    return Scene(
        image,
        np.array([boxes[one] for one in kept], np.float32).reshape(-1, 4),
        np.array([labels[one] for one in kept], np.int64),
        Cutouts.of(np.array([masks[one] for one in kept], np.bool_).reshape(-1, height, width)),
        tuple(drawn) if len(drawn) == len(kept) else None,
    )


def _jittered(
    scene: Scene, scales: tuple[float, float], random: np.random.Generator, grey: tuple[int, int, int]
) -> Scene:
    """A scene grown and cut, or shrunk on a page of its size (large-scale jitter, Ghiasi et al. 2021)."""
    height, width = scene.size
    scale = float(random.uniform(*scales))
    if scale >= 1:
        return _cropped(scene, max(1, round(height / scale)), max(1, round(width / scale)), random)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = int(random.integers(height - size[0] + 1)), int(random.integers(width - size[1] + 1))
    return _unless_empty(scene, lambda: shrunk(scene, size, top, left, grey))


def _cropped_at_random(scene: Scene, least: float, random: np.random.Generator) -> Scene:
    height, width = (max(1, round(side * random.uniform(least, 1))) for side in scene.size)
    return _cropped(scene, height, width, random)


def _cropped(scene: Scene, height: int, width: int, random: np.random.Generator) -> Scene:
    """A window of one size at a place where it holds an instance; the whole scene where none was found."""
    for _ in range(_TRIES):
        top = int(random.integers(scene.size[0] - height + 1))
        left = int(random.integers(scene.size[1] - width + 1))
        areas = scene.masks.seen_through((top, left, top + height, left + width)).areas()
        if not areas or max(areas) >= _FEWEST_PIXELS:
            return _unless_empty(scene, lambda top=top, left=left: cropped(scene, top, left, height, width))  # type: ignore[misc]
    return scene


def _unless_empty(scene: Scene, change: Callable[[], Scene]) -> Scene:
    changed = change()
    return changed if len(changed.labels) or not len(scene.labels) else scene


def _moved(polygons: tuple[Polygon, ...] | None, matrix: Sequence[Sequence[float]]) -> tuple[Polygon, ...] | None:
    return None if polygons is None else tuple(outlines.moved(one, np.array(matrix, np.float64)) for one in polygons)


def _settled(scene: Scene, *, keep_whole: bool = False) -> Scene:
    """A scene whose instances may pass its edge, cut there: what is left of each, and only instances that are left.

    Boxes are those of the outlines, or of the masks where there are none. `keep_whole`: boxes inside the edge stay.
    """
    height, width = scene.size
    kept, boxes, polygons = [], [], []
    for index, (area, seen) in enumerate(zip(scene.masks.areas(), scene.masks.extents(), strict=True)):
        if area < _FEWEST_PIXELS:
            continue
        box = scene.boxes[index]
        whole = keep_whole and (box[:2] >= 0).all() and box[2] <= width and box[3] <= height
        left = _box(seen)
        if scene.polygons is not None:
            outline = outlines.cut(scene.polygons[index], width, height)
            if not outline:
                continue
            polygons.append(outline)
            left = np.array(outlines.hull(outline), np.float32)
        kept.append(index)
        boxes.append(box if whole else left)
    return Scene(
        scene.image,
        np.array(boxes, np.float32).reshape(-1, 4),
        scene.labels[kept],
        scene.masks[kept],
        None if scene.polygons is None else tuple(polygons),
    )


def _box(window: Window) -> npt.NDArray[np.float32]:
    """A window of rows and columns as a box xyxy."""
    top, left, bottom, right = window
    return np.array((left, top, right, bottom), np.float32)


def _planes(image: Pixels) -> Tensor:
    """An image as torch has it, [3, H, W]; what PIL decoded is read-only memory, which torch does not take."""
    return torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    pixels = v2.resize(_planes(image), list(size), antialias=True)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
