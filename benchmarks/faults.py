"""Checkpoints with faults of known cause: is the first finding of `diagnose` that cause?

python -m benchmarks faults            # every fault, and the score
python -m benchmarks.faults --only NaN

Each fault is made by script from the small golden checkpoints of the tests, so that nothing else is needed. Healthy
files are diagnosed as well: none may give a finding above "info".
"""

import argparse
import json
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import maskgraft as mg
from benchmarks.scoring import counted
from benchmarks.timing import RESULTS

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
HEALTHY = "healthy"
State = dict[str, Any]
Made = tuple[Path, dict[str, Any]]  # a checkpoint, and arguments for `diagnose`


class Workshop:
    """Golden checkpoints, unpacked once, and a folder in which faulty ones are made."""

    def __init__(self, folder: Path) -> None:
        self.bases, self.folder = folder / "bases", folder / "faulty"
        self.folder.mkdir(parents=True)
        self._states: dict[str, State] = {}

    def base(self, case: str) -> Path:
        """The folder of a golden case, with its config beside the checkpoint."""
        place = self.bases / case
        if not place.is_dir():
            place.mkdir(parents=True)
            with tarfile.open(GOLDEN / case / "checkpoint.tar.xz") as tar:
                tar.extractall(place, filter="data")
            for config in (*GOLDEN.glob(f"{case}/*.yaml"), *GOLDEN.glob(f"{case}/*.config")):
                shutil.copy(config, place)
        return place

    def state(self, case: str, file: str, key: str = "") -> State:
        """The tensors of a PyTorch file, a fresh dict of the same arrays."""
        if case not in self._states:
            self._states.clear()  # one at a time is enough memory
            found = torch.load(self.base(case) / file, weights_only=not key, map_location="cpu")
            self._states[case] = dict(found[key] if key else found)
        return dict(self._states[case])

    def torchvision(self) -> State:
        return self.state("torchvision-r50fpn", "torchvision-r50fpn.pth")

    def detectron2(self) -> State:
        return self.state("detectron2-r50fpn", "model_final.pth", "model")

    def saved(self, state: Any, name: str = "model.pth") -> Path:
        path = self.folder / name
        torch.save(state, path)
        return path


@dataclass(frozen=True)
class Fault:
    """What was done, the code that the first finding should have, and how: a path, and arguments for `diagnose`."""

    name: str
    expected: str | tuple[str, ...]
    make: Callable[[Workshop], Made] = field(repr=False)


def edited(change: Callable[[State], State | None], **arguments: Any) -> Callable[[Workshop], Made]:
    """A torchvision file whose state dict was changed."""

    def make(shop: Workshop) -> Made:
        state = shop.torchvision()
        return shop.saved(changed if (changed := change(state)) is not None else state), arguments

    return make


def edited_d2(change: Callable[[State], State | None], **arguments: Any) -> Callable[[Workshop], Made]:
    """A Detectron2 file whose state dict was changed."""

    def make(shop: Workshop) -> Made:
        state = shop.detectron2()
        return shop.saved({"model": changed if (changed := change(state)) is not None else state}), arguments

    return make


def against_itself(change: Callable[[State], State | None]) -> Callable[[Workshop], Made]:
    """A changed torchvision file that is to go into the model of the unchanged one."""

    def make(shop: Workshop) -> Made:
        path, _ = edited(change)(shop)
        return path, {"into": shop.base("torchvision-r50fpn") / "torchvision-r50fpn.pth"}

    return make


