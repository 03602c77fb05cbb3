"""What Matterport's own targets and losses make of the made-up step.

python make_matterport.py matterport.npz matterport_other.npz

TensorFlow 1.15.5, Keras 2.2.5, mrcnn 2.1 and scikit-image 0.17.2 made them: one with the settings of its `Config`, one
with others.

A draw takes the first, on both sides. The losses are those of `mrcnn/model.py`, its own layers one after
the other: `ProposalLayer`, `detection_targets_graph`, `build_rpn_targets`, and the five `*_loss_graph`.
"""

import sys

import keras.backend as K
import made_up
import mrcnn.model as modellib
import numpy as np
import tensorflow as tf
from mrcnn import utils
from mrcnn.config import Config


class MadeUp(Config):
    NAME = "made up"
    IMAGES_PER_GPU = 1
    NUM_CLASSES = 1 + made_up.CLASSES


WEIGHTS = {
    "rpn_class_loss": 1.0,
    "rpn_bbox_loss": 0.5,
    "mrcnn_class_loss": 2.0,
    "mrcnn_bbox_loss": 1.5,
    "mrcnn_mask_loss": 0.8,
}


class Other(MadeUp):
    USE_MINI_MASK = False
    TRAIN_ROIS_PER_IMAGE = 90
    ROI_POSITIVE_RATIO = 0.4
    RPN_TRAIN_ANCHORS_PER_IMAGE = 100
    POST_NMS_ROIS_TRAINING = 400
    PRE_NMS_LIMIT = 1000
    RPN_BBOX_STD_DEV = np.array([0.1, 0.12, 0.2, 0.25])
    BBOX_STD_DEV = np.array([0.15, 0.1, 0.2, 0.3])
    LOSS_WEIGHTS = WEIGHTS


def first(values, size=None, replace=True):
    """`np.random.choice` of those that are to be left out: all but the first."""
    assert not replace
    return values[len(values) - size :]


def yx(boxes):
    return np.stack([boxes[..., 1], boxes[..., 0], boxes[..., 3], boxes[..., 2]], -1)


def run(scene, config):
    height, width, _ = made_up.SCENES[scene]
    boxes, labels, masks, _ = made_up.truth(scene)
    masks = np.moveaxis(masks, 0, -1)
    truth = utils.extract_bboxes(masks)
    assert (truth == yx(boxes)).all()
    shapes = np.array([(-(-height // stride), -(-width // stride)) for stride in config.BACKBONE_STRIDES])
    anchors = utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, shapes, config.BACKBONE_STRIDES, config.RPN_ANCHOR_STRIDE
    )
    match, wanted = modellib.build_rpn_targets((height, width, 3), anchors, labels + 1, truth, config)
    logits, deltas = made_up.proposal_outputs(yx(anchors), 0.5, scene)
    pairs = tf.constant(np.stack([np.zeros_like(logits), logits], -1)[None])
    moves = tf.constant(yx(deltas)[None])
    proposals = modellib.ProposalLayer(config.POST_NMS_ROIS_TRAINING, config.RPN_NMS_THRESHOLD, config)(
        [tf.nn.softmax(pairs), moves, tf.constant(utils.norm_boxes(anchors, (height, width))[None])]
    )
    small = utils.minimize_mask(truth, masks, config.MINI_MASK_SHAPE) if config.USE_MINI_MASK else masks
    rois, classes, offsets, inner = modellib.detection_targets_graph(
        proposals[0],
        tf.constant(labels + 1, tf.int32),
        tf.constant(utils.norm_boxes(truth, (height, width))),
        tf.constant(small),
        config,
    )
    session = K.get_session()
    rois, classes, offsets, inner = session.run([rois, classes, offsets, inner])
    corners = rois * np.array([height - 1, width - 1, height - 1, width - 1], np.float32)
    regions = yx(corners)  # x2, y2 are the last pixels
    scales = [tf.constant(1.0) for _ in range(3)]
    said = np.roll(made_up.class_logits(regions), 1, 1).astype(np.float32)
    moved = np.pad(yx(made_up.box_deltas(regions)), ((0, 0), (1, 0), (0, 0)), "constant").astype(np.float32)
    side = config.MASK_SHAPE[0]
    seen = np.pad(made_up.mask_logits(regions, side), ((0, 0), (1, 0), (0, 0), (0, 0)), "constant").astype(np.float32)
    losses = [
        modellib.rpn_class_loss_graph(tf.constant(match[None, :, None]), pairs),
        modellib.rpn_bbox_loss_graph(
            config, tf.constant(wanted[None].astype(np.float32)), tf.constant(match[None, :, None]), moves
        ),
        modellib.mrcnn_class_loss_graph(
            tf.constant(classes[None]), scales[0] * said[None], tf.ones((1, config.NUM_CLASSES))
        ),
        modellib.mrcnn_bbox_loss_graph(tf.constant(offsets[None]), tf.constant(classes[None]), scales[1] * moved[None]),
        modellib.mrcnn_mask_loss_graph(
            tf.constant(inner[None]),
            tf.constant(classes[None]),
            tf.sigmoid(scales[2] * np.moveaxis(seen, 1, -1)[None]),
        ),
    ]
    weighed = [
        config.LOSS_WEIGHTS[name] * loss
        for name, loss in zip(
            ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss"), losses
        )
    ]
    slopes = tf.gradients(tf.add_n([tf.reduce_sum(one) for one in weighed]), [pairs, moves, *scales])
    weighed, (by_pair, by_move, *by_scale) = session.run([weighed, slopes])
    found = {
        "losses": np.array([np.sum(one) for one in weighed], np.float32),
        "regions": regions,
        "labels": classes,
        "positives": np.array([(match == 1).sum(), (match == -1).sum(), (classes > 0).sum()]),
        "slopes.logits": by_pair[0, :, 1][:: made_up.STEP],
        "slopes.deltas": yx(by_move[0])[:: made_up.STEP],
        "slopes.heads": np.array(by_scale, np.float32),
    }
    print(scene, found["losses"], found["positives"], found["slopes.heads"])
    return found


def main(*outs):
    np.random.choice = first
    tf.random_shuffle = lambda values, **_: values
    for out, config in zip(outs, (MadeUp(), Other())):
        scenes = {scene: run(scene, config) for scene in ("crowded", "small")}
        arrays = {scene + "." + name: found[name] for scene, found in scenes.items() for name in found}
        np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
