"""Pictures: what is drawn lies where the instances are, shows on any ground, and stays inside."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskgraft import coco, draw
from maskgraft.detections import Detections
from tests.tiny import draw_dataset

GREY = 128


def shape(box: tuple[float, float, float, float], size: tuple[int, int], **more: object) -> draw.Shape:
    mask = np.zeros(size, bool)
    mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
    return draw.Shape(box, mask, **({"text": "", "colour": draw.colour(1)} | more))  # type: ignore[arg-type]


def ground(height: int, width: int, colour: tuple[int, int, int] = (GREY,) * 3) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def changed(picture: Image.Image, image: np.ndarray) -> np.ndarray:
    return (np.asarray(picture) != image).any(2)


def test_a_mask_is_tinted_where_it_is_and_nowhere_else() -> None:
    image = ground(200, 300)
    one = shape((100, 80, 180, 160), image.shape[:2])
    touched = changed(draw.overlay(image, [one]), image)
    assert touched[one.mask].all()
    rows, columns = np.nonzero(touched & ~one.mask)
    # the line around the mask, and the small empty label above the box
    assert rows.min() >= 70 and rows.max() <= 161 and columns.min() >= 99 and columns.max() <= 181
    assert (image == GREY).all(), "the given image is left as it is"


def test_an_outline_shows_on_a_ground_of_its_own_colour() -> None:
    for label in range(12):
        colour = draw.colour(label)
        image = ground(120, 120, colour)
        mask = np.zeros((120, 120), bool)
        mask[50:90, 50:90] = True
        picture = np.asarray(draw.overlay(image, [draw.Shape((5, 5, 115, 115), mask, "", colour)])).astype(int)
        assert np.abs(picture[49, 55:85] - colour).sum(1).min() > 150, label


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (200, 300), (1500, 900)])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.7, 0.7), (0.7, 0.0), (0.0, 0.7)])
def test_labels_stay_inside_and_whole_where_they_can(size: tuple[int, int], place: tuple[float, float]) -> None:
    height, width = size
    box = (place[0] * width, place[1] * height, place[0] * width + 0.3 * width, place[1] * height + 0.3 * height)
    colour = draw.colour(4)  # dark: its text is white
    one = draw.Shape(box, np.zeros(size, bool), "cup 0.99", colour)
    image = ground(height, width)
    picture = np.asarray(draw.overlay(image, [one]))
    text = (picture > 200).all(2)
    rows, columns = np.nonzero(text)
    assert rows.min() > 0 and columns.min() > 0 and rows.max() < height - 1 and columns.max() < width - 1
    # as much of it as on a picture with room on every side, up to the placing on whole pixels
    middle = draw.Shape((width / 2 - 5, height / 2, width / 2 + 5, height / 2 + 9), one.mask, one.text, colour)
    whole = (np.asarray(draw.overlay(ground(height, width), [middle])) > 200).all(2).sum()
    assert text.sum() == pytest.approx(whole, rel=0.1)


def test_a_long_name_is_shortened_to_the_picture() -> None:
    image = ground(40, 60)
    colour = draw.colour(4)  # dark: its text is white
    picture = np.asarray(draw.overlay(image, [shape((30, 10, 60, 40), (40, 60), text="w" * 50, colour=colour)]))
    text = (picture[:10] > 200).all(2)
    assert text.any()
    assert not text[:, -2:].any() and not text[:, :1].any(), "text runs out of the picture"


def test_every_side_of_a_box_at_the_border_is_seen() -> None:
    image = ground(100, 140)
    colour = draw.colour(0)
    blank = np.zeros((100, 140), bool)
    picture = np.asarray(draw.overlay(image, [draw.Shape((0, 0, 140, 100), blank, "", colour)]))
    for side in (picture[20:, 0], picture[20:, -1], picture[-1], picture[0, 20:]):
        assert (side == colour).all()


def test_crowds_are_hatched() -> None:
    image = ground(200, 300)
    plain, crowd = (shape((100, 80, 180, 160), (200, 300), crowd=crowd) for crowd in (False, True))
    inner = (slice(90, 150), slice(110, 170))
    assert len(np.unique(np.asarray(draw.overlay(image, [plain]))[inner].reshape(-1, 3), axis=0)) == 1
    colours = np.unique(np.asarray(draw.overlay(image, [crowd]))[inner].reshape(-1, 3), axis=0)
    assert len(colours) == 2 and (colours == draw.colour(1)).all(1).any()


def test_truth_and_detections_of_one_image(tmp_path: Path) -> None:
    data = coco.read(*draw_dataset(tmp_path))
    record = data.images[0]
    image, known = record.load(), coco.truth(record)
    found = Detections(
        boxes=torch.from_numpy(known.boxes),
        scores=torch.full((len(known.boxes),), 0.6),
        labels=torch.from_numpy(known.labels),
        masks=torch.from_numpy(known.masks),
        mask_probs=torch.zeros(len(known.boxes), 1, 1),
    )
    everything = known.masks.any(0)
    for picture in (draw.truth(image, record, data.classes), draw.detections(image, found, data.classes)):
        assert picture.size == (record.width, record.height)
        assert changed(picture, image)[everything].mean() > 0.95
    nothing = draw.detections(image, found, data.classes, threshold=0.7)
    assert not changed(nothing, image).any()


def test_pages_hold_their_pictures() -> None:
    red, blue = Image.new("RGB", (60, 40), (255, 0, 0)), Image.new("RGB", (60, 40), (0, 0, 255))
    pair = np.asarray(draw.side_by_side([red, blue], ["truth", "found"]))
    assert (pair[-20, 30] == (255, 0, 0)).all() and (pair[-20, -30] == (0, 0, 255)).all()
    page = draw.sheet([red, blue, red], columns=2, width=30)
    pixels = np.asarray(page)
    assert (pixels[10, -15] == (0, 0, 255)).all() and (pixels[-10, 15] == (255, 0, 0)).all()
    assert (pixels[-10, -15] == 255).all()
    assert 0 < page.width - 60 == page.height - 40  # a gap between them
    gap = page.width - 60
    assert (pixels[:, 30 : 30 + gap] == 255).all() and (pixels[20 : 20 + gap] == 255).all()
