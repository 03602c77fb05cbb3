"""What Tensorpack's own targets and losses make of the made-up step.

python make_tensorpack.py tensorpack.npz     # its examples/FasterRCNN on TensorFlow 1.15.5 made it

Its settings are those of `config.py` with a pyramid. A draw takes the first, on both sides, and so the best proposals
of all levels are sorted, which there they are not.
"""

import sys
import types

import made_up
import numpy as np
import tensorflow as tf

SIDE = 28


def quiet(*modules):
    for module in modules:
        module.add_moving_summary = lambda *_: None


def first(values, size, replace):
    """`np.random.choice` of those that are to be left out: all but the first."""
    assert not replace
    return values[len(values) - size :]


def run(scene):
    import data
    from config import config
    from modeling import model_box, model_fpn, model_frcnn, model_mrcnn, model_rpn
    from tensorpack.tfutils.tower import TowerContext

    quiet(model_fpn, model_frcnn, model_mrcnn, model_rpn)
    config.freeze(False)
    config.MODE_FPN = True
    config.RPN.NUM_ANCHOR = len(config.RPN.ANCHOR_RATIOS)
    config.PREPROC.MAX_SIZE = 1344.0  # 1333, made a multiple of 32 (`finalize_configs`)
    config.DATA.NUM_CATEGORY = made_up.CLASSES
    height, width, _ = made_up.SCENES[scene]
    boxes, labels, masks, _ = made_up.truth(scene)
    boxes = boxes.astype(np.float32)
    maker = object.__new__(data.TrainingDataPreprocessor)
    maker.cfg = config
    wanted = maker.get_multilevel_rpn_anchor_input(
        np.zeros((height, width, 3), np.float32), boxes, np.zeros(len(boxes), int)
    )
    every = model_fpn.get_all_anchors_fpn(
        strides=config.FPN.ANCHOR_STRIDES,
        sizes=config.RPN.ANCHOR_SIZES,
        ratios=config.RPN.ANCHOR_RATIOS,
        max_size=config.PREPROC.MAX_SIZE,
    )
    cells = [(-(-height // stride), -(-width // stride)) for stride in config.FPN.ANCHOR_STRIDES]
    cut = [tuple(slice(0, side) for side in one) for one in cells]
    anchors = [
        model_box.RPNAnchors(tf.constant(one[place]), tf.constant(kind[place]), tf.constant(truth[place]))
        for one, (kind, truth), place in zip(every, wanted, cut)
    ]
    flat = np.concatenate([one[place].reshape(-1, 4) for one, place in zip(every, cut)])
    logits, deltas = (tf.constant(one) for one in made_up.proposal_outputs(flat, 0.05, scene))
    parts = [rows * columns * 3 for rows, columns in cells]
    level_logits = [tf.reshape(one, [*cell, 3]) for one, cell in zip(tf.split(logits, parts), cells)]
    level_deltas = [tf.reshape(one, [*cell, 3, 4]) for one, cell in zip(tf.split(deltas, parts), cells)]
    scales = [tf.constant(1.0) for _ in range(3)]
    with TowerContext("", is_training=True):
        losses = list(model_fpn.multilevel_rpn_losses(anchors, level_logits, level_deltas))
        decoded = [one.decode_logits(moves) for one, moves in zip(anchors, level_deltas)]
        proposals, _ = model_fpn.generate_fpn_proposals(decoded, level_logits, tf.constant([height, width]))
        sample = model_frcnn.sample_fast_rcnn_targets(
            proposals, tf.constant(boxes), tf.constant(labels + 1, dtype=tf.int64)
        )
        session = tf.Session()
        regions, classes, which = session.run([sample.boxes, sample.labels, sample.fg_inds_wrt_gt])
        positive = regions[: len(which)]
        said = np.roll(made_up.class_logits(regions), 1, 1).astype(np.float32)
        moved = np.pad(made_up.box_deltas(positive), ((0, 0), (1, 0), (0, 0)), "constant").astype(np.float32)
        offsets = model_box.encode_bbox_target(tf.constant(boxes[which]), tf.constant(positive)) * tf.constant(
            config.FRCNN.BBOX_REG_WEIGHTS
        )
        losses += model_frcnn.fastrcnn_losses(tf.constant(classes), scales[0] * said, offsets, scales[1] * moved)
        inner = model_box.crop_and_resize(
            tf.constant(masks[:, None].astype(np.float32)), tf.constant(positive), which, SIDE, pad_border=False
        )[:, 0]
        seen = scales[2] * made_up.mask_logits(positive, SIDE).astype(np.float32)
        losses.append(model_mrcnn.maskrcnn_loss(seen, tf.constant(classes[: len(which)]), inner))
    slopes = tf.gradients(tf.add_n(losses), [logits, deltas, *scales])
    values, (by_logit, by_move, *by_scale) = session.run([losses, slopes])
    found = {
        "losses": np.array(values, np.float32),
        "regions": regions,
        "labels": classes,
        "slopes.logits": by_logit[:: made_up.STEP],
        "slopes.deltas": by_move[:: made_up.STEP],
        "slopes.heads": np.array(by_scale, np.float32),
    }
    print(scene, values, by_scale, len(which), len(regions), (by_logit != 0).sum())
    return found


def main(out):
    top = tf.nn.top_k
    tf.nn.top_k = lambda values, k, sorted=True: top(values, k, True)
    tf.random.shuffle = lambda values: values
    np.random.choice = first
    absent = types.ModuleType("dataset")
    absent.DatasetRegistry = absent.register_coco = None
    sys.modules["dataset"] = absent
    scenes = {scene: run(scene) for scene in ("crowded", "corner", "inside")}
    np.savez_compressed(out, **{scene + "." + name: found[name] for scene, found in scenes.items() for name in found})


if __name__ == "__main__":
    main(sys.argv[1])
