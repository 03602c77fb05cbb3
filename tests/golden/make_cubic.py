"""What OpenCV's cubic resizing of grey levels rounds where two levels are equally near, and of other sides.

python make_cubic.py cubic.npz     # opencv-python 4.11.0 on a processor with AVX-512 made it

A pattern of 3 × 3 pixels, repeated and enlarged 5/3 times, has the same 25 sums everywhere. Kept are patterns of which
float64 rounds some to another level, and noise at factors of which OpenCV takes other ways: the size is a whole
multiple or was rounded, and up or down.
"""

import sys

import cv2
import numpy as np

FACTORS = (5 / 3, 1.7137, 0.91, 0.75)


def resized(image, factor):
    return cv2.resize(image, None, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def exact(image):
    """The middle of the pattern's enlargement, in float64."""
    side = (np.arange(50) + 0.5) * 0.6 - 0.5
    first = np.floor(side).astype(int)
    away = np.abs(side - first - np.arange(-1, 3)[:, None])
    kernel = np.where(away < 1, (1.25 * away - 2.25) * away**2 + 1, -0.75 * (((away - 5) * away + 8) * away - 4))
    taken = (first + np.arange(-1, 3)[:, None]).clip(0, 29)
    wide = sum(image[:, at] * weight[:, None] for at, weight in zip(taken, kernel, strict=True))
    return sum(wide[at] * weight[:, None, None] for at, weight in zip(taken, kernel, strict=True))


def main(path):
    draw = np.random.default_rng(0)
    patterns = []
    while len(patterns) < 8:
        pattern = draw.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        image = np.tile(pattern, (10, 10, 1))
        other = resized(image, 5 / 3) != np.rint(exact(image)).clip(0, 255)
        if other[15:30, 15:30].any():
            patterns.append(pattern)
    noise = draw.integers(0, 256, (40, 51, 3), dtype=np.uint8)
    kept = {"patterns": np.stack(patterns), "noise": noise, "factors": np.array(FACTORS)}
    kept["enlarged"] = np.stack([resized(np.tile(pattern, (10, 10, 1)), 5 / 3) for pattern in patterns])
    for index, factor in enumerate(FACTORS):
        kept[f"noise.{index}"] = resized(noise, factor)
    np.savez_compressed(path, **kept)


if __name__ == "__main__":
    main(sys.argv[1])
