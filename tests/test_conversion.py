"""Taking a model to another family, and home again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision.models import detection, resnet
from typer.testing import CliRunner

import maskgraft as mg
from maskgraft.cli import app
from maskgraft.conversion import Conversion, NotExpressible, convert
from maskgraft.errors import CheckpointError, UsageError
from maskgraft.families.homes import HOMES
from maskgraft.files.tf_writing import write_bundle
from maskgraft.graft import rebuilt
from maskgraft.restating import with_eps
from maskgraft.spec import NUMERICS_FIELDS, Spec
from tests.families.containers import CONTAINERS
from tests.families.slim import SLIM
from tests.families.test_every_family import arrays_of
from tests.families.test_tensorflow import as_saved_model
from tests.tiny import tiny_model

ENDINGS = {
    "detectron2": ".pkl",
    "detectron-caffe2": ".pkl",
    "matterport": ".h5",
    "tensorpack": ".npz",
    "chainer-mask-rcnn": ".npz",
    "paddledetection": ".pdparams",
    "tf1_object_detection_api": ".ckpt",
    "tf2_object_detection_api": ".ckpt",
    "tf_model_garden": ".ckpt",
}
PYRAMIDS = [
    family
    for family in HOMES
    if family not in ("chainer-mask-rcnn", "tf1_object_detection_api", "tf2_object_detection_api", "tf_model_garden")
]
SOURCES = {SLIM[name][0].family: name for name in reversed(SLIM) if SLIM[name][0].family in PYRAMIDS}
PAIRS = [(one, other) for one in PYRAMIDS for other in PYRAMIDS if one != other]
AROUND = [(one, PYRAMIDS[(place + 1) % len(PYRAMIDS)]) for place, one in enumerate(PYRAMIDS)]
# What the weights take up; all other conventions are made those of the source before models are compared.
RESTATED = (
    "channel_order pixel_scale pixel_mean pixel_std norm_eps rpn_delta_weights box_delta_weights "
    "anchor_sizes anchor_ratios anchor_order"
).split()


@pytest.fixture(scope="module")
def home_file(tmp_path_factory: pytest.TempPathFactory):
    files: dict[str, Path] = {}

    def file(name: str) -> Path:
        if name not in files:
            arrays = arrays_of(name)
            random = np.random.default_rng(1)
            for theirs, array in arrays.items():  # variances that are not all one, and rows that differ
                if (array == 1).all() and array.ndim:
                    arrays[theirs] = random.uniform(0.5, 2, array.shape).astype(np.float32)
            family, folder = SLIM[name][0].family, tmp_path_factory.mktemp("home")
            if family.startswith("tf"):
                write_bundle(folder / "model.ckpt", arrays, objects=not family.startswith("tf1"))
                files[name] = folder / "model.ckpt.index"
            else:
                files[name] = CONTAINERS[family](folder, arrays)
        return files[name]

    return file


def converted(file: Path, to: str, folder: Path, **options: object) -> Conversion:
    return convert(file, to=to, out=folder / f"model{ENDINGS.get(to, '.pth')}", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(SLIM))
def test_into_its_own_family_every_tensor_stays_byte_for_byte(name: str, home_file, tmp_path: Path) -> None:
    done = converted(home_file(name), SLIM[name][0].family, tmp_path)
    before, after = mg.open(home_file(name)), mg.open(done.files[0])
    assert set(after) == set(before)
    for theirs, array in before.items():
        one, other = array.read(), after[theirs].read()
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()), theirs
    assert not done.findings


def test_a_config_that_was_given_stands_beside_the_copy(home_file, tmp_path: Path) -> None:
    """In a folder that is made for them, and under the name by which it is found."""
    config = tmp_path / "trained.yaml"
    config.write_text("min_size: 333\nmax_size: 444\n")
    done = convert(
        home_file("chainer"), to="chainer-mask-rcnn", out=tmp_path / "new" / "folder" / "copy.npz", config=config
    )
    assert [path.name for path in done.files] == ["copy.npz", "params.yaml"]
    assert mg.diagnose(done.files[0]).spec.numerics.max_size == 444  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"trained.yaml.* cannot be made"):
        convert(home_file("chainer"), to="chainer-mask-rcnn", out=config / "copy.npz")


def stages(model: mg.MaskRCNN) -> dict[str, np.ndarray]:
    """Every stage of one image, in a form in which the order of anchors and the row of the background do not show."""
    image = np.random.default_rng(2).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = model.trace(image, torch.tensor([[0.0, 0, 40, 40], [10, 10, 30, 60]]))
    result = {name: value for name, value in found.items() if name[0] in "cp" and name[1].isdigit()}
    for name, value in found.items():
        if name.startswith("rpn.logits"):
            result[name] = value.sort(1).values
    classes, weights = model.spec.arch.classes, torch.tensor(model.spec.numerics.box_delta_weights)
    deltas = found["roi.box_deltas"].reshape(2, -1, 4) / weights
    masks = found["roi.mask_logits"]
    result["proposals"] = found["proposals"]
    result["roi.class_logits"] = found["roi.class_logits"]
    result["roi.box_deltas"] = deltas[:, :classes] if deltas.shape[1] > 2 else deltas[:, :1].expand(-1, classes, -1)
    result["roi.mask_logits"] = masks[:, :classes]
    return {name: value.numpy().astype(np.float64) for name, value in result.items()}


def assert_alike(source: Path, done: Conversion) -> None:
    one, other = mg.load(source), mg.load(done.files[0], numerics=done.numerics)
    small = {"min_size": 64, "max_size": 96, "rpn_post_nms": 50, "rpn_pre_nms": 200, "fixed_size": None}
    if done.family == "tf_model_garden":  # whose P6 is a convolution, and every second cell under its own padding only
        small |= {"conv_padding": "same", "pad_multiple": 64}
    one = rebuilt(one, one.spec.with_numerics(small))
    shared = {name: getattr(one.spec.numerics, name) for name in NUMERICS_FIELDS if name not in RESTATED}
    if any(finding.names == ("numerics.pixel_mean",) for finding in done.findings):
        step = 1 if one.spec.numerics.channel_order == other.spec.numerics.channel_order else -1
        ratio = other.spec.numerics.pixel_scale / one.spec.numerics.pixel_scale
        shared["pixel_mean"] = tuple(value * ratio for value in one.spec.numerics.pixel_mean[::step])
    other = rebuilt(other, replace(other.spec, numerics=replace(other.spec.numerics, **shared)))
    mine, theirs = stages(one), stages(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        largest = np.abs(value).max()
        if name == "proposals":
            apart = [np.abs(theirs[name] - row).max(1).min() for row in value]
            assert np.quantile(apart, 0.9) < 1e-2, name
        else:
            assert np.abs(value - theirs[name]).max() <= 1e-4 * largest, name


@pytest.mark.parametrize(("one", "other"), AROUND)
def test_from_family_to_family_only_the_named_conventions_change(
    one: str, other: str, home_file, tmp_path: Path
) -> None:
    with pytest.raises(NotExpressible) as raised:
        converted(home_file(SOURCES[one]), other, tmp_path)
    assert not list(tmp_path.iterdir())
    barred = {finding.names for finding in raised.value.findings if finding.severity == "error"}
    done = converted(home_file(SOURCES[one]), other, tmp_path, accept=True)
    assert barred <= {finding.names for finding in done.findings if finding.severity == "warning"}
    assert_alike(home_file(SOURCES[one]), done)


@pytest.mark.long
@pytest.mark.parametrize(("one", "other"), [pair for pair in PAIRS if pair not in AROUND])
def test_from_every_family_to_every_other(one: str, other: str, home_file, tmp_path: Path) -> None:
    done = converted(home_file(SOURCES[one]), other, tmp_path, accept=True)
    assert_alike(home_file(SOURCES[one]), done)


@pytest.mark.parametrize(("one", "other"), [("tf1", "tf2_object_detection_api"), ("tf2", "tf1_object_detection_api")])
def test_between_the_tensorflows(one: str, other: str, home_file, tmp_path: Path) -> None:
    done = converted(home_file(one), other, tmp_path, accept=True)
    assert_alike(home_file(one), done)
    # which bottleneck convolution strides, and how C5 does, is in no config; TF2 has no C4 at stride 8
    barred = {finding.names[0] for finding in done.findings if finding.severity == "warning"}
    eight = {"numerics.c4_stride"} if one == "tf1" else set()
    assert barred == {"numerics.stride_in", "numerics.stride_at", "numerics.res5_stride"} | eight
    assert [path.name for path in done.files[-2:]] == ["pipeline.config", "label_map.pbtxt"]
    assert "faster_rcnn_resnet50" + "_keras" * (one == "tf1") in done.files[-2].read_text()


@pytest.mark.parametrize("one", ["detectron2", "matterport"])
def test_into_model_garden(one: str, home_file, tmp_path: Path) -> None:
    assert_alike(home_file(one), converted(home_file(one), "tf_model_garden", tmp_path, accept=True))


@pytest.mark.long
@pytest.mark.parametrize("one", [name for name in PYRAMIDS if name not in ("detectron2", "matterport")])
def test_into_model_garden_from_every_other(one: str, home_file, tmp_path: Path) -> None:
    source = home_file(SOURCES[one])
    assert_alike(source, converted(source, "tf_model_garden", tmp_path, accept=True))


def test_out_of_model_garden_only_what_went_in(home_file, tmp_path: Path) -> None:
    there = converted(home_file("detectron2"), "tf_model_garden", tmp_path, accept=True)
    (tmp_path / "back").mkdir()
    back = converted(there.files[0], "detectron2", tmp_path / "back", accept=True)
    assert_alike(there.files[0], back)
    with pytest.raises(CheckpointError) as raised:
        converted(home_file("model garden"), "detectron2", tmp_path, accept=True)
    said = [finding.message for finding in raised.value.findings]
    assert len(said) == 2
    assert "P6 is a learned convolution" in said[0]
    assert "a norm for each level" in said[1]


@pytest.mark.parametrize("one", ["tf1", "tf2"])
def test_a_pipeline_config_is_written_that_says_it_all(one: str, home_file, tmp_path: Path) -> None:
    numerics = {
        "min_size": 480,
        "max_size": 640,
        "resize": "tensorflow-1-area",
        "pad_square": True,
        "pad_black": True,
        "clip_shown": True,
        "mask_regions": "stretched",
        "anchor_offset": 0.25,
        "anchor_clip_train": True,
        "rpn_straddle": None,
        "rpn_outside": "matched",
        "class_scores": "sigmoid",
        "logit_scale": 2.0,
        "c4_stride": 16,
        "anchor_sizes": ((64.0, 192.0, 256.0, 512.0),),
        "anchor_ratios": (2.0, 1.0, 0.25),
        "rpn_dilation": 1,
        "rpn_score_threshold": 0.01,
        "rpn_nms_threshold": 0.65,
        "rpn_post_nms": 77,
        "rpn_post_nms_train": 77,
        "box_pool_size": 17,
        "roi_max_pool": (1, 1),
        "mask_size": 21,
        "score_threshold": 0.25,
        "nms_threshold": 0.55,
        "max_per_class": 40,
        "max_detections": 50,
        "roi_samples": 32,
    }
    family = SLIM[one][0].family
    mg.save(mg.load(home_file(one), numerics=numerics), tmp_path / "saved")
    done = converted(tmp_path / "saved", family, tmp_path)
    model = mg.load(done.files[0])
    assert {name: getattr(model.spec.numerics, name) for name in numerics} == numerics
    assert not [finding for finding in done.findings if finding.severity != "info"]
    for name in numerics:
        assert model.spec.learned[f"numerics.{name}"].how == "read"


@pytest.mark.parametrize("other", ["detectron2", "detectron-caffe2", "tensorpack"])
def test_a_box_head_of_c5_travels_too(other: str, home_file, tmp_path: Path) -> None:
    done = converted(home_file("chainer"), other, tmp_path, accept=True)
    assert_alike(home_file("chainer"), done)


def test_what_is_found_is_what_the_two_specs_disagree_on(home_file, tmp_path: Path) -> None:
    """No convention that acts is passed over: the loaded models differ in nothing that is neither found nor folded."""
    done = converted(home_file("matterport"), "detectron2", tmp_path, accept=True)
    one = mg.load(home_file("matterport")).spec.numerics
    other = mg.load(done.files[0]).spec.numerics
    differ = {name for name in NUMERICS_FIELDS if getattr(one, name) != getattr(other, name)} - set(RESTATED)
    found = {name.removeprefix("numerics.") for finding in done.findings for name in finding.names}
    assert differ <= found | {"stride_at"}
    assert found & {"resize", "pad_square", "roi_method", "corner_boxes"}


def test_in_whose_pixels_nothing_is_counted_does_not_matter(home_file, tmp_path: Path) -> None:
    """Detectron counts the least side of a proposal in the photograph's, and asks for none."""
    done = converted(home_file("detectron"), "maskrcnn-benchmark", tmp_path, accept=True)
    found = {finding.names for finding in done.findings}
    assert ("numerics.resize",) in found
    assert ("numerics.rpn_min_size_in",) not in found


