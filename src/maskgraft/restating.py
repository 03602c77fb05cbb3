"""The same model in another architecture's tensors: what can be said exactly in more than one way.

A norm with fixed statistics is a scale and a shift; a softmax pair is one logit; a row of the background's box is read
by nobody. Sums are taken in float64 and rounded once, so that the restated model agrees to float32's last bits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from maskgraft.errors import CheckpointError, Finding
from maskgraft.links import Array
from maskgraft.spec import Arch, NormKind, component

Arrays = dict[str, Array]
_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class _Pair:
    """A layer, the norm that follows it, and along which axis of the layer's weight its outputs stand."""

    layer: str
    norm: str
    axis: int = 0


def restate(arrays: Mapping[str, Array], before: Arch, after: Arch, wanted: Iterable[str], eps: float) -> Arrays:
    """Canonical arrays of `before` as those of `after`, whose names are `wanted`; `eps` is that of the norms.

    Norms that are new have the statistics of no change. Raises `CheckpointError` for what cannot be restated.
    """
    names = set(wanted)
    faults: list[Finding] = []
    if before.coarsest != after.coarsest and "fpn" == before.neck == after.neck:
        try:
            arrays = _with_coarsest(arrays) if after.coarsest == "conv" else _without_coarsest(arrays)
        except CheckpointError as error:
            faults += error.findings
    if before.rpn_norm != after.rpn_norm:
        try:
            arrays = _without_proposal_norms(arrays, eps) | _proposal_norms(arrays, names, eps)
        except CheckpointError as error:
            faults += error.findings
    if faults:
        raise CheckpointError(faults)
    result = {name: array for name, array in arrays.items() if name in names}
    for pair in _pairs({*arrays, *names}):
        result |= _norm(arrays, names, pair, eps, _kind(before, pair.norm), _kind(after, pair.norm))
    if before.objectness != after.objectness:
        result |= _objectness(arrays, to_pairs=after.objectness == "softmax")
    for part, per_class, kinds in (
        ("box_predictor.deltas", 4, (before.box_rows, after.box_rows)),
        ("mask_predictor.logits", 1, (before.mask_rows, after.mask_rows)),
    ):
        for vector in ("weight", "bias"):
            name = f"{part}.{vector}"
            result[name] = _rows(name, arrays[name], per_class, before.classes, *kinds)
    return result


def _pairs(names: set[str]) -> list[_Pair]:
    """Every layer that has a norm on either side, or a bias on one of them alone."""
    pairs = []
    for weight in sorted(name for name in names if name.endswith(".weight")):
        layer = weight.removesuffix(".weight")
        if layer.endswith(".conv"):
            pairs.append(_Pair(layer, layer.removesuffix("conv") + "norm"))
        elif layer.startswith("box_head.fcs."):
            pairs.append(_Pair(layer, layer.replace(".fcs.", ".fc_norms.")))
        elif layer == "mask_head.upsample":
            pairs.append(_Pair(layer, "mask_head.norm", axis=1))
    return pairs


def _kind(arch: Arch, norm: str) -> NormKind:
    if norm == "mask_head.norm":
        return arch.upsample_norm
    if ".fc_norms." in norm:
        return arch.fc_norm
    part = "backbone" if norm.startswith("box_head.res5") else component(norm)
    return {
        "backbone": arch.norm,
        "fpn": arch.neck_norm,
        "box_head": arch.box_norm,
        "mask_head": arch.mask_norm,
    }[part]


