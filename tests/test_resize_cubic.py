"""Values that OpenCV 5.0.0's wheel for Intel gave with INTER_CUBIC."""

import numpy as np
import pytest

from maskgraft import resize

IMAGE = (np.arange(4 * 5 * 3) * 37 % 256).astype(np.uint8).reshape(4, 5, 3)
CUBIC = {
    (7, 8): [
        [0, 32, 119, 228, 203, 77, 122, 194],
        [2, 58, 129, 152, 126, 87, 157, 228],
        [28, 97, 147, 52, 27, 105, 193, 250],
        [54, 126, 171, 47, 28, 135, 143, 123],
        [80, 150, 199, 92, 81, 168, 87, 0],
        [107, 176, 225, 119, 107, 195, 111, 18],
        [123, 193, 241, 135, 123, 210, 137, 52],
    ],
    (2, 3): [[53, 111, 186], [155, 78, 79]],
}


@pytest.mark.parametrize("size", list(CUBIC))
def test_cubic_to_the_last_grey_level(size: tuple[int, int]) -> None:
    assert resize.opencv_cubic(IMAGE, size)[..., 0].tolist() == CUBIC[size]
