"""Whether the pixels that a network is given are those that its norms were measured on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import torch
from torch import Tensor, nn

from maskgraft.ailments.weights import is_fresh
from maskgraft.errors import Finding
from maskgraft.model import MaskRCNN
from maskgraft.pulse import as_in_training
from maskgraft.spec import FROM_SCRATCH, Numerics
from maskgraft.targets import Batch

_WORST = 9.0  # of one channel: three deviations, or a variance twenty times another
_ODD = 1.0  # a stem whose channels are off by a deviation on average
_CLEAR = 0.3  # what another reading must explain

_BLANK = 1.0  # deviation of pixels of 0 to 255
_DARK, _NEARLY_ALL = 32.0, 0.999  # what 999 of 1000 pixels of every image stay below: an eighth of the range
ENOUGH = 12  # images, below which losses do not tell whether red and blue are exchanged
_SURE, _BETTER = 3.5, 1.08  # standard errors, and how much better exchanged colours must do

Stem = tuple[nn.Conv2d, nn.Module]

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE = (103.53, 116.28, 123.675)  # blue, green, red


@dataclass(frozen=True, slots=True)
class Reading:
    """One way of turning a photograph into the network's input."""

    name: str
    order: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def fix(self) -> str:
        """What to type."""
        scale = "1/255" if self.scale == 1 / 255 else f"{self.scale:g}"
        return (
            f'mg.load(path, numerics={{"channel_order": "{self.order}", "pixel_scale": {scale}, "pixel_mean": '
            f'{list(self.mean)}, "pixel_std": {list(self.std)}}})'
        )


def _readings(numerics: Numerics) -> list[Reading]:
    """Every convention of the field that is another one than the model's."""
    other = "rgb" if numerics.channel_order == "bgr" else "bgr"
    scale, mean, std = numerics.pixel_scale, numerics.pixel_mean, numerics.pixel_std
    one, none = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    bgr_mean, bgr_std = _IMAGENET[0][::-1], _IMAGENET[1][::-1]
    every = [
        Reading("red and blue exchanged", other, scale, mean[::-1], std[::-1]),
        Reading("red and blue exchanged under the same means", other, scale, mean, std),
        Reading("torchvision's: RGB of 0 to 1, ImageNet's mean and deviation", "rgb", 1 / 255, *_IMAGENET),
        Reading("BGR of 0 to 1, ImageNet's mean and deviation", "bgr", 1 / 255, bgr_mean, bgr_std),
        Reading("Caffe's: BGR of 0 to 255 less the mean", "bgr", 1.0, _CAFFE, one),
        Reading("RGB of 0 to 255 less the mean", "rgb", 1.0, _CAFFE[::-1], one),
        Reading("TensorFlow's: RGB of -1 to 1", "rgb", 1 / 127.5, one, one),
        Reading("RGB of 0 to 1", "rgb", 1 / 255, none, one),
        Reading("RGB of 0 to 255", "rgb", 1.0, none, one),
    ]
    own = (numerics.channel_order, scale, mean, std)
    return [reading for reading in every if (reading.order, reading.scale, reading.mean, reading.std) != own]


@torch.no_grad()
def both_ways(model: MaskRCNN, batch: Batch, parts: Sequence[str]) -> list[tuple[float, float]]:
    """The losses of each image of a batch, as it is and with red and blue exchanged; `parts` are those that count."""
    pairs = []
    with as_in_training(model):
        for index in range(len(batch.targets)):
            one = batch.alone(index)
            both = model(one), model(_exchanged(one, model.spec.numerics))
            given, other = (sum(losses[part].item() for part in parts) for losses in both)
            pairs.append((given, other))
    return pairs


def by_losses(model: MaskRCNN, pairs: Sequence[tuple[float, float]]) -> list[Finding]:
    """Whether a trained network answers better with red and blue exchanged, by what `both_ways` gave for some images.

    Each image is held against itself, so that a dozen tell a difference that their mean would not.
    """
    if len(pairs) < ENOUGH:
        return []
    flipped = model.spec.numerics.pixel_mean[::-1]
    order = "rgb" if model.spec.numerics.channel_order == "bgr" else "bgr"
    given, other = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    apart = [math.log(max(one, 1e-9) / max(two, 1e-9)) for one, two in pairs]
    error = stdev(apart) / math.sqrt(len(apart))
    if given < _BETTER * other or mean(apart) < _SURE * error:
        return []
    return [
        Finding(
            "numerics.channel-order",
            "error" if given > 1.5 * other else "warning",
            f"the network answers better with red and blue exchanged: its losses on {len(pairs)} images are "
            f"{given:.3g} as "
            f"they are read now ({model.spec.numerics.channel_order}), and {other:.3g} as {order}",
            names=("channel_order",),
            evidence={"given": round(given, 4), "exchanged": round(other, 4), "images": len(pairs)},
            effect="features are not those that were learnt: some AP is lost, without an error",
            fix=f'mg.load(path, numerics={{"channel_order": "{order}", "pixel_mean": {list(flipped)}}})',
        )
    ]


