"""The TF Object Detection API and Model Garden: variants that no golden case has, and what their configs change."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maskgraft as mg
from maskgraft.errors import CheckpointError
from maskgraft.families import (
    identify,
    model_garden,
    model_garden_config,
    recognise,
    tf1_object_detection,
    tf2_object_detection,
)
from maskgraft.families.class_names import COCO_90, numbered
from maskgraft.families.homes import HOMES
from maskgraft.families.tf_object_detection import INCEPTION, NUMERICS
from maskgraft.files import LazyArray, Tensors
from maskgraft.links import check
from maskgraft.spec import Arch, Numerics, Spec
from tests.families.drawn import canonical_shapes, drawn

OD = Arch(
    classes=90,
    neck="c4",
    rpn_channels=512,
    anchors_per_cell=12,
    objectness="softmax",
    box_head="res5",
    mask_convs=3,
    mask_upsample="resize",
    mask_kernel=3,
)
INCEPTION_V2 = replace(OD, backbone="inception_v2", blocks=(), mask_convs=1)
INCEPTION_RESNET_V2 = replace(OD, backbone="inception_resnet_v2", blocks=(), norm_scale=False)
GARDEN = Arch(
    classes=90,
    norm="batch",
    neck_norm="batch",
    neck_norm_after="outputs",
    coarsest="conv",
    head_bias=True,
    rpn_norm="batch",
    box_convs=4,
    box_fcs=1,
    box_norm="batch",
    fc_norm="batch",
    box_rows="with-background",
    mask_norm="batch",
    upsample_norm="batch",
    mask_rows="with-background",
)
R101 = (3, 4, 23, 3)

ATROUS: dict[str, Any] = {"c4_stride": 8, "rpn_dilation": 2}
OF_INCEPTION_RESNET: dict[str, Any] = {**INCEPTION, "box_pool_size": 17, "roi_max_pool": (1, 1)}
TF1_NUMERICS = replace(NUMERICS, nms_ties="heap")
TF1_RESNET = replace(TF1_NUMERICS, **ATROUS, stride_at="before", res5_stride=1)
TF2_RESNET = replace(NUMERICS, stride_in="1x1")
TF1, TF2, MODEL_GARDEN = "tf1_object_detection_api", "tf2_object_detection_api", "tf_model_garden"
IN_DICT = "model/_config_dict/detection_head"

ZOO = Path(os.environ.get("MASKGRAFT_SHARED", Path(__file__).parents[3] / "shared")) / "checkpoints" / "tf2_zoo_index"

CASES: dict[str, tuple[str, Arch, Numerics, str]] = {
    "tf1 r50": (TF1, OD, TF1_RESNET, "resnet_v1_50"),
    "tf1 r101": (TF1, replace(OD, blocks=R101, classes=3), TF1_RESNET, "resnet_v1_101"),
    "tf1 agnostic": (
        TF1,
        replace(OD, classes=5, box_rows="agnostic", mask_rows="agnostic"),
        TF1_RESNET,
        "resnet_v1_50",
    ),
    "tf1 inception v2": (TF1, INCEPTION_V2, replace(TF1_NUMERICS, **INCEPTION, mask_size=15), ""),
    "tf1 one mask layer": (
        TF1,
        replace(INCEPTION_V2, classes=1, mask_convs=0, mask_channels=1024),
        replace(TF1_NUMERICS, **INCEPTION, mask_size=15),
        "",
    ),
    "tf1 inception-resnet v2": (
        TF1,
        INCEPTION_RESNET_V2,
        replace(TF1_NUMERICS, **OF_INCEPTION_RESNET, **ATROUS, res5_padded=False),
        "",
    ),
    "tf2 r101": (TF2, replace(OD, blocks=R101), TF2_RESNET, ""),
    "tf2 r152 with dropout": (TF2, replace(OD, blocks=(3, 8, 36, 3), classes=2), TF2_RESNET, "dropout"),
    "tf2 inception-resnet v2": (
        TF2,
        replace(INCEPTION_RESNET_V2, classes=10),
        replace(NUMERICS, **OF_INCEPTION_RESNET, fixed_size=(1024, 1024)),
        "",
    ),
    "model garden r101": (MODEL_GARDEN, replace(GARDEN, blocks=R101), model_garden.NUMERICS, IN_DICT),
    "model garden, one head": (MODEL_GARDEN, replace(GARDEN, classes=4), model_garden.NUMERICS, "model/detection_head"),
    "model garden, by its trainer": (
        MODEL_GARDEN,
        replace(GARDEN, classes=4),
        model_garden.NUMERICS,
        "detection_head/0",
    ),
    "model garden agnostic": (
        MODEL_GARDEN,
        replace(GARDEN, classes=4, box_rows="agnostic", mask_rows="agnostic", box_convs=0, box_fcs=2),
        model_garden.NUMERICS,
        IN_DICT,
    ),
}


def file_of(case: str) -> Tensors:
    name, arch, numerics, era = CASES[case]
    return drawn(Spec(family=name, arch=arch, numerics=numerics, classes=numbered(arch.classes)), era)


def without(tensors: Tensors, part: str) -> Tensors:
    return replace(tensors, arrays={name: array for name, array in tensors.items() if part not in name})


@pytest.mark.parametrize("case", list(CASES))
def test_a_file_tells_its_model(case: str) -> None:
    name, arch, numerics, era = CASES[case]
    tensors = file_of(case)
    ranking = recognise(tensors)
    assert (ranking[0][0], ranking[0][1].name) == (1.0, name)
    assert max(likeness for likeness, family, _, _ in ranking if family.name != name) < 0.5
    known = identify(tensors)
    assert known.spec.arch == arch
    assert (known.spec.numerics, known.era) == (numerics, era)
    assert known.spec.classes == (COCO_90 if arch.classes == 90 else numbered(arch.classes))
    theirs = {key: array.shape for key, array in known.tensors.items()}
    assert check(known.links, canonical_shapes(known.spec), theirs) == []
    assert not known.findings


# What a SavedModel counts, as TensorFlow 2.2 to 2.8 wrote it: kernels, and after each its bias.
COUNTED = {
    "_first_stage_box_predictor": ("box_encodings/", "class_predictions_with_background/"),
    "_mask_rcnn_box_predictor": (
        "_box_prediction_head",
        "_class_prediction_head",
        "_predictor_layers/0",
        "/3",
        "/6",
        "/9",
    ),
}


def as_saved_model(tensors: Tensors, kind: str) -> Tensors:
    """The file as the exporter's SavedModel has it."""
    arrays = {}
    for name, array in tensors.items():
        part, layer, which = name.split("/")[1], name.rpartition("/")[0], name.rpartition("/")[2]
        counted = COUNTED.get(part)
        if counted is None:
            arrays[f"_{name}"] = array
            continue
        number = next(
            i
            for i, one in enumerate(counted)
            if (layer.endswith(one) if one[1:].isdigit() or one.endswith("/0") else one in layer)
        )
        arrays[f"_model/{part}/{kind}/{2 * number + (which == 'bias')}"] = array
    return replace(tensors, arrays=arrays)


