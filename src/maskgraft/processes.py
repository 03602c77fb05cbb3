"""Several processes that train one model together, under torchrun; each function is the plain thing in one process."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from maskgraft.targets import Batch

_PATIENCE = timedelta(minutes=30)  # one process may draw samples and save while the others wait


def several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if several() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if several() else 0


def leads() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that torchrun started; gives the device of this one. Nothing happens without torchrun.

    NCCL between GPUs, of which each process takes one, gloo between CPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def mean(value: float, device: torch.device) -> float:
    """The mean of a number over all processes."""
    if not several():
        return value
    total = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item() / count()


def means(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The mean of each of some numbers, which have the same names in all processes."""
    if not several():
        return dict(values)
    totals = torch.tensor([float(value) for value in values.values()], dtype=torch.float64, device=device)
    dist.all_reduce(totals)
    return dict(zip(values, (totals / count()).tolist(), strict=True))


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over all processes, in place."""
    if several():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= count()


def gathered(values: Sequence[Any]) -> list[Any]:
    """The values of all processes, those of the first one first."""
    if not several():
        return list(values)
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, list(values))
    return [value for part in found for value in part]


def wait() -> None:
    """Go on when all processes have come here."""
    if several():
        dist.barrier()


def share(things: Sequence[Any]) -> Sequence[Any]:
    """The part of this process: every so many-th."""
    return things[rank() :: count()]


def alike(batch: Batch, device: torch.device) -> Batch:
    """The batch, padded to the largest size that any process has, as if all its images were in one batch."""
    if not several():
        return batch
    size = torch.tensor(batch.pixels.shape[-2:], device=device)
    dist.all_reduce(size, dist.ReduceOp.MAX)
    height, width = size.tolist()
    below, beside = height - batch.pixels.shape[-2], width - batch.pixels.shape[-1]
    return replace(batch, pixels=F.pad(batch.pixels, (0, beside, 0, below)))


def network(model: nn.Module) -> nn.Module:
    """The model, or what synchronises its gradients in the backward pass; to be made anew when what trains changes."""
    if not several():
        return model
    on_gpu = next(model.parameters()).is_cuda
    return DistributedDataParallel(model, device_ids=[torch.cuda.current_device()] if on_gpu else None)


def alone(network: nn.Module) -> AbstractContextManager[None]:
    """Backward passes inside leave the gradients of this process unsynchronised, to be added up first."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
