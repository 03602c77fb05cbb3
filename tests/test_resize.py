"""Values that OpenCV 5.0.0, scikit-image 0.24.0 and TensorFlow 2.20 gave for the same image."""

import numpy as np
import pytest

from maskgraft import resize

IMAGE = (np.arange(4 * 5 * 3) * 37 % 256).astype(np.uint8).reshape(4, 5, 3)

OPENCV = {
    (7, 8): [
        [0, 48, 118, 187, 177, 86, 139, 188],
        [15, 64, 127, 140, 129, 96, 155, 203],
        [40, 88, 143, 64, 53, 111, 179, 228],
        [65, 113, 166, 76, 65, 135, 132, 125],
        [89, 137, 191, 100, 90, 159, 84, 21],
        [113, 162, 216, 125, 114, 184, 109, 45],
        [129, 178, 231, 140, 130, 199, 124, 61],
    ],
    (2, 3): [[59, 116, 172], [145, 74, 88]],
}
SKIMAGE = {
    (7, 8): [
        [0, 38, 92, 147, 138, 67, 109, 120],
        [12, 63, 127, 139, 129, 95, 154, 165],
        [32, 88, 143, 63, 53, 111, 179, 185],
        [52, 113, 166, 75, 65, 134, 131, 101],
        [72, 137, 191, 100, 89, 159, 84, 17],
        [92, 162, 215, 124, 114, 183, 109, 37],
        [82, 139, 181, 110, 101, 156, 97, 38],
    ],
    (2, 3): [[58, 115, 172], [144, 73, 87]],
}
TENSORFLOW = {  # 2.20: centred, size → rows of the first channel
    (False, (7, 8)): {
        0: [0.0, 69.375, 138.75, 208.125, 149.5, 90.875, 160.25, 188.0],
        3: [73.7143, 143.0893, 148.4643, 57.8393, 95.2143, 141.7321, 96.8214, 78.8571],
        6: [129.0, 198.375, 203.75, 113.125, 150.5, 187.875, 97.25, 61.0],
    },
    (False, (2, 3)): {0: [0.0, 185.0, 114.0], 1: [86.0, 100.3333, 114.6667]},
    (True, (7, 8)): {
        0: [0.0, 48.5625, 117.9375, 187.3125, 176.6875, 86.0625, 139.4375, 188.0],
        3: [64.5, 113.0625, 166.4375, 75.8125, 65.1875, 134.5625, 131.9375, 124.5],
        6: [129.0, 177.5625, 230.9375, 140.3125, 129.6875, 199.0625, 124.4375, 61.0],
    },
    (True, (2, 3)): {0: [58.5, 115.5, 172.5], 1: [144.5, 73.5, 87.8334]},
}
TENSORFLOW_1 = {  # size → rows of the first channel, by TensorFlow 2.8's `compat.v1.image.resize_images`
    ("nearest", (7, 8)): {0: [0, 0, 111, 111, 222, 77, 77, 188], 3: [43, 43, 154, 154, 9, 120, 120, 231]},
    ("nearest", (2, 3)): {0: [0, 111, 77], 1: [86, 197, 163]},
    ("cubic", (7, 8)): {
        0: [0.0, 58.806, 152.953, 221.947, 149.5, 78.191, 157.754, 200.195],
        4: [102.067, 188.998, 188.02, 76.389, 126.192, 168.958, 49.167, -12.935],
    },
    ("cubic", (2, 3)): {0: [0.0, 209.363, 95.794], 1: [86.0, 91.421, 129.736]},
    ("area", (7, 8)): {
        1: [10.75, 55.15, 121.75, 159.35, 152.55, 87.75, 154.35, 198.75],
        5: [118.25, 162.65, 229.25, 113.25, 106.45, 195.25, 108.25, 50.25],
    },
    ("area", (2, 3)): {0: [65.9, 115.5, 165.1], 1: [151.9, 124.7, 97.5]},
}
OPENCV_FACTOR = {
    1.7: [
        [0, 42, 108, 173, 201, 115, 113, 178],
        [16, 59, 124, 135, 133, 106, 129, 195],
        [42, 84, 149, 76, 30, 91, 155, 220],
        [67, 109, 175, 97, 49, 114, 134, 115],
        [92, 135, 200, 122, 75, 140, 122, 37],
        [118, 160, 225, 147, 100, 165, 147, 62],
        [129, 171, 237, 159, 111, 176, 159, 74],
    ],
    0.61: [[49, 153, 157], [120, 56, 81]],
}
OPENCV_FLOAT = {
    1.7: (7, 8, [16.441, 58.882, 124.176, 134.772, 133.630, 105.914, 129.353, 194.647]),
    0.61: (2, 3, [119.721, 56.180, 80.753]),
}