@pytest.mark.parametrize("kind", ["variables", "trainable_variables"])
@pytest.mark.parametrize("case", ["tf2 r101", "tf2 inception-resnet v2"])
def test_a_saved_model_is_the_checkpoint_that_it_was_made_of(case: str, kind: str) -> None:
    checkpoint = file_of(case)
    known, before = identify(as_saved_model(checkpoint, kind)), identify(checkpoint)
    assert (known.spec, known.era, known.findings) == (before.spec, before.era, before.findings)
    assert set(known.tensors) == set(checkpoint)
    assert all(known.tensors[name] is array for name, array in checkpoint.items())


@pytest.mark.skipif(not ZOO.is_dir(), reason=f"{ZOO} is not there (MASKGRAFT_SHARED)")
@pytest.mark.parametrize("one", ["mask_rcnn_inception_resnet_v2_1024x1024_coco17_gpu-8", "inference_graph"])
def test_published_saved_models_have_the_layers_of_their_checkpoints(one: str) -> None:
    """Their names and shapes; the first folder's config has a letter glued to a path, which is told."""
    folder = ZOO / one
    checkpoint, saved = (
        identify(mg.open(folder / kind), config=folder / "pipeline.config") for kind in ("checkpoint", "saved_model")
    )
    assert saved.spec == checkpoint.spec
    assert {name: array.shape for name, array in saved.tensors.items()} == {
        name: array.shape for name, array in checkpoint.tensors.items()
    }
    told = [finding.evidence["words"] for finding in saved.findings if "words" in finding.evidence]
    assert told == ([["line 153: 's'"]] if one.startswith("mask_rcnn") else [])


