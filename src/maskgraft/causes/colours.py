"""In which order, and on which scale, the first convolution takes its colours: told from its filters and its norm.

Networks trained on photographs spend more on red than on blue: over nine trained stems (torchvision ResNet-18,
Matterport's COCO ResNet, EfficientNet-Lite0, a CIFAR ResNet and a face detector in RGB; SqueezeNet of Caffe, a
ShuffleNet and FastestDet in BGR) ln(energy of the first channel / energy of the last) lies at 0.37 … 0.51 for RGB and
at -0.62 … -1.07 for BGR. Random filters of 7 × 7 × 64 stay within 0.05.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families import Identified

_CLEAR = 0.25
_PATCHES = 400  # of each photograph

Array = npt.NDArray[np.float64]


def colour_faults(known: Identified, images: Sequence[Path] = ()) -> list[Finding]:
    """What the stem says against the channel order and the pixel scale of the spec."""
    stem = _array(known, "backbone.stem.conv.weight")
    numerics = known.spec.numerics
    findings = []
    mean = numerics.pixel_mean
    warm_last = mean[2] - mean[0]
    if abs(warm_last) > 10 * max(1.0, mean[0] / 128) * (1 if max(mean) > 2 else 0.005):
        told = "bgr" if warm_last > 0 else "rgb"
        if told != numerics.channel_order:
            findings.append(
                Finding(
                    "numerics.channel-order",
                    "warning",
                    f"pixel_mean {list(mean)} is in {told.upper()} order (photographs are redder than blue), but the "
                    f"channel order is {numerics.channel_order.upper()} "
                    f"({_how(known, 'numerics.channel_order')})",
                    names=("numerics.channel_order", "numerics.pixel_mean"),
                    evidence={"pixel_mean": list(mean), "channel_order": numerics.channel_order},
                    effect="red and blue are exchanged at the input: 1 to 5 AP lost, without an error",
                    fix=f"--set channel_order={told}",
                )
            )
    if stem is None or stem.ndim != 4 or stem.shape[1] != 3:
        return findings
    energy = (stem**2).sum((0, 2, 3))
    ratio = math.log(energy[0] / energy[2]) if energy.min() > 0 else 0.0
    seen = "rgb" if ratio > 0 else "bgr"
    if abs(ratio) > _CLEAR and seen != numerics.channel_order and len(stem) >= 16:
        findings.append(
            Finding(
                "numerics.channel-order",
                "warning",
                f"the stem's filters say {seen.upper()} (ln of first over last channel's energy {ratio:+.2f}; RGB has "
                f"+0.4, BGR -0.6), the spec says {numerics.channel_order.upper()} "
                f"({_how(known, 'numerics.channel_order')})",
                names=("backbone.stem.conv.weight",),
                evidence={"energy": [round(float(one), 4) for one in energy], "log_ratio": round(ratio, 3)},
                effect="red and blue are exchanged at the input: 1 to 5 AP lost, without an error",
                fix=f"--set channel_order={seen} --set 'pixel_mean={list(mean[::-1])}'",
            )
        )
    statistics = _statistics(known)
    if statistics is not None:
        findings += _scale(known, stem, statistics[1])
        if images:
            findings += _on_photographs(known, stem, statistics, images)
    return findings


def _how(known: Identified, field: str) -> str:
    one = known.spec.learned.get(field)
    return f"{one.how}: {one.source}" if one else "set by the caller"


def _array(known: Identified, ours: str) -> Array | None:
    link = next((link for link in known.links if link.ours == ours), None)
    if link is None or link.theirs not in known.tensors:
        return None
    try:
        return np.asarray(link.forward(known.tensors[link.theirs].read()), dtype=np.float64)
    except (ValueError, IndexError, CheckpointError):
        return None


def _statistics(known: Identified) -> tuple[Array, Array] | None:
    """Mean and variance of the stem's outputs in training, where the file has them and they are no placeholders."""
    mean = _array(known, "backbone.stem.norm.running_mean")
    variance = _array(known, "backbone.stem.norm.running_var")
    if mean is None or variance is None or not mean.any() or (variance <= 0).any():
        return None
    bias = _array(known, "backbone.stem.conv.bias")
    return mean - (bias if bias is not None else 0.0), variance


def _scale(known: Identified, stem: Array, variance: Array) -> list[Finding]:
    """Whether the variances in the norm belong to inputs on the scale that the spec makes.

    Grey levels of photographs have a standard deviation of about 69, and neighbouring pixels are nearly equal, so that
    a filter's output has about the variance of its sum times 69², and some of its energy for the detail.
    """
    numerics = known.spec.numerics
    deviation = 69.0 * numerics.pixel_scale / np.array(numerics.pixel_std)
    sums = stem.sum((2, 3)) * deviation
    detail = ((stem * deviation[:, None, None]) ** 2).sum((1, 2, 3)) * 0.3
    ratio = float(np.median(np.log10((sums.sum(1) ** 2 + detail) / variance)))
    if abs(ratio) < 2:
        return []
    told = 10 ** (-ratio / 2)
    return [
        Finding(
            "numerics.pixel-scale",
            "warning",
            f"the stem's norm was trained on inputs about {told:.3g} × as large as pixel_scale "
            f"{numerics.pixel_scale:.4g} and pixel_std {list(numerics.pixel_std)} make",
            names=("numerics.pixel_scale", "numerics.pixel_std"),
            evidence={"log10_variance_ratio": round(ratio, 2)},
            effect="the first layer sees inputs of another size, and nothing is detected",
            fix="--set pixel_scale or --set pixel_std as in the training",
        )
    ]


def _on_photographs(
    known: Identified, stem: Array, statistics: tuple[Array, Array], images: Sequence[Path]
) -> list[Finding]:
    """Run the stem on patches of photographs with red and blue as the spec says and exchanged."""
    numerics = known.spec.numerics
    patches = np.concatenate([_patches(path, stem.shape[2], numerics.min_size) for path in images[:20]])
    if numerics.channel_order == "bgr":
        patches = patches[:, ::-1]
    mean, std = (np.array(one)[:, None, None] for one in (numerics.pixel_mean, numerics.pixel_std))
    inputs = (patches * numerics.pixel_scale - mean) / std
    width = np.sqrt(statistics[1])
    fits = []
    for filters in (stem, stem[:, ::-1]):
        out = (inputs.reshape(len(inputs), -1) @ filters.reshape(len(filters), -1).T).mean(0)
        fits.append(float(np.corrcoef(out / width, statistics[0] / width)[0, 1]))
    if fits[1] > 0.8 and fits[1] - fits[0] > 0.15:
        return [
            Finding(
                "numerics.channel-order",
                "warning",
                f"on {len(images[:20])} photographs the stem's outputs fit its norm's statistics with red and blue "
                f"exchanged (r {fits[1]:.2f}), and not as the spec says (r {fits[0]:.2f})",
                names=("backbone.stem.conv.weight",),
                evidence={"as_said": round(fits[0], 3), "exchanged": round(fits[1], 3)},
                effect="red and blue are exchanged at the input: 1 to 5 AP lost, without an error",
                fix="reverse the stem's input channels, or set channel_order and pixel_mean the other way round",
            )
        ]
    return []


def _patches(path: Path, side: int, short: int) -> Array:
    with Image.open(path) as image:
        scale = short / min(image.size)
        size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR), dtype=np.float64)
    step = max(1, int(math.sqrt((pixels.shape[0] - side + 1) * (pixels.shape[1] - side + 1) / _PATCHES)))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (side, side), axis=(0, 1))[::step, ::step]
    return windows.reshape(-1, 3, side, side)
