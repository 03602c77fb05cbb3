"""What people complain of when weights do not load, or load and are worse: each is made again, and the answer read.

The complaints are those of issue trackers of Mask R-CNN frameworks; each test names one of them.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import maskgraft as mg
from maskgraft.causes.canonical import canonical_shape
from maskgraft.causes.restoring import restored
from maskgraft.diagnosis import Report
from maskgraft.families import detectron2, matterport, mmdet, tf1_object_detection, torchvision
from maskgraft.families.family import Family
from maskgraft.files import LazyArray
from maskgraft.spec import Arch, Spec
from tests.tiny import tiny_spec

State = dict[str, Tensor]


def spec_of(family: Family, *, classes: int = 4, **arch: object) -> Spec:
    """A slim model of a family: every stage is there, few channels in the heads."""
    rows = "with-background" if family.name in ("torchvision", "matterport") else "foreground"
    slim = Arch(
        classes=classes,
        blocks=(1, 1, 1, 1),
        neck_channels=16,
        rpn_channels=16,
        box_fc_width=16,
        mask_convs=1,
        mask_channels=16,
        box_rows=rows,  # type: ignore[arg-type]
        mask_rows=rows,  # type: ignore[arg-type]
    )
    names = tuple(f"class {index}" for index in range(classes))
    home = {"torchvision": torchvision, "mmdet": mmdet, "matterport": matterport}.get(family.name, detectron2)
    return Spec(family=family.name, arch=replace(slim, **arch), numerics=home.NUMERICS, classes=names)  # type: ignore[arg-type]


def state_of(family: Family, spec: Spec, *, seed: int = 0, era: str | None = None) -> State:
    """Tensors of a model in a family's names and layouts, with statistics of no initialiser."""
    random = np.random.default_rng(seed)
    state: State = {}
    for link in family.links(spec, family.eras[0] if era is None else era):
        shape = canonical_shape(link.ours, spec)
        assert shape is not None
        if link.ours.endswith("num_batches_tracked"):
            state[link.theirs] = torch.tensor(7)
            continue
        few = random.gamma(2.0, 0.1, 997) if shape[:1] == shape else random.laplace(0, 0.05, 997)
        values = np.resize(few, shape)
        state[link.theirs] = torch.from_numpy(np.ascontiguousarray(link.back(values.astype(np.float32))))
    return state