def test_a_config_is_written_that_the_family_reads(home_file, tmp_path: Path) -> None:
    numerics = {
        "score_threshold": 0.3,
        "min_size": 480,
        "nms_threshold": 0.42,
        "roi_aligned": False,
        "stride_in": "3x3",
    }
    model = mg.load(home_file("detectron2"), numerics=numerics)
    mg.save(model, tmp_path / "saved")
    for number, to in enumerate(("detectron2", "maskrcnn-benchmark", "mmdet", "detectron-caffe2")):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = converted(tmp_path / "saved", to, folder, accept=True)
        read = mg.load(done.files[0]).spec.numerics
        found = {name.removeprefix("numerics.") for finding in done.findings for name in finding.names}
        for name, value in numerics.items():
            assert getattr(read, name) == value, (to, name, name in found)


@pytest.mark.parametrize("source", ["maskrcnn-benchmark", "detectron2"])
def test_maskrcnn_benchmark_is_given_what_its_pytorch_reads(source: str, home_file, tmp_path: Path) -> None:
    """PyTorch 1.4 opens no zip that a later one wrote; `POST_NMS_TOP_N` is of a level, and counts in training too."""
    model = mg.load(home_file(source), numerics={"rpn_post_nms": 300, "rpn_post_nms_train": 700})
    done = converted(home_file(source), "maskrcnn-benchmark", tmp_path, accept=True)
    assert done.files[0].read_bytes()[:2] != b"PK"
    assert set(torch.load(done.files[0], weights_only=True)) == {"model"}
    mg.save(model, tmp_path / "saved")
    (tmp_path / "other").mkdir()
    done = converted(tmp_path / "saved", "maskrcnn-benchmark", tmp_path / "other", accept=True)
    rpn = yaml.safe_load(done.files[1].read_text())["MODEL"]["RPN"]
    assert (rpn["POST_NMS_TOP_N_TEST"], rpn["FPN_POST_NMS_TOP_N_TEST"]) == (300, 300)
    assert (rpn["POST_NMS_TOP_N_TRAIN"], rpn["FPN_POST_NMS_TOP_N_TRAIN"]) == (700, 700)


