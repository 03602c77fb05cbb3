"""Values that OpenCV 4.11's wheel for Intel gave with INTER_CUBIC and fx = fy (`golden/make_cubic.py`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskgraft import resize
from maskgraft.families import paddle
from maskgraft.preprocess import prepare

IMAGE = (np.arange(4 * 5 * 3) * 37 % 256).astype(np.uint8).reshape(4, 5, 3)
CUBIC = {
    1.7: [
        [0, 28, 101, 210, 231, 107, 88, 175],
        [2, 53, 121, 148, 134, 89, 123, 209],
        [30, 91, 153, 72, 13, 75, 165, 227],
        [56, 119, 178, 79, 15, 109, 148, 113],
        [84, 146, 206, 121, 65, 157, 134, 19],
        [109, 171, 232, 147, 91, 181, 162, 54],
        [123, 184, 245, 160, 104, 194, 179, 77],
    ],
    0.55: [[57, 122, 225], [154, 78, 0]],
}


@pytest.mark.parametrize("factor", list(CUBIC))
def test_cubic_to_the_last_grey_level(factor: float) -> None:
    assert resize.opencv_cubic(IMAGE, factor)[..., 0].tolist() == CUBIC[factor]


GOLDEN = np.load(Path(__file__).with_name("golden") / "cubic.npz")


@pytest.mark.parametrize(("what", "factor"), [("enlarged", 5 / 3), ("reduced", 0.6)])
def test_between_two_levels_it_takes_the_one_that_opencv_takes(what: str, factor: float) -> None:
    """Where they are equally near: float64 takes the other one at some, in each pattern."""
    for pattern, theirs in zip(GOLDEN[f"{what}.before"], GOLDEN[what], strict=True):
        assert np.array_equal(resize.opencv_cubic(pattern, factor)[4:-4, 4:-4], theirs[4:-4, 4:-4])


@pytest.mark.parametrize(("index", "factor"), list(enumerate(GOLDEN["factors"].tolist())))
def test_whether_the_size_was_rounded_or_not(index: int, factor: float) -> None:
    ours, theirs = resize.opencv_cubic(GOLDEN["noise"], factor), GOLDEN[f"noise.{index}"]
    assert np.array_equal(ours[4:-4, 4:-4], theirs[4:-4, 4:-4])  # OpenCV adds in another order at the rim
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("resized", [resize.opencv_cubic, resize.opencv_float])
def test_what_has_its_size_already_is_not_sampled_again(resized: Callable[..., Any]) -> None:
    """`cv::resize` copies it, though the factor is not 1."""
    assert np.array_equal(resized(IMAGE, 1.04), IMAGE)
    assert np.array_equal(resize.opencv(IMAGE, (4, 5), factor=1.04), IMAGE)


def test_paddle_scales_by_the_factor_whatever_was_rounded() -> None:
    """`Resize` of ppdet 2.6: the sides, the step of the samples, and the way back go by one and the same factor."""
    photograph = np.zeros((427, 640, 3), np.uint8)
    prepared = prepare(photograph, paddle.NUMERICS)
    factor = 800 / 427
    assert prepared.size == (800, 1199)  # 1199.06
    assert prepared.scale == (factor, factor)
    assert prepared.window == pytest.approx((0, 0, 800, 640 * factor))