def _norm(arrays: Mapping[str, Array], names: set[str], pair: _Pair, eps: float, kind: str, into: str) -> Arrays:
    weight, bias = f"{pair.layer}.weight", f"{pair.layer}.bias"
    vectors = {vector: arrays[f"{pair.norm}.{vector}"] for vector in _NORM if f"{pair.norm}.{vector}" in arrays}
    wanted = {vector for vector in _NORM if f"{pair.norm}.{vector}" in names}
    if weight not in arrays or weight not in names:
        return {}
    result: Arrays = {}
    counter = f"{pair.norm}.num_batches_tracked"
    if counter in names and counter not in arrays:
        result[counter] = np.zeros((), np.int64)
    if set(vectors) == wanted and (bias in arrays) == (bias in names) and (kind == "group") == (into == "group"):
        return result
    if "group" in (kind, into):
        raise _impossible(f"{pair.norm} is a group norm, which no other norm can stand for", pair.norm)
    channels = arrays[weight].shape[pair.axis]
    own = _wide(arrays[bias]) if bias in arrays else np.zeros(channels)
    scale, shift = np.ones(channels), own
    if vectors:
        scale = _wide(vectors["weight"]) if "weight" in vectors else scale
        mean, variance = np.zeros(channels), None
        if "running_var" in vectors:
            mean, variance = _wide(vectors["running_mean"]), _wide(vectors["running_var"])
            scale = scale / np.sqrt(variance + eps)
        shift = _wide(vectors["bias"]) + scale * (own - mean)
    if not wanted:  # the layer takes the norm in
        along = [1] * arrays[weight].ndim
        along[pair.axis] = channels
        return result | {weight: _narrow(_wide(arrays[weight]) * scale.reshape(along)), bias: _narrow(shift)}
    if bias in names:  # a bias before a norm: the layer's own, or none
        result[bias] = arrays[bias] if bias in arrays else np.zeros(channels, np.float32)
        shift = shift - scale * own
    if "running_var" in wanted and "running_var" in vectors:
        result |= {f"{pair.norm}.{vector}": array for vector, array in vectors.items() if vector in wanted}
        if bias in arrays and bias not in names:
            result[f"{pair.norm}.running_mean"] = _narrow(_wide(vectors["running_mean"]) - own)
        return result
    result |= {f"{pair.norm}.weight": _narrow(scale), f"{pair.norm}.bias": _narrow(shift)}
    if "running_var" in wanted:
        result[f"{pair.norm}.running_mean"] = np.zeros(channels, np.float32)
        result[f"{pair.norm}.running_var"] = np.full(channels, 1 - eps, np.float32)
    return result


def _every_second_cell(channels: int) -> Array:
    """The 3 × 3 kernels that read every second cell of a map of even sides, under TensorFlow's SAME padding."""
    kernels = np.zeros((channels, channels, 3, 3), np.float32)
    kernels[np.arange(channels), np.arange(channels), 0, 0] = 1
    return kernels


def _with_coarsest(arrays: Mapping[str, Array]) -> Arrays:
    """P6 as a convolution of P5 before its norm, and that norm after it: every second cell of P5, still."""
    result = dict(arrays)
    for name, array in arrays.items():
        if name.startswith("fpn.output5.norm."):
            result[name.replace("output5", "coarsest")] = array
    channels = arrays["fpn.output5.conv.weight"].shape[0]
    result["fpn.coarsest.conv.weight"] = _every_second_cell(channels)
    result["fpn.coarsest.conv.bias"] = np.zeros(channels, np.float32)
    return result


def _without_coarsest(arrays: Mapping[str, Array]) -> Arrays:
    """The inverse. Raises `CheckpointError` for a convolution that does anything else."""
    back = {name: array for name, array in arrays.items() if not name.startswith("fpn.coarsest.")}
    again = _with_coarsest(back)
    for name in arrays:
        if not np.array_equal(arrays[name], again[name]):
            raise _impossible("P6 is a learned convolution of P5, where the other family takes every second cell", name)
    return back


def _proposal_norms(arrays: Mapping[str, Array], names: set[str], eps: float) -> Arrays:
    """A norm of each level behind each convolution of the proposal network, which changes nothing."""
    result: Arrays = {}
    for norm in {name.rpartition(".")[0] for name in names if name.startswith("rpn.norms.")}:
        channels = len(arrays[f"rpn.convs.{norm.rpartition('.')[2]}.bias"])
        still = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1 - eps}
        result |= {f"{norm}.{vector}": np.full(channels, value, np.float32) for vector, value in still.items()}
    return result


def _without_proposal_norms(arrays: Mapping[str, Array], eps: float) -> Arrays:
    """The norms of the proposal network in its convolutions. Raises `CheckpointError` where levels have unlike ones."""
    result = {name: array for name, array in arrays.items() if not name.startswith("rpn.norms.")}
    for name, array in arrays.items():
        if not name.startswith("rpn.norms.") or name.endswith(".num_batches_tracked"):
            continue
        _, _, _, index, vector = name.split(".")
        if not np.array_equal(array, arrays[f"rpn.norms.0.{index}.{vector}"]):
            raise _impossible("the proposal network has a norm for each level, which one convolution cannot be", name)
    for index in {name.split(".")[3] for name in arrays if name.startswith("rpn.norms.0.")}:
        norm = {vector: _wide(arrays[f"rpn.norms.0.{index}.{vector}"]) for vector in _NORM}
        scale = norm["weight"] / np.sqrt(norm["running_var"] + eps)
        weight, bias = f"rpn.convs.{index}.weight", f"rpn.convs.{index}.bias"
        result[weight] = _narrow(_wide(arrays[weight]) * scale[:, None, None, None])
        result[bias] = _narrow(norm["bias"] + scale * (_wide(arrays[bias]) - norm["running_mean"]))
    return result