def saved(folder: Path, state: object, name: str = "model.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def keras_file(path: Path, arrays: dict[str, np.ndarray], *, as_text: bool = False) -> Path:
    """Keras 2's layout; attributes as bytes, or as text, which old loaders could not decode."""
    groups: dict[str, list[str]] = {}
    for name in arrays:
        layer, _, weight = name.partition("/")
        groups.setdefault(layer, []).append(weight)
    kind = h5py.string_dtype() if as_text else "S100"
    with h5py.File(path, "w") as file:
        file.attrs.create("layer_names", np.array(list(groups), dtype=object if as_text else "S"), dtype=kind)
        for layer, weights in groups.items():
            group = file.create_group(layer)
            group.attrs.create("weight_names", np.array(weights, dtype=object if as_text else "S"), dtype=kind)
            for weight in weights:
                group[weight] = arrays[f"{layer}/{weight}"]
    return path


def first(report: Report) -> mg.Finding:
    return report.findings[0]


def finding(report: Report, code: str) -> mg.Finding:
    found = [one for one in report.findings if one.code == code]
    assert found, [(one.code, one.message) for one in report.findings]
    return found[0]


MATTERPORT = {"conv_bias": True, "objectness": "softmax", "fc_norm": "frozen", "mask_norm": "frozen"}


def matterport_file(folder: Path, *, as_text: bool = False, **arch: object) -> tuple[Path, Spec]:
    spec = spec_of(matterport.FAMILY, **{**MATTERPORT, **arch})  # type: ignore[arg-type]
    arrays = {name: value.numpy() for name, value in state_of(matterport.FAMILY, spec).items()}
    return keras_file(folder / "mask_rcnn.h5", arrays, as_text=as_text), spec


# Loading fails


def test_1_other_classes_are_told_as_one_cause(tmp_path: Path) -> None:
    """mrcnn_bbox_fc … shape (1024, 8), saved (1024, 324)."""
    path, spec = matterport_file(tmp_path, classes=80)
    report = mg.diagnose(path, into=replace(spec, arch=replace(spec.arch, classes=1), classes=("balloon",)))
    assert first(report).code == "shape.classes"
    assert "81 class rows in the file against 2" in first(report).message
    assert "only the class-dependent layers differ (6 tensors" in first(report).message
    assert "classes=[…]" in first(report).fix
    assert [one.code for one in report.findings if one.severity == "error"] == ["shape.classes"]


def test_2_pyramid_width(tmp_path: Path) -> None:
    """Weights (256, 2048, 1, 1) for a model of TOP_DOWN_PYRAMID_SIZE 64: both widths, in one layout."""
    path, spec = matterport_file(tmp_path)
    report = mg.diagnose(path, into=replace(spec, arch=replace(spec.arch, neck_channels=64)))
    assert first(report).code == "shape.width"
    assert first(report).evidence == {"file": 16, "target": 64}
    assert "neck_channels" in first(report).message


@pytest.mark.parametrize("as_text", [False, True])
def test_3_attributes_as_text_or_as_bytes(as_text: bool, tmp_path: Path) -> None:
    """'str' object has no attribute 'decode'."""
    report = mg.diagnose(matterport_file(tmp_path, as_text=as_text)[0])
    assert report.family == "matterport"
    assert report.loadable


def test_4_layers_by_name_and_never_by_order(tmp_path: Path) -> None:
    """Loading 233 layers into 231: topological loading."""
    path, spec = matterport_file(tmp_path)
    with h5py.File(path, "r+") as file:
        names = list(file.attrs["layer_names"])
        file.attrs["layer_names"] = np.array([*reversed(names), b"input_image", b"lambda_1"], dtype="S")
        for extra in ("input_image", "lambda_1"):
            file.create_group(extra).attrs["weight_names"] = np.array([], dtype="S")
    report = mg.diagnose(path)
    assert report.loadable and report.family == "matterport"
    assert report.spec is not None and report.spec.arch == spec.arch


class HistoryBuffer:
    """Stands for a class of the training framework."""


def test_5_a_pickle_that_names_classes_is_read_without_them(tmp_path: Path) -> None:
    """Weights only load failed: Unsupported global."""
    state = state_of(mmdet.FAMILY, spec_of(mmdet.FAMILY))
    path = saved(tmp_path, {"state_dict": state, "message_hub": HistoryBuffer(), "meta": {}})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    report = mg.diagnose(path)
    assert report.loadable and report.family == "mmdet"
    assert "HistoryBuffer" in finding(report, "file.unsafe-pickle").message


def test_6_a_cascade_is_no_plain_mask_rcnn(tmp_path: Path) -> None:
    """The model and loaded state dict do not match exactly."""
    state = state_of(mmdet.FAMILY, spec_of(mmdet.FAMILY))
    cascade = {
        name.replace("bbox_head.", f"bbox_head.{stage}."): value for name, value in state.items() for stage in range(3)
    }
    report = mg.diagnose(saved(tmp_path, {"state_dict": cascade}))
    assert not report.loadable
    assert "cascade heads" in first(report).message


def test_6_moving_averages_beside_the_weights(tmp_path: Path) -> None:
    state = state_of(mmdet.FAMILY, spec_of(mmdet.FAMILY))
    averages = {f"ema_{name.replace('.', '_')}": value for name, value in state.items()}
    report = mg.diagnose(saved(tmp_path, {"state_dict": {**state, **averages}}))
    assert report.loadable
    assert not set(averages) & set(mg.open(report.path))


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ({"block": "basic", "blocks": (2, 2, 2, 2)}, "shape.depth", "bottleneck blocks"),
        ({"groups": 32, "width_per_group": 8, "blocks": (3, 4, 23, 3)}, "shape.groups", "ResNeXt-101 32x8d"),
        ({"blocks": (3, 4, 23, 3)}, "shape.depth", "17 blocks have no source"),
    ],
)  # fmt: skip
def test_7_depth_and_groups(target: dict[str, object], code: str, said: str, tmp_path: Path) -> None:
    """Skip loading … res4.1.conv1.weight, a hundred times."""
    spec = spec_of(detectron2.FAMILY, blocks=(3, 4, 6, 3))
    path = saved(tmp_path, {"model": state_of(detectron2.FAMILY, spec)})
    report = mg.diagnose(path, into=replace(spec, arch=replace(spec.arch, **target)))  # type: ignore[arg-type]
    assert first(report).code == code
    assert said in first(report).message


