"""The TF Object Detection API under TensorFlow 2: object-based checkpoints, whose layers are numbered.

Backbones: `keras.applications` ResNet v1 and Inception-ResNet v2 as research/object_detection `models/keras_models/`
overrides their layers, and the feature extractors in `models/faster_rcnn_*_keras_feature_extractor.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from maskgraft.errors import CheckpointError
from maskgraft.families.family import Config, Family, Reading, shape, unsupported
from maskgraft.families.pipeline_config import read_pipeline
from maskgraft.families.pipeline_settings import disagreements, numerics
from maskgraft.families.tf_object_detection import (
    INCEPTION,
    KERNEL,
    class_names,
    head_links,
    norm_links,
    without_masks,
)
from maskgraft.files import Tensors
from maskgraft.links import Link
from maskgraft.spec import Arch, Spec

TITLE = "TF2 Object Detection API"
FIRST = "model/_feature_extractor_for_proposal_features/layer_with_weights-{}"
SECOND = "model/_feature_extractor_for_box_classifier_features/layer_with_weights-{}"
_PYRAMID = "model/_feature_extractor_for_proposal_features/fpn_features_generator/"
_RPN = "model/_first_stage_box_predictor/_prediction_heads"
_HEADS = "model/_mask_rcnn_box_predictor"
_MASK = f"{_HEADS}/_third_stage_heads/mask_predictions/_mask_predictor_layers/{{}}"
LAYERS = {
    "rpn": "model/_first_stage_box_predictor_first_conv/layer_with_weights-0",
    "rpn.objectness": f"{_RPN}/class_predictions_with_background/0/_class_predictor_layers/0",
    "rpn.deltas": f"{_RPN}/box_encodings/0/_box_encoder_layers/0",
    "cls": f"{_HEADS}/_class_prediction_head/_class_predictor_layers/1",
    "deltas": f"{_HEADS}/_box_prediction_head/_box_encoder_layers/1",
}
_DROPOUT = LAYERS | {  # dropout is a layer too
    "cls": f"{_HEADS}/_class_prediction_head/_class_predictor_layers/2",
    "deltas": f"{_HEADS}/_box_prediction_head/_box_encoder_layers/2",
}

_SAVED = "_model"  # what a SavedModel calls the model
_PREDICTORS = {
    "_first_stage_box_predictor": (LAYERS["rpn.deltas"], LAYERS["rpn.objectness"]),
    "_mask_rcnn_box_predictor": (LAYERS["deltas"], LAYERS["cls"], *(_MASK.format(3 * one) for one in range(32))),
}
# What a SavedModel only counts of a predictor: kernel and bias of each layer, boxes before classes before masks.
_COUNTED = {
    f"{_SAVED}/{predictor}/{listing}/{2 * place + which}": f"{layer}/{weight}"
    for predictor, layers in _PREDICTORS.items()
    for listing in ("variables", "trainable_variables")
    for place, layer in enumerate(layers)
    for which, weight in enumerate(("kernel", "bias"))
}

STRIDE = 16  # at 8 the ResNets' extractor raises, and that of Inception-ResNet v2 joins maps of two sizes
ASSUMED: dict[str, dict[str, Any]] = {
    "resnet": {"stride_in": "1x1", "res5_stride": 2},
    "inception_resnet_v2": {**INCEPTION, "fixed_size": (1024, 1024), "box_pool_size": 17, "roi_max_pool": (1, 1)},
}
_BLOCKS_OF = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

# One entry a branch: how many convolutions it has. Keras numbers layers by their distance from the end.
_BOTTLENECK = (("conv1", "conv2", "conv3"),)
_PROJECTED = (("shortcut",), ("conv1", "conv2", "conv3"))
_STEM = ("conv1a", "conv2a", "conv2b", "conv3b", "conv4a")
_MIXED_5B = (1, 2, 3, 1)
_BLOCK35, _BLOCK17, _BLOCK8 = (1, 2, 3), (1, 3), (1, 3)
_MIXED_6A, _MIXED_7A = (1, 3), (2, 2, 3)


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a TF2 checkpoint or SavedModel, and of its `pipeline.config` where there is one."""
    if (plain := as_checkpoint(tensors)) is not tensors:
        return replace(read(plain, config), tensors=plain)
    backbone, blocks = backbone_of(tensors), blocks_of(tensors, FIRST, SECOND)
    depth = next((depth for depth, one in _BLOCKS_OF.items() if one == blocks), 0)
    title = {"resnet": f"ResNet-{depth or blocks}", "inception_resnet_v2": "Inception-ResNet v2"}.get(
        backbone or "", "another backbone"
    )
    pyramid = any(name.startswith(_PYRAMID) for name in tensors)
    if f"{_MASK.format(0)}/kernel" not in tensors:
        title = "a feature pyramid" if pyramid else title
        raise without_masks(tensors, TITLE, title, built=backbone is not None)
    if pyramid:
        raise unsupported(tensors, TITLE, "a feature pyramid")
    if backbone is None:
        raise unsupported(tensors, TITLE, "a backbone that is neither a ResNet nor Inception-ResNet v2")
    era = "dropout" if f"{_DROPOUT['cls']}/kernel" in tensors else ""
    arch = _arch(tensors, backbone, _DROPOUT if era else LAYERS)
    found, how = numerics(tensors, config, ASSUMED[backbone], title=TITLE)
    names, how["classes"] = class_names(arch, config)
    extractor = f"faster_rcnn_resnet{depth}_keras" if depth else f"faster_rcnn_{backbone}_keras"
    findings = tuple(disagreements(tensors, arch, config, extractor=extractor)) if config is not None else ()
    if found.c4_stride != STRIDE:
        of_tf1 = [replace(finding, severity="error") for finding in findings if finding.code == "config.era"]
        refusal = unsupported(tensors, TITLE, f"first_stage_features_stride is {found.c4_stride}, not {STRIDE}")
        raise CheckpointError(of_tf1) if of_tf1 else refusal
    spec = Spec(family="tf2_object_detection_api", arch=arch, numerics=found, classes=names, learned=how)
    return Reading(spec, era, findings)


