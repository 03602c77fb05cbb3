"""What TF Model Garden's own suppression in tiles keeps of boxes that lie in heaps, some of no area.

python make_tiled_suppression.py tiled_suppression.npz     # tf-models-official 2.20.0 made it
"""

import sys

import numpy as np
import tensorflow as tf
from official.vision.ops import nms

THRESHOLDS = (0.0, 0.1, 0.2, 0.35, 0.45, 0.5, 0.6, 0.7)
COUNTS = (1, 30, 200, 512, 700, 1100)


def main(out):
    random = np.random.RandomState(5)
    found = {"thresholds": np.array(THRESHOLDS)}
    for case, count in enumerate(COUNTS):
        middles = random.randint(0, 160, (count // 6 + 2, 2))[random.randint(0, count // 6 + 2, count)]
        sides = random.randint(0 if case % 2 else 1, 24, (count, 2)) * random.randint(1, 5, (count, 1))
        low = middles + random.randint(-9, 10, (count, 2)) - sides // 2
        corners = np.concatenate([low, low + sides], 1).clip(0, 128)
        found[f"{case}.boxes"] = corners.astype(np.uint8)  # y1, x1, y2, x2, best first
        scores = np.linspace(0.9, 0.1, count, dtype=np.float32)
        for place, threshold in enumerate(THRESHOLDS):
            stay, _ = nms.sorted_non_max_suppression_padded(
                tf.constant(scores)[None], tf.constant(corners, tf.float32)[None], count, threshold
            )
            found[f"{case}.{place}"] = np.packbits(np.isin(scores, stay.numpy()[stay.numpy() > 0]))
    np.savez_compressed(out, **found)


if __name__ == "__main__":
    main(sys.argv[1])