# Loads, and is worse


def photographic(order: str) -> Callable[[Tensor], Tensor]:
    gains = torch.tensor([1.0, 1.2, 0.78] if order == "rgb" else [0.78, 1.2, 1.0])
    return lambda stem: stem * gains[None, :, None, None]


def test_8_a_stem_of_bgr_in_a_pipeline_of_rgb(tmp_path: Path) -> None:
    """All keys load, AP 43.6 → 38.9."""
    spec = spec_of(torchvision.FAMILY)
    state = state_of(torchvision.FAMILY, spec)
    stem = "backbone.body.conv1.weight"
    for order, codes in (("rgb", []), ("bgr", ["numerics.channel-order"])):
        path = saved(tmp_path, {**state, stem: photographic(order)(state[stem])})
        found = [one.code for one in mg.diagnose(path).findings if one.severity != "info"]
        assert found == codes, order


def test_8_conventions_of_the_target_differ(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": state_of(detectron2.FAMILY, spec_of(detectron2.FAMILY))})
    report = mg.diagnose(path, into=spec_of(mmdet.FAMILY, norm="frozen"))
    for code in ("numerics.channel-order", "numerics.stride"):
        assert finding(report, code).evidence
    assert "43.6 → 38.9" in finding(report, "numerics.channel-order").effect


def test_9_a_load_that_changes_nothing_is_an_error(tmp_path: Path) -> None:
    """Weights load "successfully" into another copy, and predictions are noise."""

    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def state_dict(self, *arguments: object, **named: object) -> State:  # type: ignore[override]
            return {name: value.clone() for name, value in super().state_dict().items()}

    path = saved(tmp_path, {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)})
    with pytest.raises(mg.CheckpointError, match="not in the module"):
        mg.plan(path, Elsewhere()).apply()


def test_10_eps_is_told_with_what_a_wrong_one_costs(tmp_path: Path) -> None:
    """torchvision's COCO weights were trained with eps 0, and no file says so."""
    state = state_of(torchvision.FAMILY, spec_of(torchvision.FAMILY))
    report = mg.diagnose(saved(tmp_path, state))
    told = finding(report, "numerics.assumed").evidence["numerics.norm_eps"]
    assert told["value"] == 1e-5 and "COCO_V1" in told["why"] and "12 at 1e-3" in told["cost"]
    published = mg.diagnose(saved(tmp_path, state, "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"))
    assert published.spec is not None and published.spec.numerics.norm_eps == 0.0


def test_10_half_precision_that_underflows(tmp_path: Path) -> None:
    state = state_of(torchvision.FAMILY, spec_of(torchvision.FAMILY))
    state["backbone.body.bn1.running_var"] *= 1e-8
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    report = mg.diagnose(saved(tmp_path, halves))
    assert first(report).code == "values.precision"
    assert first(report).names == ("backbone.body.bn1.running_var",)


def test_11_predictors_that_were_never_trained(tmp_path: Path) -> None:
    """A rebuilt config skipped the heads with a warning: random boxes."""
    spec = spec_of(detectron2.FAMILY, classes=80, box_fc_width=64)
    state = state_of(detectron2.FAMILY, spec)
    torch.manual_seed(0)
    for layer, std in (("cls_score", 0.01), ("bbox_pred", 0.001)):
        state[f"roi_heads.box_predictor.{layer}.weight"].normal_(std=std)
        state[f"roi_heads.box_predictor.{layer}.bias"].zero_()
    report = mg.diagnose(saved(tmp_path, {"model": state}))
    assert first(report).code == "values.untrained"
    assert "box_predictor was never trained" in first(report).message
    assert len(first(report).names) == 2


