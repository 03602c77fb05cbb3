import math

import numpy as np
import pytest
import torch

from maskgraft.ops.pooling import crop_and_resize

F32 = np.float32


def sample(plane: np.ndarray, y: np.float32, x: np.float32) -> np.float32:
    """One sample, written as a loop would: float32 throughout, the upper and the lower row first."""
    rows, columns = plane.shape
    if not (0 <= y <= rows - 1 and 0 <= x <= columns - 1):
        return F32(0)
    top, left = math.floor(y), math.floor(x)
    down, right = F32(y - F32(top)), F32(x - F32(left))
    lower_row, after = math.ceil(y), math.ceil(x)
    upper = plane[top, left] + (plane[top, after] - plane[top, left]) * right
    lower = plane[lower_row, left] + (plane[lower_row, after] - plane[lower_row, left]) * right
    return upper + (lower - upper) * down


def place(low: np.float32, high: np.float32, cells: int, index: int, count: int) -> np.float32:
    if count == 1:
        return F32(0.5 * float(low + high) * (cells - 1))
    return low * F32(cells - 1) + F32(index) * ((high - low) * F32(cells - 1) / F32(count - 1))


@pytest.mark.parametrize("size", [1, 2, 7, 14])
def test_every_bit_is_that_of_the_loop(size: int) -> None:
    generator = np.random.default_rng(3)
    maps = generator.standard_normal((2, 3, 13, 19)).astype(F32)
    boxes = (generator.random((60, 4)) * 1.3 - 0.1).astype(F32)
    boxes[:40] = boxes[:40].clip(0, 1)
    boxes[:20, 2], boxes[10:30, 3] = 1, 1  # their last samples fall on the last cell, or one bit beyond it
    image = generator.integers(0, 2, 60)
    ours = crop_and_resize(torch.from_numpy(maps), torch.from_numpy(boxes), torch.from_numpy(image), size).numpy()
    assert ours.shape == (60, 3, size, size)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        for row in range(size):
            for column in range(size):
                y, x = place(y1, y2, 13, row, size), place(x1, x2, 19, column, size)
                wanted = [sample(maps[image[index], channel], y, x) for channel in range(3)]
                assert ours[index, :, row, column].tolist() == wanted


def test_a_row_one_bit_beyond_the_map_is_nothing() -> None:
    ones = torch.ones(1, 1, 24, 24)
    image = torch.zeros(1, dtype=torch.int64)
    flipped = [
        low
        for low in np.linspace(0, 0.5, 200, dtype=F32)
        if crop_and_resize(ones, torch.tensor([[0, low, 1, 1]]), image, 7)[0, 0, -1].sum() == 0
    ]
    assert 0 < len(flipped) < 100  # rounding decides
    for low in flipped:
        box = torch.tensor([[0, low, 1, 1]])
        if low > 0:
            assert (crop_and_resize(ones, box, image, 7, strict=False) == 1).all()


@pytest.mark.parametrize(("size", "cells", "last_row"), [(14, 57, 0), (15, 58, 0), (14, 60, 1), (7, 57, 1)])
def test_a_region_of_the_whole_map_ends_as_in_tensorflow(size: int, cells: int, last_row: int) -> None:
    # what tf.image.crop_and_resize of TensorFlow 2.20 gives for the box (0, 0, 1, 1) of a map of ones
    ones, image = torch.ones(1, 1, cells, cells), torch.zeros(1, dtype=torch.int64)
    pooled = crop_and_resize(ones, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), image, size, strict=False)[0, 0]
    assert pooled[:-1, :-1].min() == 1
    assert pooled[-1].max() == pooled[:, -1].max() == last_row


def test_a_region_that_ends_beyond_the_map_by_its_last_bit_ends_in_nothing() -> None:
    ones, image = torch.ones(1, 1, 33, 33), torch.zeros(1, dtype=torch.int64)
    beyond = float(np.nextafter(F32(1), F32(2)))
    for low in np.linspace(0, 0.5, 50, dtype=F32):
        assert crop_and_resize(ones, torch.tensor([[0, low, 1, beyond]]), image, 7, strict=False)[0, 0, -1].sum() == 0


def test_what_lies_beyond_the_map_is_nothing_however_boxes_are_read() -> None:
    ones, image = torch.ones(1, 1, 24, 24), torch.zeros(1, dtype=torch.int64)
    box = torch.tensor([[0, 0.5, 1, 1.0001]])
    for strict in (True, False):
        assert (crop_and_resize(ones, box, image, 7, strict=strict)[0, 0, -1] == 0).all()


def test_gradients_reach_the_map() -> None:
    map_ = torch.zeros(1, 2, 5, 5, requires_grad=True)
    pooled = crop_and_resize(map_, torch.tensor([[0.1, 0.1, 0.9, 0.9]]), torch.tensor([0]), 3)
    pooled.sum().backward()
    assert map_.grad is not None
    assert map_.grad.sum().item() == pytest.approx(2 * 9)
