"""Augmentations: truth stays on its pixels, whatever is done; the same seed gives the same sample."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import maskgraft as mg
from maskgraft import augmenting, batches, coco, outlines, previews
from maskgraft.augmenting import Scene
from maskgraft.cli import app
from maskgraft.recipe import Recipe
from tests.tiny import draw_dataset, tiny_spec

NUMERICS = tiny_spec().numerics
GREY = (124, 116, 104)
EVERY = {
    "mirror": {"flip": 1.0},
    "upside down": {"flip_vertical": 1.0},
    "turned": {"rotate": 30.0},
    "grown": {"scale_jitter": (1.2, 2.0)},
    "shrunk": {"scale_jitter": (0.4, 0.9)},
    "cut": {"crop": 0.5},
    "pasted": {"copy_paste": 1.0},
    "all": {
        "flip_vertical": 0.5,
        "rotate": 15.0,
        "scale_jitter": (0.5, 2.0),
        "crop": 0.6,
        "copy_paste": 0.7,
        "photometric": 0.2,
        "min_size": (96, 128),
    },
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), images=8)


@pytest.fixture(scope="module", params=["polygons", "rle"])
def data(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> coco.Dataset:
    """Images whose objects do not hide one another, so that every pixel of a mask has its object's colour."""
    data = coco.read(*draw_dataset(tmp_path_factory.mktemp("apart"), images=14))
    apart = [image for image in data.images if (coco.truth(image).masks.sum(0) <= 1).all()]
    assert len(apart) >= 5
    if request.param == "rle":
        apart = [
            replace(
                image,
                annotations=tuple(
                    replace(one, segmentation=coco.rle(one, image.height, image.width)) for one in image.annotations
                ),
            )
            for image in apart
        ]
    return replace(data, images=tuple(apart))


