"""Conventions of TensorFlow's Mask R-CNNs, each by itself: sizes, padding, strides, regions, boxes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from maskgraft.backbones import build, build_last_stage
from maskgraft.backbones.norms import FrozenNorm
from maskgraft.backbones.padding import max_pool, same_padding, surround
from maskgraft.backbones.resnet import EveryNth
from maskgraft.families import model_garden
from maskgraft.families.tf_object_detection import NUMERICS
from maskgraft.model import MaskRCNN
from maskgraft.ops.paste import paste
from maskgraft.ops.pooling import pool
from maskgraft.ops.selection import Scored, detections, suppress
from maskgraft.preprocess import network_size, prepare
from maskgraft.spec import Arch, BackboneKind, Numerics
from tests.tiny import tiny_spec

# ---- from photograph to input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "size"),
    [  # TensorFlow 2.20
        ((240, 320), (800, 1067)),
        ((427, 640), (800, 1199)),
        ((300, 1000), (410, 1365)),
        ((640, 427), (1199, 800)),
        ((384, 426), (800, 887)),  # 887.5 in float64, less in float32
    ],
)
def test_sizes_are_rounded_in_float32(original: tuple[int, int], size: tuple[int, int]) -> None:
    assert network_size(original, NUMERICS) == size


@pytest.mark.parametrize(
    ("original", "canvas", "size"),
    [  # TensorFlow 2.20
        ((240, 320), (384, 384), (288, 384)),
        ((427, 640), (640, 1024), (640, 959)),
        ((333, 500), (512, 512), (341, 512)),
        ((501, 333), (640, 512), (640, 425)),
    ],
)
def test_a_photograph_fits_into_a_fixed_size(
    original: tuple[int, int], canvas: tuple[int, int], size: tuple[int, int]
) -> None:
    numerics = replace(model_garden.NUMERICS, fixed_size=canvas)
    assert network_size(original, numerics) == size
    prepared = prepare(np.full((*original, 3), 255, np.uint8), numerics)
    assert prepared.size == canvas
    assert prepared.window == (0, 0, *size)
    assert (prepared.pixels[:, size[0] :] == 0).all()
    assert (prepared.pixels[:, :, size[1] :] == 0).all()
    assert (prepared.pixels[:, : size[0], : size[1]] > 2).all()


def test_a_photograph_is_stretched_to_a_fixed_size() -> None:
    numerics = replace(NUMERICS, fixed_size=(64, 96))
    prepared = prepare(np.full((40, 40, 3), 255, np.uint8), numerics)
    assert prepared.size == (64, 96)
    assert prepared.scale == (1.6, 2.4)
    assert prepared.to_original(torch.tensor([[0.0, 0, 96, 64]])).tolist() == [[0, 0, 40, 40]]


PADDED: dict[str, Any] = {
    **{"min_size": 30, "max_size": 64, "pad_square": True, "pad_black": True},
    **{"clip_shown": True, "mask_regions": "stretched"},
}


def test_a_page_is_padded_with_black_and_shown_in_part() -> None:
    """As `pad_to_max_dimension` has it: black before normalising, and boxes end with the photograph."""
    numerics = replace(NUMERICS, **PADDED)
    prepared = prepare(np.full((30, 60, 3), 255, np.uint8), numerics)
    assert (prepared.size, prepared.window) == ((64, 64), (0, 0, 30, 60))
    black = [-mean for mean in NUMERICS.pixel_mean]
    assert prepared.pixels[:, -1, -1].tolist() == pytest.approx(black)
    with torch.device("meta"):
        model = MaskRCNN(replace(tiny_spec(), numerics=numerics))
    assert model.clip_size(prepared, (64, 64)) == (30, 60)
    assert model.detection_window(prepared) == (0, 0, 30, 60)


def test_masks_of_a_padded_page_are_pooled_as_if_it_were_filled() -> None:
    prepared = prepare(np.full((30, 60, 3), 255, np.uint8), replace(NUMERICS, **PADDED))
    boxes = torch.tensor([[0.0, 0, 60, 30], [15, 0, 30, 15]])
    assert prepared.stretched(boxes).tolist() == [[0, 0, 64, 64], [16, 0, 32, 32]]


# ---- padding and strides ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [9, 10, 13, 32])
def test_surrounded_maps_give_as_many_cells_as_strides(size: int) -> None:
    for kernel in (3, 5, 7):
        around = surround(torch.ones(1, 1, size, size), kernel, 2, padding="same")
        assert (around.shape[-1] - kernel) // 2 + 1 == -(-size // 2)


def test_the_odd_row_goes_after_or_before() -> None:
    x = torch.ones(1, 1, 4, 4)
    assert surround(x, 3, 2, padding="same")[0, 0, 0].tolist() == [1, 1, 1, 1, 0]
    assert surround(x, 3, 2, padding="same-before")[0, 0, 1].tolist() == [0, 1, 1, 1, 1]
    assert surround(x, 3, 2, padding="same-after")[0, 0, 0].tolist() == [1, 1, 1, 1, 0]
    odd = torch.arange(25.0).reshape(1, 1, 5, 5)
    assert surround(odd, 3, 2, padding="same")[0, 0, 1].tolist() == [0, 0, 1, 2, 3, 4, 0]
    assert surround(odd, 3, 2, padding="same-after")[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 0]
    for side in ("same-before", "same-after"):
        assert surround(odd, 1, 2, padding=side)[0, 0, 0].tolist() == [0, 1, 2, 3]
    assert surround(x, 3, 2, padding="symmetric")[0, 0, 1].tolist() == [0, 1, 1, 1, 1, 0]
    assert surround(x, 3, 2, padding="valid") is x
    assert same_padding(10, 3, 1, dilation=2) == (2, 2)


def test_what_surrounds_a_map_is_never_its_highest_value() -> None:
    assert max_pool(torch.full((1, 1, 4, 4), -3.0), 3, 2, padding="same").tolist() == [[[[-3, -3], [-3, -3]]]]


def trunk(**changes: Any) -> tuple[torch.nn.Module, Numerics]:
    numerics = replace(NUMERICS, **changes)
    return build(Arch(classes=1, neck="c4", width_per_group=8), numerics), numerics


def test_slim_strides_at_the_end_of_a_stage() -> None:
    first, _ = trunk()
    before, _ = trunk(stride_at="before")
    x = torch.zeros(1, 3, 65, 97)
    assert [map_.shape[-2:] for map_ in first(x).values()] == [(17, 25), (9, 13), (5, 7)]
    assert [map_.shape[-2:] for map_ in before(x).values()] == [(9, 13), (5, 7), (5, 7)]
    shortcut = before.get_submodule("res2.2.shortcut")
    assert isinstance(shortcut, EveryNth)
    assert shortcut(torch.arange(5.0).expand(1, 1, 5, 5))[0, 0].tolist() == [[0, 2, 4]] * 3
    assert first.state_dict().keys() == before.state_dict().keys()


def test_c4_at_stride_8_is_dilated() -> None:
    for where in ("first", "before"):
        made, _ = trunk(stride_at=where, c4_stride=8)
        assert made(torch.zeros(1, 3, 64, 96))["c4"].shape[-2:] == (8, 12)
        assert {made.get_submodule(f"res4.{block}.conv2.conv").dilation for block in range(6)} == {(2, 2)}  # type: ignore[union-attr]
        assert made.get_submodule("res3.0.conv2.conv").dilation == (1, 1)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("backbone", "sizes", "channels", "last"),
    [
        ("inception_v2", [(17, 25), (9, 13), (5, 7)], {"c2": 192, "c3": 320, "c4": 576}, 1024),
        ("inception_resnet_v2", [(17, 25), (9, 13), (5, 7)], {"c2": 192, "c3": 320, "c4": 1088}, 1536),
    ],
)
def test_inception_trunks(
    backbone: BackboneKind, sizes: list[tuple[int, int]], channels: dict[str, int], last: int
) -> None:
    arch = Arch(classes=1, backbone=backbone, neck="c4", norm_scale=backbone == "inception_v2")
    numerics = replace(NUMERICS, conv_padding="same")
    with torch.device("meta"):
        module = build(arch, numerics)
        maps = module(torch.zeros(1, 3, 65, 97))
        assert [map_.shape[-2:] for map_ in maps.values()] == sizes
        assert {name: map_.shape[1] for name, map_ in maps.items()} == channels == module.channels
        stage, width = build_last_stage(arch, numerics)
        assert width == last
        assert stage(torch.zeros(2, channels["c4"], 17, 17)).shape == (2, last, 9, 9)
        unpadded, _ = build_last_stage(arch, replace(numerics, res5_padded=False))
        side = 8 if backbone == "inception_resnet_v2" else 9
        assert unpadded(torch.zeros(2, channels["c4"], 17, 17)).shape[-1] == side


def test_inception_resnet_at_stride_8() -> None:
    arch = Arch(classes=1, backbone="inception_resnet_v2", neck="c4", norm_scale=False)
    with torch.device("meta"):
        module = build(arch, replace(NUMERICS, conv_padding="same", c4_stride=8))
        assert module(torch.zeros(1, 3, 64, 96))["c4"].shape[-2:] == (8, 12)


def test_a_norm_without_scale() -> None:
    norm = FrozenNorm(2, 0.0, scale=False)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 1.0]))
    assert "weight" not in norm.state_dict()
    assert norm(torch.full((1, 2, 1, 1), 5.0)).flatten().tolist() == [2, 3]


# ---- regions ---------------------------------------------------------------------------------------------------------


def pooled(box: tuple[float, float, float, float], **changes: Any) -> torch.Tensor:
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    settings: dict[str, Any] = {
        "strides": [8],
        "size": 1,
        "sampling": 1,
        "aligned": False,
        "epsilon": "outside",
        "epsilon_value": 0.0,
        "rounding": "floor",
        "inclusive_areas": False,
        "inclusive": False,
        "any_size": False,
    }
    return pool([ramp], [torch.tensor([box])], **{**settings, **changes})[0, 0, 0, 0]


def test_small_regions_are_widened_to_a_cell_or_not() -> None:
    small = (80.0, 80.0, 82.0, 82.0)  # a quarter of a cell wide, its middle at 10.125
    assert pooled(small).item() == pytest.approx(10.5)
    assert pooled(small, any_size=True).item() == pytest.approx(10.125)
    assert pooled(small, aligned=True).item() == pytest.approx(9.625)
    large = (80.0, 80.0, 160.0, 160.0)
    assert pooled(large).item() == pooled(large, any_size=True).item() == pytest.approx(15)


# ---- boxes -----------------------------------------------------------------------------------------------------------

OUTSIDE = torch.tensor([[-40.0, 10, 40, 50], [0, 10, 40, 50], [-60, 10, -5, 50]])


def found(boxes: torch.Tensor, **changes: Any) -> Scored:
    logits = torch.zeros(len(boxes), 3)
    logits[:, 0] = torch.linspace(4, 3, len(boxes))
    conventions = replace(
        tiny_spec().numerics,
        score_threshold=0.5,
        box_min_size=0.0,
        nms_threshold=0.6,
        nms_apart=True,
        max_detections=10,
        box_delta_weights=(1.0, 1.0, 1.0, 1.0),
        delta_clip=None,
    )
    window = (0.0, 0.0, 96.0, 96.0)
    changed = replace(conventions, **changes)
    return detections(logits, torch.zeros(len(boxes), 4), boxes, window, changed, place=lambda one: one, agnostic=True)


def test_boxes_are_cut_before_or_after_suppression() -> None:
    assert found(OUTSIDE).boxes.tolist() == [[0, 10, 40, 50], [0, 10, 0, 50]]  # once cut, the first two are one
    after = found(OUTSIDE, clip_after_nms=True)
    assert after.boxes.tolist() == [[0, 10, 40, 50], [0, 10, 40, 50]]  # and the third has no area


def test_most_of_a_class() -> None:
    apart = torch.arange(6.0)[:, None] * 15 + torch.tensor([0.0, 0, 10, 10])
    assert len(found(apart).boxes) == 6
    assert found(apart, max_per_class=2).boxes.tolist() == apart[:2].tolist()
    assert len(found(apart, max_per_class=5, max_detections=3).boxes) == 3


def test_looking_at_the_first_candidates_only_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(4000, 2, generator=generator) * 60
    boxes = torch.cat((corners, corners + 10 + torch.rand(4000, 2, generator=generator) * 20), 1)
    scored = Scored(boxes, torch.linspace(1, 0, 4000), torch.zeros(4000, dtype=torch.int64))
    for most in (3, 20, 300):
        every, first = (
            suppress(
                scored,
                0.5,
                at_threshold=False,
                apart=True,
                ties="first",
                tiled=False,
                flat_last=False,
                inclusive=False,
                most=n,
            )
            for n in (4000, most)
        )
        assert first[:most].tolist() == every[:most].tolist()


def test_anchors_are_cut_for_detecting_only() -> None:
    spec = tiny_spec()
    with torch.device("meta"):
        model = MaskRCNN(replace(spec, numerics=replace(spec.numerics, anchor_clip=True)))
    maps = {f"p{level}": torch.zeros(1, 1, 2, 2) for level in range(2, 7)}
    assert torch.cat(model.eval().anchors(maps, (40, 60))).amin().item() == 0
    assert torch.cat(model.eval().anchors(maps, (40, 60))).amax(0).tolist()[2:] == [60, 40]
    assert torch.cat(model.train().anchors(maps, (40, 60))).amin().item() < 0
    model.spec = model.spec.with_numerics({"anchor_clip_train": True})
    assert torch.cat(model.train().anchors(maps, (40, 60))).amin().item() == 0


def test_an_image_is_a_region_of_its_masks() -> None:
    probability = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    mask = paste(probability, torch.tensor([[2.0, 0, 10, 4]]), (4, 12), method="crop", threshold=0.5)[0]
    # pixel i of 12 lies at i · 12 / 11; the mask rises from 0 at its left edge, 2, to 1 at its right edge, 10
    expected = [2 <= i * 12 / 11 <= 10 and (i * 12 / 11 - 2) / 8 > 0.5 for i in range(12)]
    assert mask.tolist() == [expected] * 4
    everywhere = paste(torch.ones(1, 2, 2), torch.tensor([[0.0, 0, 12, 4]]), (4, 12), method="crop", threshold=0.5)
    assert everywhere.all()