def test_a_saved_model_without_masks_is_named_and_its_extractor_offered() -> None:
    boxes = without(as_saved_model(file_of("tf2 r101"), "variables"), "_mask_rcnn_box_predictor")
    with pytest.raises(CheckpointError, match=r"no mask head \(Faster R-CNN with ResNet-101\)"):
        identify(boxes)
    known = identify(boxes, family_name="tf_object_detection_extractor")
    assert {link.theirs for link in known.links} == set(known.tensors)


def test_keras_numbers_layers_by_their_distance_from_the_end() -> None:
    order = list(tf2_object_detection._in_keras_order((("a",), ("b1", "b2"), ("c1", "c2", "c3"))))
    assert order == [
        ("c1", "conv"),
        ("c1", "norm"),
        *(("b1", "conv"), ("c2", "conv"), ("b1", "norm"), ("c2", "norm")),
        *(("a", "conv"), ("b2", "conv"), ("c3", "conv"), ("a", "norm"), ("b2", "norm"), ("c3", "norm")),
    ]


# ---- pipeline.config -------------------------------------------------------------------------------------------------

PIPELINE = """
model {
  faster_rcnn {
    num_classes: 3
    image_resizer { RESIZER }
    feature_extractor { type: "faster_rcnn_resnet101" first_stage_features_stride: 16 }
    first_stage_anchor_generator {
      grid_anchor_generator {
        height: 64 width: 64
        scales: [1.0, 2.0] aspect_ratios: [0.5, 1.0, 2.0, 3.0] aspect_ratios: 0.25 aspect_ratios: 4.0
      }
    }
    first_stage_nms_iou_threshold: 0.6
    first_stage_max_proposals: 50
    initial_crop_size: 28
    maxpool_kernel_size: 4
    maxpool_stride: 4
    second_stage_box_predictor { mask_rcnn_box_predictor { MASKS } }
    second_stage_post_processing {
      batch_non_max_suppression { score_threshold: 0.25 iou_threshold: 0.5 max_detections_per_class: 7 EXTRA }
      score_converter: SOFTMAX
    }
    OTHER
  }
}
train_input_reader { label_map_path: "somewhere/things.pbtxt" }
"""
KEEP = "keep_aspect_ratio_resizer { min_dimension: 400 max_dimension: 700 }"


def pipeline(folder: Path, *, resizer: str = KEEP, masks: str = "mask_height: 21 mask_width: 21", **parts: str) -> Path:
    text = PIPELINE.replace("RESIZER", resizer).replace("MASKS", masks)
    for word in ("EXTRA", "OTHER"):
        text = text.replace(word, parts.get(word.lower(), ""))
    path = folder / "pipeline.config"
    path.write_text(text)
    return path


def test_a_pipeline_config_is_obeyed_and_its_silence_is_protobufs_default(tmp_path: Path) -> None:
    (tmp_path / "things.pbtxt").write_text("item { id: 1 name: 'cup' } item { id: 3 name: 'fork' }")
    known = identify(file_of("tf1 r101"), config=pipeline(tmp_path))
    numerics = known.spec.numerics
    assert numerics == replace(
        TF1_RESNET,
        loss_weights=(1.0, 1.0, 1.0, 1.0, 1.0),
        min_size=400,
        max_size=700,
        c4_stride=16,
        rpn_dilation=1,
        anchor_sizes=((64.0, 128.0),),
        anchor_ratios=(2.0, 1.0, 0.5, 1 / 3, 4.0, 0.25),
        rpn_nms_threshold=0.6,
        rpn_post_nms=50,
        rpn_post_nms_train=50,
        box_pool_size=28,
        roi_max_pool=(4, 4),
        mask_size=21,
        score_threshold=0.25,
        nms_threshold=0.5,
        max_per_class=7,
    )
    assert known.spec.classes == ("cup", "unused 2", "fork")
    assert not known.findings
    assert known.spec.learned["classes"].how == "read"
    assert known.spec.learned["numerics.rpn_dilation"].source == "config: protobuf's default"
    assert known.spec.learned["numerics.mask_size"].source.endswith("mask_height")
    assert known.spec.learned["numerics.stride_at"].how == "implied"


