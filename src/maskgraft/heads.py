"""The parts after the backbone: pyramid, proposal head, box head, mask head, and the two predictors."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskgraft.backbones import build_last_stage
from maskgraft.backbones.norms import ConvNorm, norm
from maskgraft.spec import Arch, ClassRows, NormKind, Numerics


def rows(kind: ClassRows, classes: int) -> int:
    """How many class rows a predictor has."""
    return {"foreground": classes, "with-background": classes + 1, "agnostic": 1, "agnostic-with-background": 2}[kind]


class FPN(nn.Module):
    """Feature pyramid (Lin et al. 2017): C2..C5 to P2..P6, all `neck_channels` wide."""

    def __init__(self, arch: Arch, numerics: Numerics, channels: dict[str, int]) -> None:
        super().__init__()
        self.levels = sorted(int(name[1]) for name in channels)
        lateral_norm = arch.neck_norm if arch.neck_norm_after == "all" else "none"

        def conv(channels_in: int, kernel: int, kind: NormKind, stride: int = 1) -> ConvNorm:
            return ConvNorm(
                channels_in,
                arch.neck_channels,
                kernel,
                stride=stride,
                norm_kind=kind,
                eps=numerics.eps_of_heads,
                bias=arch.head_bias or kind == "none",
                padding=numerics.conv_padding,
            )

        for level in self.levels:
            self.add_module(f"lateral{level}", conv(channels[f"c{level}"], 1, lateral_norm))
            self.add_module(f"output{level}", conv(arch.neck_channels, 3, arch.neck_norm))
        self.coarsest = conv(arch.neck_channels, 3, arch.neck_norm, stride=2) if arch.coarsest == "conv" else None

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"c2", …, "c5"} to {"p2", …, "p6"}; P6 is every second cell of P5, or a convolution of P5 before its norm."""
        pyramid: dict[str, Tensor] = {}
        above: Tensor | None = None
        for level in reversed(self.levels):
            inner = self.get_submodule(f"lateral{level}")(maps[f"c{level}"])
            above = inner if above is None else _with(inner, above)
            pyramid[f"p{level}"] = self.get_submodule(f"output{level}.conv")(inner)
        last = self.levels[-1]
        finer = {f"p{level}": self.get_submodule(f"output{level}.norm")(pyramid[f"p{level}"]) for level in self.levels}
        coarsest = self.coarsest(pyramid[f"p{last}"]) if self.coarsest else finer[f"p{last}"][:, :, ::2, ::2]
        return {**finer, f"p{last + 1}": coarsest}


def _with(inner: Tensor, above: Tensor) -> Tensor:
    """A map, and the coarser one in its size added to it in place."""
    rows, columns = above.shape[-2:]
    plain = torch.is_inference_mode_enabled() and not torch.compiler.is_compiling()  # nothing looks at the operations
    if plain and inner.shape[-2:] == (2 * rows, 2 * columns):
        # each cell to the four that lie under it, without a large map of them
        inner.view(*inner.shape[:2], rows, 2, columns, 2).add_(above[:, :, :, None, :, None])
        return inner
    return inner.add_(F.interpolate(above, size=inner.shape[-2:], mode="nearest"))


