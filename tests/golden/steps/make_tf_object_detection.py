"""What the TF Object Detection API's own targets and losses make of the made-up step.

python make_tf_object_detection.py tf_object_detection.npz   # object_detection 2.8.0 on TensorFlow 1.15.5 made it

The methods are `FasterRCNNMetaArch`'s own, those that both its TensorFlow 1 and 2 models are trained by; its parts are
put together as `builders/model_builder.py` does for `mask_rcnn_resnet50_atrous_coco.config`. A draw takes the first.

There the square root of 1 is one bit below 1, so that square anchors which begin with the upper edge of the image begin
above it and are left out, and those at its left edge are not. Anchors are rounded here: bits shall decide nothing.
"""

import functools
import sys

import made_up
import numpy as np
import tensorflow.compat.v1 as tf
from object_detection.anchor_generators import grid_anchor_generator
from object_detection.core import balanced_positive_negative_sampler as samplers
from object_detection.core import box_list, box_list_ops, losses, post_processing, standard_fields, target_assigner
from object_detection.meta_architectures import faster_rcnn_meta_arch
from object_detection.utils import spatial_transform_ops

MASK_SIDE = 33


def yx(boxes):
    return np.stack([boxes[..., 1], boxes[..., 0], boxes[..., 3], boxes[..., 2]], -1)


def model():
    """A model of no networks, set as the published configs of ResNet-50, ResNet-101 and Inception v2 set it."""
    found = object.__new__(faster_rcnn_meta_arch.FasterRCNNMetaArch)
    proposals = target_assigner.create_target_assigner("FasterRCNN", "proposal")
    for name, value in {
        "_groundtruth_lists": {},
        "_is_training": True,
        "_num_classes": made_up.CLASSES,
        "_box_coder": proposals.box_coder,
        "_proposal_target_assigner": proposals,
        "_detector_target_assigner": target_assigner.create_target_assigner("FasterRCNN", "detection"),
        "_first_stage_sampler": samplers.BalancedPositiveNegativeSampler(positive_fraction=0.5),
        "_first_stage_minibatch_size": 256,
        "_first_stage_max_proposals": 300,
        "_first_stage_nms_fn": functools.partial(
            post_processing.batch_multiclass_non_max_suppression,
            score_thresh=0.0,
            iou_thresh=0.7,
            max_size_per_class=300,
            max_total_size=300,
        ),
        "_second_stage_sampler": samplers.BalancedPositiveNegativeSampler(positive_fraction=0.25),
        "_second_stage_batch_size": 64,
        "_use_static_shapes": False,
        "_resize_masks": False,
        "_hard_example_miner": None,
        "_parallel_iterations": 1,
        "_first_stage_localization_loss": losses.WeightedSmoothL1LocalizationLoss(),
        "_first_stage_objectness_loss": losses.WeightedSoftmaxClassificationLoss(),
        "_second_stage_localization_loss": losses.WeightedSmoothL1LocalizationLoss(),
        "_second_stage_classification_loss": losses.WeightedSoftmaxClassificationLoss(),
        "_second_stage_mask_loss": losses.WeightedSigmoidClassificationLoss(),
        "_first_stage_obj_loss_weight": 1.0,
        "_first_stage_loc_loss_weight": 2.0,
        "_second_stage_cls_loss_weight": 1.0,
        "_second_stage_loc_loss_weight": 2.0,
        "_second_stage_mask_loss_weight": 4.0,
        "_crop_and_resize_fn": functools.partial(crops),
    }.items():
        object.__setattr__(found, name, value)
    return found


def crops(maps, boxes, levels, size):
    return spatial_transform_ops.native_crop_and_resize(maps[0], boxes, size)


