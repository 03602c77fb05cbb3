"""ResNet and ResNeXt trunks (He et al. 2015, Xie et al. 2016) under every convention that Mask R-CNN files use."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskgraft.backbones.norms import ConvNorm
from maskgraft.backbones.padding import max_pool
from maskgraft.spec import Arch, Numerics


def stage_channels(arch: Arch, stage: int) -> tuple[int, int]:
    """Inner and outer width of stage 2..5.

    stage_channels(r50, 2)         # (64, 256)
    stage_channels(x101_32x8d, 5)  # (2048, 2048)
    """
    inner = arch.groups * arch.width_per_group * 2 ** (stage - 2)
    outer = 64 * 2 ** (stage - 2) if arch.block == "basic" else 256 * 2 ** (stage - 2)
    return inner, outer


class EveryNth(nn.Module):
    """A shortcut without weights: every `stride`-th row and column."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H / stride, W / stride]."""
        return x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with a shortcut; the stride sits where `numerics.stride_in` says."""

    def __init__(
        self, channels_in: int, inner: int, outer: int, *, stride: int, dilation: int, arch: Arch, numerics: Numerics
    ) -> None:
        super().__init__()

        def conv(
            channels_in: int, channels_out: int, kernel: int, stride: int, *, dilation: int = 1, groups: int = 1
        ) -> ConvNorm:
            return ConvNorm(
                channels_in,
                channels_out,
                kernel,
                stride=stride,
                norm_kind=arch.norm,
                eps=numerics.norm_eps,
                bias=arch.conv_bias,
                dilation=dilation,
                groups=groups,
                padding=numerics.conv_padding,
                scale=arch.norm_scale,
            )

        first, second = (stride, 1) if numerics.stride_in == "1x1" else (1, stride)
        self.conv1 = conv(channels_in, inner, 1, first)
        self.conv2 = conv(inner, inner, 3, second, dilation=dilation, groups=arch.groups)
        self.conv3 = conv(inner, outer, 1, 1)
        self.averages = numerics.stride_pooled and stride > 1
        around = 1 if self.averages else stride
        self.shortcut = conv(channels_in, outer, 1, around) if channels_in != outer else EveryNth(around)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        y = torch.relu_(self.conv1(x))
        y = torch.relu_(self.conv2(y))
        y = self.conv3(y)
        return torch.relu_(y.add_(self.shortcut(halved(x) if self.averages else x)))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut (ResNet-18 and -34); the stride sits on the first."""

    def __init__(
        self, channels_in: int, inner: int, outer: int, *, stride: int, dilation: int, arch: Arch, numerics: Numerics
    ) -> None:
        super().__init__()

        def conv(channels_in: int, kernel: int, stride: int, dilation: int = 1) -> ConvNorm:
            return ConvNorm(
                channels_in,
                outer,
                kernel,
                stride=stride,
                dilation=dilation,
                norm_kind=arch.norm,
                eps=numerics.norm_eps,
                bias=arch.conv_bias,
                padding=numerics.conv_padding,
                scale=arch.norm_scale,
            )

        self.conv1 = conv(channels_in, 3, stride, dilation)
        self.conv2 = conv(outer, 3, 1, dilation)
        self.averages = numerics.stride_pooled and stride > 1
        around = 1 if self.averages else stride
        self.shortcut = conv(channels_in, 1, around) if channels_in != outer else EveryNth(around)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        y = self.conv2(torch.relu_(self.conv1(x)))
        return torch.relu_(y.add_(self.shortcut(halved(x) if self.averages else x)))


def halved(x: Tensor) -> Tensor:
    """The mean of every 2 × 2 cells, and of what is left of them at the end."""
    return F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)


def stage(
    number: int, *, stride: int, dilation: int, arch: Arch, numerics: Numerics, last_stride: int = 1
) -> nn.Sequential:
    """Stage C`number` (2..5): the first block changes the width and takes `stride`, the last takes `last_stride`."""
    block = BasicBlock if arch.block == "basic" else Bottleneck
    inner, outer = stage_channels(arch, number)
    last = arch.blocks[number - 2] - 1
    before = arch.stem_width if number == 2 else stage_channels(arch, number - 1)[1]
    return nn.Sequential(
        *(
            block(
                before if i == 0 else outer,
                inner,
                outer,
                stride=(stride if i == 0 else 1) * (last_stride if i == last else 1),
                dilation=dilation,
                arch=arch,
                numerics=numerics,
            )
            for i in range(arch.blocks[number - 2])
        )
    )


class ResNet(nn.Module):
    """Stem and the stages C2.. that the neck needs: all that there are for FPN and DC5, three for C4.

    `forward` gives {"c2": [B, 256, H/4, W/4], …}; DC5 dilates C5 by two and keeps its stride at 16. With
    `numerics.stride_at` "before", all maps but the last are as small as the next.
    """

    def __init__(self, arch: Arch, numerics: Numerics) -> None:
        super().__init__()

        def conv(channels_in: int, channels_out: int, kernel: int, stride: int) -> ConvNorm:
            return ConvNorm(
                channels_in,
                channels_out,
                kernel,
                stride=stride,
                norm_kind=arch.norm,
                eps=numerics.norm_eps,
                bias=arch.stem_bias or arch.conv_bias,
                padding=numerics.conv_padding,
                scale=arch.norm_scale,
                relu=arch.stem == "3x3",
            )

        width, half = arch.stem_width, arch.stem_width // 2
        self.stem = (
            conv(3, width, 7, 2)
            if arch.stem == "7x7"
            else nn.Sequential(conv(3, half, 3, 2), conv(half, half, 3, 1), conv(half, width, 3, 1))
        )
        self.pool_padding = numerics.pool_padding
        self.stages = (2, 3, 4) if arch.neck == "c4" else (2, 3, 4, 5)[: len(arch.blocks)]
        strides = {number: 1 if number == 2 or number == self._dilated(arch, numerics) else 2 for number in self.stages}
        for number in self.stages:
            first, last = strides[number], 1
            if numerics.stride_at == "before":
                first, last = 1, strides.get(number + 1, 1)
            dilation = 2 if number == self._dilated(arch, numerics) else 1
            module = stage(number, stride=first, last_stride=last, dilation=dilation, arch=arch, numerics=numerics)
            self.add_module(f"res{number}", module)
        read = arch.levels if arch.neck == "fpn" else self.stages
        self.channels = {f"c{number}": stage_channels(arch, number)[1] for number in read}
        self.stage_of = {"stem": 1, **{f"res{number}": number for number in self.stages}}

    @staticmethod
    def _dilated(arch: Arch, numerics: Numerics) -> int:
        """The stage that is dilated by two and keeps the stride of the one before it; 0: none."""
        if arch.neck == "dc5":
            return 5
        return 4 if arch.neck == "c4" and numerics.c4_stride == 8 else 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to the map of each stage."""
        x = max_pool(torch.relu_(self.stem(x)), 3, 2, padding=self.pool_padding)
        maps: dict[str, Tensor] = {}
        for number in self.stages:
            x = self.get_submodule(f"res{number}")(x)
            maps[f"c{number}"] = x
        return maps
