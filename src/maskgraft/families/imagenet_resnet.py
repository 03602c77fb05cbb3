"""ResNet and ResNeXt trained on ImageNet, as PyTorch keeps them: a backbone only.

Two tables of names: that of torchvision, timm and MMPretrain (`conv1`, `layer1.0.conv1`), with timm's deep stems, and
that of Detectron2's model zoo (`stem.conv1`, `res2.0.conv1`).

Conventions: torchvision 0.29 `models/resnet.py`; timm 1.0 `models/resnet.py` (`resnet50d`: three 3×3 in the stem,
shortcuts that average). Weights of Caffe (He et al. 2015), which OpenMMLab and Detectron2 converted to these tables,
have the stride in the first 1×1 and see BGR of 0..255 less a mean.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from maskgraft.families.backbone_only import reading, resnet_parts, torch_pair
from maskgraft.families.family import Config, Family, Reading, count, shape, unsupported
from maskgraft.files import Tensors
from maskgraft.links import Link
from maskgraft.spec import Arch, Learned, Spec

# torchvision's and timm's input, and Caffe's (its mean in RGB order, as `Numerics` counts after any flip).
TORCH: Mapping[str, Any] = {
    "channel_order": "rgb",
    "pixel_scale": 1 / 255,
    "pixel_mean": (0.485, 0.456, 0.406),
    "pixel_std": (0.229, 0.224, 0.225),
    "norm_eps": 1e-5,
    "stride_in": "3x3",
}
CAFFE: Mapping[str, Any] = {
    "channel_order": "bgr",
    "pixel_scale": 1.0,
    "pixel_mean": (103.53, 116.28, 123.675),
    "pixel_std": (1.0, 1.0, 1.0),
    "norm_eps": 1e-5,
    "stride_in": "1x1",
}
# An input 58 times as wide (the deviation of pixels) wants first kernels that are as much smaller.
_SMALL_KERNELS = 0.02


def _layer(stage: int, block: int) -> str:
    return f"layer{stage - 1}.{block}"


def _stage(stage: int, block: int) -> str:
    return f"res{stage}.{block}"


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a detector on a ResNet under torchvision's names; `config` is not looked at."""
    names = tensors.arrays
    for name, what in (
        ("layer1.0.se.fc1.weight", "squeeze-and-excitation"),
        ("layer1.0.se_module.fc1.weight", "squeeze-and-excitation"),
        ("layer1.0.se.conv.weight", "channel attention (ECA)"),
        ("stage2.0.branches.0.0.conv1.weight", "parallel branches (HRNet)"),
        ("layer1.0.conv2.conv.weight", "split attention (ResNeSt)"),
        ("layer1.0.downsample.3.weight", "a shortcut of several layers"),
        ("layer1.0.conv2.0.weight", "Res2Net's split convolutions"),
    ):
        if name in names:
            raise unsupported(tensors, "ResNet", what)
    if "layer1.0.bn1.weight" in names and "layer1.0.bn1.running_mean" not in names:
        raise unsupported(tensors, "ResNet", "group normalisation")
    deep = "conv1.0.weight" in names
    if deep and len({shape(tensors, f"conv1.{index}.weight")[0] for index in (0, 3)}) > 1:
        raise unsupported(tensors, "ResNet", "a stem of three widths (timm's tiered stem)")
    averages = "layer1.0.downsample.1.running_mean" not in names and "layer2.0.downsample.2.running_mean" in names
    arch = _arch(tensors, "conv1.6" if deep else "conv1", _layer)
    return _reading(
        tensors,
        "imagenet-resnet",
        arch,
        first="conv1.0.weight" if deep else "conv1.weight",
        averages=averages,
        deep=deep,
    )