def test_a_fixed_size_is_read(tmp_path: Path) -> None:
    resizer = "fixed_shape_resizer { height: 320 width: 512 }"
    known = identify(file_of("tf1 r101"), config=pipeline(tmp_path, resizer=resizer))
    assert (known.spec.numerics.fixed_size, known.spec.numerics.fixed_fit) == ((320, 512), "stretch")


def test_a_resizer_that_keeps_the_aspect_has_no_fixed_size(tmp_path: Path) -> None:
    known = identify(file_of("tf2 inception-resnet v2"), config=pipeline(tmp_path))
    assert known.spec.numerics.fixed_size is None


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"masks": "mask_height: 15 mask_width: 33"}, "masks that are not square"),
        ({"masks": "convolve_then_upsample_masks: true"}, "convolve_then_upsample_masks"),
        ({"masks": "conv_hyperparams { activation: RELU_6 }"}, "activation is RELU_6"),
        ({"masks": "conv_hyperparams { batch_norm { } }"}, "conv_hyperparams.batch_norm is"),
        ({"masks": "fc_hyperparams { sync_batch_norm { } }"}, "fc_hyperparams.sync_batch_norm is"),
        ({"other": "first_stage_box_predictor_conv_hyperparams { group_norm { } }"}, "group_norm is"),
        ({"extra": "soft_nms_sigma: 0.5"}, "soft_nms_sigma is 0.5"),
        ({"extra": "use_class_agnostic_nms: true"}, "use_class_agnostic_nms"),
        ({"other": "first_stage_box_predictor_kernel_size: 1"}, "kernel_size is 1"),
    ],
)
def test_what_the_model_cannot_obey_is_refused_by_name(tmp_path: Path, parts: dict[str, str], said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as raised:
        identify(file_of("tf1 r101"), config=pipeline(tmp_path, **parts))
    assert "recognised as TF1 Object Detection API" in raised.value.findings[0].message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("height: 64 width: 64", "height_stride: 8 width_stride: 8", "first_stage_features_stride, which is 16"),
        ("grid_anchor_generator", "multiscale_anchor_generator", "no grid_anchor_generator"),
        ("features_stride: 16", "features_stride: 32", "features_stride is 32"),
    ],
)
def test_anchors_of_other_kinds_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = pipeline(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CheckpointError, match=said):
        identify(file_of("tf1 r101"), config=path)


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("num_classes: 3", "num_classes: 37", "shape.classes", "its config says 37"),
        (
            "resnet101",
            "resnet50",
            "config.mismatch",
            "holds a faster_rcnn_resnet101, its config says faster_rcnn_resnet50",
        ),
        ("resnet101", "resnet101_keras", "config.era", "its config says faster_rcnn_resnet101_keras"),
    ],
)
def test_a_config_of_another_model_is_told(tmp_path: Path, old: str, new: str, code: str, said: str) -> None:
    path = pipeline(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    findings = identify(file_of("tf1 r101"), config=path).findings
    assert [finding.code for finding in findings] == [code]
    assert said in findings[0].message


def test_tf2_has_no_other_stride_than_16(tmp_path: Path) -> None:
    """`faster_rcnn_resnet_keras_feature_extractor.py` raises; that of Inception-ResNet v2 fails where it joins maps."""
    path = pipeline(tmp_path)
    path.write_text(
        path.read_text()
        .replace("stride: 16", "stride: 8")
        .replace("height: 64", "height_stride: 8 width_stride: 8 height: 64")
    )
    with pytest.raises(CheckpointError, match="its config says faster_rcnn_resnet101 ") as raised:
        identify(file_of("tf2 r101"), config=path)
    assert [finding.code for finding in raised.value.findings] == ["config.era"]
    assert identify(file_of("tf1 r101"), config=path).spec.numerics.c4_stride == 8
    path.write_text(path.read_text().replace("resnet101", "resnet101_keras"))
    with pytest.raises(CheckpointError, match="first_stage_features_stride is 8, not 16"):
        identify(file_of("tf2 r101"), config=path)


def test_what_is_glued_to_a_string_is_told(tmp_path: Path) -> None:
    """As in a published pipeline.config, at which TensorFlow's own parser stops."""
    path = pipeline(tmp_path)
    path.write_text(path.read_text().replace('things.pbtxt"', 'things.pbtxt"s'))
    (told,) = identify(file_of("tf1 r101"), config=path).findings
    assert (told.code, told.severity, told.evidence["words"]) == ("config.mismatch", "warning", ["line 26: 's'"])


def test_settings_of_training_that_are_not_taken_up_are_told(tmp_path: Path) -> None:
    said = "hard_example_miner { num_hard_examples: 10 } second_stage_classification_loss { weighted_sigmoid { } }"
    findings = identify(file_of("tf1 r101"), config=pipeline(tmp_path, other=said)).findings
    assert [finding.code for finding in findings] == ["numerics.training"]
    assert "hard_example_miner" in findings[0].message
    assert "second_stage_classification_loss" in findings[0].message
    plain = "second_stage_classification_loss { weighted_softmax { } }"
    assert not identify(file_of("tf1 r101"), config=pipeline(tmp_path, other=plain)).findings


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("scales: [1.0, 2.0]", "scales: 1.0", "12 anchors a cell, its config 6"),
        ("faster_rcnn {", "ssd {", r"another kind of model \(ssd\)"),
    ],
)
def test_a_config_that_cannot_be_followed_stops(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = pipeline(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CheckpointError, match=said) as raised:
        identify(file_of("tf1 r101"), config=path)
    assert raised.value.findings[0].code == "config.mismatch"


def test_a_config_one_folder_up_is_found(tmp_path: Path) -> None:
    pipeline(tmp_path)
    tensors = replace(file_of("tf1 r101"), path=tmp_path / "checkpoint" / "ckpt-0.index")
    assert identify(tensors).spec.numerics.min_size == 400


# ---- params.yaml -----------------------------------------------------------------------------------------------------

PARAMS = """
task:
  model:
    num_classes: 5
    input_size: [640, 512, 3]
    anchor: {anchor_size: 4.0, num_scales: 1, aspect_ratios: [1.0, 2.0, 4.0]}
    norm_activation: {activation: relu, norm_epsilon: 0.001}
    roi_generator: {test_num_proposals: 77, test_pre_nms_score_threshold: 0.0}
    detection_generator: {pre_nms_score_threshold: 0.3, nms_version: v2}
"""


def test_params_of_model_garden_are_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    known = identify(file_of("model garden, one head"), config=path)
    assert known.spec.numerics == replace(
        model_garden.NUMERICS,
        fixed_size=(640, 512),
        anchor_sizes=((16.0,), (32.0,), (64.0,), (128.0,), (256.0,)),
        anchor_ratios=(1.0, 0.5, 0.25),
        norm_eps=0.001,
        rpn_post_nms=77,
        score_threshold=0.3,
    )
    assert not known.findings


def test_losses_and_training_settings_of_model_garden(tmp_path: Path) -> None:
    """Its Huber losses are smooth L1 times their deltas; what a training does not take up is told, and no default."""
    path = tmp_path / "params.yaml"
    path.write_text("""
task:
  losses: {loss_weight: 2.0, rpn_huber_loss_delta: 0.25, rpn_box_weight: 3.0, mask_weight: 0.5, class_weights: null}
  model:
    roi_generator: {nms_iou_threshold: 0.6, test_nms_iou_threshold: 0.7, pre_nms_min_size_threshold: 0.0}
    roi_sampler: {mix_gt_boxes: false, background_iou_high_threshold: 0.5, foreground_iou_threshold: 0.5}
    mask_sampler: {num_sampled_masks: 64}
""")
    known = identify(file_of("model garden, one head"), config=path)
    assert known.spec.numerics == replace(
        model_garden.NUMERICS, loss_weights=(2.0, 1.5, 2.0, 2.0, 1.0), rpn_beta=0.25, roi_truth=False
    )
    (finding,) = known.findings
    assert finding.names == ("task.model.mask_sampler.num_sampled_masks", "task.model.roi_generator.nms_iou_threshold")


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("nms_version: v2", {}),
        ("nms_version: v1", {"nms_tiled": False}),
        *(
            (said, {"nms_tiled": False, "nms_at_threshold": False, "detect_filled": True})
            for said in ("nms_version: batched, pre_nms_top_k: 70", "nms_version: v1, soft_nms_sigma: 0.0")
        ),
    ],
)
def test_each_version_of_model_gardens_suppression_is_obeyed(
    tmp_path: Path, said: str, changes: dict[str, bool]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"task: {{model: {{detection_generator: {{{said}}}}}}}")
    known = identify(file_of("model garden, one head"), config=path)
    assert known.spec.numerics == replace(model_garden.NUMERICS, **changes)


