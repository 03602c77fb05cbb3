"""What a checkpoint is to be loaded into: a Spec, another checkpoint, a well-known model by name, a pipeline.config."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maskgraft.causes.architectures import architecture_faults
from maskgraft.causes.conventions import convention_faults
from maskgraft.causes.restoring import pipeline_faults
from maskgraft.errors import CheckpointError, Finding, UsageError
from maskgraft.families import (
    Identified,
    detectron2_config,
    identify,
    maskrcnn_benchmark,
    matterport,
    mmdet,
    other_detectors,
    torchvision,
)
from maskgraft.families.class_names import COCO_80, COCO_90, numbered
from maskgraft.families.pipeline_config import read_pipeline
from maskgraft.files import Tensors, open_checkpoint
from maskgraft.spec import Arch, Numerics, Spec

Array = npt.NDArray[np.float32]

_R101 = (3, 4, 23, 3)
_R50 = Arch(classes=80)
_TORCHVISION = replace(_R50, classes=90, box_rows="with-background", mask_rows="with-background")
_V2 = replace(
    _TORCHVISION,
    norm="batch",
    neck_norm="batch",
    rpn_convs=2,
    box_convs=4,
    box_fcs=1,
    box_norm="batch",
    mask_norm="batch",
)
_MATTERPORT = replace(
    _R50,
    conv_bias=True,
    rpn_channels=512,
    objectness="softmax",
    fc_norm="frozen",
    mask_norm="frozen",
    box_rows="with-background",
    mask_rows="with-background",
)
_BENCHMARK = replace(_R50, box_rows="with-background", mask_rows="with-background")
_C4 = replace(_R50, neck="c4", box_head="res5", rpn_channels=1024, anchors_per_cell=15, mask_convs=0, box_fcs=0)

# The models that people load into, under the names of their home frameworks.
MODELS: Mapping[str, tuple[Arch, Numerics]] = {
    "torchvision/maskrcnn_resnet50_fpn": (_TORCHVISION, torchvision.NUMERICS),
    "torchvision/maskrcnn_resnet50_fpn_v2": (_V2, torchvision.NUMERICS),
    "detectron2/mask_rcnn_R_50_FPN": (_R50, detectron2_config.NUMERICS),
    "detectron2/mask_rcnn_R_101_FPN": (replace(_R50, blocks=_R101), detectron2_config.NUMERICS),
    "detectron2/mask_rcnn_X_101_32x8d_FPN": (
        replace(_R50, blocks=_R101, groups=32, width_per_group=8),
        replace(detectron2_config.NUMERICS, stride_in="3x3", pixel_std=(57.375, 57.12, 58.395)),
    ),
    "detectron2/mask_rcnn_R_50_C4": (_C4, detectron2_config.NUMERICS),
    "mmdet/mask-rcnn_r50_fpn": (replace(_R50, norm="batch"), mmdet.NUMERICS),
    "mmdet/mask-rcnn_r101_fpn": (replace(_R50, norm="batch", blocks=_R101), mmdet.NUMERICS),
    "maskrcnn-benchmark/e2e_mask_rcnn_R_50_FPN": (_BENCHMARK, maskrcnn_benchmark.NUMERICS),
    "maskrcnn-benchmark/e2e_mask_rcnn_R_101_FPN": (replace(_BENCHMARK, blocks=_R101), maskrcnn_benchmark.NUMERICS),
    "matterport/resnet50": (_MATTERPORT, matterport.NUMERICS),
    "matterport/resnet101": (replace(_MATTERPORT, blocks=_R101), matterport.NUMERICS),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A model that a checkpoint is to go into. `known` is there where it has values of its own to compare with."""

    where: str
    spec: Spec
    known: Identified | None = None


def named_model(name: str) -> Spec:
    """A well-known model: "torchvision/maskrcnn_resnet50_fpn", with "?classes=3" of another number of classes.

    Raises `UsageError` with the nearest names.
    """
    model, _, setting = name.partition("?")
    key, _, value = setting.partition("=")
    if model not in MODELS or (setting and (key not in ("classes", "num_classes") or not value.isdigit())):
        near = get_close_matches(model, MODELS, 1, 0.3)
        message = f"there is no file and no model {name!r}; models are {', '.join(MODELS)}, each with ?classes=N"
        fix = f"did you mean {near[0]}?" if near else "--into FILE, MODEL or package.module:factory"
        raise UsageError(Finding("config.path", "error", message, fix=fix))
    arch, numerics = MODELS[model]
    if value:  # torchvision counts the background
        arch = replace(arch, classes=int(value) - (key == "num_classes" and model.startswith("torchvision/")))
    classes = {80: COCO_80, 90: COCO_90}.get(arch.classes, numbered(arch.classes))
    return Spec(family=model.partition("/")[0], arch=arch, numerics=numerics, classes=classes)


def is_pipeline(path: Path) -> bool:
    """Whether a file is the `pipeline.config` of the TF Object Detection API."""
    if not path.is_file() or path.stat().st_size > 1 << 20:
        return False
    with open(path, "rb") as file:
        head = file.read(4096)
    return b"\0" not in head and (path.suffix == ".config" or b"model {" in head) and not head.startswith(b"version h")


