"""A training step of every family against what its home framework's own targets and losses make of it.

What a network says is made up (`tests/golden/steps`), so that nothing but conventions decides: which anchors and
regions are sampled, what they should answer, and how the losses are weighed.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from maskgraft.families import (
    chainer,
    detectron2,
    detectron_caffe2,
    maskrcnn_benchmark,
    matterport,
    mmdet,
    model_garden,
    paddle,
    tensorpack,
    tf_object_detection,
)
from maskgraft.families.detectron_maths import of_arch
from maskgraft.ops import selection
from maskgraft.spec import Arch, Numerics
from tests.golden.flips import TRAINING, others
from tests.golden.steps import made_up
from tests.golden.steps.ours import FOLDER, Golden, Step, empty_maps, faults, step

# Matterport's with the settings of `Other` (`tests/golden/steps/make_matterport.py`).
OTHER_MATTERPORT = replace(
    matterport.NUMERICS,
    mask_targets="crop",
    roi_samples=90,
    roi_positive_fraction=0.4,
    rpn_samples=100,
    rpn_post_nms_train=400,
    rpn_pre_nms_train=1000,
    rpn_delta_weights=(1 / 0.12, 10.0, 4.0, 5.0),
    box_delta_weights=(10.0, 1 / 0.15, 1 / 0.3, 5.0),
    loss_weights=(1.0, 0.5, 2.0, 1.5, 0.8),
)


@dataclass(frozen=True)
class Home:
    """A family's conventions, the `spread` of the deltas that its proposals are made of, its architecture as far as
    it decides a step, what its scenes do not tell, and by which `scales` they are larger than their photographs.

    Where all anchors may be sampled, none is outside and none ends where they end, nor does one of Detectron's; and a
    positive of four leaves as many negatives by "ratio" as fill the sample. Where box losses are no means over
    positives, there are none of levels either, and nothing is added to what they divide by. Where proposals that are
    missing are made up for, no samples are missing; and where there are as many negatives as positives allow, none is
    drawn of what would make up for them. GIoU has no beta. Where an anchor is wanted by one object alone, it does not
    matter how it is rescued. `file` is that of a family of which this is another config.
    """

    numerics: Numerics
    spread: float
    arch: dict[str, Any] = field(default_factory=dict)
    untold: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ("crowded", "small")
    scales: tuple[float, ...] = (1.0, 1.0, 1.0)
    file: str = ""


NO_MEANS = ("rpn_box_levels", "mean_offset")
# what no image tells that is alone in its batch and has anchors of all kinds …
OF_PADDING = ("rpn_own_cells", "rpn_both")
# … nor where each object has a region that overlaps it enough
ONE_EACH = (*OF_PADDING, "roi_rescue_iou")

# Told in every run of the tests; all others by the long ones.
FIRST = ("rpn_normaliser", "rpn_box_mean", "roi_truth", "roi_filled", "box_mean", "mask_targets")

OF_ONE_IMAGE = ("rpn_post_nms_shared", "loss_mean")  # what no step of one image tells

OF_C4 = {"neck": "c4", "anchors_per_cell": 12, "box_head": "res5", "mask_upsample": "resize"}
HOMES = {
    "paddledetection": Home(
        paddle.NUMERICS, 0.05, untold=("rpn_outside", "rpn_straddle_closed", "roi_negatives", *NO_MEANS, *ONE_EACH)
    ),
    "tf_object_detection": Home(
        tf_object_detection.NUMERICS,
        0.5,
        OF_C4,
        untold=("rpn_post_nms_shared", *NO_MEANS, *ONE_EACH),
        scenes=("crowded-c4", "small-c4", "pair-c4"),
    ),
    "tf_object_detection, anchors cut": Home(
        replace(tf_object_detection.NUMERICS, anchor_clip_train=True, rpn_straddle=None, rpn_outside="matched"),
        0.5,
        OF_C4,
        scenes=("crowded-cut-c4",),
        file="tf_object_detection",
    ),
    "detectron2": Home(
        detectron2.NUMERICS, 0.05, untold=("rpn_outside", "rpn_straddle_closed", "roi_negatives", *NO_MEANS, *ONE_EACH)
    ),
    "detectron2_giou": Home(
        replace(
            detectron2.NUMERICS,
            rpn_box_loss="giou",
            rpn_straddle=0.0,
            rpn_samples=200,
            rpn_positive_fraction=0.25,
            rpn_negative_iou=0.2,
            rpn_positive_iou=0.6,
            roi_truth=False,
            roi_positive_iou=0.4,
            box_beta=0.5,
            loss_weights=(0.5, 1.5, 1.0, 2.0, 1.0),
        ),
        0.05,
        untold=("rpn_beta", *NO_MEANS, *ONE_EACH),
        scenes=("crowded", "inside"),
    ),
    "detectron": Home(
        detectron_caffe2.NUMERICS,
        0.05,
        untold=("rpn_straddle_closed", *NO_MEANS, *OF_PADDING),
        scenes=("crowded", "inside"),
        scales=(1.0, 2.0),
    ),
    "detectron_c4": Home(
        of_arch(detectron_caffe2.NUMERICS, Arch(classes=1, neck="c4", norm="affine")),
        0.05,
        {"neck": "c4", "anchors_per_cell": 15, "box_head": "res5"},
        untold=("rpn_straddle_closed", *NO_MEANS, *ONE_EACH),
        scenes=("crowded-c4", "inside-c4"),
        scales=(1.0, 2.0),
    ),
    "tensorpack": Home(
        tensorpack.NUMERICS, 0.05, untold=(*NO_MEANS, *ONE_EACH), scenes=("crowded", "corner", "inside")
    ),
    "maskrcnn_benchmark": Home(
        maskrcnn_benchmark.NUMERICS,
        0.05,
        untold=("rpn_straddle_closed", "rpn_own_cells", *NO_MEANS),
        scenes=("crowded", "corner", "inside"),
    ),
    "model_garden": Home(
        model_garden.NUMERICS,
        0.05,
        untold=("rpn_outside", "rpn_straddle_closed", "roi_filled", *ONE_EACH),
        scenes=("crowded", "small-64"),
    ),
    "chainer": Home(
        chainer.NUMERICS,
        0.5,
        {"neck": "c4", "anchors_per_cell": 12, "box_head": "res5"},
        untold=(*NO_MEANS, *OF_PADDING),
        scenes=("crowded-c4", "between-c4"),
    ),
    "mmdet": Home(
        mmdet.NUMERICS,
        0.05,
        untold=("rpn_outside", "rpn_straddle_closed", "rpn_rescue", *NO_MEANS),
        scenes=("crowded", "corner", "beside"),
    ),
    "mmdet_1": Home(
        replace(mmdet.NUMERICS, **mmdet.LEGACY),
        0.05,
        untold=(*NO_MEANS, *OF_PADDING),
        scenes=("crowded", "inside", "beside"),
    ),
    **{
        name: Home(numerics, 0.5, untold=("rpn_outside", "rpn_straddle_closed", "rpn_filled", *ONE_EACH))
        for name, numerics in (("matterport", matterport.NUMERICS), ("matterport_other", OTHER_MATTERPORT))
    },
}

FAMILIES = [name for name, home in HOMES.items() if not home.file]
CASES = [(name, scene) for name, home in HOMES.items() for scene in home.scenes]


@cache
def ours(name: str, scene: str) -> Step:
    home = HOMES[name]
    scale = home.scales[home.scenes.index(scene)]
    scenes = made_up.PAIR if scene == "pair-c4" else (scene,)
    return step(name, scenes, home.numerics, spread=home.spread, arch=home.arch, scale=scale)


def theirs(name: str, scene: str) -> Golden:
    return Golden.read(HOMES[name].file or name, scene)


@pytest.mark.parametrize(("name", "scene"), CASES)
def test_the_five_losses_agree(name: str, scene: str) -> None:
    assert faults(theirs(name, scene), ours(name, scene).losses()) == []


@pytest.mark.parametrize(("name", "scene"), CASES)
def test_the_same_regions_are_sampled(name: str, scene: str) -> None:
    made, golden = ours(name, scene), theirs(name, scene)
    made.losses()
    found = made.regions[0].numpy()
    assert found.shape == golden.regions.shape
    apart = np.abs(found[:, None] - golden.regions[None]).max(2)
    assert apart.min(0).max() < 1e-3
    assert apart.min(1).max() < 1e-3


@pytest.mark.parametrize(("name", "scene"), CASES)
def test_slopes_agree(name: str, scene: str) -> None:
    """By what the proposal network says, and by the three heads' outputs as a whole."""
    golden = theirs(name, scene)
    for what, slope in ours(name, scene).slopes().items():
        assert np.abs(slope - golden.slopes[what]).max() <= 1e-5 * np.abs(golden.slopes[what]).max(), what


