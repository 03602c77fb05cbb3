"""Trainings with one known fault each, and healthy ones: what the doctor is asked about.

Those of `FAULTS` differ from the healthy case in one thing, and say under which codes a doctor may tell of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

import maskgraft as mg
from benchmarks.workshop import (
    Case,
    Deadly,
    Hanging,
    Slow,
    Workshop,
    all_from_the_middle,
    annotated_twice,
    as_corners,
    as_fractions,
    boxed,
    darkened,
    diverged,
    edited,
    four_pixels_large,
    fresh,
    fresh_convolutions,
    from_scratch,
    from_scratch_slowly,
    further_classes,
    greyed,
    grown_pictures,
    half_annotated,
    in_box,
    labelled,
    labelled_at_random,
    leaking,
    left_and_right,
    loaded_by,
    masked,
    middles_for_corners,
    mostly_one_class,
    negatives,
    new_classes_only,
    no_variance,
    nothing_left,
    numerics,
    of_files,
    of_half_the_size,
    of_neighbours,
    of_others,
    of_twelve_bits,
    one_class,
    one_picture_many_times,
    other_classes,
    other_names_in_val,
    other_spelling,
    poisoned,
    repainted,
    shifted_boxes,
    shifted_ids,
    shrunk_pictures,
    spoiled,
    trained,
    transposed_runs,
    turned_by_exif,
    two_classes_merged,
    val_is_train,
    weighted,
    whole_pictures,
    with_background,
    with_nan,
    with_new_classes,
    without_statistics,
)
from maskgraft.losses import LOSSES

HEALTHY = "healthy"


@dataclass(frozen=True)
class Fault:
    """What was done, the codes that the first finding may have, and how it is made; `shows`: in what passes by while
    it trains, and not only in files and settings that are read before."""

    name: str
    expected: str | tuple[str, ...]
    make: Callable[[Workshop], Case] = field(repr=False)
    shows: bool = True


_ANCHORS = (8.0, 16.0, 32.0, 64.0, 96.0)
_BACKGROUND = ("data.class-background", "data.class-empty")

FAULTS: tuple[Fault, ...] = (
    # annotations
    Fault("labels shifted by one", "train.labels", labelled(lambda label: (label + 1) % 4)),
    Fault("two labels exchanged, two as well", "train.labels", labelled(lambda label: label ^ 1)),
    Fault("category ids less one in the file", "data.category-unknown", edited(shifted_ids), shows=False),
    Fault("validation names the classes otherwise", "train.labels", other_names_in_val),
    Fault("corners in the place of sides", ("data.box-format", "train.boxes"), edited(as_corners), shows=False),
    Fault("sides taken for corners", "train.boxes", boxed(lambda box: (*box[:2], box[2] - box[0], box[3] - box[1]))),
    Fault("boxes of half the size", "train.boxes", boxed(lambda box: tuple(value / 2 for value in box))),
    Fault("annotations upside down", "train.boxes", masked(lambda mask: mask[::-1], boxes=True)),
    Fault("annotations mirrored", "train.boxes", masked(lambda mask: mask[:, ::-1], boxes=True)),
    Fault("x and y exchanged", "train.boxes", masked(lambda mask: mask.T, boxes=True)),
    Fault("annotations of other pictures", "train.boxes", of_others),
    Fault("masks empty", "train.masks-empty", masked(np.zeros_like)),
    Fault("masks flipped in their boxes", "train.masks-flipped", masked(in_box(lambda mask: mask[::-1]))),
    Fault("masks of the ground", "train.masks-inverted", masked(in_box(np.logical_not))),
    Fault("boxes drawn as masks", "train.masks-boxes", masked(in_box(np.ones_like))),
    Fault("classes that no image has", "data.class-empty", with_new_classes(edited(further_classes)), shows=False),
    Fault("a class called background", _BACKGROUND, with_new_classes(edited(with_background)), shows=False),
    Fault("crowds only", "train.no-instances", nothing_left, shows=False),
    Fault("classes that the model does not have", "shape.classes", edited(further_classes), shows=False),
    Fault("images of validation among those of training", "data.leak", leaking, shows=False),
    Fault("an image that is cut off", ("data.image", "data.image-unreadable", "data.image-truncated"), spoiled),
    # annotations, once more
    Fault("masks of other instances", "train.boxes", of_neighbours),
    Fault("fractions for pixels", "train.boxes", edited(as_fractions)),
    Fault("annotated on smaller pictures", "train.boxes", masked(of_half_the_size, boxes=True)),
    Fault("labels at random", "train.labels", labelled_at_random),
    Fault("half of the objects without annotation", "train.unlabelled", half_annotated, shows=False),
    Fault("every instance twice", "data.duplicate-instance", annotated_twice, shows=False),
    Fault("blank pictures", "data.pixels", repainted(lambda picture: 0 * picture)),
    Fault("left and right in mirrored pictures", "train.flip", left_and_right),
    # the input and the weights
    Fault("BGR for RGB", "numerics.channel-order", numerics(channel_order="bgr", pixel_mean=(0.406, 0.456, 0.485))),
    Fault("no mean", "train.pixel-scale", numerics(pixel_mean=(0.0, 0.0, 0.0))),
    Fault("0 to 255 for 0 to 1", "train.pixel-scale", numerics(pixel_scale=1.0)),
    Fault("no deviation", "train.pixel-scale", numerics(pixel_std=(1.0, 1.0, 1.0))),
    Fault("another mean", "train.pixel-scale", numerics(pixel_mean=(0.9, 0.9, 0.9))),
    Fault("a random backbone, frozen", "train.frozen-random", weighted(fresh("backbone"), policy="heads")),
    Fault("random convolutions under old norms", "train.frozen-random", weighted(fresh_convolutions, policy="heads")),
    Fault("a head that was lost", "train.head-random", weighted(fresh("box_head", "box_predictor"))),
    Fault("a weight that is NaN", "values.nan", weighted(with_nan)),
    Fault("variances of nought", "numerics.norm-eps", weighted(no_variance)),
    Fault("eps 0 with fp16", "numerics.norm-eps", numerics(norm_eps=0.0, recipe={"precision": "fp16"})),
    # parts that were lost on the way
    Fault("a proposal network that was lost", "train.head-random", weighted(fresh("rpn"))),
    Fault("a mask head that was lost", "train.head-random", weighted(fresh("mask_head", "mask_predictor"))),
    Fault("a pyramid that was lost", "values.untrained", weighted(fresh("fpn"))),
    Fault("a random backbone that trains", "values.untrained", weighted(fresh("backbone"))),
    Fault("statistics of norms that were lost", "train.batchnorm", weighted(without_statistics)),
    Fault("weights that had diverged", "values.diverged", weighted(diverged)),
    # what trains, and how fast
    Fault("nothing trains", "train.nothing-trainable", trained(multipliers=dict.fromkeys(
        ("backbone", "fpn", "rpn", "box_head", "box_predictor", "mask_head", "mask_predictor"), 0.0))),
    Fault("a learning rate of a hundred times", "train.lr-high", trained(lr=0.25)),
    Fault("a learning rate of a thousandth", "train.lr-low", trained(lr=2.5e-6)),
    Fault("adamw at SGD's rate", "train.lr-high", trained(optimizer="adamw", lr=0.02)),
    Fault("momentum of 0.999", "train.lr-high", trained(momentum=0.999)),
    Fault("a warm-up that never ends", "train.lr-low", trained(warmup=10_000)),
    Fault("a schedule that ends at once", "train.lr-low", trained(milestones=[0.0, 0.0])),
    Fault("clipped to nothing", "train.lr-low", trained(clip_norm=1e-4)),
    Fault("weights that decay", "train.weight-decay", trained(weight_decay=0.5, steps=150, lr=0.01)),
    Fault("held to the start", "train.held", trained(l2sp=100.0)),
    Fault("mask weight of a hundred", "train.loss-dominates", trained(loss_weights={"mask": 100.0})),
    Fault("mask weight of a thousandth", "train.loss-faint", trained(loss_weights={"mask": 0.001})),
    Fault("training norms with batches of one", "train.batchnorm", trained(train_norms=True, batch=1)),
    Fault("old classes without images", "train.forgetting", new_classes_only, shows=False),
    Fault("gradients clipped by value", "train.lr-low", trained(clip_value=1e-6)),
    Fault("a backbone at two hundred times the rate", "train.lr-high", trained(multipliers={"backbone": 200.0})),
    Fault("all losses times fifty", "train.lr-high", trained(loss_weights=dict.fromkeys(LOSSES, 50.0))),
    Fault("adamw with a decay of 30", "train.weight-decay", trained(optimizer="adamw", lr=1e-3, weight_decay=30.0)),
    # what is sampled
    Fault("anchors of eight times", "train.anchors-miss", numerics(anchor_sizes=tuple((8 * a,) for a in _ANCHORS))),
    Fault("anchors of an eighth", "train.anchors-miss", numerics(anchor_sizes=tuple((a / 8,) for a in _ANCHORS))),
    Fault("no positive anchors", "train.rpn-starved", trained(numerics={"rpn_positive_fraction": 0.001})),
    Fault("no negative anchors", "train.rpn-starved", trained(numerics={"rpn_negative_iou": 0.0})),
    Fault("no regions of objects", "train.heads-starved", trained(numerics={"roi_positive_fraction": 0.01})),
    Fault("large proposals only", "train.rpn-recall", trained(numerics={"rpn_min_size": 80})),
    Fault("three proposals", "train.rpn-recall", trained(numerics={"rpn_post_nms_train": 3})),
    Fault("sure detections only", "train.thresholds", trained(numerics={"score_threshold": 0.95})),
    Fault("input of 32 pixels", ("train.input-small", "train.anchors-miss"), trained(min_size=32, max_size=32)),
    Fault("regions beside objects taken for them", "train.sampling", trained(numerics={"roi_positive_iou": 0.05})),
    Fault("anchors beside objects taken for them", "train.sampling", trained(
        numerics={"rpn_positive_iou": 0.1, "rpn_negative_iou": 0.05})),
    Fault("one detection at most", "train.thresholds", trained(numerics={"max_detections": 1})),
    Fault("shrunk to nothing", "train.input-small", trained(scale_jitter=(0.05, 0.1))),
    # while it trains
    Fault("a slow disk", "train.loader-slow", loaded_by(Slow, steps=20)),
    Fault("a worker that hangs", "train.loader-stalled", loaded_by(Hanging, every=9, workers=1, steps=12)),
    Fault("a worker that ends", "train.loader-died", loaded_by(Deadly, every=9, workers=1, steps=40)),
    Fault("a box that is not a number", "train.boxes", poisoned((float("nan"), 10.0, 50.0, 60.0))),
    Fault("a box of no width", ("train.boxes", "train.outlier"), poisoned((40.0, 10.0, 40.0, 60.0))),
    # what else people do
    Fault("pictures shrunk since they were annotated", "data.box-outside", of_files(shrunk_pictures), shows=False),
    Fault("pictures grown since they were annotated", "train.boxes", of_files(grown_pictures)),
    Fault("pictures turned by a tag", ("train.boxes", "data.exif"), of_files(turned_by_exif)),
    Fault("twelve bits in files of sixteen", "data.pixels", of_files(of_twelve_bits)),
    Fault("run lengths along the rows", "train.boxes", of_files(transposed_runs)),
    Fault("boxes of whole pictures", "train.boxes", of_files(whole_pictures)),
    Fault("middles for corners", "train.boxes", of_files(middles_for_corners)),
    Fault("boxes and polygons from the middle", "train.boxes", of_files(all_from_the_middle)),
    Fault("objects of four pixels", ("train.input-small", "train.anchors-miss"), of_files(four_pixels_large)),
    Fault("one class in the place of all", "data.class-dominates", mostly_one_class, shows=False),
    Fault("validation is the training", "data.leak", val_is_train, shows=False),
    Fault("two pictures under all names", "data.duplicate-image", one_picture_many_times, shows=False),
    Fault("two classes in one", ("data.class-empty", "train.labels"), two_classes_merged, shows=False),
    Fault("names in another spelling", "data.class-names", other_spelling, shows=False),
    Fault("annotations aside", "train.boxes", shifted_boxes),
    Fault("negatives", "train.pixel-scale", repainted(negatives)),
    Fault("dark pictures", "data.pixels", repainted(darkened)),
    Fault("red and blue exchanged in the files", "numerics.channel-order", repainted(lambda one: one[..., ::-1])),
    Fault("a loss of weight nought", "train.loss-off", trained(loss_weights={"mask": 0.0})),
    Fault("all losses by a thousandth", "train.lr-low", trained(loss_weights=dict.fromkeys(LOSSES, 1e-3))),
    Fault("a distillation of a thousand", "train.held", trained(distil=1000.0)),
    Fault("the rate of sixteen images for two", "train.lr-high", trained(lr=0.02)),
    Fault("the conventions of Caffe", ("train.pixel-scale", "numerics.channel-order"), numerics(
        channel_order="bgr", pixel_scale=1.0, pixel_mean=(103.53, 116.28, 123.675), pixel_std=(1.0, 1.0, 1.0))),
    Fault("the conventions of TensorFlow", "train.pixel-scale", numerics(
        pixel_scale=1 / 127.5, pixel_mean=(1.0, 1.0, 1.0), pixel_std=(1.0, 1.0, 1.0))),
)  # fmt: skip


HEALTHY_RUNS: tuple[Fault, ...] = (
    Fault("everything trains, with validation", HEALTHY, lambda shop: replace(shop.case(steps=100), val=shop.val)),
    Fault("the heads train", HEALTHY, trained(policy="heads")),
    Fault("from scratch", HEALTHY, from_scratch),
    Fault("from scratch, by SGD", HEALTHY, from_scratch_slowly),
    Fault("new classes", HEALTHY, other_classes),
    Fault("one class", HEALTHY, one_class),
    Fault("strong augmentation", HEALTHY, trained(scale_jitter=(0.7, 1.4), photometric=1.0, flip_vertical=0.5)),
    Fault("stages, cosine, a running mean, bf16", HEALTHY, lambda shop: Case(shop.model(), shop.train, mg.Recipe(
        batch=2, workers=1, stages="heads:30st@2e-3, all:50st@1e-3", schedule="cosine", ema=0.9, precision="bf16",
        clip_norm=5.0, evaluate_every=0))),
    Fault("twice the usual rate, one image a step", HEALTHY, trained(batch=1, lr=0.0025, steps=80)),
    Fault("a mean that runs longer than the training", HEALTHY, trained(ema=0.99999)),
    Fault("grey photographs", HEALTHY, repainted(greyed)),
    Fault("adamw, gentle", HEALTHY, trained(optimizer="adamw", lr=1e-4, multipliers="gentle", batch=4, steps=60)),
)  # fmt: skip