def test_a_kernel_suppresses_all_anchors_of_model_garden_where_it_is_told_so(tmp_path: Path) -> None:
    """`use_batched_nms`: what else are candidates is then the most that a level keeps."""
    path = tmp_path / "params.yaml"
    path.write_text("task: {model: {roi_generator: {use_batched_nms: true, test_pre_nms_top_k: 50}}}")
    assert identify(file_of("model garden, one head"), config=path).spec.numerics == replace(
        model_garden.NUMERICS,
        rpn_nms_tiled=False,
        nms_at_threshold=False,
        rpn_pre_nms=None,
        rpn_level_post_nms=50,
        rpn_pre_nms_train=None,
        rpn_level_post_nms_train=2000,
    )


def test_how_regions_are_pooled_is_told_by_the_first_dense_layer_of_model_garden() -> None:
    name, arch, numerics, era = CASES["model garden, one head"]
    spec = Spec(family=name, arch=arch, numerics=replace(numerics, box_pool_size=5), classes=numbered(arch.classes))
    known = identify(drawn(spec, era)).spec
    assert known.numerics == spec.numerics
    assert known.learned["numerics.box_pool_size"].how == "read"


def test_a_threshold_of_0_suppresses_no_proposals_of_model_garden(tmp_path: Path) -> None:
    """Nor are candidates chosen, by number or by score: `roi_generator.py` takes the best as they are."""
    path = tmp_path / "params.yaml"
    path.write_text(
        "task: {model: {roi_generator: {test_nms_iou_threshold: 0.0, test_pre_nms_top_k: 50, test_num_proposals: 90, "
        "test_pre_nms_score_threshold: 0.2}}}"
    )
    numerics = identify(file_of("model garden, one head"), config=path).spec.numerics
    assert not numerics.rpn_nms_tiled
    assert numerics.rpn_nms_threshold > 1
    assert (numerics.rpn_pre_nms, numerics.rpn_post_nms, numerics.rpn_score_threshold) == (0, 90, None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("activation: relu", "activation: swish", "activation is 'swish'"),
        ("nms_version: v2", "nms_version: v3", "nms_version is 'v3'"),
        ("nms_version: v2", "nms_version: v2, pre_nms_top_k: 70", "pre_nms_top_k is 70"),
        ("nms_version: v2", "nms_version: v1, soft_nms_sigma: 0.5", "soft_nms_sigma"),
        ("num_scales: 1", "num_scales: 2", "3 anchors a cell, its config 6"),
    ],
)
def test_params_that_cannot_be_obeyed_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.replace(old, new))
    with pytest.raises(CheckpointError, match=said):
        identify(file_of("model garden, one head"), config=path)


