"""Half precision where it is safe: convolutions and products in bf16 or fp16; losses, boxes and weights in float32."""

from typing import Literal

import torch

Precision = Literal["float32", "bf16", "fp16"]

_LEAST_SCALE = 2.0**-10  # gradients that still overflow have another cause


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass."""
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=kind, enabled=precision != "float32")


def scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """What keeps small gradients of fp16 from vanishing; it does nothing in the other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def overflows(scaler: torch.amp.GradScaler) -> bool:
    """Whether a gradient that is not finite is a matter of the scale, which the next steps make smaller."""
    return scaler.is_enabled() and scaler.get_scale() > _LEAST_SCALE
