"""The TF Object Detection API under TensorFlow 1: checkpoints and frozen graphs, by the names of TF-Slim.

Backbones: slim `resnet_v1.py`, `inception_v2.py`, `inception_resnet_v2.py`, and the feature extractors in
research/object_detection `models/faster_rcnn_*_feature_extractor.py`.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import setting
from maskgraft.families.family import Config, Family, Reading, count, shape, unsupported
from maskgraft.families.pipeline_config import read_pipeline
from maskgraft.families.pipeline_settings import disagreements, numerics
from maskgraft.families.tf_object_detection import (
    INCEPTION,
    KERNEL,
    SLIM_SCOPES,
    class_names,
    head_links,
    norm_links,
    without_masks,
)
from maskgraft.files import LazyArray, Tensors
from maskgraft.links import Link, Reshape, Transpose
from maskgraft.spec import Arch, Spec

TITLE = "TF1 Object Detection API"
FIRST, SECOND = "FirstStageFeatureExtractor", "SecondStageFeatureExtractor"
_MASKS = "SecondStageBoxPredictor"
_AVERAGE = "ExponentialMovingAverage"
LAYERS = {
    "rpn": "Conv",
    "rpn.objectness": "FirstStageBoxPredictor/ClassPredictor",
    "rpn.deltas": "FirstStageBoxPredictor/BoxEncodingPredictor",
    "cls": f"{_MASKS}/ClassPredictor",
    "deltas": f"{_MASKS}/BoxEncodingPredictor",
}

# What the suppression of TensorFlow 1.15 does, under which its models are run.
_KERNEL: dict[str, Any] = {"nms_ties": "heap"}

# What the sample configs say of each backbone.
_ATROUS: dict[str, Any] = {"c4_stride": 8, "rpn_dilation": 2}
ASSUMED: dict[str, dict[str, Any]] = {
    "resnet": {**_KERNEL, **_ATROUS, "stride_at": "before", "res5_stride": 1},
    "inception_v2": {**_KERNEL, **INCEPTION, "mask_size": 15},
    "inception_resnet_v2": {
        **_KERNEL,
        **INCEPTION,
        **_ATROUS,
        "box_pool_size": 17,
        "roi_max_pool": (1, 1),
        "res5_padded": False,
    },
}
SCOPES = {"InceptionV2": "inception_v2", "InceptionResnetV2": "inception_resnet_v2"}


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a TF1 file, and of its `pipeline.config` where there is one."""
    scope = scope_of(tensors, FIRST)
    backbone = "resnet" if scope.startswith("resnet_v1_") else SCOPES.get(scope)
    title = SLIM_SCOPES.get(scope, scope) or "a backbone of no name"
    if f"{_MASKS}/Conv/weights" not in tensors:
        raise without_masks(tensors, TITLE, title, built=backbone is not None)
    if backbone is None:
        raise unsupported(tensors, TITLE, title)
    arch = _arch(tensors, backbone, scope)
    found, how = numerics(tensors, config, ASSUMED[backbone], title=TITLE)
    names, how["classes"] = class_names(arch, config)
    extractor = f"faster_rcnn_{scope.replace('_v1_', '') if backbone == 'resnet' else backbone}"
    findings = tuple(disagreements(tensors, arch, config, extractor=extractor)) if config is not None else ()
    spec = Spec(family="tf1_object_detection_api", arch=arch, numerics=found, classes=names, learned=how)
    era, averaged = scope if backbone == "resnet" else "", _averages(tensors, config)
    if not averaged:
        return Reading(spec, era, findings)
    message = f"{len(averaged):,} weights are read as their moving averages, as eval_config.use_moving_averages says"
    told = Finding("names.optimizer-slots", "info", message, evidence={"averages": len(averaged)})
    return Reading(spec, era, (*findings, told), replace(tensors, arrays={**tensors.arrays, **averaged}))


def _averages(tensors: Tensors, config: Config | None) -> dict[str, LazyArray]:
    """The weights that `exporter.py` replaces by their moving averages."""
    if config is None or setting(config, "eval_config.use_moving_averages") is not True:
        return {}
    return {name: tensors.slots[kept] for name in tensors if (kept := f"{name}/{_AVERAGE}") in tensors.slots}


def scope_of(tensors: Tensors, first: str) -> str:
    """What the backbone under `first` calls itself: "resnet_v1_50", "InceptionV2" …"""
    return next((name.split("/")[1] for name in tensors if name.startswith(f"{first}/")), "")


def _mask_convs(names: Tensors) -> int:
    return 1 + count(names, f"{_MASKS}/Conv_{{}}/weights", start=1)


