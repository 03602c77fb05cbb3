"""What TensorFlow's own suppression makes of boxes with equal scores, overlaps at the threshold, and no area.

python make_suppression.py suppression.npz     # TensorFlow 1.15.5 made it
"""

import sys

import numpy as np
import tensorflow as tf

CASES = 24
THRESHOLD = 0.5


def main(out):
    random = np.random.RandomState(3)
    boxes, scores, most = (tf.placeholder(tf.float32, shape) for shape in ([None, 4], [None], []))
    kept = tf.image.non_max_suppression(boxes, scores, tf.cast(most, tf.int32), THRESHOLD)
    session, found = tf.Session(), {}
    for case in range(CASES):
        count = random.randint(1, 60) if case < CASES - 4 else 400
        low = random.randint(0, 12, (count, 2))
        corners = np.concatenate([low, low + random.randint(0 if case % 2 else 1, 9, (count, 2))], 1)
        edges = corners.astype(np.float32)
        values = random.randint(-3, 1 + case % 7, count).astype(np.float32) / 4
        wanted = random.randint(1, count + 8)
        found.update({f"{case}.boxes": edges, f"{case}.scores": values, f"{case}.most": wanted})
        found[f"{case}.kept"] = session.run(kept, {boxes: edges, scores: values, most: wanted})
    np.savez_compressed(out, **found)


if __name__ == "__main__":
    main(sys.argv[1])
