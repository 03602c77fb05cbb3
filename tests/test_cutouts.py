"""Cut masks are the whole ones, to the pixel, whatever is done to them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maskgraft import segmentation
from maskgraft.cutouts import Cutouts
from maskgraft.segmentation import Mask
from maskgraft.targets import Target, mask_targets
from maskgraft.torchvision_ops import roi_align

HEIGHT, WIDTH = 37, 53


@pytest.fixture(scope="module")
def planes() -> Mask:
    """Specks, a block, one of two parts, everything, nothing, one pixel in the last corner."""
    masks = np.zeros((6, HEIGHT, WIDTH), np.bool_)
    masks[0] = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.97
    masks[1, 8:20, 11:40] = True
    masks[2, :, 7:9] = masks[2, 3:9, 30:36] = True
    masks[3] = True
    masks[5, -1, -1] = True
    return masks


def test_cut_and_laid_back(planes: Mask) -> None:
    cutouts = Cutouts.of(planes)
    assert np.array_equal(cutouts.planes(), planes)
    assert cutouts.areas() == planes.sum((1, 2)).tolist() and len(cutouts) == 6
    assert cutouts.extents()[1] == (8, 11, 20, 40) and cutouts.extents()[4] == (0, 0, 0, 0)
    assert np.array_equal(cutouts[[3, 1]].planes(), planes[[3, 1]])


def test_drawn_as_cocos_tools_draw_them(planes: Mask) -> None:
    random = np.random.default_rng(1)
    polygons = [(random.uniform(-3, 60, 2 * int(random.integers(3, 9))),) for _ in range(40)]
    polygons += [(one[0], two[0]) for one, two in zip(polygons[::2], polygons[1::2], strict=True)]
    runs = [segmentation.encoded(one, HEIGHT, WIDTH) for one in polygons] + segmentation.packed(planes)
    for given in (polygons, runs):
        drawn = Cutouts.drawn(given, (HEIGHT, WIDTH))
        assert np.array_equal(drawn.planes(), segmentation.decoded(given, HEIGHT, WIDTH))
        assert drawn.windows == tuple(drawn.extents())


@pytest.mark.parametrize("size", [(37, 53), (80, 115), (19, 100), (5, 4), (1, 1)])
def test_resized_by_the_pixels_that_torch_takes(planes: Mask, size: tuple[int, int]) -> None:
    wanted = F.interpolate(torch.from_numpy(planes)[None].float(), size=size, mode="nearest")[0].bool().numpy()
    assert np.array_equal(Cutouts.of(planes).resized(size).planes(), wanted)


@pytest.mark.parametrize("window", [(0, 0, 37, 53), (9, 12, 21, 33), (-4, -9, 50, 60), (30, 40, 60, 80), (0, 0, 1, 1)])
def test_turned_and_seen_through_a_window(planes: Mask, window: tuple[int, int, int, int]) -> None:
    top, left, bottom, right = window
    around = np.pad(planes, ((0, 0), (50, 50), (50, 50)))
    for turned, wanted in (
        (Cutouts.of(planes), around),
        (Cutouts.of(planes).mirrored(), around[:, :, ::-1]),
        (Cutouts.of(planes).flipped(), around[:, ::-1]),
    ):
        seen = turned.seen_through(window)
        assert seen.size == (bottom - top, right - left)
        assert np.array_equal(seen.planes(), wanted[:, 50 + top : 50 + bottom, 50 + left : 50 + right])


def test_pooled_as_whole_planes_are(planes: Mask) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 40 - 3
    boxes = torch.cat((corners, corners + 1 + torch.rand(60, 2, generator=generator) * 30), 1)
    which = torch.randint(0, 6, (60,), generator=generator)
    target = Target(torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64), Cutouts.of(planes).mirrored())
    whole = torch.from_numpy(planes[:, :, ::-1].copy())[:, None].float()
    regions = torch.cat((which[:, None].float(), boxes), 1)
    given = mask_targets(target, which, boxes, side=14, method="soft-bitmap", page=target.masks.size)
    assert torch.equal(given, roi_align(whole, regions, 14, 1.0, -1, aligned=False)[:, 0])


def test_a_box_of_no_whole_pixel_has_an_empty_mask(planes: Mask) -> None:
    """At the last edge too, beyond which there is nothing to read. A column that is half object is none of it."""
    target = Target(torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64), Cutouts.of(planes))
    boxes = torch.tensor([[4.0, 4, 4, 9], [52.9, 36.9, 53, 37], [50.0, 30, 58, 44], [0.0, 8, 28, 22]])
    given = mask_targets(target, torch.tensor([3, 3, 3, 1]), boxes, side=14, method="resized", page=target.masks.size)
    assert given.sum((1, 2)).tolist() == [0, 0, 14 * 14, 8 * 12]
