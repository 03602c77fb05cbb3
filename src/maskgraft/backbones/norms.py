"""Normalisation layers, and the convolution that carries one."""

import torch
from torch import Tensor, nn

from maskgraft.backbones.padding import Padding, surround
from maskgraft.spec import NormKind

# Norms with statistics of batches, which evaluation mode keeps as they are.
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class FrozenNorm(nn.Module):
    """Batch normalisation with fixed statistics: y = (x - mean) · weight / √(var + eps) + bias.

    All four vectors are buffers, as in Detectron2 and torchvision: no gradient, no update, the same in training mode.
    Without `scale` the weight is 1.
    """

    weight: Tensor | None
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float, *, scale: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels) if scale else None)
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The affine map that this layer is: y = x · scale + shift, each [C]."""
        scale = (self.running_var + self.eps).rsqrt()
        scale = scale if self.weight is None else self.weight * scale
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        scale, shift = self.scale_and_shift()
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)

    def extra_repr(self) -> str:
        """Channels and eps, for printing the model."""
        return f"{len(self.bias)}, eps={self.eps}"


class Affine(nn.Module):
    """Scale and shift only: what is left of a batch norm whose statistics were folded away (Detectron, Chainer).

    `eps` is 0 there. Detectron2 takes such a layer for a norm of variance 1 and still adds its eps.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The affine map that this layer is, each [C]."""
        return self.weight * (1 + self.eps) ** -0.5, self.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        scale, shift = self.scale_and_shift()
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)


def norm(kind: NormKind, channels: int, eps: float, *, scale: bool = True) -> nn.Module:
    """The normalisation layer `kind` for `channels` channels; `nn.Identity` for "none".

    Group norm has 32 groups, as everywhere in this field (Wu & He 2018, Detectron2, MMDetection).
    """
    match kind:
        case "none":
            return nn.Identity()
        case "frozen":
            return FrozenNorm(channels, eps, scale=scale)
        case "affine":
            return Affine(channels, eps)
        case "batch":
            return nn.BatchNorm2d(channels, eps)
        case "sync":
            return nn.SyncBatchNorm(channels, eps)
        case "group":
            return nn.GroupNorm(32, channels, eps)


class ConvNorm(nn.Module):
    """Convolution, then its norm, then ReLU where `relu` is set; with `norm_last` the ReLU comes before the norm.

    Zeros around the map keep its size at stride 1; at other strides, `padding` says on which sides they lie.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int | tuple[int, int],
        *,
        norm_kind: NormKind,
        eps: float,
        bias: bool,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        relu: bool = False,
        norm_last: bool = False,
        padding: Padding = "symmetric",
        scale: bool = True,
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        # at stride 1 all paddings are symmetric, and the convolution lays the zeros itself
        reads_all = sides == (1, 1) and not padding.startswith("same-")
        self.padding: Padding | None = padding if padding != "symmetric" and stride > 1 and not reads_all else None
        around = (0, 0) if self.padding else (dilation * (sides[0] - 1) // 2, dilation * (sides[1] - 1) // 2)
        self.conv = nn.Conv2d(channels_in, channels_out, sides, stride, around, dilation, groups, bias)
        self.norm = norm(norm_kind, channels_out, eps, scale=scale)
        self.relu, self.norm_last = relu, norm_last

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        if self.padding:
            conv = self.conv
            x = surround(x, conv.kernel_size[0], conv.stride[0], padding=self.padding, dilation=conv.dilation[0])
        if self.norm_last:
            last: Tensor = self.norm(torch.relu_(self.conv(x)).contiguous())
            return last
        x = normalised(x, self.conv, self.norm)
        return torch.relu_(x) if self.relu else x


def normalised(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """`norm(conv(x))`, in the home frameworks' order of operations.

    A norm whose statistics stand could be folded into the kernels. That would be another rounding than at home, and
    three times its noise: in Model Garden's golden case the maps differ by 0.92 of what is allowed, and not by 0.52.
    """
    y: Tensor = conv(x)
    if isinstance(norm, FrozenNorm | Affine):
        scale, shift = (one[:, None, None].to(y.dtype) for one in norm.scale_and_shift())
        # The map is its own, read by nothing else: it is changed in place, and where no gradient is asked for in one
        # pass over memory.
        return y.mul_(scale).add_(shift) if y.requires_grad else torch.addcmul(shift, y, scale, out=y)
    # torch's group norm over channels that lie side by side loses a decimal of its float32 sums
    normed: Tensor = norm(y.contiguous() if isinstance(norm, nn.GroupNorm) else y)
    return normed