# ---- what is no Mask R-CNN -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "masks", "said"),
    [
        ("tf1 r101", "SecondStageBoxPredictor/Conv", r"no mask head \(Faster R-CNN with ResNet-101\)"),
        ("tf1 inception v2", "SecondStageBoxPredictor/Conv", r"Faster R-CNN with Inception v2\)"),
        ("tf2 r101", "_mask_predictor_layers", r"Faster R-CNN with ResNet-101\)"),
        ("tf2 inception-resnet v2", "_mask_predictor_layers", r"Faster R-CNN with Inception-ResNet v2\)"),
    ],
)
def test_faster_rcnn_is_refused_by_name(case: str, masks: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        identify(without(file_of(case), masks))


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return replace(tensors, arrays={name.replace(old, new): array for name, array in tensors.items()})


@pytest.mark.parametrize("masks", [True, False])
def test_a_pyramid_of_tf2_is_refused_by_name_and_nothing_of_it_offered(masks: bool) -> None:
    first = "model/_feature_extractor_for_proposal_features/"
    tensors = renamed(file_of("tf2 r101"), first, f"{first}classification_backbone/")
    top = {f"{first}fpn_features_generator/top_layers/0/kernel": LazyArray.of(np.zeros((1, 1, 2048, 256), np.float32))}
    tensors = replace(tensors, arrays=tensors.arrays | top)
    with pytest.raises(CheckpointError, match="a feature pyramid") as raised:
        identify(tensors if masks else without(tensors, "_mask_predictor_layers"), family_name=TF2)
    assert "extractor" not in raised.value.findings[0].fix


@pytest.mark.parametrize("case", ["model garden, one head", "model garden, by its trainer"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mask_head/", "other/", "no mask head"),
        ("mask_head/_mask_regressor/kernel", "mask_head/_mask_regressor/depthwise_kernel", "separable convolutions"),
        ("rpn_head/_convs/0/kernel", "rpn_head/_convs/0/depthwise_kernel", "separable convolutions"),
        ("weights-2/_conv3", "weights-2/_squeeze_excitation/_conv3", "squeeze and excitation"),
        ("/_shortcut/", "/_shortcut1/", "averaged shortcuts"),
        ("weights-2/_conv3", "weights-2/_conv9", "not a ResNet of bottleneck blocks"),
        ("decoder/layer_with_weights-13/", "decoder/layer_with_weights-14/", "not a pyramid of levels 2 to 6"),
        ("/_fcs/", "/_other/", "without fully connected layers"),
        ("_classifier/", "_classifiers/", "more than one detection head"),
    ],
)
def test_other_models_of_model_garden_are_refused_by_name(case: str, old: str, new: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=f"architecture not supported: .*{said}"):
        identify(renamed(file_of(case), old, new))


def test_a_second_detection_head_of_model_garden_is_refused() -> None:
    one = file_of("model garden, by its trainer")
    two = renamed(one, "detection_head/0/", "detection_head/1/")
    with pytest.raises(CheckpointError, match="more than one detection head"):
        identify(replace(one, arrays={**one.arrays, **two.arrays}))


@pytest.mark.parametrize(
    ("name", "kernel", "said"),
    [
        ("mask_head/_deconv/kernel", (3, 3, 256, 256), "upsample_factor"),
        ("backbone/layer_with_weights-0/kernel", (3, 3, 3, 64), "stem_type"),
        ("backbone/layer_with_weights-2/_conv3/kernel", (1, 1, 32, 128), "depth_multiplier 0.5"),
    ],
)
def test_other_shapes_of_model_garden_are_refused_by_name(name: str, kernel: tuple[int, ...], said: str) -> None:
    tensors = file_of("model garden, by its trainer")
    assert name in tensors
    other = LazyArray.of(np.zeros(kernel, np.float32))
    with pytest.raises(CheckpointError, match=said):
        identify(replace(tensors, arrays={**tensors.arrays, name: other}))


def named(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    arrays = {name: LazyArray.of(np.zeros(shape, np.float32)) for name, shape in shapes.items()}
    return Tensors(Path("drawn"), "drawn", arrays)


SLIM_HEAD = {"BoxPredictor_0/BoxEncodingPredictor/weights": (1, 1, 512, 12)}
SHARED_HEAD = {"WeightSharedConvolutionalBoxPredictor/BoxPredictor/weights": (3, 3, 256, 24)}
KERAS = "model/_feature_extractor/classification_backbone/layer_with_weights-"
KERAS_HEAD = {"model/_box_predictor/_prediction_heads/box_encodings/0/_box_encoder_layers/0/kernel": (1, 1, 512, 12)}
KERAS_MOBILENET = {f"{KERAS}0/kernel": (3, 3, 3, 32), f"{KERAS}2/depthwise_kernel": (3, 3, 32, 1)}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (SLIM_HEAD | {"FeatureExtractor/MobilenetV1/Conv2d_0/weights": (3, 3, 3, 32)}, "SSD MobileNet v1 of the TF1"),
        (SLIM_HEAD | {"FeatureExtractor/MobilenetV2/Conv/weights": (3, 3, 3, 32)}, "SSD MobileNet v2 of the TF1"),
        (
            SHARED_HEAD
            | {
                "FeatureExtractor/resnet_v1_50/conv1/weights": (7, 7, 3, 64),
                "FeatureExtractor/resnet_v1_50/fpn/projection_1/weights": (1, 1, 512, 256),
            },
            "SSD ResNet-50 FPN of the TF1",
        ),
        (SLIM_HEAD | {"FeatureExtractor/Odd/Conv/weights": (3, 3, 3, 32)}, "SSD with another backbone of the TF1"),
        (KERAS_HEAD | KERAS_MOBILENET | {f"{KERAS}4/kernel": (1, 1, 32, 64)}, "SSD MobileNet v1 of the TF2"),
        (KERAS_HEAD | KERAS_MOBILENET | {f"{KERAS}4/kernel": (1, 1, 32, 16)}, "SSD MobileNet v2 of the TF2"),
        (
            KERAS_HEAD
            | {
                f"{KERAS}0/kernel": (7, 7, 3, 64),
                f"{KERAS}106/kernel": (1, 1, 1024, 256),
                "model/_feature_extractor/_fpn_features_generator/conv_layers/0/0/kernel": (3, 3, 256, 256),
            },
            "SSD ResNet-101 FPN of the TF2",
        ),
        ({"SecondStageBoxPredictor/refined_locations/weights": (1, 1, 1024, 8)}, "R-FCN of the TF1"),
        ({"model/_prediction_head_dict/object_center/0/layer_with_weights-0/kernel": (3, 3, 64, 256)}, "CenterNet"),
        (KERAS_HEAD | {"model/_feature_extractor/_bifpn_stage/_layer/0/kernel": (1, 1, 40, 64)}, "EfficientDet"),
        (
            {
                f"_{name}": shape
                for name, shape in (KERAS_HEAD | KERAS_MOBILENET | {f"{KERAS}4/kernel": (1, 1, 32, 64)}).items()
            },
            "SSD MobileNet v1 of the TF2",
        ),
    ],
)
def test_other_detectors_are_told_by_name(shapes: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(CheckpointError, match=f"recognised as .*{said}"):
        identify(named(shapes))


@pytest.mark.parametrize("said", [True, False])
def test_averages_are_the_weights_where_the_config_says_so(said: bool, tmp_path: Path) -> None:
    """`exporter.py`: what has an average is that average, if eval_config.use_moving_averages."""
    tensors = file_of("tf1 r101")
    averages = {
        f"{name}/ExponentialMovingAverage": LazyArray.of(np.full(array.shape, 7, np.float32))
        for name, array in tensors.items()
        if "moving_" not in name
    }
    path = pipeline(tmp_path)
    path.write_text(path.read_text() + f"eval_config {{ use_moving_averages: {str(said).lower()} }}")
    known = identify(replace(tensors, slots=averages), config=path)
    taken = {name for name, array in known.tensors.items() if (array.read() == 7).all()}
    assert taken == ({name for name in tensors if "moving_" not in name} if said else set())
    assert any("moving averages" in finding.message for finding in known.findings) == said


def test_first_stage_block4_is_ignored_and_nothing_else() -> None:
    unread = "FirstStageFeatureExtractor/resnet_v1_50/block4/unit_1/bottleneck_v1/conv1/weights"
    assert tf1_object_detection.ignored(unread)
    assert not tf1_object_detection.ignored(unread.replace("First", "Second"))
    assert not tf1_object_detection.ignored(unread.replace("block4", "block3"))


@pytest.mark.parametrize("betas", [(1 / 9, 1.0), (0.0, 0.0)])
def test_model_garden_is_told_the_weights_of_losses_by_its_huber_losses(betas: tuple[float, float]) -> None:
    """Its Huber loss with a delta of 0 is nothing: plain L1 is told as what comes near."""
    name, arch, _, _ = CASES["model garden, one head"]
    numerics = replace(
        model_garden.NUMERICS, rpn_beta=betas[0], box_beta=betas[1], loss_weights=(1.0, 2.0, 3.0, 4.0, 5.0)
    )
    spec = Spec(family=name, arch=arch, numerics=numerics, classes=numbered(arch.classes))
    said = HOMES[name].settings(spec)
    losses = {key.removeprefix("task.losses."): value for key, value in said.items()}
    assert model_garden_config._loss_weights(losses) == pytest.approx((1, 2, 3, 4, 5))
    assert losses["rpn_huber_loss_delta"] == max(betas[0], 1e-3)