def read_detectron2(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a detector on a ResNet of Detectron2's zoo; `config` is not looked at."""
    arch = _arch(tensors, "stem.conv1", _stage)
    return _reading(tensors, "detectron2-backbone", arch, first="stem.conv1.weight", averages=False, deep=False)


def _arch(tensors: Tensors, last_of_stem: str, place: Any) -> Arch:
    names = tensors.arrays
    bottleneck = f"{place(2, 0)}.conv3.weight" in names
    inner, per_group = shape(tensors, f"{place(2, 0)}.conv2.weight")[:2]
    return Arch(
        classes=1,
        block="bottleneck" if bottleneck else "basic",
        blocks=tuple(count(names, place(stage, "{}") + ".conv1.weight") for stage in (2, 3, 4, 5)),
        stem="3x3" if last_of_stem == "conv1.6" else "7x7",
        stem_width=shape(tensors, f"{last_of_stem}.weight")[0],
        groups=inner // per_group if bottleneck else 1,
        width_per_group=per_group,
        norm="frozen",
    )


def _reading(tensors: Tensors, family: str, arch: Arch, *, first: str, averages: bool, deep: bool) -> Reading:
    kernels = tensors[first].read()
    spread = float(kernels.astype("f8").std())
    caffe = spread < _SMALL_KERNELS
    what = "0..255 less a mean (Caffe)" if caffe else "a deviation of 1 (torchvision, timm)"
    source = f"the first kernels have a deviation of {spread:.2g}, which fits an input of {what}"
    told = {
        f"numerics.{name}": Learned("implied", source)
        for name in ("channel_order", "pixel_scale", "pixel_mean", "pixel_std", "stride_in")
    }
    if caffe and arch.groups > 1:  # FAIR's ResNeXt, trained in Caffe2, strides in the 3×3 and has a deviation
        told["numerics.stride_in"] = Learned("implied", "ResNeXt has its stride in the grouped convolution")
    conventions = {**(CAFFE if caffe else TORCH), "stride_pooled": averages}
    if caffe and arch.groups > 1:
        conventions["stride_in"] = "3x3"
    return reading(tensors, family, arch, conventions, implied="the maths of ResNet in PyTorch", told=told)


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor, in the names of torchvision and timm."""
    arch = spec.arch
    if arch.stem == "3x3":
        for index, (conv, norm) in enumerate((("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))):
            yield from torch_pair(f"backbone.stem.{index}", conv, norm, arch)
    else:
        yield from torch_pair("backbone.stem", "conv1", "bn1", arch)
    averaged = int(spec.numerics.stride_pooled)  # timm keeps a place for the average, even where it averages nothing
    for ours, stage, block, part in resnet_parts(arch):
        theirs = _layer(stage, block)
        if part == "shortcut":
            yield from torch_pair(ours, f"{theirs}.downsample.{averaged}", f"{theirs}.downsample.{averaged + 1}", arch)
        else:
            yield from torch_pair(ours, f"{theirs}.{part}", f"{theirs}.bn{part[-1]}", arch)


def links_detectron2(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor, in the names of Detectron2."""
    yield from torch_pair("backbone.stem", "stem.conv1", "stem.conv1.norm", spec.arch)
    for ours, stage, block, part in resnet_parts(spec.arch):
        theirs = f"{_stage(stage, block)}.{part}"
        yield from torch_pair(ours, theirs, f"{theirs}.norm", spec.arch)


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    if name.startswith(("fc.", "head.fc.", "stem.fc.", "last_linear.")):
        return "ImageNet classifier"
    if name.endswith(".num_batches_tracked"):
        return "a counter of training steps, which nothing reads"
    return ""


FAMILY = Family(
    name="imagenet-resnet",
    title="ResNet (ImageNet; torchvision, timm, OpenMMLab)",
    landmarks=("bn1.running_mean", "layer1.0.conv1.weight", "layer1.0.bn2.weight", "layer4.1.conv2.weight"),
    read=read,
    links=links,
    ignored=ignored,
    whole=False,
    read_config=None,
)
DETECTRON2 = Family(
    name="detectron2-backbone",
    title="ResNet (ImageNet; Detectron2)",
    landmarks=("stem.conv1.weight", "stem.conv1.norm.weight", "res2.0.conv1.weight", "res5.1.conv2.weight"),
    read=read_detectron2,
    links=links_detectron2,
    ignored=ignored,
    whole=False,
    read_config=None,
)
