"""What Model Garden's own parser, model and task make of the made-up step.

python make_model_garden.py model_garden.npz   # tf-models-official 2.20.0 on TensorFlow 2.20.0 made it

The model is a `MaskRCNNModel` with its own proposals, samplers of regions and of masks; what its networks would say is
made up. The truth is what `maskrcnn_input.Parser` makes of an example, and the losses are those of `MaskRCNNTask`. A
draw takes the first: the parser's sampler takes the first of what was shuffled, that of regions the last.
"""

import collections
import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import made_up
import numpy as np
import tensorflow as tf
from official.vision.configs import maskrcnn as configs
from official.vision.dataloaders import maskrcnn_input
from official.vision.modeling import maskrcnn_model
from official.vision.modeling.layers import mask_sampler, roi_generator, roi_sampler
from official.vision.tasks import maskrcnn as tasks

MASK_SIDE = 28


def yx(boxes):
    return np.stack([boxes[..., 1], boxes[..., 0], boxes[..., 3], boxes[..., 2]], -1)


def levels(flat, like):
    """Values of all anchors [M, C] as maps of each level [1, height, width, A × C]."""
    result, start = collections.OrderedDict(), 0
    for level, anchors in like.items():
        height, width, four = anchors.shape
        count = height * width * four // 4
        result[level] = tf.reshape(flat[start : start + count], [1, height, width, -1])
        start += count
    return result


def parsed(settings, scene):
    """What the parser makes of a scene, beside an image that nothing looks at."""
    height, width, _ = made_up.SCENES[scene]
    boxes, labels, masks, _ = made_up.truth(scene)
    model, parser = settings.model, settings.train_data.parser
    image, found = maskrcnn_input.Parser(
        output_size=[height, width],
        min_level=model.min_level,
        max_level=model.max_level,
        num_scales=model.anchor.num_scales,
        aspect_ratios=model.anchor.aspect_ratios,
        anchor_size=model.anchor.anchor_size,
        rpn_match_threshold=parser.rpn_match_threshold,
        rpn_unmatched_threshold=parser.rpn_unmatched_threshold,
        rpn_batch_size_per_im=parser.rpn_batch_size_per_im,
        rpn_fg_fraction=parser.rpn_fg_fraction,
        include_mask=True,
        mask_crop_size=parser.mask_crop_size,
        dtype="float32",
    )._parse_train_data(
        {
            "image": tf.zeros([height, width, 3], tf.uint8),
            "groundtruth_classes": tf.constant(labels + 1, tf.int64),
            "groundtruth_boxes": tf.constant(yx(boxes) / np.array([height, width] * 2), tf.float32),
            "groundtruth_instance_masks": tf.constant(masks, tf.float32),
            "groundtruth_is_crowd": tf.zeros(len(boxes), tf.bool),
        }
    )
    return image[None], tf.nest.map_structure(lambda one: one[None], found)


def run(scene):
    settings = configs.MaskRCNNTask(model=configs.MaskRCNN(num_classes=made_up.CLASSES + 1))
    tf.random.shuffle = lambda values: values
    image, labels = parsed(settings, scene)
    tf.random.shuffle = lambda values: values[::-1]
    anchors = {level: one[0].numpy() for level, one in labels["anchor_boxes"].items()}
    flat = np.concatenate([one.reshape(-1, 4) for one in anchors.values()])
    logits, deltas = (tf.constant(one) for one in made_up.proposal_outputs(yx(flat), 0.05, scene))
    scales = [tf.constant(1.0) for _ in range(3)]
    regions = []

    def heads(boxes):
        corners = yx(boxes[0].numpy())
        regions.append(corners)
        moves = yx(made_up.box_deltas(corners))
        moves = np.concatenate([np.zeros_like(moves[:, :1]), moves], 1).reshape(len(corners), -1)
        classes = np.roll(made_up.class_logits(corners), 1, 1)
        return scales[0] * classes.astype(np.float32)[None], scales[1] * moves.astype(np.float32)[None]

    def masks(given):
        boxes, classes = (one[0].numpy() for one in given)
        every = made_up.mask_logits(yx(boxes), MASK_SIDE).astype(np.float32)
        return scales[2] * every[np.arange(len(boxes)), np.maximum(classes - 1, 0)][None]

    sampler, generator = settings.model.roi_sampler.as_dict(), settings.model.roi_generator.as_dict()
    sampler.pop("cascade_iou_thresholds")
    with tf.GradientTape() as tape:
        tape.watch([logits, deltas, *scales])
        said = levels(logits, anchors), levels(tf.gather(deltas, [1, 0, 3, 2], axis=1), anchors)
        home = maskrcnn_model.MaskRCNNModel(
            backbone=lambda images: images,
            decoder=lambda maps: maps,
            rpn_head=lambda maps: said,
            detection_head=heads,
            roi_generator=roi_generator.MultilevelROIGenerator(**generator),
            roi_sampler=roi_sampler.ROISampler(**sampler),
            roi_aligner=lambda maps, boxes: boxes,
            detection_generator=None,
            mask_head=masks,
            mask_sampler=mask_sampler.MaskSampler(MASK_SIDE, settings.model.mask_sampler.num_sampled_masks),
            mask_roi_aligner=lambda maps, boxes: boxes,
        )
        outputs = home.call(
            image,
            labels["image_info"][:, 1, :],
            anchor_boxes=labels["anchor_boxes"],
            gt_boxes=labels["gt_boxes"],
            gt_classes=tf.cast(labels["gt_classes"], tf.int32),
            gt_masks=labels["gt_masks"],
            training=True,
        )
        found = tasks.MaskRCNNTask(settings).build_losses(outputs, labels)
    names = ("rpn_score_loss", "rpn_box_loss", "frcnn_cls_loss", "frcnn_box_loss", "mask_loss")
    by_logit, by_delta, *by_scale = tape.gradient(found["total_loss"], [logits, deltas, *scales])
    values = [found[name].numpy() for name in names]
    classes = outputs["class_targets"][0].numpy()
    print(
        scene,
        values,
        len(regions[0]),
        (classes > 0).sum(),
        (by_logit.numpy() != 0).sum(),
        by_delta.numpy().any(1).sum(),
    )
    return {
        "losses": np.array(values, np.float32),
        "regions": regions[0],
        "slopes.logits": by_logit.numpy()[:: made_up.STEP],
        "slopes.deltas": by_delta.numpy()[:: made_up.STEP],
        "slopes.heads": np.array(by_scale, np.float32),
    }


def main(out):
    scenes = {scene: run(scene) for scene in ("crowded", "small-64")}
    np.savez_compressed(out, **{scene + "." + name: found[name] for scene, found in scenes.items() for name in found})


if __name__ == "__main__":
    main(sys.argv[1])
