"""Backbones of the TF Object Detection API's other detectors: taken when asked for by name, and otherwise refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import maskgraft as mg
from maskgraft.backbones import build
from maskgraft.causes.tables import unrecognised
from maskgraft.errors import CheckpointError
from maskgraft.families import identify, tf_extractors
from maskgraft.families.backbone_only import HEADS
from maskgraft.families.tf_object_detection import EXTRACTOR, INCEPTION
from maskgraft.files import LazyArray, Tensors
from maskgraft.files.tf_writing import write_bundle
from maskgraft.inspection import describe
from maskgraft.spec import Arch, Numerics, Spec
from tests.families.drawn import canonical_shapes
from tests.families.slim import FEW_C4, numbered
from tests.families.test_tensorflow import OD, TF1_RESNET, TF2_RESNET

SSD = Numerics(
    **HEADS,
    channel_order="rgb",
    pixel_scale=1.0,
    pixel_mean=(123.68, 116.779, 103.939),
    pixel_std=(1.0, 1.0, 1.0),
    stride_in="1x1",
    pool_padding="same",
    norm_eps=1e-3,
)
TWO_STAGES = replace(OD, classes=1, **{**FEW_C4, "mask_channels": 256})
PYRAMID = Arch(classes=1, stem_width=8, width_per_group=4)
INCEPTION_V2 = replace(PYRAMID, backbone="inception_v2", blocks=(), stem_width=64, width_per_group=64)
OF_INCEPTION = replace(SSD, **INCEPTION)

# What stands beside the backbone in each file, and is left there.
HEADS_1 = {"SecondStageBoxPredictor/ClassPredictor/weights": (2048, 91)}
HEADS_2 = {"model/_mask_rcnn_box_predictor/_class_prediction_head/_class_predictor_layers/1/kernel": (2048, 91)}
BOXES_1 = {"WeightSharedConvolutionalBoxPredictor/BoxPredictor/weights": (3, 3, 256, 24)}
BOXES_2 = {"model/_box_predictor/_prediction_heads/box_encodings/0/kernel": (3, 3, 256, 24)}
BOXES_3 = {"BoxPredictor_0/BoxEncodingPredictor/weights": (1, 1, 576, 12)}
CASES = {
    "tf1 faster rcnn": (TWO_STAGES, TF1_RESNET, "resnet_v1_50", HEADS_1),
    "tf2 faster rcnn": (TWO_STAGES, TF2_RESNET, "", HEADS_2),
    "tf1 ssd": (PYRAMID, SSD, "resnet_v1_50", BOXES_1),
    "tf2 ssd": (PYRAMID, SSD, "", BOXES_2),
    "tf1 ssd inception v2": (INCEPTION_V2, OF_INCEPTION, "InceptionV2", BOXES_3),
}


def file_of(case: str) -> dict[str, np.ndarray]:
    arch, numerics, era, heads = CASES[case]
    spec = Spec(family=EXTRACTOR, arch=arch, numerics=numerics, classes=numbered(1))
    shapes, random = canonical_shapes(spec), np.random.default_rng(0)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in heads.items()}
    for link in tf_extractors.FAMILY.links(spec, era):
        values = random.normal(0, 0.05, shapes[link.ours]).astype(np.float32)
        arrays[link.theirs] = link.back(np.abs(values) + 0.5 if link.ours.endswith("running_var") else values)
    return arrays


def in_memory(arrays: dict[str, np.ndarray]) -> Tensors:
    return Tensors(Path("drawn"), "drawn", {name: LazyArray.of(array) for name, array in arrays.items()})


@pytest.mark.parametrize("case", list(CASES))
def test_an_extractor_is_taken_when_it_is_asked_for(case: str) -> None:
    arch, numerics, era, heads = CASES[case]
    known = identify(in_memory(file_of(case)), family_name=EXTRACTOR)
    assert (known.spec.arch, known.spec.numerics, known.era) == (arch, numerics, era)
    assert set(known.ignored) == set(heads)
    assert {link.theirs for link in known.links} == set(known.tensors)
    assert [finding.code for finding in known.findings] == ["family.backbone-only"]


@pytest.mark.parametrize("case", list(CASES))
def test_unasked_the_file_is_refused_by_name_and_the_way_is_told(case: str) -> None:
    with pytest.raises(CheckpointError, match=r"no mask head \(Faster R-CNN|no Mask R-CNN") as raised:
        identify(in_memory(file_of(case)))
    assert f'family="{EXTRACTOR}"' in raised.value.findings[0].fix


@pytest.mark.parametrize("case", list(CASES))
def test_the_diagnosis_names_the_detector_too(case: str) -> None:
    """In its full widths, by which its layers have the sizes of a Mask R-CNN's."""
    arch, numerics, era, heads = CASES[case]
    full = Arch(classes=1) if arch == PYRAMID else replace(arch, rpn_channels=512, stem_width=64, width_per_group=64)
    spec = Spec(family=EXTRACTOR, arch=full, numerics=numerics, classes=numbered(1))
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in heads.items()}
    shapes = canonical_shapes(spec)
    for link in tf_extractors.FAMILY.links(spec, era):
        arrays[link.theirs] = link.back(np.broadcast_to(np.float32(0), shapes[link.ours]))
    with pytest.raises(CheckpointError) as raised:
        identify(in_memory(arrays))
    assert unrecognised(in_memory(arrays), raised.value) == list(raised.value.findings)