@pytest.mark.parametrize("kind", EVERY)
def test_boxes_masks_and_polygons_stay_on_the_pixels(data: coco.Dataset, kind: str) -> None:
    """Discs are red and boxes blue: the difference of two channels tells what a pixel belongs to."""
    recipe = Recipe(**{"flip": 0.0, "max_size": 200, **EVERY[kind]})
    whole = 0
    for seed, record in enumerate(data.images):
        one = batches.sample(record, NUMERICS, recipe, seed, others=data.images)
        target = one.target
        assert len(target.labels)
        red, _, blue = one.prepared.pixels * torch.tensor(NUMERICS.pixel_std)[:, None, None]
        disc = (red - blue) / NUMERICS.pixel_scale + 255 * (NUMERICS.pixel_mean[0] - NUMERICS.pixel_mean[2])
        outlines_ = target.polygons or [None] * len(target.labels)
        masks = torch.from_numpy(target.masks.planes())
        for box, mask, label, parts in zip(target.boxes, masks, target.labels, outlines_, strict=True):
            rows, columns = torch.nonzero(mask.any(1)).squeeze(1), torch.nonzero(mask.any(0)).squeeze(1)
            drawn = torch.tensor((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            assert (drawn - box).abs().max() <= 3.5
            # the drawn edge and the annotated one may be a pixel apart, and grow apart with the image
            edge = F.max_pool2d(F.pad((~mask)[None].float(), (2, 2, 2, 2), value=1.0), 5, 1)[0] > 0
            alone = mask & ~edge
            if alone.sum() > 60:
                whole += 1
                assert ((disc if label == 0 else -disc)[alone] > 60).float().mean() > 0.95, (seed, label)
            if parts is not None:
                outline = torch.tensor((*(hull := outlines.hull(parts))[:2], *hull[2:]))
                assert (outline - box).abs().max() <= 2.5
    assert whole >= 5


def test_a_seed_decides_everything(files: tuple[Path, Path]) -> None:
    data = coco.read(*files)
    recipe = Recipe(**EVERY["all"])

    def load(workers: int) -> list[Any]:
        recipe_ = recipe.model_copy(update={"workers": workers, "batch": 2})
        return list(batches.loader(data.images, NUMERICS, recipe_, epoch=0, start=0, pin=False))

    for one, other in zip(load(0), load(2), strict=True):
        assert torch.equal(one.pixels, other.pixels)
        for mine, yours in zip(one.targets, other.targets, strict=True):
            assert torch.equal(mine.boxes, yours.boxes) and np.array_equal(mine.masks.planes(), yours.masks.planes())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = batches.sample(data.images[0], NUMERICS, recipe, 5, others=data.images)
    second = batches.sample(data.images[0], NUMERICS, recipe, 5, others=data.images)
    assert torch.equal(first.prepared.pixels, second.prepared.pixels)
    assert torch.equal(torch.get_rng_state(), state)  # training's own draws do not depend on augmentation
    assert not torch.equal(
        first.prepared.pixels,
        batches.sample(data.images[0], NUMERICS, recipe, 6, others=data.images).prepared.pixels,
    )


def test_turning_and_flipping_twice_gives_the_scene_back(files: tuple[Path, Path]) -> None:
    scene = Scene.of(coco.read(*files).images[0])
    for there_and_back in (augmenting.flipped, augmenting.mirrored):
        again = there_and_back(there_and_back(scene))
        assert np.array_equal(again.image, scene.image) and np.array_equal(again.masks.planes(), scene.masks.planes())
        assert np.allclose(again.boxes, scene.boxes)
    turned = augmenting.rotated(scene, 180, GREY)
    both = augmenting.mirrored(augmenting.flipped(scene))
    assert np.allclose(turned.boxes, both.boxes, atol=0.01)
    assert np.abs(turned.image.astype(int) - both.image).max() <= 1


def test_what_is_cut_away_is_no_instance(files: tuple[Path, Path]) -> None:
    scene = Scene.of(coco.read(*files).images[0])
    left, top, right, bottom = scene.boxes[0].astype(int).tolist()
    half = augmenting.cropped(scene, top, left, bottom - top, (right - left) // 2)
    assert half.boxes[0].tolist() == pytest.approx([0, 0, (right - left) // 2, bottom - top], abs=1)
    assert half.polygons is not None and outlines.hull(half.polygons[0])[2] <= (right - left) // 2
    covered = scene.masks.planes().any(0)
    corner = [one for one in ((0, 0), (0, scene.size[1] - 5)) if not covered[one[0] : 5, one[1] : one[1] + 5].any()]
    assert not len(augmenting.cropped(scene, *corner[0], 5, 5).labels)


def test_what_is_pasted_hides_what_is_beneath(files: tuple[Path, Path]) -> None:
    data = coco.read(*files)
    scenes = [Scene.of(image) for image in data.images]
    hidden = 0
    for seed in range(12):
        scene, source = scenes[seed % 8], scenes[(seed + 1) % 8]
        found = augmenting.pasted(scene, source, np.random.default_rng(seed))
        before = scene.masks.planes().sum(0) > 1
        assert not ((found.masks.planes().sum(0) > 1) & ~before).any()  # nothing lies beneath what was pasted
        hidden += found.polygons is None
        assert len(found.masks) == len(found.labels) == len(found.boxes)
    assert 0 < hidden < 12


def test_outlines() -> None:
    square = (np.array([0, 0, 10, 0, 10, 10, 0, 10], float),)
    assert outlines.hull(outlines.cut(outlines.moved(square, np.array(((1, 0, -4), (0, 1, 7)))), 20, 12)) == (
        0,
        7,
        6,
        12,
    )
    assert outlines.cut(outlines.moved(square, np.array(((1, 0, 30), (0, 1, 0)))), 20, 20) == ()
    assert not outlines.crosses_itself(square[0])
    assert outlines.crosses_itself(np.array([0, 0, 10, 10, 10, 0, 0, 10], float))
    star = np.array([(np.cos(4 * np.pi * i / 5), np.sin(4 * np.pi * i / 5)) for i in range(5)]).ravel()
    assert outlines.crosses_itself(star)


def test_a_recipe_says_what_is_wrong() -> None:
    with pytest.raises(mg.UsageError, match="least scale"):
        from maskgraft.recipe import recipe_from

        recipe_from({"scale_jitter": (2.0, 0.5)})


def test_what_training_will_see_is_shown(files: tuple[Path, Path], tmp_path: Path) -> None:
    data = coco.read(*files)
    plain = previews.preview_augmented(data, NUMERICS, Recipe(flip=0.0), count=4, columns=2, width=100)
    assert 200 <= plain.width < 220
    out = tmp_path / "made" / "sheet.jpg"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("rotate = 20.0\ncopy_paste = 1.0\nmin_size = 96\n")
    done = CliRunner().invoke(
        app, ["data", "show", *map(str, files), str(out), "--recipe", str(recipe), "--count", "3"]
    )
    assert done.exit_code == 0, done.output
    assert out.stat().st_size > 1000
    with pytest.raises(mg.UsageError, match="no picture that can be written"):
        CliRunner().invoke(app, ["data", "show", *map(str, files), "sheet.doc"], catch_exceptions=False)