def with_eps(arrays: Arrays, before: float, after: float) -> Arrays:
    """The arrays for norms of another eps: each scale takes up what the eps changes, or the variance without one.

    Raises `CheckpointError` for a norm without a scale whose variance is less than the eps grows by.
    """
    result = dict(arrays)
    if before == after:
        return result
    for name in arrays:
        if not name.endswith(".running_var"):
            continue
        scale, variance = name.replace(".running_var", ".weight"), _wide(arrays[name])
        if scale in arrays:
            result[scale] = _narrow(_wide(arrays[scale]) * np.sqrt((variance + after) / (variance + before)))
        elif variance.min() < after - before:
            raise _impossible(f"{name} is too small for an eps of {after}, and has no scale beside it", name)
        else:
            result[name] = _narrow(variance + before - after)
    return result


def has_eps(arrays: Mapping[str, Array]) -> bool:
    """Whether any norm has statistics, to whose variance an eps is added."""
    return any(name.endswith(".running_var") for name in arrays)


def _objectness(arrays: Mapping[str, Array], *, to_pairs: bool) -> Arrays:
    result = {}
    for name in ("rpn.objectness.weight", "rpn.objectness.bias"):
        logits = arrays[name]
        if to_pairs:  # of (0, logit) the softmax is the logit's sigmoid
            result[name] = np.stack((np.zeros_like(logits), logits), 1).reshape(-1, *logits.shape[1:])
        else:
            result[name] = _narrow(_wide(logits[1::2]) - _wide(logits[0::2]))
    return result


def _rows(name: str, array: Array, per_class: int, classes: int, before: str, after: str) -> Array:
    """Class rows in another manner; the background, where it has a row, comes last."""
    if before == after:
        return array
    blocks = array.reshape(-1, per_class, *array.shape[1:])
    if before.startswith("agnostic"):
        foreground = blocks[:1]
        if not after.startswith("agnostic"):
            foreground = np.repeat(foreground, classes, axis=0)
    elif after.startswith("agnostic") and classes > 1:
        raise _impossible(f"{name} has a row for each class, where the other family has one for all", name)
    else:
        foreground = blocks[:classes]
    last = blocks[-1:] if before.endswith("with-background") else np.zeros_like(blocks[:1])
    rows = np.concatenate((foreground, last)) if after.endswith("with-background") else foreground
    return np.ascontiguousarray(rows.reshape(-1, *array.shape[1:]))


def scaled_rows(arrays: Arrays, part: str, factors: tuple[float, ...]) -> Arrays:
    """The arrays with the rows of `part` multiplied by `factors`, which repeat."""
    if all(factor == 1 for factor in factors):
        return arrays
    result = dict(arrays)
    for vector in ("weight", "bias"):
        array = _wide(arrays[f"{part}.{vector}"])
        each = np.tile(np.array(factors), len(array) // len(factors)).reshape(-1, *[1] * (array.ndim - 1))
        result[f"{part}.{vector}"] = _narrow(array * each)
    return result


def reordered_anchors(arrays: Arrays, order: list[int], objectness: str) -> Arrays:
    """The arrays with the anchors of a cell in another order: anchor i is what anchor `order[i]` was."""
    result = dict(arrays)
    for part, each in (("objectness", 2 if objectness == "softmax" else 1), ("deltas", 4)):
        for vector in ("weight", "bias"):
            array = arrays[f"rpn.{part}.{vector}"]
            blocks = array.reshape(-1, each, *array.shape[1:])[order]
            result[f"rpn.{part}.{vector}"] = np.ascontiguousarray(blocks.reshape(array.shape))
    return result


FIRST_LAYERS = ("backbone.stem.conv.weight", "backbone.stem.0.conv.weight", "backbone.conv1a.conv.weight")


def with_pixels(arrays: Arrays, *, flipped: bool, factors: tuple[float, ...]) -> Arrays:
    """The arrays for pixels in the other channel order (`flipped`), of which each channel was divided by `factors`.

    `factors` stand in the new order. Raises `CheckpointError` where the first layer is none that can take it up.
    """
    if not flipped and all(factor == 1 for factor in factors):
        return arrays
    name = next((name for name in FIRST_LAYERS if name in arrays), None)
    if name is None:
        raise _impossible("the first layer cannot take up another order or scale of channels", "backbone")
    weight = arrays[name][:, ::-1] if flipped else arrays[name]
    if any(factor != 1 for factor in factors):
        weight = _narrow(_wide(weight) * np.array(factors).reshape(1, 3, 1, 1))
    return arrays | {name: np.ascontiguousarray(weight)}


def _wide(array: Array) -> Array:
    return array.astype(np.float64)


def _narrow(array: Array) -> Array:
    return array.astype(np.float32)


def _impossible(message: str, name: str) -> CheckpointError:
    fix = "maskgraft's own folder (mg.save) and ONNX (mg.export) hold the model as it is"
    return CheckpointError(Finding("family.unknown", "error", message, names=(name,), fix=fix))
