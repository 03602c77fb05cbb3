"""Inception v2 (Ioffe & Szegedy 2015) as TF-Slim builds it, with a separable stem (`inception_v2.py`)."""

import torch
from torch import Tensor, nn

from maskgraft.backbones.branches import Branches, Conv, conv_norm
from maskgraft.backbones.norms import norm
from maskgraft.backbones.padding import max_pool, surround
from maskgraft.spec import Arch, Numerics

LAST_CHANNELS = 1024

STEM_WIDENING, STEM_WIDTH = 8, 64

# The trunk after the stem, by its names there: widths of the branches' convolutions, of which the first is 1×1 and the
# others 3×3; the pool of the last branch, and the width of the 1×1 after it. Without that width, the last convolution
# of each branch and the pool have stride 2.
_BLOCKS = {
    "mixed_3b": (((64,), (64, 64), (64, 96, 96)), "average", 32),
    "mixed_3c": (((64,), (64, 96), (64, 96, 96)), "average", 64),
    "mixed_4a": (((128, 160), (64, 96, 96)), "max", 0),
    "mixed_4b": (((224,), (64, 96), (96, 128, 128)), "average", 128),
    "mixed_4c": (((192,), (96, 128), (96, 128, 128)), "average", 128),
    "mixed_4d": (((160,), (128, 160), (128, 160, 160)), "average", 96),
    "mixed_4e": (((96,), (128, 192), (160, 192, 192)), "average", 96),
    "mixed_5a": (((128, 192), (192, 256, 256)), "max", 0),
    "mixed_5b": (((352,), (192, 320), (160, 224, 224)), "average", 128),
    "mixed_5c": (((352,), (192, 320), (192, 224, 224)), "max", 128),
}
_TAPS = {"conv2c": "c2", "mixed_3c": "c3", "mixed_4e": "c4", "mixed_5c": "c5"}


def _mixed(name: str, channels_in: int, arch: Arch, numerics: Numerics) -> Branches:
    branches, pool, projection = _BLOCKS[name]
    stride = 1 if projection else 2
    return Branches(
        channels_in,
        [
            [Conv(width, 3 if i else 1, stride if i == len(widths) - 1 else 1) for i, width in enumerate(widths)]
            for widths in branches
        ],
        pool=pool,  # type: ignore[arg-type]
        pool_stride=stride,
        projection=projection,
        arch=arch,
        numerics=numerics,
    )


def last_stage(arch: Arch, numerics: Numerics) -> nn.Sequential:
    """The blocks after C4: [N, 576, s, s] to [N, 1024, s / 2, s / 2]."""
    stage, channels = nn.Sequential(), 576
    for name in _BLOCKS:
        if name.startswith("mixed_5"):
            block = _mixed(name, channels, arch, numerics)
            stage.add_module(name, block)
            channels = block.channels
    return stage


class SeparableStem(nn.Module):
    """Each colour filtered by itself 7×7 at stride 2, then mixed by a 1×1, normalised, and cut below 0."""

    def __init__(self, arch: Arch, numerics: Numerics) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(3, 3 * STEM_WIDENING, 7, 2, groups=3, bias=False)
        self.pointwise = nn.Conv2d(3 * STEM_WIDENING, STEM_WIDTH, 1, bias=False)
        self.norm = norm(arch.norm, STEM_WIDTH, numerics.norm_eps, scale=arch.norm_scale)
        self.padding = numerics.conv_padding

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, 64, H / 2, W / 2]."""
        x = self.depthwise(surround(x, 7, 2, padding=self.padding))
        return torch.relu_(self.norm(self.pointwise(x)))


class InceptionV2(nn.Module):
    """Stem and mixed blocks up to C4 for a C4 model, up to C5 otherwise.

    `forward` gives {"c2": [B, 192, H/4, W/4], "c3": 320, "c4": 576, "c5": 1024}.
    """

    def __init__(self, arch: Arch, numerics: Numerics) -> None:
        super().__init__()
        self.stem = SeparableStem(arch, numerics)
        self.conv2b = conv_norm(STEM_WIDTH, Conv(64), arch=arch, numerics=numerics)
        self.conv2c = conv_norm(64, Conv(192, 3), arch=arch, numerics=numerics)
        self.pool_padding = numerics.pool_padding
        self.channels, channels = {"c2": 192}, 192
        self.stage_of = {"stem": 1, "conv2b": 2, "conv2c": 2}
        for name in _BLOCKS:
            if name.startswith("mixed_5") and arch.neck == "c4":
                break
            block = _mixed(name, channels, arch, numerics)
            self.add_module(name, block)
            channels = block.channels
            self.stage_of[name] = int(name[6])
            if name in _TAPS:
                self.channels[_TAPS[name]] = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to the maps of strides 4, 8, 16 (and 32)."""
        x = max_pool(self.stem(x), 3, 2, padding=self.pool_padding)
        x = self.conv2c(self.conv2b(x))
        maps = {"c2": x}
        x = max_pool(x, 3, 2, padding=self.pool_padding)
        for name in self.stage_of:
            if name.startswith("mixed"):
                x = self.get_submodule(name)(x)
                if name in _TAPS:
                    maps[_TAPS[name]] = x
        return maps