def run(*scenes, cut=False):
    """A step of one image or of a batch of several, which have the same size.

    `cut`: with `clip_anchors_to_image`, as `_predict_first_stage` obeys it.
    """
    count = len(scenes)
    height, width, _ = made_up.SCENES[scenes[0]]
    scale = np.array([height, width] * 2, np.float32)
    truths = [made_up.truth(scene) for scene in scenes]
    home = model()
    home._groundtruth_lists = {
        standard_fields.BoxListFields.boxes: [
            tf.constant((yx(boxes) / scale.astype(float)).astype(np.float32)) for boxes, _, _, _ in truths
        ],
        standard_fields.BoxListFields.classes: [tf.one_hot(labels, made_up.CLASSES) for _, labels, _, _ in truths],
        standard_fields.BoxListFields.masks: [tf.constant(masks.astype(np.float32)) for _, _, masks, _ in truths],
    }
    generator = grid_anchor_generator.GridAnchorGenerator(scales=(0.25, 0.5, 1.0, 2.0), aspect_ratios=(0.5, 1.0, 2.0))
    session = tf.Session()
    every = session.run(generator.generate([(-(-height // 16), -(-width // 16))])[0].get())
    every = box_list.BoxList(tf.constant(np.round(every * 8192) / 8192, tf.float32))
    window = tf.constant([0, 0, height, width], tf.float32)
    every = box_list_ops.clip_to_window(every, window, filter_nonoverlapping=False) if cut else every
    said = [made_up.proposal_outputs(yx(session.run(every.get())), 0.5, scene) for scene in scenes]
    pairs = tf.constant(np.stack([np.stack([np.zeros_like(logits), logits], -1) for logits, _ in said]))
    moves = tf.constant(np.stack([yx(deltas) for _, deltas in said]))
    kept_moves, kept_pairs, anchors = moves, pairs, every
    if not cut:
        kept_moves, kept_pairs, anchors = home._remove_invalid_anchors_and_predictions(moves, pairs, every, window)
    shapes = tf.constant([[height, width, 3]] * count, tf.int32)
    regions, _, _, counts, _, _ = home._postprocess_rpn(kept_moves, kept_pairs, anchors.get(), shapes, shapes)
    corners, counts = session.run([regions, counts])
    given = (corners * scale).astype(np.float32)
    xy = yx(given).reshape(-1, 4)
    scales = [tf.constant(1.0) for _ in range(3)]
    truth = home._format_groundtruth_data(shapes)
    known = target_assigner.batch_assign_targets(
        home._detector_target_assigner,
        [box_list.BoxList(tf.constant(one)) for one in given],
        truth[0],
        truth[1],
        tf.constant([1] + made_up.CLASSES * [0], tf.float32),
        truth[3],
    )[0]
    classes = session.run(tf.argmax(known, 2)).ravel()
    inner = made_up.mask_logits(xy, MASK_SIDE).astype(np.float32)
    found = dict(home._loss_rpn(kept_moves, kept_pairs, anchors.get(), truth[0], truth[1], truth[3]))
    found.update(
        home._loss_box_classifier(
            scales[1] * yx(made_up.box_deltas(xy)).astype(np.float32),
            scales[0] * np.roll(made_up.class_logits(xy), 1, 1).astype(np.float32),
            tf.constant(given),
            tf.constant(counts),
            truth[0],
            truth[1],
            truth[3],
            tf.constant([count, height, width, 3]),
            # in training the mask head is asked for the class of the truth alone
            scales[2] * inner[np.arange(len(xy)), np.maximum(classes - 1, 0)][:, None],
            truth[2],
        )
    )
    names = (
        "Loss/RPNLoss/objectness_loss",
        "Loss/RPNLoss/localization_loss",
        "Loss/BoxClassifierLoss/classification_loss",
        "Loss/BoxClassifierLoss/localization_loss",
        "Loss/BoxClassifierLoss/mask_loss",
    )
    slopes = tf.gradients(tf.add_n([found[name] for name in names]), [pairs, moves, *scales])
    values, (by_pair, by_move, *by_scale) = session.run([[found[name] for name in names], slopes])
    result = {
        "losses": np.array(values, np.float32),
        "regions": np.concatenate([yx(one[:number]) for one, number in zip(given, counts)]),
        "labels": classes,
        "slopes.logits": by_pair[..., 1].ravel()[:: made_up.STEP],
        "slopes.deltas": yx(by_move).reshape(-1, 4)[:: made_up.STEP],
        "slopes.heads": np.array(by_scale, np.float32),
    }
    print(scenes, values, counts, (classes > 0).sum(), (by_pair[..., 1] != 0).sum(1), by_move.any(2).sum(1))
    return result


def main(out):
    tf.disable_eager_execution()
    tf.random_shuffle = lambda values, **_: values
    scenes = {"crowded-c4": run("crowded-c4"), "small-c4": run("small-c4"), "pair-c4": run(*made_up.PAIR)}
    scenes["crowded-cut-c4"] = run("crowded-cut-c4", cut=True)
    np.savez_compressed(out, **{scene + "." + name: found[name] for scene, found in scenes.items() for name in found})


if __name__ == "__main__":
    main(sys.argv[1])
