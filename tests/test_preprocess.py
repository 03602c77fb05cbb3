"""From photograph to input and back, under each convention of size, padding and scale."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskgraft.errors import UsageError
from maskgraft.families import chainer, detectron2, matterport, tensorpack, tf_object_detection
from maskgraft.preprocess import network_scale, network_size, prepare
from maskgraft.spec import Numerics


def photo(height: int, width: int, grey: int = 200) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


@pytest.mark.parametrize(
    ("numerics", "original", "size"),
    [
        (matterport.NUMERICS, (480, 640), (768, 1024)),  # the long side meets max_size first
        (matterport.NUMERICS, (900, 900), (900, 900)),  # larger than min_size: it stays
        (matterport.NUMERICS, (1500, 3000), (512, 1024)),
        (matterport.NUMERICS, (333, 1000), (341, 1024)),
        (tensorpack.NUMERICS, (480, 640), (800, 1067)),
        (tensorpack.NUMERICS, (427, 640), (800, 1199)),
        (tensorpack.NUMERICS, (300, 900), (448, 1344)),
        (chainer.NUMERICS, (243, 321), (600, 793)),
        (chainer.NUMERICS, (333, 1000), (333, 1000)),
        (chainer.NUMERICS, (33, 41), (600, 745)),  # 745.45
    ],
)
def test_sizes(numerics: Numerics, original: tuple[int, int], size: tuple[int, int]) -> None:
    assert network_size(original, numerics) == size


def test_halves_go_to_the_even_number() -> None:
    numerics = replace(chainer.NUMERICS, min_size=3, max_size=1000)
    assert network_size((2, 3), numerics) == (3, 4)  # 4.5
    assert network_size((2, 5), numerics) == (3, 8)  # 7.5


def test_a_photograph_that_may_only_grow() -> None:
    numerics = replace(matterport.NUMERICS, min_size=100, max_size=1000)
    assert network_scale((200, 300), numerics) == 1
    assert network_scale((200, 300), replace(numerics, enlarge_only=False)) == 0.5


def test_matterport_centres_on_black() -> None:
    numerics = replace(matterport.NUMERICS, min_size=40, max_size=64)
    prepared = prepare(photo(41, 53), numerics)
    assert prepared.size == (64, 64)
    assert prepared.window == (11, 5, 52, 58)
    black = -torch.tensor(numerics.pixel_mean)
    assert torch.equal(prepared.pixels[:, 10, 30], black)
    assert torch.equal(prepared.pixels[:, 30, 58], black)
    assert torch.equal(prepared.pixels[:, 11, 5], black + 200)
    assert torch.equal(prepared.pixels[:, 51, 57], black + 200)


def test_padding_at_the_corner_with_the_mean() -> None:
    numerics = replace(matterport.NUMERICS, min_size=40, max_size=64, pad_centred=False, pad_black=False)
    prepared = prepare(photo(41, 53), numerics)
    assert prepared.window == (0, 0, 41, 53)
    assert (prepared.pixels[:, 41:] == 0).all()
    assert (prepared.pixels[:, :, 53:] == 0).all()


def test_padding_to_a_multiple_around_each_image() -> None:
    prepared = prepare(photo(70, 130), replace(matterport.NUMERICS, min_size=64, max_size=999, pad_square=False))
    assert prepared.size == (128, 192)
    assert prepared.window == (29, 31, 99, 161)


def test_corner_coordinates_run_from_pixel_to_pixel() -> None:
    numerics = replace(matterport.NUMERICS, min_size=80, max_size=128)
    prepared = prepare(photo(40, 64), numerics)  # twice as large, 24 rows down
    assert prepared.window == (24, 0, 104, 128)
    whole = torch.tensor([[0.0, 0, 64, 40]])
    ours = prepared.to_network(whole)
    assert ours.tolist() == [[0, 24, 127, 103]]
    assert prepared.to_original(ours).tolist() == whole.tolist()


@pytest.mark.parametrize("family", [matterport, tensorpack, chainer, detectron2])
def test_boxes_go_there_and_back(family: object) -> None:
    prepared = prepare(photo(97, 123), family.NUMERICS)  # type: ignore[attr-defined]
    boxes = torch.tensor([[3.0, 5, 80, 60], [0, 0, 123, 97]])
    assert torch.allclose(prepared.to_original(prepared.to_network(boxes)), boxes, atol=1e-4)


def test_boxes_scale_by_sides_by_the_factor_or_by_their_mean() -> None:
    numerics = replace(tensorpack.NUMERICS, min_size=50, max_size=999)
    sides, factor, mean = (
        prepare(photo(99, 133), replace(numerics, box_scale=how)) for how in ("sides", "factor", "mean")
    )
    assert sides.size == (50, 67)
    assert sides.scale == (50 / 99, 67 / 133)
    assert factor.scale == (50 / 99, 50 / 99)
    assert factor.window == (0, 0, pytest.approx(50), pytest.approx(133 * 50 / 99))
    assert mean.scale == (pytest.approx((50 / 99 * 67 / 133) ** 0.5),) * 2
    assert sides.window == mean.window == (0, 0, 50, 67)


def test_fractions_of_the_input_may_end_one_bit_before_1() -> None:
    """x · (1 / 427) as the TF Object Detection API computes it, in float32: its golden boxes end at 0.99999994."""
    prepared = prepare(photo(240, 320), replace(tf_object_detection.NUMERICS, min_size=320, max_size=512))
    assert prepared.size == (320, 427)
    box = prepared.to_original(torch.tensor([[0.0, 0, 427, 320]]))[0]
    assert box[3] == 240
    assert 320 - 1e-4 < box[2] < 320


def test_chainer_resizes_in_float() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    prepared = prepare(image, replace(chainer.NUMERICS, min_size=60, max_size=999))
    pixels = prepared.pixels + torch.tensor(chainer.NUMERICS.pixel_mean)[:, None, None]
    assert prepared.size == (60, 90)
    assert ((pixels - pixels.round()).abs() > 0.1).float().mean() > 0.3


def test_torch_does_not_resize_grey_levels() -> None:
    with pytest.raises(UsageError, match="torch resizes after normalising"):
        prepare(photo(10, 10), replace(tensorpack.NUMERICS, resize="torch"))
