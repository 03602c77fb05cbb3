"""RoIAlign against torchvision's own operation, which runs on one thread and channel by channel."""

import pytest
import torch
from torchvision.ops import roi_align as reference

from maskgraft.ops import roi_align as module
from maskgraft.ops.roi_align import roi_align


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