def _exchanged(batch: Batch, numerics: Numerics) -> Batch:
    """A batch of one image with red and blue exchanged, and the other channel order's means."""
    pixels = torch.zeros_like(batch.pixels)
    height, width = batch.sizes[0]
    raw = raw_pixels(batch.pixels[0, :, :height, :width], numerics)
    order = "rgb" if numerics.channel_order == "bgr" else "bgr"
    mean, std = numerics.pixel_mean[::-1], numerics.pixel_std[::-1]
    reading = Reading("", order, numerics.pixel_scale, mean, std)
    pixels[0, :, :height, :width] = _read(raw, reading, numerics)
    return replace(batch, pixels=pixels)


@torch.no_grad()
def examine(
    model: MaskRCNN, batches: list[Batch], *, stem: Stem | None = None
) -> tuple[list[Finding], dict[str, float]]:
    """Findings about the input, and how far the stem is off under each reading (0: as it was when it was trained).

    `stem` is what `first_norm` gave before a training that has moved it since.
    """
    images = [
        batch.pixels[index, :, : size[0], : size[1]]
        for batch in batches
        for index, size in enumerate(batch.sizes)
        if batch.pixels.isfinite().all()
    ]
    if not images:
        return [], {}
    values = torch.cat([image.flatten(1) for image in images], 1)
    measured = {"mean": float(values.mean(1).mean()), "deviation": float(values.std(1).mean())}
    raw = [raw_pixels(image, model.spec.numerics) for image in images]
    blank = max(float(image.std()) for image in raw)
    if blank < _BLANK:
        return [_blank(blank, len(images))], measured
    brightest = max(float(image.flatten().kthvalue(round(_NEARLY_ALL * image.numel())).values) for image in raw)
    if brightest < _DARK:
        return [_dark(brightest, len(images))], measured
    found: list[Finding] = []
    stem = stem or first_norm(model)
    if stem is None:
        unlike = model.spec.family == FROM_SCRATCH and not 0.05 < measured["deviation"] < 20
        return ([_odd(measured)] if unlike else []), measured
    conv, norm = stem
    if _is_fresh(norm):
        return found, measured
    numerics = model.spec.numerics
    given = _off(conv, norm, images)
    measured["stem_off"] = given
    off = {
        reading.name: _off(conv, norm, [_read(image, reading, numerics) for image in raw])
        for reading in _readings(numerics)
    }
    measured |= {f"stem_off, {name}": value for name, value in off.items()}
    best = min(_readings(numerics), key=lambda reading: off[reading.name])
    if off[best.name] < 0.5 * given and given - off[best.name] > _CLEAR and off[best.name] < _ODD:
        exchanged = best.name.startswith("red and blue")
        found.append(
            Finding(
                "numerics.channel-order" if exchanged else "train.pixel-scale",
                "error",
                f"the network's first norm does not know these pixels: its channels are off by {given**0.5:.1f} "
                f"deviations as the images are read now, and by {off[best.name] ** 0.5:.1f} if they are read as "
                f"{best.name}",
                names=("channel_order",) if exchanged else ("pixel_scale", "pixel_mean", "pixel_std"),
                evidence={name: round(value, 4) for name, value in measured.items()},
                effect="all features are wrong from the first layer on; training repairs it at the cost of what "
                "they knew",
                fix=best.fix,
            )
        )
    elif given > 2 * _ODD and is_fresh(conv.weight):
        found.append(
            Finding(
                "train.frozen-random",
                "error",
                "the first convolution holds values as they are drawn at random, and the norm behind it the statistics "
                f"of others: its channels are off by {given**0.5:.1f} deviations",
                names=("backbone",),
                evidence={name: round(value, 4) for name, value in measured.items()},
                effect="norms that keep such statistics break what passes through them",
                fix="load the weights that these norms belong to",
            )
        )
    elif given > 2 * _ODD:
        found.append(
            Finding(
                "train.pixel-scale",
                "warning",
                f"the network's first norm does not know these pixels: its channels are off by {given ** 0.5:.1f} "
                f"deviations (input of mean {measured['mean']:.2f}, deviation {measured['deviation']:.2f}), and under "
                f"none of {len(off)} other conventions by less than {off[best.name] ** 0.5:.1f}",
                names=("pixel_scale", "pixel_mean", "pixel_std"),
                evidence={name: round(value, 4) for name, value in measured.items()},
                effect="features are not those that were learnt: the means are wrong, or the weights before the "
                "norm are "
                "others than those that it was trained with",
                fix="compare pixel_mean, pixel_std and pixel_scale with those of the training that made the weights",
            )
        )  # fmt: skip
    return found, measured