def test_classes_travel_where_a_file_holds_them(home_file, tmp_path: Path) -> None:
    model = mg.load(home_file("mmdet"))
    model.spec = Spec(
        family="mmdet", arch=model.spec.arch, numerics=model.spec.numerics, classes=("kite", "boat", "tree")
    )
    mg.save(model, tmp_path / "saved")
    done = converted(tmp_path / "saved", "mmdet", tmp_path, accept=True)
    assert mg.load(done.files[0]).spec.classes == ("kite", "boat", "tree")
    other = converted(tmp_path / "saved", "detectron2", tmp_path, accept=True)
    assert [finding.evidence["classes"] for finding in other.findings if finding.code == "numerics.class-order"] == [
        ["kite", "boat", "tree"]
    ]


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ("chainer", "matterport", {"neck is 'c4', where it has 'fpn'"}),
        ("torchvision", "chainer-mask-rcnn", {"neck is 'fpn', where it has 'c4'"}),
        ("tf1", "detectron2", {"mask_upsample is 'resize', where it has 'deconv'"}),
        ("tf1", "tf_model_garden", {"neck is 'c4', where it has 'fpn'", "mask_upsample is 'resize', where"}),
        ("model garden", "mmdet", {"P6 is a learned convolution", "a norm for each level"}),
    ],
)
def test_an_architecture_that_the_family_lacks_is_refused(
    one: str, other: str, says: set[str], home_file, tmp_path: Path
) -> None:
    """By what it is, each thing by itself, and not by the tensors that follow of it."""
    with pytest.raises(CheckpointError, match="cannot hold this model") as raised:
        converted(home_file(one), other, tmp_path, accept=True)
    messages = [finding.message for finding in raised.value.findings]
    assert len(messages) == len(says)
    assert all(any(part in message for message in messages) for part in says), messages
    assert not list(tmp_path.iterdir())