def trunk(tensors: Tensors, scope: str, first: str, last: str) -> dict[str, Any]:
    """The fields of `Arch` that say what a ResNet is, whose last stage stands under `last`; those of no other."""
    if not scope.startswith("resnet_v1_"):
        return {"blocks": ()}
    unit = "{}/{}/block{}/unit_{{}}/bottleneck_v1/conv1/weights"
    stages = [(first, 1), (first, 2), (first, 3), (last, 4)]
    return {
        "blocks": tuple(count(tensors, unit.format(part, scope, number), start=1) for part, number in stages),
        "stem_width": shape(tensors, f"{first}/{scope}/conv1/weights")[3],
        "width_per_group": shape(tensors, unit.format(first, scope, 1).format(1))[3],
    }


def _arch(tensors: Tensors, backbone: str, scope: str) -> Arch:
    classes = shape(tensors, f"{_MASKS}/ClassPredictor/biases")[0] - 1
    boxes = shape(tensors, f"{_MASKS}/BoxEncodingPredictor/biases")[0] // 4
    convs = _mask_convs(tensors)
    last = shape(tensors, f"{_MASKS}/{_conv(convs - 1)}/weights")
    return Arch(
        **trunk(tensors, scope, FIRST, SECOND),
        classes=classes,
        backbone=backbone,  # type: ignore[arg-type]
        norm_scale=backbone != "inception_resnet_v2",
        neck="c4",
        rpn_channels=shape(tensors, "Conv/biases")[0],
        anchors_per_cell=shape(tensors, "FirstStageBoxPredictor/ClassPredictor/biases")[0] // 2,
        objectness="softmax",
        box_head="res5",
        box_rows="agnostic" if boxes == 1 and classes > 1 else "foreground",
        mask_convs=convs - 1,
        mask_channels=last[2],
        mask_upsample="resize",
        mask_kernel=last[0],
        mask_rows="agnostic" if last[3] == 1 and classes > 1 else "foreground",
    )


def _conv(index: int) -> str:
    return f"Conv_{index}" if index else "Conv"


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor; the era of a ResNet is its scope, such as "resnet_v1_101"."""
    arch = spec.arch
    yield from trunk_links(arch, era, FIRST, SECOND)
    masks = [f"{_MASKS}/{_conv(index)}" for index in range(arch.mask_convs + 1)]
    yield from head_links(arch, LAYERS, masks, kernel="weights", bias="biases")


def trunk_links(arch: Arch, scope: str, first: str, last: str) -> Iterator[Link]:
    """The backbone under `first`, and what of it comes after C4 under `last`; `scope` is that of a ResNet."""
    if arch.backbone == "resnet":
        yield from _resnet(arch, scope, first, last)
    elif arch.backbone == "inception_v2":
        yield from _inception_v2(arch, first, last)
    else:
        yield from _inception_resnet_v2(first, last)


def _conv_norm(ours: str, theirs: str, *, scale: bool = True) -> Iterator[Link]:
    yield Link(f"{ours}.conv.weight", f"{theirs}/weights", (KERNEL,))
    yield from norm_links(f"{ours}.norm", f"{theirs}/BatchNorm", scale=scale)


def _resnet(arch: Arch, scope: str, first: str, last: str) -> Iterator[Link]:
    yield from _conv_norm("backbone.stem", f"{first}/{scope}/conv1")
    for number, blocks in enumerate(arch.blocks, 2):
        part = last if number == 5 else first
        ours = "box_head.res5" if number == 5 and arch.box_head == "res5" else f"backbone.res{number}"
        for index in range(blocks):
            theirs = f"{part}/{scope}/block{number - 1}/unit_{index + 1}/bottleneck_v1"
            for conv in (1, 2, 3):
                yield from _conv_norm(f"{ours}.{index}.conv{conv}", f"{theirs}/conv{conv}")
            if index == 0:
                yield from _conv_norm(f"{ours}.{index}.shortcut", f"{theirs}/shortcut")


def _branches(ours: str, theirs: str, branches: tuple[str, ...], *, scale: bool = True) -> Iterator[Link]:
    """`branches`: the names of each branch's convolutions, joined by spaces; a last one in brackets follows a pool."""
    for branch, names in enumerate(branches):
        for index, name in enumerate(names.strip("()").split()):
            mine = "projection" if names.startswith("(") else f"branches.{branch}.{index}"
            yield from _conv_norm(f"{ours}.{mine}", f"{theirs}/Branch_{branch}/Conv2d_{name}", scale=scale)


_MIXED = ("0a_1x1", "0a_1x1 0b_3x3", "0a_1x1 0b_3x3 0c_3x3", "(0b_1x1)")
_REDUCTION = ("0a_1x1 1a_3x3", "0a_1x1 0b_3x3 1a_3x3")