def as_checkpoint(tensors: Tensors) -> Tensors:
    """A SavedModel's variables (`exporter_lib_v2.py`) under the names of a checkpoint; other files as they are."""
    if not any(name.startswith(f"{_SAVED}/_feature_extractor") for name in tensors):
        return tensors
    return replace(tensors, arrays={_COUNTED.get(name, name.removeprefix("_")): one for name, one in tensors.items()})


def backbone_of(tensors: Tensors) -> str | None:
    """Told from the first convolution and from what follows it."""
    name = f"{FIRST.format(0)}/kernel"
    stem = tensors[name].shape if name in tensors else ()
    if stem[:3] == (7, 7, 3) and f"{FIRST.format(3)}/moving_mean" in tensors:
        return "resnet"
    return "inception_resnet_v2" if stem == (3, 3, 3, 32) and f"{FIRST.format(341)}/bias" in tensors else None


def blocks_of(tensors: Tensors, first: str, last: str) -> tuple[int, ...]:
    """Residual blocks of each stage; the first of a stage has eight numbered layers, the others six.

    `first` and `last` are the names of the layers up to C4 and after it, which count on where they are the same.
    """
    result: list[int] = []
    at = 2
    narrow = width_of(tensors, first)
    for template, widths in ((first, (narrow, 2 * narrow, 4 * narrow)), (last, (8 * narrow,))):
        at = 0 if len(result) == 3 and first != last else at
        for width in widths:
            blocks = 0
            while (name := f"{template.format(at)}/kernel") in tensors and tensors[name].shape[3:] == (width,):
                at += 6 if blocks else 8
                blocks += 1
            result.append(blocks)
    return tuple(result)


def width_of(tensors: Tensors, first: str) -> int:
    """Channels of the first convolution of the first residual block."""
    name = f"{first.format(2)}/kernel"
    return tensors[name].shape[-1] if name in tensors else 64


