"""Positions that scikit-image 0.17.2's affine map gave, with OpenBLAS 0.3.13 and its SSE2 kernels."""

import pytest

from maskgraft import skimage_grid

# before, after: distance and first position of the samples, along x and along y
GRIDS = {
    ((200, 300), (213, 320)): (
        ("0x1.e000000000001p-1", "-0x1.0000000002000p-5"),
        ("0x1.e0c04ceb916d5p-1", "-0x1.f3fb3146e6000p-6"),
    ),
    ((240, 320), (288, 384)): (
        ("0x1.aaaaaaaaaaaaap-1", "-0x1.5555555555000p-4"),
        ("0x1.aaaaaaaaaaaa8p-1", "-0x1.5555555554800p-4"),
    ),
    ((480, 640), (768, 1024)): (
        ("0x1.4000000000000p-1", "-0x1.8000000001800p-3"),
        ("0x1.3ffffffffffffp-1", "-0x1.7fffffffff800p-3"),
    ),
    ((1365, 2048), (683, 1024)): (
        ("0x1.0000000000002p+1", "0x1.0000000000800p-1"),
        ("0x1.ffa00bfe802fep+0", "0x1.ff4017fd01800p-2"),
    ),
    ((7, 5), (3, 11)): (
        ("0x1.d1745d1745d13p-2", "-0x1.1745d1745d16cp-2"),
        ("0x1.2aaaaaaaaaaadp+1", "0x1.5555555555550p-1"),
    ),
}


@pytest.mark.parametrize(("before", "after"), list(GRIDS))
def test_positions_to_the_last_bit(before: tuple[int, int], after: tuple[int, int]) -> None:
    (step_x, first_x), (step_y, first_y) = ([float.fromhex(number) for number in axis] for axis in GRIDS[before, after])
    rows, columns = skimage_grid.grid(before, after)
    assert columns.tolist() == [index * step_x + first_x for index in range(after[1])]
    assert rows.tolist() == [index * step_y + first_y for index in range(after[0])]


def test_positions_of_one_row() -> None:
    rows, columns = skimage_grid.grid((28, 28), (1, 7))
    assert rows.tolist() == [13.5]
    assert columns.tolist() == pytest.approx([1.5 + 4 * index for index in range(7)])
