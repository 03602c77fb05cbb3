"""Masks as COCO writes them: the packing against COCO's own, and every way to be damaged."""

from typing import Any

import numpy as np
import pytest
from faster_coco_eval import mask as coco_mask

from maskgraft import segmentation

HEIGHT, WIDTH = 60, 80


def rectangle(x: float, y: float, wide: float, high: float) -> list[float]:
    return [x, y, x + wide, y, x + wide, y + high, x, y + high]


@pytest.mark.parametrize("seed", range(20))
def test_unpacked_runs_are_those_that_were_packed(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(one) for one in random.integers(1, 400, 2))
    mask = random.random((height, width)) < random.choice([0.0, 0.001, 0.1, 0.5, 0.999, 1.0])
    mask[: height // 2] |= random.random() < 0.5  # long runs beside short ones
    packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    for counts in (packed, packed.decode()):
        runs = segmentation.unpacked_runs(counts)
        assert runs is not None
        flat = np.repeat(np.arange(runs.size) % 2, runs).astype(bool)
        assert np.array_equal(flat, mask.ravel(order="F"))


@pytest.mark.parametrize("counts", ["", "o", "é", "0 0", "~~~", "o" * 9 + "0", b"\xff"])
def test_damaged_strings_have_no_runs(counts: str | bytes) -> None:
    assert segmentation.unpacked_runs(counts) is None


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "data.mask-empty"),
        ([], "data.mask-empty"),
        ([[]], "data.mask-empty"),
        ([[10, 10, 10, 10, 10, 10]], "data.mask-empty"),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "data.mask-empty"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "data.mask"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, 1, HEIGHT * WIDTH]}, "data.mask"),
        ({"size": [HEIGHT, WIDTH], "counts": [0.5, HEIGHT * WIDTH - 0.5]}, "data.mask"),
        ({"size": [HEIGHT, WIDTH], "counts": "zzzz"}, "data.mask"),
        ({"size": [HEIGHT, WIDTH], "counts": 7}, "data.mask"),
        ({"counts": [1]}, "data.mask"),
        ({"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, "data.mask-size"),
        ([[1, 2, 3, 4, 5, 6, 7]], "data.mask"),
        ([[1, 2, 3, 4, 5, "6"]], "data.mask"),
        ([[1, 2, 3, 4, 5, 10**400]], "data.mask"),
        ([[[1, 2], [3, 4], [5, 6]]], "data.mask"),
        (["polygon"], "data.mask"),
        ([rectangle(-1e300, 0, 2e300, 5)], "data.mask-outside"),
        ([rectangle(WIDTH + 1, 5, 9, 9)], "data.mask-outside"),
    ],
)
def test_what_cannot_be_used(value: Any, code: str) -> None:
    parsed, faults = segmentation.parse(value, height=HEIGHT, width=WIDTH)
    assert parsed is None
    assert code in [fault.code for fault in faults]


def test_what_can_be_used_in_part() -> None:
    parts = [rectangle(5, 5, 10, 10), [1, 2, 3, 4], rectangle(70, 40, 15, 10)]
    parsed, faults = segmentation.parse(parts, height=HEIGHT, width=WIDTH)
    assert isinstance(parsed, tuple) and len(parsed) == 2
    assert [(fault.code, fault.severity) for fault in faults] == [
        ("data.mask-points", "warning"),
        ("data.mask-outside", "warning"),
    ]
    assert segmentation.extent(parsed, HEIGHT, WIDTH) == (5, 5, WIDTH, 50)


def test_a_polygon_that_crosses_itself_is_kept() -> None:
    # its two halves turn opposite ways, so that the area by the coordinates is nought, but it has pixels
    parsed, faults = segmentation.parse([[10, 10, 40, 40, 40, 10, 10, 40]], height=HEIGHT, width=WIDTH)
    assert parsed is not None and not faults
    assert segmentation.decoded([parsed], HEIGHT, WIDTH)[0].sum() > 300


def test_one_mask_in_four_forms() -> None:
    flat = rectangle(12, 7, 30, 20)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[7:27, 12:42] = True
    packed = coco_mask.encode(np.asfortranarray(expected, np.uint8))
    runs = segmentation.unpacked_runs(packed["counts"])
    assert runs is not None
    size = [HEIGHT, WIDTH]
    for value in (
        flat,
        [flat],
        {"size": size, "counts": packed["counts"].decode()},
        {"size": size, "counts": runs.tolist()},
        {"size": [float(HEIGHT), float(WIDTH)], "counts": [float(run) for run in runs]},
    ):
        parsed, faults = segmentation.parse(value, height=HEIGHT, width=WIDTH)
        assert parsed is not None and not faults
        assert np.array_equal(segmentation.decoded([parsed], HEIGHT, WIDTH)[0], expected)
        assert segmentation.extent(parsed, HEIGHT, WIDTH) == (12, 7, 42, 27)