def first_norm(model: MaskRCNN) -> Stem | None:
    """The first convolution and the norm behind it, where that norm keeps statistics."""
    modules = list(model.backbone.modules())
    first = next((one for one in modules if isinstance(one, nn.Conv2d)), None)
    for one in modules:
        conv, norm = getattr(one, "conv", None), getattr(one, "norm", None)
        if conv is first and isinstance(conv, nn.Conv2d) and isinstance(norm, nn.Module):
            return (conv, norm) if isinstance(getattr(norm, "running_mean", None), Tensor) else None
    return None


def _is_fresh(norm: nn.Module) -> bool:
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    return bool((mean == 0).all() and (variance == 1).all())


def _off(conv: nn.Conv2d, norm: nn.Module, images: list[Tensor]) -> float:
    """Mean over channels of the squared distance of mean, and of log variance, from what the norm keeps."""
    outputs = torch.cat(
        [nn.functional.conv2d(image[None], conv.weight, conv.bias, conv.stride)[0].flatten(1) for image in images], 1
    )
    mean, variance = outputs.mean(1), outputs.var(1)
    kept = norm.get_buffer("running_var") + 1e-5
    apart = (mean - norm.get_buffer("running_mean")).square() / kept + (variance / kept).clamp(min=1e-9).log().square()
    # channels that answer to nothing have no statistics worth comparing
    alive = kept > 1e-3 * kept.median()
    return float(apart[alive].clamp(max=_WORST).mean())


def raw_pixels(image: Tensor, numerics: Numerics) -> Tensor:
    """Pixels of 0 to 255 in the order red, green, blue, from an image [3, H, W] as the network is given it."""
    mean, std = image.new_tensor(numerics.pixel_mean), image.new_tensor(numerics.pixel_std)
    raw = (image * std[:, None, None] + mean[:, None, None]) / numerics.pixel_scale
    return raw.flip(0) if numerics.channel_order == "bgr" else raw


def _read(raw: Tensor, reading: Reading, numerics: Numerics) -> Tensor:
    """The input that another convention makes of a photograph."""
    ordered = raw.flip(0) if reading.order == "bgr" else raw
    mean, std = raw.new_tensor(reading.mean), raw.new_tensor(reading.std)
    return (ordered * reading.scale - mean[:, None, None]) / std[:, None, None]


def _blank(deviation: float, images: int) -> Finding:
    return Finding(
        "data.pixels",
        "error",
        f"all pixels of each of the {images} images that were looked at are alike (deviation {deviation:.2g} of 255): "
        "they are blank, or their values are lost when they are read",
        names=("images",),
        evidence={"deviation": round(deviation, 4), "images": images},
        effect="there is nothing to be seen, and so nothing to be learnt",
        fix="open one of the files; are values of 16 bits, or of 0 to 1, taken for those of 0 to 255?",
    )


def _dark(brightest: float, images: int) -> Finding:
    return Finding(
        "data.pixels",
        "warning",
        f"nearly all pixels of the {images} images that were looked at are below {math.ceil(brightest)} of 255: what "
        "they show is in the lowest eighth of the range",
        names=("images",),
        evidence={"brightest": round(brightest, 2), "images": images},
        effect="the network sees dark pictures of little contrast, and answers badly",
        fix="stretch values of 10 or 12 bits in files of 16, or of 0 to 1, to 0 to 255 when the files are written",
    )


def _odd(measured: dict[str, float]) -> Finding:
    return Finding(
        "train.pixel-scale",
        "warning",
        f"the network's input has mean {measured['mean']:.3g} and deviation {measured['deviation']:.3g}; random "
        "weights "
        "are made for a deviation of about 1",
        names=("pixel_scale", "pixel_std"),
        evidence={name: round(value, 4) for name, value in measured.items()},
        effect="activations and gradients are as much too large, or too small",
        fix='numerics={"pixel_scale": 1/255, "pixel_mean": [0.485, 0.456, 0.406], "pixel_std": [0.229, 0.224, 0.225]}',
    )