def saved(folder: Path, arch: dict[str, object], numerics: dict[str, object] | None = None) -> Path:
    """A slim model of Detectron2's conventions, but for some."""
    spec = SLIM["detectron2"][0]
    spec = replace(spec, arch=replace(spec.arch, **arch), classes=tuple("abc"[: arch.get("classes", 3)]))  # type: ignore[arg-type,misc]
    torch.manual_seed(0)
    return mg.save(mg.MaskRCNN(spec.with_numerics(numerics or {})).eval(), folder / "saved")


@pytest.mark.parametrize("other", ["detectron-caffe2", "tensorpack", "tf_model_garden", "matterport", "mmdet"])
def test_of_one_class_a_row_for_all_is_its_own(other: str, tmp_path: Path) -> None:
    source = saved(tmp_path, {"classes": 1, "box_rows": "agnostic", "mask_rows": "agnostic"})
    assert_alike(source, converted(source, other, tmp_path / "there", accept=True))


@pytest.mark.parametrize("other", ["tensorpack", "paddledetection", "maskrcnn-benchmark"])
def test_one_mask_for_all_classes_becomes_one_for_each(other: str, tmp_path: Path) -> None:
    source = saved(tmp_path, {"mask_rows": "agnostic"})
    assert_alike(source, converted(source, other, tmp_path / "there", accept=True))


