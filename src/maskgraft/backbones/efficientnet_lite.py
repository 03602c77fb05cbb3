"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 and a stem of fixed width.

Tan & Le 2019 for the blocks; the Lite changes and the padding are those of the TensorFlow release
(tensorflow/tpu, models/official/efficientnet/lite).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from maskgraft.backbones.norms import norm, normalised
from maskgraft.backbones.padding import surround
from maskgraft.spec import Arch, Numerics

STEM_WIDTH = 32

# repeats, kernel, stride of the first, widening, channels (Tan & Le 2019, table 1)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

# the block after which each map is taken: the last one of its stride
TAPS = {2: "c2", 4: "c3", 10: "c4", 15: "c5"}


class PaddedConvNorm(nn.Module):
    """Convolution, its norm, and ReLU6 where `relu` is set; the zeros around it lie as `numerics.conv_padding` says."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        arch: Arch,
        numerics: Numerics,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        # at stride 1 every padding is symmetric, and the convolution lays the zeros itself
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)
        self.norm = norm(arch.norm, channels_out, numerics.norm_eps)
        self.kernel, self.stride, self.relu, self.padding = kernel, stride, relu, numerics.conv_padding

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', ⌈H / stride⌉, ⌈W / stride⌉]."""
        if self.stride > 1:
            x = surround(x, self.kernel, self.stride, padding=self.padding)
        x = normalised(x, self.conv, self.norm)
        return F.relu6(x, inplace=True) if self.relu else x


class Block(nn.Module):
    """Widen by a 1×1, filter each channel, narrow by a 1×1 without activation; a shortcut where shapes allow it."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: int,
        stride: int,
        widening: int,
        arch: Arch,
        numerics: Numerics,
    ) -> None:
        super().__init__()
        inner = channels_in * widening
        self.expand = (
            PaddedConvNorm(channels_in, inner, 1, arch=arch, numerics=numerics) if widening > 1 else nn.Identity()
        )
        self.depthwise = PaddedConvNorm(inner, inner, kernel, stride=stride, groups=inner, arch=arch, numerics=numerics)
        self.project = PaddedConvNorm(inner, channels_out, 1, relu=False, arch=arch, numerics=numerics)
        self.shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', ⌈H / stride⌉, ⌈W / stride⌉]."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):
    """The trunk without its classifier: sixteen blocks, of which four give maps.

    `forward` gives {"c2": [B, 24, H/4, W/4], "c3": 40, "c4": 112, "c5": [B, 320, H/32, W/32]}. `arch.norm` chooses the
    normalisation; for the published weights `numerics.norm_eps` is 1e-3 and `numerics.conv_padding` is "same".
    """

    def __init__(self, arch: Arch, numerics: Numerics) -> None:
        super().__init__()
        self.stem = PaddedConvNorm(3, STEM_WIDTH, 3, stride=2, arch=arch, numerics=numerics)
        self.blocks = nn.ModuleList()
        width = STEM_WIDTH
        for repeats, kernel, stride, widening, channels in STAGES:
            for repeat in range(repeats):
                block = Block(
                    width,
                    channels,
                    kernel=kernel,
                    stride=1 if repeat else stride,
                    widening=widening,
                    arch=arch,
                    numerics=numerics,
                )
                self.blocks.append(block)
                width = channels
        self.channels = {"c2": 24, "c3": 40, "c4": 112, "c5": 320}
        self.stage_of = {"stem": 1} | {
            f"blocks.{index}": next(int(map_[1]) for last, map_ in TAPS.items() if index <= last)
            for index in range(len(self.blocks))
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to the maps of strides 4, 8, 16 and 32."""
        x = self.stem(x)
        maps: dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPS:
                maps[TAPS[index]] = x
        return maps
