"""Pictures of instances: masks with their outlines, boxes, and labels that stay inside the picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from maskgraft import coco
from maskgraft.coco import ImageRecord
from maskgraft.detections import Detections
from maskgraft.segmentation import window_of

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Okabe & Ito's palette for colour-blind readers, and its lighter and darker neighbours for more classes.
_PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (148, 223, 196),
    (255, 190, 150),
    (122, 89, 201),
    (166, 214, 8),
    (255, 120, 120),
)
_FILL = 0.45  # how much of the colour covers a mask
_CROWD_FILL = 0.2
_GAP = 6  # pixels between the pictures of a sheet


@dataclass(frozen=True, slots=True)
class Shape:
    """One thing to draw: box xyxy, mask bool [H, W], what is written at it, and its colour."""

    box: Box
    mask: npt.NDArray[np.bool_]
    text: str
    colour: Colour
    crowd: bool = False


def colour(label: int) -> Colour:
    """The colour of a class: the same in every picture."""
    return _PALETTE[label % len(_PALETTE)]


def detections(image: Pixels, found: Detections, classes: Sequence[str], *, threshold: float = 0.5) -> Image.Image:
    """What a model found on an image, uint8 [H, W, 3], drawn over it; only what scores at least `threshold`."""
    shown = found.above(threshold)
    shapes = [
        Shape(tuple(box), mask.numpy(), f"{classes[label]} {score:.2f}", colour(label))
        for box, mask, label, score in zip(
            shown.boxes.tolist(), shown.masks, shown.labels.tolist(), shown.scores.tolist(), strict=True
        )
    ]
    return overlay(image, shapes)


def truth(image: Pixels, record: ImageRecord, classes: Sequence[str]) -> Image.Image:
    """The annotations of an image drawn over it; crowds are hatched."""
    shapes = [
        Shape(one.box, coco.mask(one, record.height, record.width), classes[one.label], colour(one.label), one.crowd)
        for one in record.annotations
    ]
    return overlay(image, shapes)


def overlay(image: Pixels, shapes: Sequence[Shape]) -> Image.Image:
    """Shapes over an image: masks first, the largest at the back, then boxes and texts."""
    canvas = image.copy()
    stroke = max(1, round(max(image.shape[:2]) / 400))
    for shape in sorted(shapes, key=lambda shape: -int(shape.mask.sum())):
        _paint(canvas, shape, stroke)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    size = max(10, round(min(image.shape[:2]) / 30))
    for shape in shapes:
        left, top, right, bottom = shape.box
        # the right and bottom edge of a box lie behind its last pixel, at the border outside the picture
        right, bottom = max(min(right, picture.width) - 1, left), max(min(bottom, picture.height) - 1, top)
        pen.rectangle((left, top, right, bottom), outline=shape.colour, width=stroke)
    for shape in sorted(shapes, key=lambda shape: -shape.box[1]):
        _write(pen, size, shape, picture.size)
    return picture


def _paint(canvas: Pixels, shape: Shape, stroke: int) -> None:
    """One mask and its outline, in place; only the part of the picture around it is touched."""
    top, left, bottom, right = window_of(shape.mask)
    if bottom == top:
        return
    margin = 2 * stroke
    area = (slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin))
    mask, part = shape.mask[area], canvas[area]
    paint = np.array(shape.colour, np.float32)
    fill = _CROWD_FILL if shape.crowd else _FILL
    part[mask] = np.rint(part[mask] * (1 - fill) + paint * fill).astype(np.uint8)
    if shape.crowd:
        y, x = np.nonzero(mask)
        stripe = (y + x) // (3 * stroke) % 3 == 0
        part[y[stripe], x[stripe]] = shape.colour
    # a line of the opposite lightness around the coloured one: an outline shows on a ground of its own colour too
    part[_grown(mask, max(1, stroke // 2)) & ~mask] = _ink(shape.colour)
    part[mask & ~_eroded(mask, stroke)] = shape.colour


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever is read better on a colour (luma of ITU-R BT.601)."""
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 130
    return (0, 0, 0) if bright else (255, 255, 255)


def _eroded(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    for _ in range(width):
        padded = np.pad(mask, 1)  # the picture's edge counts as outside, so that a cut mask has an outline there too
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _grown(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    for _ in range(width):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def _write(pen: ImageDraw.ImageDraw, size: int, shape: Shape, picture: tuple[int, int]) -> None:
    text, font, (left, top, right, bottom) = _fitted(pen, size, shape.text, picture[0] - 4)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(shape.box[0], 0), max(picture[0] - wide, 0))
    above, below = shape.box[1] - high, shape.box[3] + 1
    y = above if above >= 0 else below if below + high <= picture[1] else max(shape.box[1], 0)
    pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=shape.colour)
    pen.text((x + 2 - left, y + 2 - top), text, fill=_ink(shape.colour), font=font)


def _fitted(
    pen: ImageDraw.ImageDraw, size: int, text: str, room: int
) -> tuple[str, ImageFont.ImageFont | ImageFont.FreeTypeFont, Box]:
    """A text in the largest font up to `size` that fits into `room` pixels; shortened where no font does."""
    smallest = min(size, 8)
    for height in range(size, smallest - 1, -1):
        font = ImageFont.load_default(size=height)
        box = pen.textbbox((0, 0), text, font=font)
        if box[2] - box[0] <= room:
            return text, font, box
    for length in range(len(text) - 1, 0, -1):
        short = text[:length].rstrip() + "…"
        box = pen.textbbox((0, 0), short, font=font)
        if box[2] - box[0] <= room:
            return short, font, box
    return "", font, (0, 0, 0, 0)


def side_by_side(pictures: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Pictures of one height in a row, each under its title."""
    size = max(11, pictures[0].height // 28)
    head = round(size * 1.7)
    gap = max(4, pictures[0].width // 80)
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    page = Image.new("RGB", (width, max(picture.height for picture in pictures) + head), (255, 255, 255))
    pen, x = ImageDraw.Draw(page), 0
    for picture, title in zip(pictures, titles, strict=True):
        text, font, _ = _fitted(pen, size, title, picture.width - 4)
        pen.text((x + 2, head * 0.15), text, fill=(30, 30, 30), font=font)
        page.paste(picture, (x, head))
        x += picture.width + gap
    return page


def sheet(pictures: Iterable[Image.Image], *, columns: int, width: int = 480) -> Image.Image:
    """A contact sheet: pictures scaled to one width, row by row, with a little room between them."""
    scaled = [picture.resize((width, round(picture.height * width / picture.width))) for picture in pictures]
    rows = [scaled[start : start + columns] for start in range(0, len(scaled), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    wide, high = columns * (width + _GAP) - _GAP, sum(heights) + _GAP * (len(rows) - 1)
    page = Image.new("RGB", (wide, high), (255, 255, 255))
    y = 0
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            page.paste(picture, (column * (width + _GAP), y))
        y += height + _GAP
    return page