def test_backbone_and_proposal_head_are_the_files_and_the_rest_is_new(tmp_path: Path) -> None:
    arrays = file_of("tf1 faster rcnn")
    write_bundle(tmp_path / "model.ckpt", arrays, objects=False)
    small = {"min_size": 40, "max_size": 60, "rpn_post_nms": 5}
    model = mg.load(tmp_path / "model.ckpt.index", family=EXTRACTOR, classes=["cup", "fork"], numerics=small)
    assert model.spec.classes == ("cup", "fork")
    stem = arrays["FirstStageFeatureExtractor/resnet_v1_50/conv1/weights"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(model.backbone.stem.conv.weight.detach().numpy(), stem)
    np.testing.assert_array_equal(model.rpn.convs[0].bias.detach().numpy(), arrays["Conv/biases"])
    assert model.box_predictor.cls.weight.shape[0] == 3
    assert len(model.predict([np.zeros((40, 60, 3), np.uint8)])) == 1


def test_the_config_of_an_ssd_gives_its_eps(tmp_path: Path) -> None:
    norm = "conv_hyperparams { batch_norm { epsilon: 0.002 } } override_base_feature_extractor_hyperparams: true"
    config = tmp_path / "pipeline.config"
    config.write_text(f'model {{ ssd {{ feature_extractor {{ type: "ssd_resnet50_v1_fpn" {norm} }} }} }}')
    known = identify(in_memory(file_of("tf1 ssd")), config=config, family_name=EXTRACTOR)
    assert known.spec.numerics.norm_eps == 0.002
    assert known.spec.learned["numerics.norm_eps"].how == "read"


def test_a_backbone_that_is_not_built_is_refused_by_name() -> None:
    mobile = {
        "FeatureExtractor/MobilenetV1/Conv2d_0/weights": (3, 3, 3, 32),
        "BoxPredictor_0/BoxEncodingPredictor/weights": (1, 1, 512, 12),
    }
    arrays = {name: np.zeros(shape, np.float32) for name, shape in mobile.items()}
    with pytest.raises(CheckpointError, match="architecture not supported: SSD MobileNet v1"):
        identify(in_memory(arrays), family_name=EXTRACTOR)


@pytest.mark.parametrize(("stem", "offered"), [((3, 3, 3, 32), False), ((7, 7, 3, 64), True)])
def test_only_what_can_be_had_is_offered(stem: tuple[int, ...], offered: bool, tmp_path: Path) -> None:
    """The layers of TF2 have numbers: a MobileNet's first has the name of a ResNet's."""
    trunk = "model/_feature_extractor/classification_backbone/layer_with_weights"
    arrays = {name: np.zeros(shape, np.float32) for name, shape in BOXES_2.items()}
    write_bundle(tmp_path / "ckpt-0", arrays | {f"{trunk}-0/kernel": np.zeros(stem, np.float32)}, objects=True)
    fixes = [finding.fix for finding in describe(tmp_path / "ckpt-0.index").findings]
    assert any(EXTRACTOR in fix for fix in fixes) == offered
    with pytest.raises(CheckpointError) as raised:
        identify(mg.open(tmp_path / "ckpt-0.index"))
    assert (EXTRACTOR in raised.value.findings[0].fix) == offered


@torch.inference_mode()
def test_a_map_kept_before_it_strides_is_a_stride_in_the_next_1x1() -> None:
    """Why SSD's ResNet, which strides at the end of a stage, is built with the stride at the begin of the next."""
    pixels = torch.rand(1, 3, 96, 128)
    end, begin = (
        build(PYRAMID, replace(SSD, **how))
        for how in ({"stride_in": "3x3", "stride_at": "before"}, {"stride_in": "1x1", "stride_at": "first"})
    )
    begin.load_state_dict(end.state_dict())
    strided, kept = end(pixels), begin(pixels)
    for stage in ("c2", "c3", "c4"):
        torch.testing.assert_close(strided[stage], kept[stage][:, :, ::2, ::2])
    torch.testing.assert_close(strided["c5"], kept["c5"])