class RPN(nn.Module):
    """Proposal head, shared by all levels: objectness and box deltas for each anchor of each cell."""

    def __init__(self, arch: Arch, numerics: Numerics, channels: int) -> None:
        super().__init__()
        self.softmax = arch.objectness == "softmax"
        self.relu6 = numerics.rpn_activation == "relu6"
        widths = [channels] + [arch.rpn_channels] * arch.rpn_convs
        around = numerics.rpn_dilation
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=around, dilation=around) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(norm(arch.rpn_norm, arch.rpn_channels, numerics.eps_of_heads) for _ in self.convs)
            for _ in numerics.anchor_sizes
        )
        self.objectness = nn.Conv2d(widths[-1], arch.anchors_per_cell * (2 if self.softmax else 1), 1)
        self.deltas = nn.Conv2d(widths[-1], arch.anchors_per_cell * 4, 1)

    def forward(self, x: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """The map [B, C, H, W] of a level, the finest being 0, to logits [B, A, H, W] and deltas [B, 4A, H, W].

        Deltas stand four per anchor. Of a softmax pair (background, foreground) the difference is the logit: its
        sigmoid is the softmax, exactly.
        """
        for index, conv in enumerate(self.convs):
            x = self.get_submodule(f"norms.{level}.{index}")(conv(x))
            x = F.relu6(x) if self.relu6 else torch.relu_(x)
        logits = self.objectness(x)
        if self.softmax:
            logits = logits[:, 1::2] - logits[:, 0::2]
        return logits, self.deltas(x)


class ConvBoxHead(nn.Module):
    """Pooled features to one vector a region: convolutions, then fully connected layers (2fc, 4conv1fc)."""

    def __init__(self, arch: Arch, numerics: Numerics, channels: int) -> None:
        super().__init__()
        widths = [channels] + [arch.box_conv_channels] * arch.box_convs
        self.convs = nn.ModuleList(
            ConvNorm(
                before,
                after,
                3,
                norm_kind=arch.box_norm,
                eps=numerics.eps_of_heads,
                bias=arch.conv_bias or arch.head_bias or arch.box_norm == "none",
                relu=True,
                norm_last=numerics.norm_behind_relu,
            )
            for before, after in itertools.pairwise(widths)
        )
        flat = widths[-1] * numerics.box_pool_size**2
        sizes = [flat] + [arch.box_fc_width] * arch.box_fcs
        self.fcs = nn.ModuleList(
            nn.Linear(before, after, bias=arch.fc_bias) for before, after in itertools.pairwise(sizes)
        )
        self.fc_norms = nn.ModuleList(norm(arch.fc_norm, after, numerics.eps_of_heads) for after in sizes[1:])
        self.channels = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, s, s] to [N, D]."""
        for conv in self.convs:
            x = conv(x)
        x = x.flatten(1)
        for fc, norm_ in zip(self.fcs, self.fc_norms, strict=True):
            x = torch.relu_(norm_(fc(x)[:, :, None, None])).flatten(1)
        return x


class Res5BoxHead(nn.Module):
    """The C5 stage of the backbone on each region (Faster R-CNN on C4); the mask head reads its maps too."""

    def __init__(self, arch: Arch, numerics: Numerics) -> None:
        super().__init__()
        self.res5, self.channels = build_last_stage(arch, numerics)

    def maps(self, x: Tensor) -> Tensor:
        """[N, C4, s, s] to [N, C5, s / stride, s / stride]."""
        maps: Tensor = self.res5(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """[N, C4, s, s] to the mean over space, [N, C5]."""
        return self.maps(x).mean((2, 3))


class BoxPredictor(nn.Module):
    """Class logits (background last) and box deltas, from one vector a region."""

    def __init__(self, arch: Arch, channels: int) -> None:
        super().__init__()
        self.cls = nn.Linear(channels, arch.classes + 1)
        self.deltas = nn.Linear(channels, 4 * rows(arch.box_rows, arch.classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, D] to logits [N, K + 1] and deltas [N, 4·R]."""
        return self.cls(x), self.deltas(x)


class MaskHead(nn.Module):
    """Convolutions, then one transposed convolution that doubles the size; or features resized, then convolutions."""

    def __init__(self, arch: Arch, numerics: Numerics, channels: int) -> None:
        super().__init__()
        widths = [channels] + [arch.mask_channels] * arch.mask_convs
        self.convs = nn.ModuleList(
            ConvNorm(
                before,
                after,
                3,
                norm_kind=arch.mask_norm,
                eps=numerics.eps_of_heads,
                bias=arch.conv_bias or arch.head_bias or arch.mask_norm == "none",
                relu=True,
                norm_last=numerics.norm_behind_relu,
            )
            for before, after in itertools.pairwise(widths)
        )
        self.size = numerics.mask_size
        self.upsample = (
            nn.ConvTranspose2d(widths[-1], arch.mask_channels, 2, 2) if arch.mask_upsample == "deconv" else None
        )
        self.norm = norm(arch.upsample_norm, arch.mask_channels, numerics.eps_of_heads)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, s, s] to [N, C', 2s, 2s], or to [N, C', m, m] for masks of a given size m."""
        if self.upsample is None:  # the corners of both grids coincide
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=True)
        for conv in self.convs:
            x = conv(x)
        return x if self.upsample is None else torch.relu_(self.norm(self.upsample(x)))


class MaskPredictor(nn.Module):
    """One mask of logits per class row."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        wide = arch.mask_kernel
        self.logits = nn.Conv2d(arch.mask_channels, rows(arch.mask_rows, arch.classes), wide, padding=wide // 2)

    def forward(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """[N, C, m, m] to [N, R, m, m], or to [N, 1, m, m] where `only` one row is asked of each region, int64 [N]."""
        convolution = self.logits
        if only is None or convolution.kernel_size != (1, 1):
            logits: Tensor = convolution(x)
            return logits if only is None else logits[torch.arange(len(x), device=x.device), only][:, None]
        assert convolution.bias is not None
        weight, bias = (F.embedding(only, one.flatten(1)) for one in (convolution.weight, convolution.bias[:, None]))
        cells = x.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.baddbmm(bias[..., None], cells, weight[..., None]).view(-1, 1, *x.shape[2:])
