"""What values tell: not a number, beyond half precision, never trained, rows apart from their biases."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families import Identified
from maskgraft.files import LazyArray
from maskgraft.spec import COMPONENTS, component

_HALF = 65504.0  # the largest number of float16
_FEW = 500  # below so many values a distribution cannot be told
_MOST = 60_000  # as many values of a tensor are looked at for its distribution

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look at a tensor keeps: counts of odd values, and moments of the others."""

    nan: int
    infinite: int
    largest: float
    mean: float
    std: float
    kurtosis: float
    size: int

    @property
    def constant(self) -> bool:
        """Whether all values are one number."""
        return self.std == 0 and not self.nan and not self.infinite


def glances(tensors: Mapping[str, LazyArray]) -> dict[str, Glance]:
    """One look at each tensor of floats that can be read."""
    found = {}
    for name, array in tensors.items():
        if array.dtype.kind not in "fV" or not array.size:
            continue
        try:
            found[name] = glance(np.asarray(array.read(), dtype=np.float32))
        except CheckpointError:
            continue
    return found


def glance(values: Array) -> Glance:
    """Counts of all values; moments of at most `_MOST` of them, evenly spread, computed in float64."""
    flat = values.ravel()
    low, high = float(flat.min()), float(flat.max())  # both NaN where any value is
    odd = not (math.isfinite(low) and math.isfinite(high))
    nan, infinite = (int(np.isnan(flat).sum()), int(np.isinf(flat).sum())) if odd else (0, 0)
    if odd:
        flat = flat[np.isfinite(flat)]
        low, high = (float(flat.min()), float(flat.max())) if flat.size else (0.0, 0.0)
    part = flat[:: max(1, flat.size // _MOST)].astype(np.float64)
    mean = float(part.mean()) if part.size else 0.0
    std = 0.0 if low == high else float(part.std())
    kurtosis = float((((part - mean) / std) ** 4).mean()) if std else 0.0
    return Glance(nan, infinite, max(abs(low), abs(high)), mean, std, kurtosis, values.size)


def value_faults(known: Identified) -> list[Finding]:
    """Everything that the values of a recognised file say against it. Reads all of them once."""
    seen = glances(known.tensors)
    return [
        *not_numbers(known.tensors, seen),
        *_untrained(known, seen),
        *_shifted_rows(known),
        *_halved(known.tensors, seen),
    ]


def not_numbers(tensors: Mapping[str, LazyArray], seen: Mapping[str, Glance]) -> list[Finding]:
    """NaN and infinity; infinity in a file of halves is a number that half precision could not hold."""
    over = [name for name, one in seen.items() if one.infinite and not one.nan and tensors[name].dtype.itemsize == 2]
    broken = [name for name, one in seen.items() if (one.nan or one.infinite) and name not in set(over)]
    findings = []
    if broken:
        count = sum(seen[name].nan + seen[name].infinite for name in broken)
        findings.append(
            Finding(
                "values.nan",
                "error",
                f"{len(broken)} tensors hold {count:,} values that are NaN or infinite, first {broken[0]}",
                names=tuple(broken),
                evidence={name: {"nan": seen[name].nan, "infinite": seen[name].infinite} for name in broken[:20]},
                effect="every output behind these layers is NaN: nothing is detected",
                fix="go back to a checkpoint from before the training diverged",
            )
        )
    if over:
        findings.append(
            Finding(
                "values.precision",
                "error",
                f"{len(over)} float16 tensors hold infinity, first {over[0]}: their values went beyond {_HALF:,.0f}",
                names=tuple(over),
                evidence={name: {"infinite": seen[name].infinite} for name in over[:20]},
                effect="every output behind these layers is infinite or NaN: nothing is detected",
                fix="convert to half precision again from the float32 file, and keep norms in float32",
            )
        )
    return findings


def _halved(tensors: Mapping[str, LazyArray], seen: Mapping[str, Glance]) -> Iterator[Finding]:
    halves = [name for name in seen if tensors[name].dtype == np.float16]
    gone = [name for name in halves if name.endswith(("running_var", "moving_variance")) and _has_zero(tensors[name])]
    if gone:
        yield Finding(
            "values.precision",
            "warning",
            f"{len(gone)} variances hold zeros in float16, first {gone[0]}: they were too small for half precision",
            names=tuple(gone),
            effect="with a small eps such a channel is multiplied by hundreds, or by infinity where eps is 0",
            fix="convert to half precision again from the float32 file, and keep norms in float32",
        )
    elif halves:
        effect = "about three decimal digits: results differ from the float32 file's in the last of them"
        message = f"{len(halves)} tensors are stored in float16"
        yield Finding("values.precision", "info", message, evidence={"tensors": len(halves)}, effect=effect)
    large = [name for name, one in seen.items() if name not in set(halves) and _HALF < one.largest < math.inf]
    if large:
        yield Finding(
            "values.precision",
            "warning",
            f"{len(large)} tensors hold values beyond {_HALF:,.0f}, first {large[0]} with {seen[large[0]].largest:.3g}",
            names=tuple(large),
            effect="model.half() turns them into infinity, and what is behind them into NaN",
            fix="look whether the training diverged; keep these layers in float32",
        )


def _has_zero(array: LazyArray) -> bool:
    return not np.asarray(array.read()).all()


def _untrained(known: Identified, seen: Mapping[str, Glance]) -> list[Finding]:
    """Layers as an initialiser leaves them: all zeros, or its distribution with its biases or norms untouched."""
    ours = {link.theirs: link.ours for link in known.links}
    by_ours = {ours[name]: (name, one) for name, one in seen.items() if name in ours}
    reasons: dict[str, str] = {}
    for mine, (name, one) in by_ours.items():
        if mine.endswith((".norm.weight", "running_mean", "running_var")) or not mine.endswith(".weight"):
            continue
        if one.constant and one.size > 1 and len(known.tensors[name].shape) > 1:
            reasons[mine] = "all zeros" if one.largest == 0 else f"{one.mean:.6g} throughout"
        elif one.size >= _FEW and (told := _initialiser(mine, one, known, by_ours)):
            reasons[mine] = told
    findings = []
    for part in COMPONENTS:
        layers = [mine for mine in reasons if component(mine) == part]
        if not layers:
            continue
        whole = [mine for mine in by_ours if component(mine) == part and mine.endswith(".conv.weight")]
        constant = [mine for mine in layers if reasons[mine].endswith(("zeros", "throughout"))]
        if not constant and len(layers) * 2 < len(whole):
            continue  # one of many that looks drawn may be chance
        layers = layers if len(layers) * 2 >= len(whole) else constant
        names = tuple(by_ours[mine][0] for mine in layers)
        findings.append(
            Finding(
                "values.untrained",
                "warning",
                f"the {part} was never trained: {len(layers)} weights are as an initialiser leaves them, first "
                f"{names[0]} ({reasons[layers[0]]})",
                names=names,
                evidence={by_ours[mine][0]: reasons[mine] for mine in layers[:20]},
                effect="boxes, classes or masks that come through these layers are random",
                fix="train it, or take the part from another checkpoint; a home framework that skipped a layer whose "
                "shape did not fit saves it like this",
            )
        )
    return findings


def _initialiser(mine: str, one: Glance, known: Identified, by_ours: Mapping[str, tuple[str, Glance]]) -> str:
    """Which initialiser gives this distribution, where the layer's bias or norm is untouched too; else ""."""
    layer = mine.removesuffix(".weight")
    fan_in, fan_out = _fans(known.tensors[by_ours[mine][0]].shape, mine)
    bias = by_ours.get(f"{layer}.bias")
    bound = one.largest * math.sqrt(fan_in)
    if 1.75 < one.kurtosis < 1.85 and 0.9 < bound < 1.001 and bias and bias[1].largest <= 1 / math.sqrt(fan_in):
        return f"uniform between ±1/√{fan_in}, as nn.Linear and nn.Conv2d start"
    fresh = _fresh_norm(layer.removesuffix(".conv"), by_ours) if bias is None else bias[1].largest == 0
    if not fresh or abs(one.mean) > 0.05 * one.std:
        return ""
    if 1.75 < one.kurtosis < 1.85:
        return f"uniform within ±{one.largest:.3g}, with {'norm' if bias is None else 'bias'} untouched"
    if 2.8 < one.kurtosis < 3.2:
        for std, what in (
            (0.01, "0.01"),
            (0.001, "0.001"),
            (0.02, "0.02"),
            (math.sqrt(2 / fan_in), f"√(2/{fan_in})"),
            (math.sqrt(2 / fan_out), f"√(2/{fan_out})"),
            (math.sqrt(2 / (fan_in + fan_out)), f"√(2/{fan_in + fan_out})"),
        ):
            if abs(one.std / std - 1) < 0.04:
                return f"normal of std {what}, with {'norm' if bias is None else 'bias'} untouched"
    return ""


def _fans(shape: Sequence[int], mine: str) -> tuple[int, int]:
    """Inputs and outputs of one unit; kernels of Keras and TensorFlow have them last."""
    if len(shape) == 4:
        kernel_last = (
            (shape[2] == shape[3] and shape[0] != shape[1]) or shape[2:] == (1, 1) or shape[2] == shape[3] <= 7
        )
        area, first, second = (
            (shape[2] * shape[3], shape[1], shape[0]) if kernel_last else (shape[0] * shape[1], shape[2], shape[3])
        )
        return area * first, area * second
    return (shape[1], shape[0]) if len(shape) == 2 else (1, 1)


def _fresh_norm(layer: str, by_ours: Mapping[str, tuple[str, Glance]]) -> bool:
    """A norm with scale 1, shift 0, and where it has statistics mean 0 and variance 1."""
    want = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    have = {vector: by_ours[f"{layer}.norm.{vector}"][1] for vector in want if f"{layer}.norm.{vector}" in by_ours}
    return len(have) > 1 and all(one.constant and one.mean == want[vector] for vector, one in have.items())


def _shifted_rows(known: Identified) -> Iterator[Finding]:
    """Class weights and biases that fit each other better when moved by a row.

    A bias undoes the mean of its row's logits, so that rows of large weight sums have small biases. Where that holds
    clearly after a shift, and not without, the two were moved apart.
    """
    links = {link.ours: link for link in known.links}
    for layer in ("box_predictor.cls", "mask_predictor.logits"):
        pair = [links.get(f"{layer}.{vector}") for vector in ("weight", "bias")]
        if not all(link and link.theirs in known.tensors for link in pair):
            continue
        try:
            weight, bias = (
                np.asarray(link.forward(known.tensors[link.theirs].read()), dtype=np.float64) for link in pair if link
            )
        except (ValueError, IndexError, CheckpointError):
            continue
        sums = weight.reshape(len(weight), -1).sum(1)
        if len(sums) < 20 or not sums.std() or not bias.std() or len(sums) != len(bias):
            continue
        fits = {by: -_correlation(sums, np.roll(bias, by)) for by in (-2, -1, 0, 1, 2)}
        best = max(fits, key=lambda by: fits[by])
        if best and fits[best] > 0.33 and fits[0] < 0.15:
            yield Finding(
                "values.class-shift",
                "warning",
                f"{layer.split('.')[0]}: the biases fit the weights when moved by {best} row{'s' * (abs(best) > 1)} "
                f"(r {fits[best]:.2f}), and not as they stand (r {fits[0]:.2f})",
                names=tuple(link.theirs for link in pair if link),
                evidence={"fit": {str(by): round(fit, 3) for by, fit in fits.items()}},
                effect="each class has its neighbour's bias: scores are wrong for every class",
                fix="take the file from before the conversion that moved the rows",
            )


def _correlation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(one, other)[0, 1])