def test_what_tensorpack_is_to_be_told_is_what_its_config_takes(tmp_path: Path) -> None:
    """Colours in RGB, the stride as yes or no, so many proposals of a level as come to be ranked there."""
    numerics: dict[str, object] = {
        "stride_in": "1x1",
        "min_size": 480,
        "max_size": 640,
        "rpn_pre_nms": 500,
        "rpn_post_nms": 500,
    }
    numerics["pixel_mean"] = (100.0, 110.0, 120.0)  # in BGR, as Detectron2 has it
    done = converted(saved(tmp_path, {}, numerics), "tensorpack", tmp_path / "there", accept=True)
    barred = {finding.names[0].removeprefix("numerics.") for finding in done.findings if finding.severity == "warning"}
    assert not barred & {*numerics, "pixel_std"}
    assert done.settings["BACKBONE.STRIDE_1X1"] is True
    assert done.settings["PREPROC.PIXEL_MEAN"] == [120.0, 110.0, 100.0]
    config = tmp_path / "config.py"
    config.write_text("".join(f"_C.{key} = {value!r}\n" for key, value in done.settings.items()))
    told, given = mg.load(done.files[0], config=config), mg.load(done.files[0], numerics=done.numerics)
    assert told.spec.numerics == given.spec.numerics == done.spec.numerics
    assert {name: getattr(told.spec.numerics, name) for name in numerics} | {"rpn_pre_nms": 500} == numerics  # 0 there
    assert told.spec.numerics.delta_clip == np.log(640 / 16)  # which follows from the longest side there


