"""Backbones: modules from [B, 3, H, W] to named maps of growing stride."""

from torch import nn

from maskgraft.errors import Finding, UsageError
from maskgraft.spec import Arch, Numerics


def build(arch: Arch, numerics: Numerics) -> nn.Module:
    """The backbone that `arch` names, uninitialised.

    The module maps [B, 3, H, W] to a dict of maps "c2".."c5" and has `channels`, a dict from the same names to widths,
    and `stage_of`, a dict from its parts to the stages 1 (stem) to 5 that they belong to. Where the strides of its maps
    are not 4 for "c2" and so on, doubling, `strides` says them.
    Raises `UsageError` for one that maskgraft cannot build.
    """
    match arch.backbone:
        case "resnet":
            from maskgraft.backbones.resnet import ResNet

            return ResNet(arch, numerics)
        case "efficientnet_lite0":
            from maskgraft.backbones.efficientnet_lite import EfficientNetLite0

            return EfficientNetLite0(arch, numerics)
        case "mobilenet_v3_large":
            from maskgraft.backbones.mobilenet_v3 import MobileNetV3Large

            return MobileNetV3Large(arch, numerics)
        case "inception_v2":
            from maskgraft.backbones.inception_v2 import InceptionV2

            return InceptionV2(arch, numerics)
        case "inception_resnet_v2":
            from maskgraft.backbones.inception_resnet_v2 import InceptionResNetV2

            return InceptionResNetV2(arch, numerics)
        case other:
            raise UsageError(Finding("family.unknown", "error", f"maskgraft cannot build the backbone {other!r}"))


def build_last_stage(arch: Arch, numerics: Numerics) -> tuple[nn.Module, int]:
    """What of the backbone comes after C4, for a C4 model to apply to each region, and how many channels it gives.

    Raises `UsageError` for a backbone that maskgraft cannot divide there.
    """
    match arch.backbone:
        case "resnet":
            from maskgraft.backbones.resnet import stage, stage_channels

            module = stage(5, stride=numerics.res5_stride, dilation=1, arch=arch, numerics=numerics)
            return module, stage_channels(arch, 5)[1]
        case "inception_v2":
            from maskgraft.backbones import inception_v2

            return inception_v2.last_stage(arch, numerics), inception_v2.LAST_CHANNELS
        case "inception_resnet_v2":
            from maskgraft.backbones import inception_resnet_v2

            return inception_resnet_v2.last_stage(arch, numerics), inception_resnet_v2.LAST_CHANNELS
        case other:
            raise UsageError(
                Finding("family.unknown", "error", f"maskgraft cannot divide the backbone {other!r} after C4")
            )
