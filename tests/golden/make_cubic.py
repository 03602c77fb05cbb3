"""What OpenCV's cubic resizing of grey levels rounds where two levels are equally near, and of other sides.

python make_cubic.py cubic.npz     # opencv-python 4.11.0 on a processor with AVX-512 made it

A pattern of 3 × 3 pixels, repeated and enlarged 5/3 times, has the same 25 sums everywhere, and so has one of 5 × 5
pixels reduced to 3/5. Kept are patterns of which float64 rounds some to another level, and noise at factors of which
OpenCV takes other ways: the size is a whole multiple or was rounded, and up or down.
"""

import sys

import cv2
import numpy as np

FACTORS = (5 / 3, 1.7137, 0.91, 0.75)


def resized(image, factor):
    return cv2.resize(image, None, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def exact(image, factor):
    """The middle of the pattern's picture, in float64."""
    after = round(len(image) * factor)
    side = (np.arange(after) + 0.5) / factor - 0.5
    first = np.floor(side).astype(int)
    away = np.abs(side - first - np.arange(-1, 3)[:, None])
    kernel = np.where(away < 1, (1.25 * away - 2.25) * away**2 + 1, -0.75 * (((away - 5) * away + 8) * away - 4))
    taken = (first + np.arange(-1, 3)[:, None]).clip(0, len(image) - 1)
    wide = sum(image[:, at] * weight[:, None] for at, weight in zip(taken, kernel, strict=True))
    return sum(wide[at] * weight[:, None, None] for at, weight in zip(taken, kernel, strict=True))


def images(draw, period, side, factor):
    """Eight patterns, `side` pixels high and wide, that tell how sums are rounded."""
    kept = []
    while len(kept) < 8:
        image = np.tile(draw.integers(0, 256, (period, period, 3), dtype=np.uint8), (20, 20, 1))[:side, :side]
        if (resized(image, factor) != np.rint(exact(image, factor)).clip(0, 255))[4:-4, 4:-4].any():
            kept.append(image)
    return np.stack(kept)


def main(path):
    draw = np.random.default_rng(0)
    patterns = {5 / 3: images(draw, 3, 30, 5 / 3), 0.6: images(draw, 5, 41, 0.6)}
    noise = draw.integers(0, 256, (40, 51, 3), dtype=np.uint8)
    kept = {"noise": noise, "factors": np.array(FACTORS)}
    for (factor, these), what in zip(patterns.items(), ("enlarged", "reduced"), strict=True):
        kept |= {f"{what}.before": these, what: np.stack([resized(image, factor) for image in these])}
    for index, factor in enumerate(FACTORS):
        kept[f"noise.{index}"] = resized(noise, factor)
    np.savez_compressed(path, **kept)


if __name__ == "__main__":
    main(sys.argv[1])
