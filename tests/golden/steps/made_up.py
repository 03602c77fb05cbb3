"""A training step that no network takes part in: objects, and what a network might have said, all from seeds.

Both sides read it: the home frameworks' own target and loss code (`make_*.py` beside this file), and the tests. NumPy
alone, and no newer than Python 3.7 with NumPy 1.18: TensorFlow 1.15 runs on nothing later.

What the heads say of a region is a function of its box, so that the order of regions is free. The draw of anchors and
proposals is the same on both sides: the first that there are.
"""

import numpy as np

CLASSES = 3
SCENES = {  # height and width, and sides of objects or the boxes that there are
    "crowded": (320, 448, (32, 64, 128)),
    "small": (32, 32, (5, 5, 28, 28)),
    "beside": (48, 80, ((8, 8, 40, 40), (8, 8, 40, 40))),  # two in one place, and a larger image in the batch
    "small-64": (64, 64, (5, 5, 28, 28)),  # for a home framework whose coarsest map has a cell for 64 pixels
    "corner": (48, 48, (0, 0, 9, 9)),  # of anchors inside the image, the best overlaps it by 8 %
    # where no anchor is smaller than 64: a small object would lie in several, and overlap all of them alike
    "crowded-c4": (320, 448, (64, 128)),
    "crowded-cut-c4": (320, 448, (64, 128)),  # whose anchors are cut to the image
    "small-c4": (96, 160, (26, 26, 86, 86)),
    "second-c4": (96, 160, (90, 12, 150, 48)),
    # whose best anchors lie inside the image
    "inside": (64, 64, (14, 14, 34, 34)),
    "inside-c4": (96, 160, (24, 24, 72, 72)),
    # as small-c4, where anchors are centred in their cells; some of them end just where the image does
    "between-c4": (104, 168, (34, 34, 94, 94)),
}
PAGES = {"beside": (128, 160)}  # height and width of the batch, where they are not those of the image
PAIR = ("small-c4", "second-c4")  # two images of one batch
OBJECTS = 60
STEP = 7  # of anchors, the slopes of every seventh are kept


def truth(scene):
    """Boxes int [N, 4] xyxy, labels [N] in 0..CLASSES-1, masks bool [N, height, width], corners of polygons [N, P, 2].

    A box ends where its mask does. In a crowd none is cut at the edge, where several anchors would hold it and overlap
    it alike, and none stands in the middle between two anchors: which of them is the better, rounding would say. The
    one object of a small scene has four or more best anchors, to the last bit.
    """
    height, width, sides = SCENES[scene]
    if not scene.startswith("crowded"):
        every = sides if isinstance(sides[0], tuple) else (sides,)
        planes = np.zeros((len(every), height, width), bool)
        for plane, (left, top, right, bottom) in zip(planes, every):
            plane[top:bottom, left:right] = True
        corners = np.array([[(x1, y1), (x2, y1), (x2, y2), (x1, y2)] for x1, y1, x2, y2 in every], float)
        return np.array(every, np.int32), np.arange(1, len(every) + 1), planes, corners
    random = np.random.RandomState(5)
    boxes, masks, polygons = [], [], []
    while len(boxes) < OBJECTS:
        side, ratio = random.choice(sides), random.choice((0.5, 1.0, 2.0))
        centre = 8 * random.randint(1, (width // 8, height // 8)) + random.randint(-2, 3, 2) + 0.5
        half = side / 2 * np.array((ratio**-0.5, ratio**0.5)) * random.uniform(0.93, 1.07, 2)
        cut = random.uniform(0.15, 0.85, 4)
        low, high = np.floor(centre - half).astype(int), np.ceil(centre + half).astype(int)
        if (low < 1).any() or (high > (width - 1, height - 1)).any():
            continue
        corners = np.array(((cut[0], 0), (1, cut[1] / 2), (1, 0.9), (cut[2], 1), (0, cut[3]), (0, 0.1)))
        corners = np.round(8 * (centre - half + corners * 2 * half)) / 8
        inside = np.ones(high[::-1] - low[::-1], bool)
        rows, columns = (one + start + 0.5 for one, start in zip(np.mgrid[: len(inside), : len(inside[0])], low[::-1]))
        for one, other in zip(corners, np.roll(corners, -1, 0)):
            inside &= (other[0] - one[0]) * (rows - one[1]) >= (other[1] - one[1]) * (columns - one[0])
        y, x = np.where(inside.any(1))[0] + low[1], np.where(inside.any(0))[0] + low[0]
        box = x[0], y[0], x[-1] + 1, y[-1] + 1
        if (box[0] + box[2]) % 2 == 0 or (box[1] + box[3]) % 2 == 0:
            continue
        plane = np.zeros((height, width), bool)
        plane[low[1] : high[1], low[0] : high[0]] = inside
        boxes.append(box)
        masks.append(plane)
        polygons.append(corners)
    labels = random.randint(0, CLASSES, OBJECTS)
    return np.array(boxes, np.int32), labels, np.array(masks), np.array(polygons)


def overlaps(boxes, others):
    """Intersection over union of every pair, [N, M]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (high - low).clip(0).prod(2)
    areas = [(one[:, 2:] - one[:, :2]).prod(1) for one in (boxes, others)]
    return common / (areas[0][:, None] + areas[1][None] - common)


def proposal_outputs(anchors, spread, scene):
    """Logits [M] and deltas (dx, dy, dw, dh) [M, 4] of anchors [M, 4] xyxy: sure where an object is, often."""
    random = np.random.RandomState(7 if scene == PAIR[1] else 6)
    likely = overlaps(anchors.astype(np.float64), truth(scene)[0].astype(np.float64)).max(1)
    logits = random.standard_normal(len(anchors)) + 5 * likely - 2
    deltas = spread * random.standard_normal((len(anchors), 4))
    return logits.astype(np.float32), deltas.astype(np.float32)


def class_logits(boxes):
    """Of regions [N, 4] xyxy in pixels, [N, CLASSES + 1], background last, in float64."""
    return 2 * np.sin(_of_boxes(boxes, 7, CLASSES + 1))


def box_deltas(boxes):
    """The same for deltas (dx, dy, dw, dh) of each class, [N, CLASSES, 4]."""
    return 2 * np.sin(_of_boxes(boxes, 8, 4 * CLASSES)).reshape(len(boxes), CLASSES, 4)


def mask_logits(boxes, side):
    """The same for masks of each class, [N, CLASSES, side, side]."""
    phase = _of_boxes(boxes, 9, CLASSES)[:, :, None, None]
    row, column = np.mgrid[:side, :side] / float(side)
    return 2 * np.sin(phase + 5 * row + 3 * column)


def _of_boxes(boxes, seed, count):
    random = np.random.RandomState(seed)
    factors, shift = random.uniform(-0.02, 0.02, (4, count)), random.uniform(0, 6, count)
    return np.asarray(boxes, np.float64).dot(factors) + shift