def test_what_matterport_is_to_be_told_is_what_its_config_takes(tmp_path: Path) -> None:
    """No side that `MaskRCNN.build` refuses: it wants multiples of 64."""
    numerics = {"max_size": 900, "rpn_pre_nms": 700, "mask_targets": "crop", "anchor_ratios": (0.4, 1.0, 3.0)}
    done = converted(saved(tmp_path, {}, numerics), "matterport", tmp_path / "there", accept=True)
    assert (done.settings["IMAGE_MAX_DIM"], done.settings["PRE_NMS_LIMIT"]) == (960, 700)
    assert [finding.evidence["target"] for finding in done.findings if finding.names == ("numerics.max_size",)] == [960]
    config = tmp_path / "mine.py"
    body = "".join(f"    {key} = {value!r}\n" for key, value in done.settings.items())
    config.write_text(f"class Mine(Config):\n{body}")
    told, given = mg.load(done.files[0], config=config), mg.load(done.files[0], numerics=done.numerics)
    assert told.spec.numerics == given.spec.numerics == done.spec.numerics
    assert told.spec.numerics.anchor_ratios == pytest.approx((0.4, 1.0, 3.0))


def test_files_that_are_there_stay(home_file, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(UsageError) as raised:
        converted(home_file("torchvision"), "detectron2", tmp_path, accept=True)
    assert raised.value.findings[0].code == "file.exists"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_a_place_that_cannot_be_written_to_keeps_nothing(
    home_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full once the config is written: no config without its weights."""

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskgraft.files.containers.write_pickle", full)
    with pytest.raises(UsageError, match=r"model\.pkl cannot be written: No space left on device"):
        converted(home_file("torchvision"), "detectron2", tmp_path, accept=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"/proc/model\.pth cannot be written"):
        convert(home_file("detectron2"), to="torchvision", out="/proc/model.pth", accept=True)


@pytest.mark.parametrize("spec", ["{", '{"spec": {}}', "[]"])
def test_a_folder_with_a_broken_spec_is_refused(spec: str, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(spec)
    with pytest.raises(CheckpointError, match="is not what maskgraft saves"):
        converted(tmp_path, "torchvision", tmp_path)


def test_an_ending_that_the_family_does_not_read_is_refused(home_file, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.h5"):
        convert(home_file("torchvision"), to="matterport", out=tmp_path / "model.pth")


def test_torchvision_takes_what_was_written(tmp_path: Path) -> None:
    """The home framework's own class takes every tensor, strictly, and finds the same."""
    ours = tiny_model()
    mg.save(ours, tmp_path / "saved")
    done = convert(tmp_path / "saved", to="torchvision", out=tmp_path / "model.pth")
    body = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    layers = {f"layer{number}": str(number - 1) for number in (1, 2, 3, 4)}
    theirs = detection.MaskRCNN(
        detection.backbone_utils.BackboneWithFPN(body, layers, [64, 128, 256, 512], 32),
        rpn_head=detection.rpn.RPNHead(32, 3),
        box_head=detection.faster_rcnn.TwoMLPHead(32 * 49, 64),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(64, 3),
        mask_head=detection.mask_rcnn.MaskRCNNHeads(32, [32], 1),
        mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(32, 32, 3),
        rpn_anchor_generator=detection.anchor_utils.AnchorGenerator(
            done.settings["rpn_anchor_generator: AnchorGenerator sizes"], ((0.5, 1.0, 2.0),) * 5
        ),
        min_size=done.settings["min_size"],
        max_size=done.settings["max_size"],
        rpn_pre_nms_top_n_test=done.settings["rpn_pre_nms_top_n_test"],
        rpn_post_nms_top_n_test=done.settings["rpn_post_nms_top_n_test"],
    ).eval()
    theirs.load_state_dict(torch.load(done.files[0], weights_only=True), strict=True)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    with torch.no_grad():
        found = theirs([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    mine = ours.predict([image])[0]
    assert len(mine) == len(found["boxes"]) > 5
    torch.testing.assert_close(mine.scores, found["scores"], rtol=0, atol=1e-5)
    torch.testing.assert_close(mine.boxes, found["boxes"], rtol=0, atol=1e-2)


def test_the_verb(home_file, tmp_path: Path) -> None:
    source, out = str(home_file("detectron2")), tmp_path / "model.pth"
    run = CliRunner()
    barred = run.invoke(app, ["convert", source, "--to", "torchvision", "--out", str(out), "--json"])
    assert barred.exit_code == 1
    assert not out.exists()
    assert {finding["severity"] for finding in json.loads(barred.stdout)["findings"]} >= {"error"}
    done = run.invoke(app, ["convert", source, "--to", "torchvision", "--out", str(out), "--accept", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["files"] == [str(out)]


def test_configs_of_detectron_hold_integers_where_their_frameworks_take_nothing_else(home_file, tmp_path: Path) -> None:
    """yacs compares types: 0.0 is refused where the default is 0, and 0.001 cannot be said at all."""
    for to, key in (
        ("detectron2", "PROPOSAL_GENERATOR"),
        ("maskrcnn-benchmark", "RPN"),
    ):
        for number, (value, said) in enumerate(((0.0, 0), (2.0, 2), (0.001, None))):
            mg.save(mg.load(home_file("detectron2"), numerics={"rpn_min_size": value}), tmp_path / f"{to}{number}")
            done = converted(tmp_path / f"{to}{number}", to, tmp_path / f"{to}{number}", accept=True)
            found = yaml.safe_load(done.files[-1].read_text())["MODEL"].get(key, {}).get("MIN_SIZE")
            assert (found, type(found)) == (said, type(said))
            barred = {name for finding in done.findings for name in finding.names}
            assert ("numerics.rpn_min_size" in barred) == (said is None)


def test_settings_for_detectron_are_those_that_it_takes(home_file, tmp_path: Path) -> None:
    """Its `merge_cfg_from_file` refuses the name of 2017, and a clip that is no float of NumPy's."""
    done = converted(home_file("detectron2"), "detectron-caffe2", tmp_path, accept=True)
    config = yaml.safe_load(mg.open(done.files[0]).about["cfg"])
    assert config["TEST"]["SCALE"] == 800
    assert "SCALES" not in config["TEST"]
    assert "BBOX_XFORM_CLIP" not in config


def test_what_is_written_for_detectron2_builds_the_architecture(home_file, tmp_path: Path) -> None:
    """Wide proposal heads, two of them, and a C5 that is dilated: nothing but the config can say so."""
    written = {}
    for name in ("matterport", "chainer"):
        (tmp_path / name).mkdir()
        done = converted(home_file(name), "detectron2", tmp_path / name, accept=True)
        written[name] = yaml.safe_load(done.files[-1].read_text())["MODEL"]
        arch = done.spec.arch
        assert written[name]["RPN"]["CONV_DIMS"] == [arch.rpn_channels] * arch.rpn_convs
        assert written[name]["ROI_MASK_HEAD"]["POOLER_SAMPLING_RATIO"] == done.spec.numerics.roi_sampling
    assert written["matterport"]["ROI_HEADS"]["NAME"] == "StandardROIHeads"
    assert written["chainer"]["ROI_HEADS"]["NAME"] == "Res5ROIHeads"


def test_norms_of_all_gpus_travel_as_those_of_one(tmp_path: Path) -> None:
    model = tiny_model()
    model.spec = replace(model.spec, arch=replace(model.spec.arch, norm="sync"))
    mg.save(model, tmp_path / "saved")
    for to in ("torchvision", "detectron2", "mmdet"):
        (tmp_path / to).mkdir()
        assert converted(tmp_path / "saved", to, tmp_path / to, accept=True).spec.arch.norm == "batch"


@pytest.mark.parametrize("one", ["tf1", "tf2"])
def test_a_label_map_is_written_that_names_the_classes(one: str, home_file, tmp_path: Path) -> None:
    family, classes = SLIM[one][0].family, ("TV", "unused 2", 'a "müller" \\ kite')
    model = mg.load(home_file(one))
    model.spec = replace(model.spec, classes=classes)
    mg.save(model, tmp_path / "saved")
    for folder in ("there", "copy"):
        (tmp_path / folder).mkdir()
    done = converted(tmp_path / "saved", family, tmp_path / "there")
    assert (tmp_path / "there" / "label_map.pbtxt") in done.files
    copy = converted(done.files[0], family, tmp_path / "copy")
    for path in (done.files[0], copy.files[0]):
        read = mg.load(path).spec
        assert read.classes == classes
        assert read.learned["classes"].how == "read"
    assert "id: 2" not in (tmp_path / "copy" / "label_map.pbtxt").read_text()  # an id that stands for nothing


def test_slim_is_given_the_block_that_its_first_stage_never_reads(home_file, tmp_path: Path) -> None:
    """A ResNet's graph has it in both stages, and the exporter of TF1 restores every variable."""
    done = converted(home_file("tf2"), "tf1_object_detection_api", tmp_path, accept=True)
    names = set(mg.open(done.files[0]))
    last = {name for name in names if name.startswith("SecondStageFeatureExtractor/resnet_v1_50/block4/")}
    assert len(last) == 50
    assert {name.replace("Second", "First") for name in last} <= names
    assert mg.open(done.files[0]).about["global_step"] == 0  # which the exporter asks for


def test_a_saved_model_is_written_as_the_checkpoint_it_was_made_of(home_file, tmp_path: Path) -> None:
    checkpoint = mg.open(home_file("tf2"))
    arrays = {name: array.read() for name, array in as_saved_model(checkpoint, "variables").items()}
    write_bundle(tmp_path / "variables", arrays, objects=True)
    again = mg.open(converted(tmp_path / "variables.index", "tf2_object_detection_api", tmp_path).files[0])
    assert set(again) == set(checkpoint)
    assert all(np.array_equal(again[name].read(), checkpoint[name].read()) for name in checkpoint)


def test_a_norm_without_scale_takes_another_eps_into_its_variance() -> None:
    bare = {"backbone.a.norm.running_var": np.array([0.5, 2.0], np.float32)}
    moved = with_eps(bare, 1e-5, 1e-3)["backbone.a.norm.running_var"]
    assert moved + 1e-3 == pytest.approx(bare["backbone.a.norm.running_var"] + 1e-5)
    small = {"backbone.a.norm.running_var": np.array([0.0001, 2.0], np.float32)}
    assert with_eps(small, 1e-3, 1e-3) == small
    with pytest.raises(CheckpointError, match="too small for an eps"):
        with_eps(small, 1e-5, 1e-3)