def test_12_first_and_second_version_of_mmdetection(tmp_path: Path) -> None:
    """v1 counts the background first, and includes the last pixel in a box."""
    spec = spec_of(mmdet.FAMILY, norm="batch")
    old = replace(spec, arch=replace(spec.arch, box_rows="with-background", mask_rows="with-background"))
    report = mg.diagnose(saved(tmp_path, {"state_dict": state_of(mmdet.FAMILY, old, era="1")}))
    assert report.era == "1" and report.loadable
    assert report.spec is not None and report.spec.numerics.inclusive_boxes
    into = mg.diagnose(report.path, into=replace(spec, classes=report.spec.classes))
    assert "inclusive_boxes" in finding(into, "numerics.box-order").message


def test_12_biases_that_the_upgrade_shifted(tmp_path: Path) -> None:
    state = state_of(mmdet.FAMILY, spec_of(mmdet.FAMILY))
    state["roi_head.bbox_head.fc_reg.bias"][:4] = 0
    report = mg.diagnose(saved(tmp_path, {"state_dict": state, "meta": {"mmdet_version": "1.2.0"}}))
    assert first(report).code == "values.class-shift"


def test_13_a_mistyped_class_name(tmp_path: Path) -> None:
    """One name is missing, and all later classes have the wrong label."""
    spec = spec_of(mmdet.FAMILY)
    names = ("bolt", "nut", "washer", "screw")
    meta = {"dataset_meta": {"classes": names}}
    path = saved(tmp_path, {"state_dict": state_of(mmdet.FAMILY, spec), "meta": meta})
    report = mg.diagnose(path, into=replace(spec, classes=("bolt", "washer", "screw", "nut")))
    assert finding(report, "numerics.class-order").evidence["file"] == list(names)


def test_14_a_backbone_of_another_origin_has_other_conventions(tmp_path: Path) -> None:
    """ImageNet backbone swapped: mean, std, BGR and stride come with it."""
    trunk = {
        n: v for n, v in state_of(detectron2.FAMILY, spec_of(detectron2.FAMILY)).items() if n.startswith("backbone")
    }
    heads = {
        n: v
        for n, v in state_of(torchvision.FAMILY, spec_of(torchvision.FAMILY)).items()
        if not n.startswith("backbone")
    }
    report = mg.diagnose(saved(tmp_path, {**heads, **trunk}))
    assert first(report).code == "family.mismatch"
    assert set(first(report).evidence["families"]) == {"torchvision", "Detectron2"}


def test_15_91_or_90_or_80_classes(tmp_path: Path) -> None:
    coco = spec_of(torchvision.FAMILY, classes=90)
    path = saved(tmp_path, state_of(torchvision.FAMILY, coco))
    report = mg.diagnose(path)
    assert report.spec is not None and report.spec.classes[:2] == ("person", "bicycle")
    assert report.spec.learned["classes"].source == "91 rows: COCO category ids"
    contiguous = mg.diagnose(path, into=replace(spec_of(detectron2.FAMILY, classes=80)))
    assert "90 and 80 classes" in finding(contiguous, "shape.classes").message


# TF Object Detection API


def pipeline(
    folder: Path, *, extractor: str = "faster_rcnn_resnet50", train: str = "", model: str = "faster_rcnn"
) -> Path:
    path = folder / "pipeline.config"
    path.write_text(
        f"model {{ {model} {{ num_classes: 4\n"
        f"feature_extractor {{ type: '{extractor}' first_stage_features_stride: 8 }}\n"
        "first_stage_anchor_generator { grid_anchor_generator { scales: 0.5 scales: 1.0 scales: 2.0\n"
        "aspect_ratios: 1.0 height_stride: 8 width_stride: 8 } }\n"
        "image_resizer { fixed_shape_resizer { height: 96 width: 96 } } } }\n"
        f"train_config {{ {train} }}\n"
    )
    return path


