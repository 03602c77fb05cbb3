"""MobileNetV3-Large (Howard et al. 2019, table 1) as torchvision builds it for detectors."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskgraft.backbones.norms import ConvNorm
from maskgraft.mobilenet_v3 import LAST_WIDTH, ROWS, STEM_WIDTH, STRIDES, TAPS, WIDTHS, Row
from maskgraft.spec import Arch, Numerics


def squeezed(inner: int) -> int:
    """Width between the two layers of a squeeze-and-excitation: a quarter, rounded to 8, by no more than a tenth down.

    squeezed(72)     # 24
    """
    rounded = max(8, (inner // 4 + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * (inner // 4) else rounded + 8


class Squeeze(nn.Module):
    """Weights each channel by what all channels are on the average (Hu et al. 2017), with a hard sigmoid."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(inner, squeezed(inner), 1)
        self.fc2 = nn.Conv2d(squeezed(inner), inner, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        weights: Tensor = F.hardsigmoid(self.fc2(torch.relu_(self.fc1(x.mean((2, 3), keepdim=True)))))
        return x * weights


class Block(nn.Module):
    """Widen by a 1×1, filter each channel, squeeze, narrow by a 1×1 without activation; a shortcut where it fits."""

    def __init__(self, channels_in: int, row: Row, arch: Arch, numerics: Numerics) -> None:
        super().__init__()

        def conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> ConvNorm:
            return ConvNorm(
                before,
                after,
                kernel,
                stride=stride,
                groups=groups,
                norm_kind=arch.norm,
                eps=numerics.norm_eps,
                bias=False,
                padding=numerics.conv_padding,
            )

        self.row = row
        self.expand = conv(channels_in, row.inner, 1) if row.inner != channels_in else nn.Identity()
        self.depthwise = conv(row.inner, row.inner, row.kernel, row.stride, row.inner)
        self.squeeze = Squeeze(row.inner) if row.squeezes else nn.Identity()
        self.project = conv(row.inner, row.outer, 1)
        self.shortcut = row.stride == 1 and channels_in == row.outer

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        act = F.hardswish if self.row.hard_swish else F.relu
        wide = x if isinstance(self.expand, nn.Identity) else act(self.expand(x))
        y: Tensor = self.project(self.squeeze(act(self.depthwise(wide))))
        return x + y if self.shortcut else y


class MobileNetV3Large(nn.Module):
    """The trunk without its classifier; `arch.levels` says which of its maps the pyramid takes.

    `forward` gives some of {"c2": [B, 24, H/4, W/4], "c3": 40 channels, "c4": 80, "c5": [B, 160, H/32, W/32], "c6":
    [B, 960, H/32, W/32]}; the last two have the same stride (`strides`).
    """

    def __init__(self, arch: Arch, numerics: Numerics) -> None:
        super().__init__()

        def conv(before: int, after: int, kernel: int, stride: int) -> ConvNorm:
            return ConvNorm(
                before,
                after,
                kernel,
                stride=stride,
                norm_kind=arch.norm,
                eps=numerics.norm_eps,
                bias=False,
                padding=numerics.conv_padding,
            )

        self.stem = conv(3, STEM_WIDTH, 3, 2)
        widths = (STEM_WIDTH, *(row.outer for row in ROWS))
        self.blocks = nn.ModuleList(Block(width, row, arch, numerics) for width, row in zip(widths, ROWS, strict=False))
        self.last = conv(widths[-1], LAST_WIDTH, 1, 1)
        names = [f"c{level}" for level in arch.levels]
        self.channels = {name: WIDTHS[name] for name in names}
        self.strides = {name: STRIDES[name] for name in names}
        self.stage_of = {"stem": 1, **{f"blocks.{index}": row.stage for index, row in enumerate(ROWS)}, "last": 5}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to the maps that the pyramid takes."""
        x = F.hardswish(self.stem(x))
        maps: dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPS:
                maps[TAPS[index]] = x
        maps["c6"] = F.hardswish(self.last(x))
        return {name: maps[name] for name in self.channels}