def _arch(tensors: Tensors, backbone: str, layers: dict[str, str]) -> Arch:
    classes = shape(tensors, f"{layers['cls']}/bias")[0] - 1
    boxes = shape(tensors, f"{layers['deltas']}/bias")[0] // 4
    convs = 1
    while f"{_MASK.format(3 * convs)}/kernel" in tensors:
        convs += 1
    last = shape(tensors, f"{_MASK.format(3 * (convs - 1))}/kernel")
    return Arch(
        classes=classes,
        backbone=backbone,  # type: ignore[arg-type]
        blocks=blocks_of(tensors, FIRST, SECOND) if backbone == "resnet" else (),
        stem_width=shape(tensors, f"{FIRST.format(0)}/kernel")[3] if backbone == "resnet" else 64,
        width_per_group=width_of(tensors, FIRST) if backbone == "resnet" else 64,
        norm_scale=backbone == "resnet",
        neck="c4",
        rpn_channels=shape(tensors, f"{layers['rpn']}/bias")[0],
        anchors_per_cell=shape(tensors, f"{layers['rpn.objectness']}/bias")[0] // 2,
        objectness="softmax",
        box_head="res5",
        box_rows="agnostic" if boxes == 1 and classes > 1 else "foreground",
        mask_convs=convs - 1,
        mask_channels=last[2],
        mask_upsample="resize",
        mask_kernel=last[0],
        mask_rows="agnostic" if last[3] == 1 and classes > 1 else "foreground",
    )


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor."""
    arch = spec.arch
    yield from trunk_links(arch, FIRST, SECOND)
    masks = [_MASK.format(3 * index) for index in range(arch.mask_convs + 1)]
    yield from head_links(arch, _DROPOUT if era else LAYERS, masks, kernel="kernel", bias="bias")


def _in_keras_order(branches: Sequence[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """The convolutions and norms of a block in the order in which Keras numbers them: (name, "conv" or "norm").

    Keras goes by the number of layers up to the end of the block, the most first, and then by branch.
    """
    for left in range(max(map(len, branches)), 0, -1):
        for kind in ("conv", "norm"):
            for names in branches:
                if len(names) >= left:
                    yield names[len(names) - left], kind


def _block(ours: str, theirs: str, start: int, branches: Sequence[Sequence[str]], *, scale: bool) -> Iterator[Link]:
    for number, (name, kind) in enumerate(_in_keras_order(branches), start):
        if kind == "conv":
            yield Link(f"{ours}{name}.conv.weight", f"{theirs.format(number)}/kernel", (KERNEL,))
        else:
            yield from norm_links(f"{ours}{name}.norm", theirs.format(number), scale=scale)


def trunk_links(arch: Arch, first: str, last: str) -> Iterator[Link]:
    """The backbone, whose layers `first` numbers, and `last` those after C4."""
    yield from _resnet(arch, first, last) if arch.backbone == "resnet" else _inception_resnet_v2()


def _resnet(arch: Arch, first: str, last: str) -> Iterator[Link]:
    yield from _block("backbone.", first, 0, (("stem",),), scale=True)
    at = 2
    for stage, blocks in enumerate(arch.blocks, 2):
        theirs = last if stage == 5 else first
        ours = "box_head.res5" if stage == 5 and arch.box_head == "res5" else f"backbone.res{stage}"
        at = 0 if stage == 5 and first != last else at
        for index in range(blocks):
            branches = _BOTTLENECK if index else _PROJECTED
            yield from _block(f"{ours}.{index}.", theirs, at, branches, scale=True)
            at += 6 if index else 8


def _branches(counts: Sequence[int], *, projection: bool = False) -> list[list[str]]:
    names = [[f"branches.{branch}.{index}" for index in range(convs)] for branch, convs in enumerate(counts)]
    return [*names[:-1], ["projection"]] if projection else names


def _inception_resnet_v2() -> Iterator[Link]:
    for index, name in enumerate(_STEM):
        yield from _block("backbone.", FIRST, 2 * index, ((name,),), scale=False)
    at = 10
    yield from _block("backbone.mixed_5b.", FIRST, at, _branches(_MIXED_5B, projection=True), scale=False)
    at += 2 * sum(_MIXED_5B)
    for index in range(10):
        yield from _residual(f"backbone.block35.{index}", FIRST, at, _BLOCK35)
        at += 2 * sum(_BLOCK35) + 1
    yield from _block("backbone.mixed_6a.", FIRST, at, _branches(_MIXED_6A), scale=False)
    at += 2 * sum(_MIXED_6A)
    for index in range(20):
        yield from _residual(f"backbone.block17.{index}", FIRST, at, _BLOCK17)
        at += 2 * sum(_BLOCK17) + 1
    yield from _block("box_head.res5.mixed_7a.", SECOND, 0, _branches(_MIXED_7A), scale=False)
    at = 2 * sum(_MIXED_7A)
    for index in range(10):
        yield from _residual(f"box_head.res5.block8.{index}", SECOND, at, _BLOCK8)
        at += 2 * sum(_BLOCK8) + 1
    yield from _block("box_head.res5.", SECOND, at, (("conv7b",),), scale=False)


def _residual(ours: str, theirs: str, start: int, counts: Sequence[int]) -> Iterator[Link]:
    yield from _block(f"{ours}.mixed.", theirs, start, _branches(counts), scale=False)
    up = theirs.format(start + 2 * sum(counts))
    yield Link(f"{ours}.up.weight", f"{up}/kernel", (KERNEL,))
    yield Link(f"{ours}.up.bias", f"{up}/bias")


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    return "a counter of steps" if name in ("step", "global_step", "save_counter") else ""


FAMILY = Family(
    name="tf2_object_detection_api",
    title=TITLE,
    landmarks=(
        f"{LAYERS['rpn']}/kernel",
        f"{LAYERS['rpn.objectness']}/kernel",
        f"{LAYERS['rpn.deltas']}/kernel",
        f"{FIRST.format(0)}/kernel",
        f"{_MASK.format(0)}/kernel",
    ),
    older_landmarks=(
        (
            f"{_SAVED}/_first_stage_box_predictor_first_conv/layer_with_weights-0/kernel",
            f"_{FIRST.format(0)}/kernel",
            f"_{SECOND.format(0)}/kernel",
        ),
    ),
    read=read,
    links=links,
    ignored=ignored,
    configs=("pipeline.config", "../pipeline.config"),
    read_config=read_pipeline,
)
