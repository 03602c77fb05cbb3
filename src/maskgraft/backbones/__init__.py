"""Backbones: modules from [B, 3, H, W] to named maps of growing stride."""

from torch import nn

from maskgraft.errors import Finding, UsageError
from maskgraft.spec import Arch, Numerics


def build(arch: Arch, numerics: Numerics) -> nn.Module:
    """The backbone that `arch` names, uninitialised.

    The module maps [B, 3, H, W] to a dict of maps "c2".."c5" and has `channels`, a dict from the same names to widths,
    and `stage_of`, a dict from its parts to the stages 1 (stem) to 5 that they belong to.
    Raises `UsageError` for one that maskgraft cannot build.
    """
    match arch.backbone:
        case "resnet":
            from maskgraft.backbones.resnet import ResNet

            return ResNet(arch, numerics)
        case "efficientnet_lite0":
            from maskgraft.backbones.efficientnet_lite import EfficientNetLite0

            return EfficientNetLite0(arch, numerics)
        case other:
            raise UsageError(Finding("family.unknown", "error", f"maskgraft cannot build the backbone {other!r}"))