def resolve(into: Spec | str | Path) -> Target:
    """The target that `into` names: a Spec as it is, a checkpoint that exists, or a well-known model.

    Raises `CheckpointError` for a checkpoint that cannot be read, `UsageError` for a name of nothing.
    """
    if isinstance(into, Spec):
        return Target("the target", into)
    path = Path(into)
    beside = path.parent.is_dir() and any(path.parent.glob(f"{path.name}.*")) if path.name else False
    if path.exists() or beside or "/" not in str(into) or str(into).partition("?")[0] not in MODELS:
        if not path.exists() and not beside:
            return Target(str(into), named_model(str(into)))
        known = identify(open_checkpoint(path))
        return Target(path.name, known.spec, known)
    return Target(str(into), named_model(str(into)))


def target_faults(known: Identified, target: Target) -> list[Finding]:
    """Why a recognised file does not fit a target, or would be worse in it."""
    findings = list(architecture_faults(known, target.spec, where=target.where))
    if target.known is not None:
        findings += _moved_rows(known, target.known, target.where)
    return [*findings, *convention_faults(known.spec, target.spec, where=target.where)]


def into_pipeline(tensors: Tensors, known: Identified | None, path: Path) -> list[Finding]:
    """Why a checkpoint does not fit a pipeline.config that is to train or run it."""
    try:
        config = read_pipeline(path)
    except CheckpointError as error:
        return list(error.findings)
    findings = list(pipeline_faults(tensors, config, path))
    if known is not None:
        try:
            findings = [*identify(tensors, config=path).findings, *findings]
        except CheckpointError as error:
            findings = [*error.findings, *findings]
        return findings
    held = other_detectors.told(tensors)
    model = config.get("model")
    kind = next(iter(model)) if isinstance(model, Mapping) and model else ""
    inner = model.get(kind) if isinstance(model, Mapping) else None
    extractor = inner.get("feature_extractor", {}) if isinstance(inner, Mapping) else {}
    said = f"{kind} with {extractor.get('type', 'no feature extractor') if isinstance(extractor, Mapping) else kind}"
    if held:
        message = f"{tensors.path.name} holds {held}; {path.name} describes {said}"
        findings.insert(
            0,
            Finding(
                "config.mismatch",
                "error",
                message,
                evidence={"file": held, "config": said},
                effect="the home framework would restore only layers of equal name and shape: few, or none",
                fix="give the pipeline.config that stood beside the checkpoint",
            ),
        )
    return findings


def _moved_rows(known: Identified, other: Identified, where: str) -> list[Finding]:
    """Weights equal to the target's but for their order: exchanged colours, shifted classes, exchanged x and y."""
    findings = []
    stem = _pair(known, other, "backbone.stem.conv.weight")
    if stem and stem[0].ndim == 4 and not _close(*stem) and _close(stem[0][:, ::-1], stem[1]):
        effect = "red and blue are exchanged at the input: 1 to 5 AP lost, without an error"
        message = f"the stem's filters are those of {where} with red and blue exchanged"
        fix = "exchange the channels of the stem, or channel_order and pixel_mean, but not both"
        findings.append(Finding("numerics.channel-order", "error", message, effect=effect, fix=fix))
    for layer in ("box_predictor.cls", "mask_predictor.logits"):
        weight, bias = (_pair(known, other, f"{layer}.{vector}") for vector in ("weight", "bias"))
        moved = [_rotation(*pair) if pair else 0 for pair in (weight, bias)]
        if moved[0] == moved[1] != 0 and moved[0] is not None:
            message = f"{layer}: the rows of weights and biases are those of {where}, moved by {moved[0]}"
            effect = "every object is named as the next class"
            findings.append(Finding("numerics.class-order", "error", message, names=(layer,), effect=effect))
        elif moved[0] != moved[1] and None not in moved:
            message = f"{layer}: against {where} the weights' rows are moved by {moved[0]}, the biases' by {moved[1]}"
            effect = "each class has its neighbour's bias"
            findings.append(Finding("values.class-shift", "error", message, names=(layer,), effect=effect))
    for layer in ("rpn.deltas", "box_predictor.deltas"):
        pair = _pair(known, other, f"{layer}.weight")
        order = np.arange(len(pair[0])) ^ 1 if pair else None
        if pair and order is not None and not _close(*pair) and _close(pair[0][order], pair[1]):
            message = f"{layer}: the rows are those of {where} with x and y exchanged"
            effect = "boxes move up where they should move right: none fits"
            findings.append(Finding("numerics.box-order", "error", message, names=(layer,), effect=effect))
    return findings


def _pair(one: Identified, other: Identified, ours: str) -> tuple[Array, Array] | None:
    found = []
    for known in (one, other):
        link = next((link for link in known.links if link.ours == ours), None)
        if link is None or link.theirs not in known.tensors:
            return None
        try:
            found.append(np.asarray(link.forward(known.tensors[link.theirs].read()), dtype=np.float32))
        except (ValueError, IndexError):
            return None
    return (found[0], found[1]) if found[0].shape == found[1].shape else None


def _close(one: Array, other: Array) -> bool:
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-3 * float(np.abs(other).max() or 1)))


def _rotation(one: Array, other: Array) -> int | None:
    """By how many rows `one` is `other` rolled, 0 when they are equal, None when they are no rotation."""
    if not len(one) or not other.any():
        return None
    return next((by for by in (0, 1, -1, 2, -2) if _close(np.roll(one, -by, axis=0), other)), None)
