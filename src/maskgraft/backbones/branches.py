"""What both Inception trunks are made of: branches of convolutions side by side, their maps joined along channels."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskgraft.backbones.norms import ConvNorm
from maskgraft.backbones.padding import Padding, max_pool
from maskgraft.spec import Arch, Numerics


class Conv(NamedTuple):
    """One convolution of a branch, with its norm and ReLU."""

    channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1


def conv_norm(
    channels_in: int, conv: Conv, *, arch: Arch, numerics: Numerics, dilation: int = 1, padding: Padding | None = None
) -> ConvNorm:
    """The module of a `Conv`; `padding` instead of what `numerics` says."""
    return ConvNorm(
        channels_in,
        conv.channels,
        conv.kernel,
        stride=conv.stride,
        dilation=dilation,
        norm_kind=arch.norm,
        eps=numerics.norm_eps,
        bias=arch.conv_bias,
        relu=True,
        padding=numerics.conv_padding if padding is None else padding,
        scale=arch.norm_scale,
    )


class Branches(nn.Module):
    """Branches of convolutions, and perhaps a pool with a convolution after it or none, on the same map.

    `pool` and `pool_stride` describe the last branch, `projection` its convolution; a pool of stride 1 keeps the size.
    """

    def __init__(
        self,
        channels_in: int,
        branches: Sequence[Sequence[Conv]],
        *,
        arch: Arch,
        numerics: Numerics,
        pool: Literal["none", "max", "average"] = "none",
        pool_stride: int = 1,
        projection: int = 0,
        dilation: int = 1,
        padding: Padding | None = None,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for convs in branches:
            widths = [channels_in, *(conv.channels for conv in convs)]
            self.branches.append(
                nn.Sequential(
                    *(
                        conv_norm(before, conv, arch=arch, numerics=numerics, dilation=dilation, padding=padding)
                        for before, conv in zip(widths, convs, strict=False)
                    )
                )
            )
        self.pool, self.pool_stride = pool, pool_stride
        self.pool_padding: Padding = numerics.pool_padding if padding is None else padding
        self.projection = (
            conv_norm(channels_in, Conv(projection), arch=arch, numerics=numerics) if projection else nn.Identity()
        )
        pooled = 0 if pool == "none" else projection or channels_in
        self.channels = sum(convs[-1].channels for convs in branches) + pooled

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        maps = [branch(x) for branch in self.branches]
        if self.pool == "average":  # of those cells that there are
            maps.append(self.projection(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)))
        elif self.pool == "max":
            padding: Padding = self.pool_padding if self.pool_stride > 1 else "symmetric"
            maps.append(self.projection(max_pool(x, 3, self.pool_stride, padding=padding)))
        return torch.cat(maps, 1)
