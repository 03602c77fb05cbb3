"""Inception-ResNet v2 (Szegedy et al. 2016) as TF-Slim and Keras build it; its norms have no scale."""

import torch
from torch import Tensor, nn

from maskgraft.backbones.branches import Branches, Conv, conv_norm
from maskgraft.backbones.padding import Padding, max_pool
from maskgraft.spec import Arch, Numerics

LAST_CHANNELS = 1536

# name → the convolution, and whether a 3×3 max-pool of stride 2 follows
_STEM = {
    "conv1a": (Conv(32, 3, 2), False),
    "conv2a": (Conv(32, 3), False),
    "conv2b": (Conv(64, 3), True),
    "conv3b": (Conv(80), False),
    "conv4a": (Conv(192, 3), True),
}
_MIXED_5B = ((Conv(96),), (Conv(48), Conv(64, 5)), (Conv(64), Conv(96, 3), Conv(96, 3)))
_MIXED_7A = (
    (Conv(256), Conv(384, 3, 2)),
    (Conv(256), Conv(288, 3, 2)),
    (Conv(256), Conv(288, 3), Conv(320, 3, 2)),
)
_BLOCK35 = ((Conv(32),), (Conv(32), Conv(32, 3)), (Conv(32), Conv(48, 3), Conv(64, 3)))
_BLOCK17 = ((Conv(192),), (Conv(128), Conv(160, (1, 7)), Conv(192, (7, 1))))
_BLOCK8 = ((Conv(192),), (Conv(192), Conv(224, (1, 3)), Conv(256, (3, 1))))


def _mixed_6a(stride: int) -> tuple[tuple[Conv, ...], ...]:
    return (Conv(384, 3, stride),), (Conv(256), Conv(256, 3), Conv(384, 3, stride))


class Residual(nn.Module):
    """Branches whose joined maps a 1×1 brings back to the width of the input, to which a part of them is added."""

    def __init__(
        self,
        channels: int,
        branches: tuple[tuple[Conv, ...], ...],
        *,
        part: float,
        relu: bool,
        arch: Arch,
        numerics: Numerics,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.mixed = Branches(channels, branches, arch=arch, numerics=numerics, dilation=dilation)
        self.up = nn.Conv2d(self.mixed.channels, channels, 1)
        self.part, self.relu = part, relu

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        x = x + self.part * self.up(self.mixed(x))
        return torch.relu_(x) if self.relu else x


def _repeat(
    count: int,
    channels: int,
    branches: tuple[tuple[Conv, ...], ...],
    part: float,
    arch: Arch,
    numerics: Numerics,
    *,
    dilation: int = 1,
) -> nn.Sequential:
    return nn.Sequential(
        *(
            Residual(channels, branches, part=part, relu=True, arch=arch, numerics=numerics, dilation=dilation)
            for _ in range(count)
        )
    )


class LastStage(nn.Module):
    """The blocks after C4: [N, 1088, s, s] to [N, 1536, s / 2, s / 2].

    Where `numerics.res5_padded` is not set, the first of them has no zeros around it, and takes half a cell off.
    """

    def __init__(self, arch: Arch, numerics: Numerics) -> None:
        super().__init__()
        padding: Padding = numerics.conv_padding if numerics.res5_padded else "valid"
        self.mixed_7a = Branches(
            1088, _MIXED_7A, pool="max", pool_stride=2, arch=arch, numerics=numerics, padding=padding
        )
        self.block8 = _repeat(9, 2080, _BLOCK8, 0.2, arch, numerics)
        self.block8.append(Residual(2080, _BLOCK8, part=1.0, relu=False, arch=arch, numerics=numerics))
        self.conv7b = conv_norm(2080, Conv(LAST_CHANNELS), arch=arch, numerics=numerics)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1088, s, s] to [N, 1536, s / 2, s / 2]."""
        maps: Tensor = self.conv7b(self.block8(self.mixed_7a(x)))
        return maps


def last_stage(arch: Arch, numerics: Numerics) -> nn.Module:
    """The blocks after C4."""
    return LastStage(arch, numerics)


class InceptionResNetV2(nn.Module):
    """Stem and blocks up to C4.

    `forward` gives {"c2": [B, 192, H/4, W/4], "c3": 320, "c4": 1088}. With `numerics.c4_stride` 8, C4 keeps the stride
    of C3 and its convolutions are dilated by two.
    """

    def __init__(self, arch: Arch, numerics: Numerics) -> None:
        super().__init__()
        width = 3
        for name, (conv, _) in _STEM.items():
            self.add_module(name, conv_norm(width, conv, arch=arch, numerics=numerics))
            width = conv.channels
        dilated = numerics.c4_stride == 8
        stride = 1 if dilated else 2
        self.mixed_5b = Branches(192, _MIXED_5B, pool="average", projection=64, arch=arch, numerics=numerics)
        self.block35 = _repeat(10, 320, _BLOCK35, 0.17, arch, numerics)
        self.mixed_6a = Branches(320, _mixed_6a(stride), pool="max", pool_stride=stride, arch=arch, numerics=numerics)
        self.block17 = _repeat(20, 1088, _BLOCK17, 0.1, arch, numerics, dilation=2 if dilated else 1)
        self.pool_padding = numerics.pool_padding
        self.channels = {"c2": 192, "c3": 320, "c4": 1088}
        self.stage_of = {name: 1 for name in _STEM} | {"conv3b": 2, "conv4a": 2}
        self.stage_of |= {"mixed_5b": 3, "block35": 3, "mixed_6a": 4, "block17": 4}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to the maps of strides 4, 8 and 16."""
        maps: dict[str, Tensor] = {}
        for name, (_, pooled) in _STEM.items():
            x = self.get_submodule(name)(x)
            maps["c2"] = x
            if pooled:
                x = max_pool(x, 3, 2, padding=self.pool_padding)
        x = self.block35(self.mixed_5b(x))
        maps["c3"] = x
        maps["c4"] = self.block17(self.mixed_6a(x))
        return maps
