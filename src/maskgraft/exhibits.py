"""Pictures of what a model gets wrong: the images with most faults, and each error by itself, enlarged."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from maskgraft import coco, draw
from maskgraft.coco import Box, Dataset, ImageRecord
from maskgraft.detections import Detections
from maskgraft.files.writing import atomic
from maskgraft.images import Pixels
from maskgraft.model import MaskRCNN
from maskgraft.shortfalls import Example, Shortfall

_SHOWN = 0.5  # score from which detections stand in the pictures of whole images
_AROUND = 0.45  # of the side of an error that is shown around it
_LEAST = 48  # pixels of the photograph that are shown at least
_SIDE = 200  # pixels of an enlarged error
_WHOLE = 520  # pixels of the longest side of a whole image


def example_name(number: int) -> str:
    """The file of an example, by its place in `Shortfall.examples`."""
    return f"error-{number:03d}.jpg"


def worst_name(image: int) -> str:
    """The file of one of the worst images, by its id."""
    return f"worst-{image}.jpg"


def draw_errors(model: MaskRCNN, data: Dataset, short: Shortfall, folder: Path) -> None:
    """Write a picture of every example and of every worst image into a folder: truth on the left, found on the right.

    The model is asked again about these few images. Raises `OSError` when the folder cannot be written.
    """
    folder.mkdir(exist_ok=True)
    wanted = {image.id: image for image in data.images}
    for stale in folder.glob("*.jpg"):
        stale.unlink()
    numbered = list(enumerate(short.examples))
    for number in dict.fromkeys([*short.worst, *(one.image for one in short.examples)]):
        record = wanted[number]
        pixels = record.load()
        found = model.predict([pixels])[0]
        if number in short.worst:
            _write(folder / worst_name(number), _whole(pixels, record, found, data, model))
        for index, example in numbered:
            if example.image == number:
                picture = _enlarged(pixels, record, found, example, data.classes, model.spec.classes)
                _write(folder / example_name(index), picture)


def _write(path: Path, picture: Image.Image) -> None:
    with atomic(path) as temporary:
        picture.save(temporary, quality=85)


def _whole(pixels: Pixels, record: ImageRecord, found: Detections, data: Dataset, model: MaskRCNN) -> Image.Image:
    pair = [draw.truth(pixels, record, data.classes), draw.detections(pixels, found, model.spec.classes)]
    shrunk = [picture.copy() for picture in pair]
    for picture in shrunk:
        picture.thumbnail((_WHOLE, _WHOLE))
    return draw.side_by_side(shrunk, ["truth", "found"])


def _enlarged(
    pixels: Pixels,
    record: ImageRecord,
    found: Detections,
    example: Example,
    classes: Sequence[str],
    names: Sequence[str],
) -> Image.Image:
    """One error: the truth around it, and the detection that is false, or all that was found there instead."""
    boxes = [record.instances[example.truth].box] if example.truth is not None else []
    boxes += [_box(found, example.detection)] if example.detection is not None else []
    window = _window(boxes, record)
    truth = [
        draw.Shape(one.box, coco.mask(one, record.height, record.width), classes[one.label], draw.colour(one.label))
        for one in record.instances
    ]
    told = [example.detection] if example.detection is not None else np.flatnonzero(found.scores >= _SHOWN).tolist()
    detected = []
    for index in told:
        name = names[int(found.labels[index])]
        label = classes.index(name) if name in classes else len(classes)
        text = f"{name} {float(found.scores[index]):.2f}"
        detected.append(draw.Shape(_box(found, index), found.masks[index].numpy(), text, draw.colour(label)))
    pair = [_cut(pixels, shapes, window) for shapes in (truth, detected)]
    return draw.side_by_side(pair, ["truth", "found"])


def _box(found: Detections, index: int) -> Box:
    x1, y1, x2, y2 = found.boxes[index].tolist()
    return x1, y1, x2, y2


def _window(boxes: Sequence[Box], record: ImageRecord) -> tuple[int, int, int, int]:
    """A square around boxes, with what is about them, inside the picture: left, top, right, bottom."""
    edges = np.array(boxes, np.float64)
    low, high = edges[:, :2].min(0), edges[:, 2:].max(0)
    side = max(float((high - low).max()) * (1 + 2 * _AROUND), _LEAST)
    width, height = (int(min(round(side), length)) for length in (record.width, record.height))
    left = int(np.clip(round((low[0] + high[0] - width) / 2), 0, record.width - width))
    top = int(np.clip(round((low[1] + high[1] - height) / 2), 0, record.height - height))
    return left, top, left + width, top + height


def _cut(pixels: Pixels, shapes: Sequence[draw.Shape], window: tuple[int, int, int, int]) -> Image.Image:
    """The part of an image inside a window, enlarged before anything is drawn over it, so that texts can be read."""
    left, top, right, bottom = window
    factor = _SIDE / max(right - left, bottom - top)
    size = max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor))
    part = np.asarray(Image.fromarray(pixels[top:bottom, left:right]).resize(size, Image.Resampling.BICUBIC))
    return draw.overlay(part, list(_moved(shapes, window, factor, size)))


def _moved(
    shapes: Sequence[draw.Shape], window: tuple[int, int, int, int], factor: float, size: tuple[int, int]
) -> Iterator[draw.Shape]:
    left, top, right, bottom = window
    for shape in shapes:
        mask = shape.mask[top:bottom, left:right]
        if not mask.any():
            continue
        grown = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        x1, y1, x2, y2 = shape.box
        box = ((x1 - left) * factor, (y1 - top) * factor, (x2 - left) * factor, (y2 - top) * factor)
        yield draw.Shape(box, grown, shape.text, shape.colour, shape.crowd)