def _inception_v2(arch: Arch, first: str, last: str) -> Iterator[Link]:
    theirs = f"{first}/InceptionV2"
    spread = (Transpose((2, 3, 0, 1)), Reshape((3, 8, 7, 7), (24, 1, 7, 7)))
    yield Link("backbone.stem.depthwise.weight", f"{theirs}/Conv2d_1a_7x7/depthwise_weights", spread)
    yield Link("backbone.stem.pointwise.weight", f"{theirs}/Conv2d_1a_7x7/pointwise_weights", (KERNEL,))
    yield from norm_links("backbone.stem.norm", f"{theirs}/Conv2d_1a_7x7/BatchNorm")
    yield from _conv_norm("backbone.conv2b", f"{theirs}/Conv2d_2b_1x1")
    yield from _conv_norm("backbone.conv2c", f"{theirs}/Conv2d_2c_3x3")
    for name in ("3b", "3c", "4a", "4b", "4c", "4d", "4e"):
        names = _REDUCTION if name == "4a" else _MIXED
        yield from _branches(f"backbone.mixed_{name}", f"{theirs}/Mixed_{name}", names)
    for name in ("5a", "5b", "5c"):
        names = _REDUCTION if name == "5a" else _MIXED
        part = "box_head.res5" if arch.box_head == "res5" else "backbone"
        yield from _branches(f"{part}.mixed_{name}", f"{last}/InceptionV2/Mixed_{name}", names)


def _inception_resnet_v2(first: str, last: str) -> Iterator[Link]:
    theirs = f"{first}/InceptionResnetV2"
    for ours, name in (("1a", "1a_3x3"), ("2a", "2a_3x3"), ("2b", "2b_3x3"), ("3b", "3b_1x1"), ("4a", "4a_3x3")):
        yield from _conv_norm(f"backbone.conv{ours}", f"{theirs}/Conv2d_{name}", scale=False)
    five = ("1x1", "0a_1x1 0b_5x5", "0a_1x1 0b_3x3 0c_3x3", "(0b_1x1)")
    yield from _branches("backbone.mixed_5b", f"{theirs}/Mixed_5b", five, scale=False)
    three = ("1x1", "0a_1x1 0b_3x3", "0a_1x1 0b_3x3 0c_3x3")
    for index in range(10):
        yield from _residual(f"backbone.block35.{index}", f"{theirs}/Repeat/block35_{index + 1}", three)
    six = ("1a_3x3", "0a_1x1 0b_3x3 1a_3x3")
    yield from _branches("backbone.mixed_6a", f"{theirs}/Mixed_6a", six, scale=False)
    for index in range(20):
        names = ("1x1", "0a_1x1 0b_1x7 0c_7x1")
        yield from _residual(f"backbone.block17.{index}", f"{theirs}/Repeat_1/block17_{index + 1}", names)
    theirs = f"{last}/InceptionResnetV2"
    seven = ("0a_1x1 1a_3x3", "0a_1x1 1a_3x3", "0a_1x1 0b_3x3 1a_3x3")
    yield from _branches("box_head.res5.mixed_7a", f"{theirs}/Mixed_7a", seven, scale=False)
    for index in range(10):
        block = f"Repeat/block8_{index + 1}" if index < 9 else "Block8"
        names = ("1x1", "0a_1x1 0b_1x3 0c_3x1")
        yield from _residual(f"box_head.res5.block8.{index}", f"{theirs}/{block}", names)
    yield from _conv_norm("box_head.res5.conv7b", f"{theirs}/Conv2d_7b_1x1", scale=False)


def _residual(ours: str, theirs: str, branches: tuple[str, ...]) -> Iterator[Link]:
    yield from _branches(f"{ours}.mixed", theirs, branches, scale=False)
    yield Link(f"{ours}.up.weight", f"{theirs}/Conv2d_1x1/weights", (KERNEL,))
    yield Link(f"{ours}.up.bias", f"{theirs}/Conv2d_1x1/biases")


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    if name.startswith(f"{FIRST}/resnet_v1_") and "/block4/" in name:
        return "block4 of the first stage, which nothing reads: regions go through that of the second"
    return "a counter of steps" if name == "global_step" else ""


FAMILY = Family(
    name="tf1_object_detection_api",
    title=TITLE,
    landmarks=(
        "Conv/weights",
        "FirstStageBoxPredictor/BoxEncodingPredictor/weights",
        "SecondStageBoxPredictor/BoxEncodingPredictor/weights",
        "SecondStageBoxPredictor/ClassPredictor/weights",
        "SecondStageBoxPredictor/Conv/weights",
    ),
    read=read,
    links=links,
    ignored=ignored,
    configs=("pipeline.config", "../pipeline.config"),
    read_config=read_pipeline,
)
