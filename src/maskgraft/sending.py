"""Tensors on their way from the processor's memory to a device."""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. A GPU reads it from page-locked memory, and nothing here waits for that.

    A copy from other memory waits until the GPU has done all that it was given before.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