def renamed(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {re.sub(old, new, name): value for name, value in state.items()}


def every_part_renamed(state: State) -> State:
    for old, new in {"body": "trunk", "layer": "group", "roi_heads": "heads", "rpn": "proposals", "conv": "c"}.items():
        state = renamed(old, new)(state)
    return renamed("backbone", "features")(state)


def only(prefix: str, *, cut: str = "") -> Callable[[State], State]:
    return lambda state: {name.removeprefix(cut): value for name, value in state.items() if name.startswith(prefix)}


def as_it_is(state: State) -> State:
    return state


def without(pattern: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if not re.search(pattern, name)}


def on(pattern: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    """The tensors whose names match, changed."""
    return lambda state: {
        name: change(value.clone()) if re.search(pattern, name) else value for name, value in state.items()
    }


def with_nan(value: torch.Tensor) -> torch.Tensor:
    value.view(-1)[0] = float("nan")
    return value


def with_infinity(value: torch.Tensor) -> torch.Tensor:
    value.view(-1)[-1] = float("inf")
    return value


def rolled(by: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda value: value.roll(by, 0).contiguous()


def kaiming(value: torch.Tensor) -> torch.Tensor:
    return torch.nn.init.kaiming_normal_(value) if value.ndim > 1 else torch.zeros_like(value)


def small_normal(value: torch.Tensor) -> torch.Tensor:
    return torch.nn.init.normal_(value, std=0.01) if value.ndim > 1 else torch.zeros_like(value)


def linear_default(value: torch.Tensor) -> torch.Tensor:
    bound = 1 / 1024**0.5
    return torch.empty_like(value).uniform_(-bound, bound)


def halved(state: State) -> State:
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def overflown(state: State) -> State:
    state["backbone.body.layer4.2.bn3.weight"] = state["backbone.body.layer4.2.bn3.weight"] * 1e6
    return halved(state)


def underflown(state: State) -> State:
    state["backbone.body.bn1.running_var"] = state["backbone.body.bn1.running_var"] * 1e-6
    return halved(state)


def rows(count: int) -> Callable[[State], State]:
    """The head of a model with another number of classes, background included."""

    def change(state: State) -> State:
        for name in list(state):
            if "cls_score" in name or "mask_fcn_logits" in name:
                state[name] = state[name][:count].clone()
            if "box_predictor.bbox_pred" in name:
                state[name] = state[name][: 4 * count].clone()
        return state

    return change


def rows_d2(state: State) -> State:
    """Five classes: Detectron2 has no background row of boxes and masks."""
    for name in list(state):
        if "cls_score" in name:
            state[name] = state[name][:6].clone()
        if "bbox_pred" in name:
            state[name] = state[name][:20].clone()
        if "mask_head.predictor" in name:
            state[name] = state[name][:5].clone()
    return state


def mixed(shop: Workshop) -> Made:
    heads = {name: value for name, value in shop.detectron2().items() if not name.startswith("backbone")}
    trunk = {name: value for name, value in shop.torchvision().items() if name.startswith("backbone")}
    return shop.saved({**trunk, **heads}), {}


def mixed_the_other_way(shop: Workshop) -> Made:
    heads = {name: value for name, value in shop.torchvision().items() if not name.startswith("backbone")}
    trunk = {name: value for name, value in shop.detectron2().items() if name.startswith("backbone")}
    return shop.saved({**heads, **trunk}), {}


def two_eras(state: State) -> State:
    return renamed(r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv.")(
        renamed(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.")(state)  # type: ignore[arg-type]
    )


def doubled(prefix: str) -> Callable[[State], State]:
    return lambda state: {**state, **{prefix + name: value for name, value in state.items()}}


def swapped_heads(state: State) -> State:
    """Boxes' deltas and class scores under each other's names."""
    for vector in ("weight", "bias"):
        one, two = (f"roi_heads.box_predictor.{layer}.{vector}" for layer in ("cls_score", "bbox_pred"))
        state[one], state[two] = state[two], state[one]
    return state


def permuted_blocks(state: State) -> State:
    """The first block of a stage exchanged with the second."""
    moved = {}
    for name, value in state.items():
        if "layer3.0." in name:
            name = name.replace("layer3.0.", "layer3.1.")
        elif "layer3.1." in name:
            name = name.replace("layer3.1.", "layer3.0.")
        moved[name] = value
    return moved


def transposed(value: torch.Tensor) -> torch.Tensor:
    return value.permute(2, 3, 1, 0).contiguous() if value.ndim == 4 else value


def ohwi(value: torch.Tensor) -> torch.Tensor:
    return value.permute(0, 2, 3, 1).contiguous() if value.ndim == 4 else value


def flipped_rgb(state: State) -> State:
    state["backbone.body.conv1.weight"] = state["backbone.body.conv1.weight"].flip(1).contiguous()
    return state


def photographic(order: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A stem with the energies of one that was trained on photographs."""
    gains = torch.tensor([1.0, 1.2, 0.78] if order == "rgb" else [0.78, 1.2, 1.0])
    return lambda value: value * gains[None, :, None, None]


def xy_swapped(value: torch.Tensor) -> torch.Tensor:
    return value[torch.arange(len(value)) ^ 1].clone()


def keypoints(state: State) -> State:
    for index in range(8):
        state[f"roi_heads.keypoint_head.{2 * index}.weight"] = torch.randn(64, 64, 3, 3)
        state[f"roi_heads.keypoint_head.{2 * index}.bias"] = torch.randn(64)
    return state


def cascade(state: State) -> State:
    return {
        **without("box_predictor|box_head")(state),
        **{
            name.replace(part, f"{part}.{stage}"): value
            for name, value in state.items()
            for part in ("box_predictor", "box_head")
            if part in name
            for stage in range(3)
        },
    }


def raw(name: str, content: bytes) -> Callable[[Workshop], Made]:
    def make(shop: Workshop) -> Made:
        path = shop.folder / name
        path.write_bytes(content)
        return path, {}

    return make


def truncated(case: str, file: str, share: float) -> Callable[[Workshop], Made]:
    def make(shop: Workshop) -> Made:
        source = shop.base(case) / file
        path = shop.folder / file
        with open(source, "rb") as whole:
            path.write_bytes(whole.read(int(source.stat().st_size * share)))
        return path, {}

    return make


def saved_as(wrap: Callable[[State], Any]) -> Callable[[Workshop], Made]:
    return lambda shop: (shop.saved(wrap(shop.torchvision())), {})


def yaml_changed(old: str, new: str) -> Callable[[Workshop], Made]:
    """A Detectron2 file beside another config."""

    def make(shop: Workshop) -> Made:
        base = shop.base("detectron2-r50fpn")
        text = (base / "config.yaml").read_text()
        assert re.search(old, text), old
        config = shop.folder / "config.yaml"
        config.write_text(re.sub(old, new, text))
        return base / "model_final.pth", {"config": config}

    return make


def keras(change: Callable[[h5py.File], None]) -> Callable[[Workshop], Made]:
    def make(shop: Workshop) -> Made:
        path = shop.folder / "mask_rcnn.h5"
        shutil.copy(shop.base("matterport-r50-c81") / "mask_rcnn_coco.h5", path)
        with h5py.File(path, "r+") as file:
            change(file)
        return path, {}

    return make


def keras_nan(file: h5py.File) -> None:
    file["mrcnn_class_logits/mrcnn_class_logits/bias:0"][3] = np.nan


def keras_lost(file: h5py.File) -> None:
    del file["rpn_model/rpn_conv_shared/kernel:0"]
    names = [name for name in file["rpn_model"].attrs["weight_names"] if b"rpn_conv_shared/kernel" not in bytes(name)]
    file["rpn_model"].attrs["weight_names"] = names


def keras_bgr(file: h5py.File) -> None:
    stem = file["conv1/conv1/kernel:0"]
    stem[...] = stem[...] * np.array([0.78, 1.2, 1.0], np.float32)[None, None, :, None]


def keras_zero(file: h5py.File) -> None:
    for part in ("kernel:0", "bias:0"):
        file[f"mrcnn_mask/mrcnn_mask/{part}"][...] = 0


TF1 = "tf1od-mask_rcnn_resnet50_atrous_coco"
TF2 = "tf2od-mask_rcnn_resnet50_keras"


def pipeline(case: str, old: str, new: str, *, of: str = "") -> Callable[[Workshop], Made]:
    """A TensorFlow checkpoint that is to go into a changed pipeline.config, its own or another case's."""

    def make(shop: Workshop) -> Made:
        text = (shop.base(of or case) / "pipeline.config").read_text()
        assert re.search(old, text), old
        config = shop.folder / "pipeline.config"
        config.write_text(re.sub(old, new, text, count=1))
        file = "model.ckpt" if case == TF1 else "checkpoint/ckpt-0"
        return shop.base(case) / file, {"into": config}

    return make


def without_index(shop: Workshop) -> Made:
    name = "model.ckpt.data-00000-of-00001"
    (shop.folder / name).write_bytes((shop.base(TF1) / name).read_bytes()[: 1 << 20])
    return shop.folder / name, {}


def without_data(shop: Workshop) -> Made:
    shutil.copy(shop.base(TF1) / "model.ckpt.index", shop.folder)
    return shop.folder / "model.ckpt", {}


def two_checkpoints(shop: Workshop) -> Made:
    folder = shop.folder / "training"
    folder.mkdir()
    for step in (100, 200):
        shutil.copy(shop.base(TF1) / "model.ckpt.index", folder / f"model.ckpt-{step}.index")
    return folder, {}


def healthy(case: str, file: str, **arguments: Any) -> Callable[[Workshop], Made]:
    return lambda shop: (shop.base(case) / file, arguments)


V1, BOXES = "roi_heads.box_predictor", "cls_score|bbox_pred|mask_fcn_logits"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 177905420\n"

FAULTS: tuple[Fault, ...] = (
    # files
    Fault(
        "a download that broke off", "file.truncated", truncated("torchvision-r50fpn", "torchvision-r50fpn.pth", 0.4)
    ),
    Fault(
        "a download that nearly ended",
        "file.truncated",
        truncated("torchvision-r50fpn", "torchvision-r50fpn.pth", 0.999),
    ),
    Fault("half a Keras file", "file.truncated", truncated("matterport-r50-c81", "mask_rcnn_coco.h5", 0.5)),
    Fault("half a pickle", "file.truncated", truncated("detectron2-r50fpn", "model_final_zoo.pkl", 0.5)),
    Fault("a Git LFS pointer", "file.lfs-pointer", raw("model.pth", LFS)),
    Fault("a web page", "file.placeholder", raw("model.pth", b"<!DOCTYPE html><html><title>Sign in</title></html>")),
    Fault("a note", "file.placeholder", raw("model.h5", b"put the weights here\n")),
    Fault("an empty file", ("file.truncated", "file.placeholder", "file.no-weights"), raw("model.pth", b"")),
    Fault("noise", "file.unknown-format", raw("model.pth", bytes(range(256)) * 64)),
    Fault("a missing file", "file.missing", lambda shop: (shop.folder / "nothing.pth", {})),
    Fault(
        "an optimizer alone",
        "file.no-weights",
        saved_as(
            lambda state: {
                "optimizer": {"state": {0: {"exp_avg": state["rpn.head.conv.0.0.weight"]}}, "param_groups": []},
                "epoch": 3,
            }
        ),
    ),
    Fault("epochs and no weights", "file.no-weights", saved_as(lambda state: {"epoch": 12, "state_dict": None})),
    Fault("values without an index", "file.missing-shard", without_index),
    Fault("an index without values", "file.missing-shard", without_data),
    Fault("a folder of two runs", "file.several-models", two_checkpoints),
    # names
    Fault("DataParallel", "names.prefix", edited(renamed("^", "module."))),
    Fault("DataParallel twice", "names.prefix", edited(renamed("^", "module.module."))),
    Fault("torch.compile in DDP", "names.prefix", edited(renamed("^", "_orig_mod.module."))),
    Fault("somebody's attribute", "names.prefix", edited(renamed("^", "my_detector.wrapped."))),
    Fault("a prefix on the heads only", "names.prefix", edited(renamed("^roi_heads", "module.roi_heads"))),
    Fault(
        "a prefix on half of the trunk", "names.prefix", edited(renamed(r"^(backbone\.body\.layer[34])", r"model.\1"))
    ),
    Fault("a moving average beside", "file.several-models", edited(doubled("ema."))),
    Fault("a teacher beside", "file.several-models", edited(doubled("teacher_model."))),
    Fault("a trunk called encoder", "names.renamed", edited(renamed(r"^backbone\.body\.", "encoder."))),
    Fault("stages called stage", "names.renamed", edited(renamed(r"\.layer(\d)\.", r".stage\1."))),
    Fault("a proposal network called otherwise", "names.renamed", edited(renamed(r"^rpn\.head\.", "rpn_head."))),
    Fault("norms called norm", "names.renamed", edited(renamed(r"\.bn(\d)\.", r".norm\1."))),
    Fault(
        "every name changed",
        "names.renamed",
        edited(lambda state: {f"p{index}": value for index, value in enumerate(state.values())}),
    ),
    Fault("every part renamed", "names.renamed", edited(every_part_renamed)),
    Fault("one typing error", "names.renamed", edited(renamed(r"cls_logits\.weight", "cls_logit.weight"))),
    Fault("a Detectron2 trunk renamed", "names.renamed", edited_d2(renamed(r"backbone\.bottom_up\.", "body."))),
    Fault("no proposal network", "names.missing", edited(without(r"^rpn\."))),
    Fault("no mask head", ("names.missing", "family.unknown"), edited(without("mask"))),
    Fault("a backbone alone", "names.missing", edited(only("backbone.body"))),
    Fault("a backbone under bare names", "names.missing", edited(only("backbone.body", cut="backbone.body."))),
    Fault("heads alone", "names.missing", edited(only("roi_heads"))),
    Fault("a Detectron2 backbone alone", "names.missing", edited_d2(only("backbone"))),
    Fault("one tensor lost", "names.missing", edited(without(r"layer3\.2\.conv2\.weight"))),
    Fault("one block lost", "names.missing", edited(without(r"layer3\.2\."))),
    Fault("the last block lost", "names.missing", edited(without(r"layer3\.5\."))),
    Fault("half a state dict", "names.missing", edited(lambda state: dict(list(state.items())[: len(state) // 2]))),
    Fault("no biases", "names.missing", edited(without(r"fc[67]\.bias"))),
    Fault("no statistics", "names.missing", edited(without(r"layer4.*running_"))),
    Fault("keypoints beside masks", "names.unexpected", edited(keypoints)),
    Fault("a cascade", ("family.unknown", "names.unexpected"), edited_d2(cascade)),
    Fault(
        "momenta among the weights",
        "names.optimizer-slots",
        edited(lambda state: {**state, **{f"{n}.momentum_buffer": v for n, v in state.items() if n.startswith("rpn")}}),
    ),
    Fault("another framework's heads", "family.mismatch", mixed),
    Fault("another framework's trunk", "family.mismatch", mixed_the_other_way),
    Fault("two eras in one file", "era.mismatch", edited(two_eras)),
    # shapes
    Fault("all kernels HWIO", "shape.layout", edited(on(".", transposed))),
    Fault("all kernels OHWI", "shape.layout", edited(on(".", ohwi))),
    Fault(
        "kernels and matrices of Keras",
        "shape.layout",
        edited(on(".", lambda v: v.T.contiguous() if v.ndim == 2 else transposed(v))),
    ),
    Fault("one kernel HWIO", "shape.layout", edited(on(r"fpn\.layer_blocks\.1\.0\.weight", transposed))),
    Fault("one matrix transposed", "shape.layout", edited(on(r"fc6\.weight", lambda value: value.T.contiguous()))),
    Fault(
        "masks of other classes than boxes",
        "shape.classes",
        edited(on("mask_fcn_logits", lambda value: value[:21].clone())),
    ),
    Fault(
        "class scores and boxes exchanged",
        ("shape.classes", "shape.other", "shape.width", "names.renamed"),
        edited(swapped_heads),
    ),
    Fault("blocks exchanged", ("shape.other", "shape.width", "names.renamed"), edited(permuted_blocks)),
    Fault(
        "a narrower pyramid in places",
        ("shape.width", "shape.other"),
        edited(on(r"fpn\.layer_blocks\.2", lambda value: value[:128].clone())),
    ),
    Fault("two classes into COCO's model", "shape.classes", edited(rows(3), into="torchvision/maskrcnn_resnet50_fpn")),
    Fault(
        "COCO into two classes",
        "shape.classes",
        edited(as_it_is, into="torchvision/maskrcnn_resnet50_fpn?num_classes=3"),
    ),
    Fault(
        "Detectron2's COCO into five classes",
        "shape.classes",
        edited_d2(as_it_is, into="detectron2/mask_rcnn_R_50_FPN?classes=5"),
    ),
    Fault("five classes into COCO's", "shape.classes", edited_d2(rows_d2, into="detectron2/mask_rcnn_R_50_FPN")),
    Fault("R50 into R101", "shape.depth", edited_d2(as_it_is, into="detectron2/mask_rcnn_R_101_FPN")),
    Fault(
        "R50 into X101",
        ("shape.groups", "shape.depth"),
        edited_d2(as_it_is, into="detectron2/mask_rcnn_X_101_32x8d_FPN"),
    ),
    Fault("a pyramid into C4", "shape.other", edited_d2(as_it_is, into="detectron2/mask_rcnn_R_50_C4")),
    # values
    Fault("one NaN", "values.nan", edited(on(r"fc6\.weight", with_nan))),
    Fault("NaN in Detectron2", "values.nan", edited_d2(on("res5", with_nan))),
    Fault("an infinity", "values.nan", edited(on(r"rpn\.head\.conv\.0\.0\.bias", with_infinity))),
    Fault("a Keras bias NaN", "values.nan", keras(keras_nan)),
    Fault("half precision overflown", "values.precision", edited(overflown)),
    Fault("half precision underflown", "values.precision", edited(underflown)),
    Fault(
        "values beyond half precision",
        "values.precision",
        edited(on(r"layer4\.2\.bn3\.weight", lambda value: value * 1e6)),
    ),
    Fault("a predictor of zeros", "values.untrained", edited(on("mask_predictor", torch.zeros_like))),
    Fault("a proposal network of zeros", "values.untrained", edited(on("^rpn", torch.zeros_like))),
    Fault("a Keras mask head of zeros", "values.untrained", keras(keras_zero)),
    Fault("skipped predictors", "values.untrained", edited_d2(on("box_predictor|mask_head.predictor", small_normal))),
    Fault("nn.Linear as it starts", "values.untrained", edited(on("box_predictor", linear_default))),
    Fault("a mask head as it starts", "values.untrained", edited(on("mask_head", kaiming))),
    Fault(
        "a constant layer",
        "values.untrained",
        edited(on(r"mask_head\.1\.0\.weight", lambda value: torch.full_like(value, 0.01))),
    ),
    Fault("biases a row up", "values.class-shift", edited(on(r"cls_score\.bias", rolled(1)))),
    Fault("biases a row down", "values.class-shift", edited_d2(on(r"cls_score\.bias", rolled(-1)))),
    Fault("mask biases a row up", "values.class-shift", edited(on(r"mask_fcn_logits\.bias", rolled(1)))),
    # conventions
    Fault(
        "a stem of BGR in an RGB file",
        "numerics.channel-order",
        edited(on(r"body\.conv1\.weight", photographic("bgr"))),
    ),
    Fault(
        "a stem of RGB in a BGR file",
        "numerics.channel-order",
        edited_d2(on(r"stem\.conv1\.weight", photographic("rgb"))),
    ),
    Fault("a Keras stem of BGR", "numerics.channel-order", keras(keras_bgr)),
    Fault("channels exchanged against the model", "numerics.channel-order", against_itself(flipped_rgb)),
    Fault(
        "class rows moved against the model",
        "numerics.class-order",
        against_itself(on(r"cls_score|mask_fcn_logits", rolled(1))),
    ),
    Fault("x and y exchanged against the model", "numerics.box-order", against_itself(on(r"bbox_pred", xy_swapped))),
    Fault("a config that says RGB", "numerics.channel-order", yaml_changed("FORMAT: BGR", "FORMAT: RGB")),
    Fault(
        "a config of another scale",
        "numerics.pixel-scale",
        yaml_changed(r"PIXEL_STD:\n(?:\s*- .*\n)+", "PIXEL_STD: [5000.0, 5000.0, 5000.0]\n"),
    ),
    Fault("a config of two classes", "shape.classes", yaml_changed("NUM_CLASSES: 80", "NUM_CLASSES: 2")),
    Fault(
        "a config of RetinaNet",
        ("config.mismatch", "family.unknown"),
        yaml_changed("META_ARCHITECTURE: GeneralizedRCNN", "META_ARCHITECTURE: RetinaNet"),
    ),
    Fault("a config that is no YAML", "config.path", yaml_changed("MODEL:", "MODEL: [")),
    Fault(
        "Detectron2's file into torchvision",
        "numerics.channel-order",
        edited_d2(as_it_is, into="mmdet/mask-rcnn_r50_fpn"),
    ),
    # the TF Object Detection API
    Fault(
        "a config of a folder",
        "config.path",
        pipeline(TF1, 'fine_tune_checkpoint: *"[^"]*"', 'fine_tune_checkpoint: "models/run/"'),
    ),
    Fault(
        "a config of the values' file",
        "config.path",
        pipeline(
            TF1, 'fine_tune_checkpoint: *"[^"]*"', 'fine_tune_checkpoint: "models/model.ckpt.data-00000-of-00001"'
        ),
    ),
    Fault(
        "a config of the index",
        "config.path",
        pipeline(TF2, 'fine_tune_checkpoint: *"[^"]*"', 'fine_tune_checkpoint: "models/ckpt-0.index"'),
    ),
    Fault("TF1's checkpoint, TF2's config", "config.era", pipeline(TF1, "$", "", of=TF2)),
    Fault("TF2's checkpoint, TF1's config", "config.era", pipeline(TF2, "$", "", of=TF1)),
    Fault(
        "another feature extractor",
        "config.mismatch",
        pipeline(TF1, 'type: *"faster_rcnn_resnet50"', 'type: "faster_rcnn_resnet101"'),
    ),
    Fault("another number of classes", "shape.classes", pipeline(TF1, r"num_classes: *\d+", "num_classes: 3")),
    Fault("SSD's config", "config.mismatch", pipeline(TF1, r"faster_rcnn *\{", "ssd {")),
)

HEALTHY_FILES: tuple[Fault, ...] = tuple(
    Fault(f"{case}/{file}", HEALTHY, healthy(case, file))
    for case, file in (
        ("torchvision-r50fpn", "torchvision-r50fpn.pth"),
        ("torchvision-r50fpn", "torchvision-r50fpn_legacy.pth"),
        ("torchvision-r50fpn-v2", "torchvision-r50fpn-v2.pth"),
        ("detectron2-r50fpn", "model_final.pth"),
        ("detectron2-r50fpn", "model_final_zoo.pkl"),
        ("detectron2-r50fpn-gn", "model_final.pth"),
        ("detectron2-r50c4", "model_final.pth"),
        ("detectron2-x101fpn", "model_final_zoo.pkl"),
        ("detectron-caffe2-r50fpn", "model_final_c2.pkl"),
        ("maskrcnn-benchmark-r50fpn", "model_final.pth"),
        ("mmdet-r50fpn", "mmdet-r50fpn.pth"),
        ("mmdet-r50caffe-fpn", "mmdet-r50caffe-fpn.pth"),
        ("matterport-r50-c81", "mask_rcnn_coco.h5"),
        ("tensorpack-COCO-MaskRCNN-R50FPN1x", "COCO-MaskRCNN-R50FPN1x.npz"),
        ("chainer-r50c4", "chainer-r50c4.npz"),
        ("modelgarden-maskrcnn_resnet50fpn", "ckpt-22500"),
        (TF1, "model.ckpt"),
        ("tf1od-mask_rcnn_inception_v2_coco", "model.ckpt"),
        (TF2, "checkpoint/ckpt-0"),
        ("tf2od-mask_rcnn_inception_resnet_v2", "checkpoint/ckpt-0"),
    )
)


@dataclass(frozen=True)
class Verdict:
    fault: Fault
    right: bool
    found: str
    message: str
    seconds: float


def judged(fault: Fault, shop: Workshop) -> Verdict:
    """Make a fault, diagnose it, and hold the first finding against the cause."""
    path, arguments = fault.make(shop)
    start = time.perf_counter()
    report = mg.diagnose(path, **arguments)
    seconds = time.perf_counter() - start
    if fault.expected == HEALTHY:
        odd = [finding for finding in report.findings if finding.severity != "info"]
        first = odd[0] if odd else None
        return Verdict(fault, not odd, first.code if first else HEALTHY, first.message if first else "", seconds)
    allowed = (fault.expected,) if isinstance(fault.expected, str) else fault.expected
    first = report.findings[0] if report.findings else None
    found, message = (first.code, first.message) if first else ("nothing", "")
    return Verdict(fault, found in allowed, found, message, seconds)


def verdicts(names: str = "", *, every: int = 1) -> Iterator[Verdict]:
    """Every fault whose name has `names` in it, then the healthy files; faulty files are removed at once."""
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        for fault in (*FAULTS, *HEALTHY_FILES)[::every]:
            if names in fault.name:
                yield judged(fault, shop)
                shutil.rmtree(shop.folder)
                shop.folder.mkdir()


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    """Print what was missed and the score; `quick` takes every fifth fault. TensorFlow is not needed."""
    told(list(verdicts(every=5 if quick else 1)), out=out or (None if quick else RESULTS / "faults.json"))


def told(found: list[Verdict], *, out: Path | None = None) -> bool:
    """Print the score, and whether it is good enough: 95 of 100 causes first, and silence over healthy files."""
    score = counted(found, healthy=HEALTHY, what="files")
    print(f"a diagnosis takes {np.median([one.seconds for one in found]) if found else 0:.2f} s (median)")
    if out is not None:
        missed = {one.fault.name: one.found for one in found if not one.right}
        out.write_text(json.dumps({**asdict(score), "missed": missed}, indent=1) + "\n")
    return score.reaches(0.95)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("--only", default="", help="faults with this in their name")
    found = []
    for verdict in verdicts(parser.parse_args(arguments).only):
        found.append(verdict)
        mark = "ok  " if verdict.right else "MISS"
        print(f"{mark} {verdict.fault.name}: {verdict.found}: {verdict.message[:140]}", flush=True)
    return 0 if told(found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