def tf1_tensors() -> dict[str, LazyArray]:
    family = tf1_object_detection.FAMILY
    spec = spec_of(
        family, neck="c4", box_head="res5", objectness="softmax", mask_upsample="resize", mask_kernel=3, mask_convs=3
    )
    return {
        link.theirs: LazyArray.of(link.back(np.zeros(canonical_shape(link.ours, spec) or ())))
        for link in family.links(spec, "resnet_v1_50")
    }


def test_24_what_each_fine_tune_checkpoint_type_restores() -> None:
    """'detection' restores the feature extractors only, for a Mask R-CNN."""
    shares = restored(tf1_tensors(), era="TF1")
    assert shares["classification"] == 0
    assert 0.5 < shares["detection"] < 1
    assert shares["detection, load_all_detection_checkpoint_vars"] == 1


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("run/model.ckpt-100.data-00000-of-00001", "run/model.ckpt-100"),
        ("run/model.ckpt-100.index", "run/model.ckpt-100"),
        ("run/", "run/model.ckpt"),
    ],
)  # fmt: skip
def test_24_paths_that_tensorflow_does_not_take(said: str, right: str, tmp_path: Path) -> None:
    path = saved(tmp_path, {name: torch.zeros(array.shape) for name, array in tf1_tensors().items()})
    report = mg.diagnose(path, into=pipeline(tmp_path, train=f"fine_tune_checkpoint: '{said}'"))
    assert finding(report, "config.path").fix == f'fine_tune_checkpoint: "{right}"'


def test_24_a_path_that_was_never_filled_in(tmp_path: Path) -> None:
    path = saved(tmp_path, {name: torch.zeros(array.shape) for name, array in tf1_tensors().items()})
    said = pipeline(tmp_path, train="fine_tune_checkpoint: 'PATH_TO_BE_CONFIGURED/model.ckpt'")
    found = finding(mg.diagnose(path, into=said), "config.path")
    assert found.severity == "warning" and found.fix == f'fine_tune_checkpoint: "{path}"'


@pytest.mark.parametrize(
    ("extractor", "model", "code"),
    [
        ("faster_rcnn_resnet50_keras", "faster_rcnn", "config.era"),
        ("faster_rcnn_resnet101", "faster_rcnn", "config.mismatch"),
        ("ssd_mobilenet_v2", "ssd", "config.mismatch"),
    ],
)  # fmt: skip
def test_24_a_config_of_another_model(extractor: str, model: str, code: str, tmp_path: Path) -> None:
    path = saved(tmp_path, {name: torch.zeros(array.shape) for name, array in tf1_tensors().items()})
    report = mg.diagnose(path, into=pipeline(tmp_path, extractor=extractor, model=model))
    assert finding(report, code).message


# All of it


def test_the_report_is_the_same_as_json(tmp_path: Path) -> None:
    report = mg.diagnose(saved(tmp_path, {"a.weight": torch.zeros(3)}))
    data = json.loads(json.dumps(report.as_json()))
    assert [one["code"] for one in data["findings"]] == [one.code for one in report.findings]


def test_several_targets_at_once(tmp_path: Path) -> None:
    spec = spec_of(torchvision.FAMILY)
    path = saved(tmp_path, state_of(torchvision.FAMILY, spec))
    deeper = replace(spec, arch=replace(spec.arch, blocks=(1, 1, 2, 1)))
    wider = replace(spec, arch=replace(spec.arch, neck_channels=32))
    codes = {one.code for one in mg.diagnose(path, into=[deeper, wider]).findings}
    assert {"shape.depth", "shape.width"} <= codes


def test_a_target_of_no_name(tmp_path: Path) -> None:
    path = saved(tmp_path, state_of(torchvision.FAMILY, tiny_spec()))
    with pytest.raises(mg.UsageError, match="torchvision/maskrcnn_resnet50_fpn"):
        mg.diagnose(path, into="torchvision/maskrcnn_resnet50")
