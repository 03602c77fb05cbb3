"""RoIAlign against torchvision's own operation, which runs on one thread and channel by channel."""

from typing import Any

import pytest
import torch
from torchvision.ops import roi_align as reference

from maskgraft.ops import roi_align as module
from maskgraft.ops.pooling import levels, pool
from maskgraft.ops.roi_align import roi_align

LEVELS: dict[str, Any] = {"epsilon": "outside", "epsilon_value": 1e-6, "rounding": "floor"}
HOW: dict[str, Any] = {
    **LEVELS,
    **{"strides": (4, 8, 16), "size": 7, "sampling": 2, "aligned": False},
    **{"inclusive": False, "inclusive_areas": False, "any_size": False},
}


def regions_over_the_edges(count: int = 60) -> torch.Tensor:
    """Regions of two images: small and large, on the map of 20 × 30 cells of 4 pixels and beyond its edges."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.rand(count, 2, generator=generator) * torch.tensor((150, 110)) - 15
    sides = torch.rand(count, 2, generator=generator) ** 3 * 120
    image = torch.arange(count)[:, None] % 2
    return torch.cat((image, centres - sides / 2, centres + sides / 2), 1)


@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_values_and_gradients_are_torchvisions(
    sampling: int, aligned: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    ours = torch.rand(2, 5, 20, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    regions = regions_over_the_edges()
    got = roi_align(ours, regions, size=7, scale=0.25, sampling=sampling, aligned=aligned)
    wanted = reference(theirs, regions, 7, 0.25, sampling, aligned)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=2e-6)
    slopes = torch.rand(wanted.shape, generator=torch.Generator().manual_seed(1))
    (got * slopes).sum().backward()
    (wanted * slopes).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_no_regions_and_maps_of_half_precision() -> None:
    map_ = torch.rand(1, 3, 8, 8, dtype=torch.bfloat16)
    assert roi_align(map_, torch.zeros(0, 5), size=7, scale=1.0, sampling=2, aligned=True).shape == (0, 3, 7, 7)
    got = roi_align(map_, torch.tensor([[0.0, 1, 1, 6, 6]]), size=2, scale=1.0, sampling=2, aligned=True)
    assert got.dtype == torch.bfloat16


def test_regions_of_half_precision_maps_keep_their_corners() -> None:
    """bf16 has no whole numbers between 512 and 516, and training in it pools maps of bf16."""
    maps = [torch.rand(1, 3, 256 // stride, 1024 // stride, dtype=torch.bfloat16) for stride in (4, 8)]
    boxes = [torch.tensor([[513.0, 41, 541, 77], [701.5, 9, 893, 203]])]
    how = HOW | {"strides": (4, 8)}
    got, wanted = (pool(each, boxes, **how) for each in (maps, [one.float() for one in maps]))
    torch.testing.assert_close(got.float(), wanted, rtol=0, atol=2**-8)


def test_regions_of_all_levels_come_in_their_order_with_and_without_gradients() -> None:
    generator = torch.Generator().manual_seed(5)
    maps = [torch.rand(2, 3, 256 // stride, 512 // stride, generator=generator) for stride in (4, 8, 16)]
    corners = torch.rand(40, 2, generator=generator) * 100
    every = torch.cat((corners, corners + 8 + torch.rand(40, 2, generator=generator) ** 3 * 400), 1)
    boxes = [every[:25], every[25:]]
    with torch.inference_mode():
        without = pool(maps, boxes, **HOW)
    leaves = [one.clone().requires_grad_() for one in maps]
    got = pool(leaves, boxes, **HOW)
    assert torch.equal(got, without)
    level = levels(every, **LEVELS, finest=2, coarsest=4, inclusive=False)
    assert len(level.unique()) == 3
    copies = [one.clone().requires_grad_() for one in maps]
    image = torch.tensor([0.0] * 25 + [1.0] * 15)[:, None]
    wanted = [
        reference(copies[at - 2], torch.cat((i, box))[None], 7, 1 / 2**at, 2, False)
        for at, i, box in zip(level.tolist(), image, every, strict=True)
    ]
    torch.testing.assert_close(got, torch.cat(wanted), rtol=1e-5, atol=2e-6)
    slopes = torch.rand(got.shape, generator=generator)
    (got * slopes).sum().backward()
    (torch.cat(wanted) * slopes).sum().backward()
    for one, other in zip(leaves, copies, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