@pytest.mark.parametrize("size", list(OPENCV))
def test_opencv_to_the_last_bit(size: tuple[int, int]) -> None:
    assert resize.opencv(IMAGE, size)[..., 0].tolist() == OPENCV[size]


@pytest.mark.parametrize("factor", list(OPENCV_FACTOR))
def test_opencv_keeps_the_step_of_a_factor(factor: float) -> None:
    wanted = OPENCV_FACTOR[factor]
    size = len(wanted), len(wanted[0])
    assert resize.opencv(IMAGE, size, factor=factor)[..., 0].tolist() == wanted
    assert resize.opencv(IMAGE, size)[..., 0].tolist() != wanted


@pytest.mark.parametrize("size", list(SKIMAGE))
def test_skimage_to_the_last_grey_level(size: tuple[int, int]) -> None:
    assert resize.skimage(IMAGE, size)[..., 0].tolist() == SKIMAGE[size]


def test_skimage_darkens_the_rim_but_not_beyond_the_darkest_pixel() -> None:
    light = np.full((4, 5, 3), 200, np.uint8)
    light[1, 2] = 150
    large = resize.skimage(light, (12, 15))
    assert large.min() == 150
    assert (large[0] < 200).all()
    assert large[6, 12].tolist() == [200, 200, 200]


@pytest.mark.parametrize("factor", list(OPENCV_FLOAT))
def test_opencv_in_float_keeps_the_step_of_the_factor(factor: float) -> None:
    height, width, second_row = OPENCV_FLOAT[factor]
    values = resize.opencv_float(IMAGE, factor)
    assert values.shape == (height, width, 3)
    assert values.dtype == np.float32
    assert values[1, :, 0] == pytest.approx(second_row, abs=1e-3)


@pytest.mark.parametrize(("centred", "size"), list(TENSORFLOW))
def test_tensorflow_with_and_without_half_pixel_centres(centred: bool, size: tuple[int, int]) -> None:
    values = resize.tensorflow(IMAGE, size, centred=centred)
    assert values.dtype == np.float32
    assert values.shape == (*size, 3)
    for row, expected in TENSORFLOW[centred, size].items():
        assert values[row, :, 0] == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(("kind", "size"), list(TENSORFLOW_1))
def test_tensorflow_1_by_other_kernels(kind: str, size: tuple[int, int]) -> None:
    values = getattr(resize, f"tensorflow_{kind}")(IMAGE, size)
    assert values.dtype == np.float32
    assert values.shape == (*size, 3)
    for row, expected in TENSORFLOW_1[kind, size].items():
        assert values[row, :, 0] == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("centred", [False, True])
def test_tensorflow_at_the_same_size_changes_nothing(centred: bool) -> None:
    assert (resize.tensorflow(IMAGE, (4, 5), centred=centred) == IMAGE).all()


def test_the_libraries_differ_where_they_should() -> None:
    results = [resize.pil(IMAGE, (2, 3)), resize.opencv(IMAGE, (2, 3)), resize.skimage(IMAGE, (2, 3))]
    assert len({one.tobytes() for one in results}) == 3


@pytest.mark.parametrize("function", [resize.pil, resize.opencv, resize.skimage])
def test_the_same_size_changes_nothing(function: object) -> None:
    assert callable(function)
    assert (function(IMAGE, (4, 5)) == IMAGE).all()