def test_objects_without_polygons_are_cut_at_whole_pixels() -> None:
    made = ours("maskrcnn_benchmark", "crowded")
    target = replace(made.batch.targets[0], polygons=None)
    found = replace(made, batch=replace(made.batch, targets=(target,))).losses()
    with np.load(FOLDER / "maskrcnn_benchmark.npz") as golden:
        assert found["mask"] == pytest.approx(float(golden["crowded.bitmaps"]), rel=2e-5)


def test_images_of_a_batch_share_their_proposals() -> None:
    """In a training of maskrcnn-benchmark; the second image is less sure of everything."""
    made = ours("maskrcnn_benchmark", "crowded")
    model, padded, (logits, deltas) = made.model, made.batch.sizes[0], (one[0] for one in made.said)
    anchors = model.anchors(empty_maps(model, padded), padded)
    parts = [len(one) for one in anchors]
    found = [model.propose(one.split(parts), deltas.split(parts), anchors, padded) for one in (logits, logits - 1)]
    assert model.spec.numerics.rpn_post_nms_shared
    shared = selection.best_of_batch(found, model.spec.numerics.rpn_post_nms_train)
    with np.load(FOLDER / "maskrcnn_benchmark.npz") as golden:
        assert [len(one.boxes) for one in shared] == golden["crowded.shared"].tolist()


def told(name: str, convention: str) -> bool:
    """Whether some loss leaves the golden one, by ten times what rounding explains, when a convention is another."""
    return any(
        faults(theirs(name, scene), ours(name, scene).losses({convention: other}), 2e-4)
        for family, scene in reversed(CASES)
        if family == name
        for other in others(convention, getattr(HOMES[name].numerics, convention))
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_counted_is_told(name: str) -> None:
    assert [one for one in FIRST if one not in HOMES[name].untold and not told(name, one)] == []


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_every_training_convention_is_told(name: str) -> None:
    home = HOMES[name]
    single = OF_ONE_IMAGE if "pair-c4" not in home.scenes else ()
    assert {one for one in TRAINING if not told(name, one)} == {*home.untold, *single}
